"""Writes docs/benchmarks.md and its chart."""
from . import chart
from .targets import TARGETS


# Found with perf and with two binaries side by side; to be kept up by whoever tunes.
TRIED = """The hot path was profiled (perf, with frame pointers) and changed one thing at a time; figures are server CPU a resolve where nothing else \
is said, while a bare hello took 6.6 to 7.0 us, and differ by 3 % from run to run.

| kept | what it brought |
| --- | --- |
| `GET /v1/session` goes past the router: its three boxed layers a request, and their clones | near-cache 10.7 to 9.1 us, Redis 18.7 to 15.8, SQLite 17.5 to 15.2 |
| finds that are asked for at the same time go to Redis as one pipeline | Redis 16.5 to 14.3 us, and Redis's own 2.7 to 2.0; 15 resolves a write to its socket |
| at most 16 of them together: with 64, service and Redis wait for each other in turns | 5 % more requests/s; with 4, far fewer |
| a handle of the API a connection and not one for all; one counter of requests in work where there were a gauge and a semaphore; no deadline's timer where every step has one | 2 to 3 % of the ratios to hello |
| SQLite: a thread of its own copies the WAL into the file, and the writer does only past 64 MiB of WAL, where it did at 4 MiB; a writer's cache of 4 MiB and not 16, \
all of which SQLite walks through at commits that split a page | issues: 20 to 33 % more requests/s; a single caller's p99 5.4 to 2.0 ms, 64 callers' 14 to 50 ms, since \
what the writer has to copy is more, and rarer |
| SQLite: a reader's cache of 64 MiB and not 16 | resolves of a million sessions 0.79 to 0.90 of those of a thousand |

| not kept | why |
| --- | --- |
| counters and histograms in a stripe a thread | no difference that two cores show |
| a runtime a thread, each with its connections | no difference with two threads |
| a timer a connection for the deadline of a request's head, and not one a request | no difference |
| SQLite: pages of 2 KiB | issues 17 % faster, but resolves of a million sessions 10 % slower, and large data too |
| SQLite: a reader that maps the file into memory | resolves of a million sessions 4 % faster, but a disk's error would be a signal that ends the process |
| SQLite: a writer that waits up to 250 us for more writes to a commit | no difference, or slower |
| `POST /v1/sessions` past the router too | 9 % less CPU, but no more requests/s on SQLite, where it waits for the disk; one way past is enough |
| `GET` without `PTTL` | 3 % at most, and the key's expiry is the truth beside an Express that touches |
| a kept answer and its ETag in one piece of memory | no difference |
| `MGET` in the place of many `GET`s: not tried | a cluster has its keys on several nodes |

What is left of a resolve through Redis, by the profile: 42 % kernel (writing the answer alone is 28 %, as in hello), 15 % guard, cookie, HMAC \
and headers, 10 % decoding the record and writing the answer, 7 % the redis crate, the rest hyper and tokio; no function of ours has more than \
3 %. To go on, something whole would have to go: timers of hyper and headers of ours, or a request and an answer each, for callers that ask in \
batches. Of the accept loop, deadlines take 0.6 us a request (the timer of a request's head 0.4), which `axum::serve` does not have. \
Of what the \
near-cache takes beyond hello, 2.5 us, a third is the kernel's (a larger head, and a body that is another one each time and in no cache of the \
processor), a tenth the look-up, a tenth the cookie and its HMAC, a tenth the metrics; from run to run it has 0.81 to 0.90 of hello's requests/s. \
Of large data the ETag takes most: its SHA-256 is 23 % of a resolve of 16 KiB.

What is left of an issue on SQLite: 35 % SQLite (half of it writing pages to the WAL: the index by random ids has each row of a commit on another \
page), 9 % the checkpointer, 13 % writing the answer, 12 % the router and its layers, the rest hyper, tokio and JSON; and the disk's fsync, \
10 to 20 ms each here: with `synchronous=off` it is 0.32 of hello.

What a session takes in Redis: its key with its record of 398 bytes takes 592 bytes whatever else there is, a user's index of one session 193. \
520 bytes would need both a record of at most 250 bytes, which is what express-session's own part and the data have without the service's \
fields, and an index that many users share a key of (63 bytes measured in hashes of 100)."""


def markdown(sections, facts, command, versions, how):
    parts = ["# Benchmarks", "<!-- Written by scripts/bench: change that, and run it again. -->",
             f"Made by `{command}`: {how}.",
             "\n".join(f"- {what}: {text}" for what, text in versions.items()),
             "Compare the ratios: absolute figures are the machine's, and load generator, server and Redis share its cores. What is compared was "
             "measured in turn, round by round, and each figure is the median of the rounds, a ratio the median of the rounds' ratios. "
             "Unless a table says otherwise: wrk with one thread, 64 kept-alive connections, the standard session. *CPU* is what the operating system "
             "counts for the server's whole process (/proc/PID/stat), by requests answered.",
             "## Required and reached", "![Ratios](benchmarks.svg)",
             table(["", "required", "reached", ""], [row(target, facts) for target in TARGETS])]
    for section in sections:
        parts += [f"## {section.title}", section.text, *(table(*one) for one in section.tables)]
    parts += ["## What was tried", TRIED, "## Run it again", "`scripts/bench --help` says how to run a part, or for longer. The code is in `bench/`, where the peers are too, pinned by "
              "lock files; they are built into `target/bench`, and are no part of the crate nor of its tests."]
    return "\n\n".join(parts) + "\n"


def row(target, facts):
    figure = facts.get(target.fact)
    if figure is None:
        return [target.name, target.required(), "", "not measured"]
    return [target.name, target.required(), f"{figure:.3g}{target.unit}", "reached" if target.score(figure) >= 1 else "**not reached**"]


def table(headings, rows):
    lines = [headings, ["---"] + ["---:"] * (len(headings) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def svg(sections, facts):
    panels = []
    if bars := [bar for section in sections for bar in section.bars]:
        bars.sort(key=lambda bar: -bar[1])
        panels.append(chart.Panel("A resolve: requests per second, against a bare axum handler with the same body (1)",
                                  [chart.Bar(name, ratio, f"{ratio:.2f}", "good" if "sessiond" in name else "other") for name, ratio in bars], 1))
    bars = []
    for target in TARGETS:
        figure = facts.get(target.fact)
        if figure is not None:
            said = f"{figure:.3g}{target.unit} (required {target.required()})"
            score = target.score(figure)
            bars.append(chart.Bar(target.name, score, said, "good" if score >= 1 else "bad"))
    if bars:
        panels.append(chart.Panel("What is required (1), and what was reached: longer is better", bars, 1))
    return chart.draw(panels)
