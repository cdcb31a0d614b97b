"""Writes docs/benchmarks.md and its chart."""
from . import chart
from .targets import TARGETS


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
    parts += ["## Run it again", "`scripts/bench --help` says how to run a part, or for longer. The code is in `bench/`, where the peers are too, pinned by "
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
