"""What is measured: a function a group. Each starts its own servers on stores of its own, and returns a Section.

`facts` are the figures that targets.py asks for, by its names."""
import json, statistics, time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from . import load, servers
from .load import COOKIES, Floor, Load, Runs
from .servers import CACHE, Redis, Sessiond, session

MANY = 1_000_000


@dataclass
class Section:
    title: str
    text: str
    # (headings, rows) each.
    tables: list
    facts: dict = field(default_factory=dict)
    # Name and requests per second against hello, for the chart.
    bars: list = field(default_factory=list)


class Bench:
    """Where a group works: a folder, how long to measure, and the servers it started, which end with it."""

    def __init__(self, folder, rounds, seconds):
        self.folder, self.rounds, self.seconds, self.started = folder, rounds, seconds, []

    def start(self, make, *arguments, **options):
        self.started.append(make(self.folder, *arguments, **options))
        return self.started[-1]

    def redis(self, name="redis"):
        return self.start(Redis, name)

    def sessiond(self, store, *flags):
        return self.start(Sessiond, store, *flags)

    def stop(self):
        for process in reversed(self.started):
            process.stop()
        self.started = []

    def load(self, name, server, path, lines, **options):
        return Load(name, server, path, lines, self.folder, **options)

    def runs(self, loads):
        return Runs(loads, self.rounds, self.seconds)

    def resolves(self, name, server, cookies, **options):
        return self.load(name, server, server.resolve, [cookie + "\t" for cookie in cookies], **options)

    def hello(self, body, cookies, name="hello", server=None, **options):
        """A bare axum handler with the same body, in a process of its own, and sent the same cookies."""
        server = server or self.sessiond(f"{name}.db")
        server.hello(body)
        return self.load(name, server, "/hello", [cookie + "\t" for cookie in cookies], **options)

    def stores(self):
        """sessiond on each store, by the store's name."""
        yield "Redis", self.sessiond(self.redis())
        yield "SQLite", self.sessiond("bench.db")


def standard(number=COOKIES, first=0):
    """Standard sessions, one a user."""
    return (session(at) for at in range(first, first + number))


SPEED = ["", "requests/s", "against hello", "CPU us/request", "Redis CPU us/request", "p50 ms", "p99 ms"]


def speed(runs, name, hello, label=None):
    """A row under SPEED."""
    return [label or name, f"{runs.median(name, 'rps'):,.0f}", decimal(runs.ratio(name, hello), 2), *costs(runs, name)]


def costs(runs, name):
    return [decimal(runs.median(name, "cpu"), 1), decimal(runs.median(name, "redis_cpu"), 1),
            decimal(runs.median(name, "p50"), 2), decimal(runs.median(name, "p99"), 2)]


def decimal(number, digits):
    return "" if number is None else f"{number:,.{digits}f}"


def resolve(bench):
    """The peers: resolves of the standard session, side by side."""
    redis = bench.redis()
    named = {
        "sessiond on Redis": bench.sessiond(redis),
        "sessiond, near-cache": bench.sessiond(redis, *CACHE),
        "sessiond on SQLite": bench.sessiond("bench.db"),
        "express": bench.start(servers.express, redis),
        "express, disableTouch": bench.start(servers.express, redis, disable_touch=True),
        "fastify": bench.start(servers.fastify, redis),
        "tower-sessions": bench.start(servers.tower_sessions, redis, "system"),
        "tower-sessions, mimalloc": bench.start(servers.tower_sessions, redis, "mimalloc"),
    }
    loads, sizes = [], {}
    for name, server in named.items():
        cookies = load.issue(server, standard())
        body = load.resolved(server, cookies[0])
        sizes[name] = len(body)
        if name == "sessiond on Redis":
            loads.append(bench.hello(body, cookies))
            loads.append(bench.hello(body, cookies, "hello, axum::serve", bench.start(servers.axum)))
        loads.append(bench.resolves(name, server, cookies))
    loads.append(Floor(redis, 500))
    runs = bench.runs(loads)
    facts = {
        "resolve rps": runs.ratio("sessiond on Redis", "hello"),
        "resolve axum rps": runs.ratio("sessiond on Redis", "hello, axum::serve"),
        "cache rps": runs.ratio("sessiond, near-cache", "hello"),
        "cache axum rps": runs.ratio("sessiond, near-cache", "hello, axum::serve"),
        "fastify rps": runs.ratio("sessiond on Redis", "fastify"),
    }
    for peer in ("express", "express, disableTouch"):
        facts[f"{peer} rps"] = runs.ratio("sessiond on Redis", peer)
    for peer in ("express", "express, disableTouch", "tower-sessions", "tower-sessions, mimalloc"):
        facts[f"{peer} cpu"] = runs.ratio("sessiond on Redis", peer, "cpu")
    text = (
        f"`GET /v1/session` and what each peer has for it: the same session and, but for the id, the same body of {sizes['sessiond on Redis']} "
        f"bytes ({min(sizes.values())} to {max(sizes.values())}). {COOKIES:,} cookies in turn. *hello* is an axum handler that does nothing but "
        "answer the same body, over the same accept loop; under `axum::serve`, which has no deadlines, it is faster. All that say Redis share one redis-server, over its unix socket. Each "
        "peer is one process, as its README puts it together; Node.js has `NODE_ENV=production`. Every resolve reads the "
        "session from the store, and writes nothing, but for express: by default it also sends an `EXPIRE` with each request. "
        "(So would fastify send a `SET`, were not `rolling` turned off.) tower-sessions does not sign its cookie; it is "
        "measured with the system's allocator, as most would run it, and with sessiond's. The floor is Redis alone: GETs of 500 "
        "bytes by redis-benchmark; the CPU is Redis's.")
    rows = [speed(runs, name, "hello") for name in runs.by_name]
    bars = [(name, runs.ratio(name, "hello")) for name in runs.by_name if name != "hello"]
    return Section("Resolve, beside the peers", text, [(SPEED, rows)], facts, bars)


def write(bench):
    """Issue, update and revoke, on both stores."""
    loads, facts = [], {}
    for store, server in bench.stores():
        cookies = load.issue(server, standard())
        if not loads:
            loads.append(bench.hello(load.resolved(server, cookies[0]), cookies))
        loads.append(bench.resolves(f"resolve on {store}", server, cookies))
        loads.append(bench.load(f"issue on {store}", server, "/v1/sessions", ["\t" + session()], method="POST"))
        # Each update changes something: the second time round, a cookie gets the other number.
        updates = [f'{cookie}\t{{"n":{number}}}' for number in (1, 2) for cookie in cookies]
        loads.append(bench.load(f"update on {store}", server, "/v1/session/data", updates, method="PATCH",
                                kind="application/merge-patch+json"))
        loads.append(bench.load(f"revoke on {store}", server, "/v1/session", revocable(server), method="DELETE", once=True))
    runs = bench.runs(loads)
    facts["issue rps"] = runs.ratio("issue on SQLite", "hello")
    text = ("Every write is answered when the store has it: on SQLite after its commit. Each issue is for another user; each "
            "update is a merge patch that changes something; each revoke ends a session that was there.")
    return Section("Issue, update, revoke", text, [(SPEED, [speed(runs, name, "hello") for name in runs.by_name])], facts)


def revocable(server):
    """Makes sessions to be revoked."""
    first = 10 * COOKIES

    def lines(number):
        nonlocal first
        first += number
        return [cookie + "\t" for cookie in load.issue(server, standard(number, first))]

    return lines


def batch(bench):
    """A hundred cookies a request."""
    loads, rows = [], []
    for store, server in bench.stores():
        cookies = load.issue(server, standard())
        loads.append(bench.resolves(f"resolve on {store}", server, cookies))
        bodies = ["\t" + json.dumps({"cookies": cookies[at:at + 100]}) for at in range(0, COOKIES, 100)]
        loads.append(bench.load(f"batch on {store}", server, "/v1/sessions/resolve", bodies, method="POST"))
    runs = bench.runs(loads)
    for store in ("Redis", "SQLite"):
        batches, single = f"batch on {store}", f"resolve on {store}"
        rows.append([store, f"{runs.median(batches, 'rps'):,.0f}", f"{100 * runs.median(batches, 'rps'):,.0f}", *costs(runs, batches),
                     f"{runs.ratio(batches, single, 'cpu'):.1f}"])
    headings = ["", "requests/s", "sessions/s", "CPU us/request", "Redis CPU us/request", "p50 ms", "p99 ms", "CPU, in single resolves"]
    return Section("Batches of 100", "`POST /v1/sessions/resolve` with 100 cookies.", [(headings, rows)])


def connections(bench):
    """From one connection to 10,000."""
    counts, hellos, resolves = (1, 64, 1_000, 10_000), [], []
    for store, server in bench.stores():
        cookies = load.issue(server, standard())
        if not hellos:
            hello = bench.hello(load.resolved(server, cookies[0]), cookies)
            lines = [cookie + "\t" for cookie in cookies]
            hellos = [bench.load(f"hello, {count:,}", hello.server, "/hello", lines, connections=count) for count in counts]
        resolves += [bench.resolves(f"{store}, {count:,}", server, cookies, connections=count, refusals=True) for count in counts]
    # By the number of connections, so that what is compared stands together.
    loads = sorted(hellos + resolves, key=lambda one: one.connections)
    runs = bench.runs(loads)
    rows = [speed(runs, one.name, f"hello, {one.connections:,}") + [f"{100 * runs.median(one.name, 'refused'):.1f} %"] for one in loads]
    text = ("Resolves over 1, 64, 1,000 and 10,000 connections, all of them asking all the time. A request that has waited so long for "
            "the store that its deadline of 500 ms is over is answered 503: the last column; it counts as no request answered. "
            "10,000 are measured for at least 10 s, and their connecting is part of it.")
    return Section("Connections", text, [(SPEED + ["503"], rows)])


def size(bench):
    """Data from 0.1 KiB to the most that is allowed."""
    stores, loads, rows = list(bench.stores()), [], []
    for kib in (0.1, 1, 16, 64):
        # {"blob":"..."} with as many bytes.
        data = {"blob": "x" * (int(1024 * kib) - len('{"blob":""}'))}
        number = min(COOKIES, int(65_536 / kib))
        hello = f"hello, {kib} KiB"
        for store, server in stores:
            cookies = load.issue(server, (session(at, data) for at in range(number)))
            if store == "Redis":
                loads.append(bench.hello(load.resolved(server, cookies[0]), cookies, hello))
                rows.append((hello, hello, number))
            loads.append(bench.resolves(f"{store}, {kib} KiB", server, cookies))
            rows.append((loads[-1].name, hello, number))
    runs = bench.runs(loads)
    table = [speed(runs, name, hello) + [f"{number:,}"] for name, hello, number in rows]
    text = ("Resolves of sessions whose data has 0.1, 1, 16 and 64 KiB, beside hello with the same body; as many cookies as 64 MiB "
            "hold, and no more than 10,000.")
    return Section("Size of the data", text, [(SPEED + ["cookies"], table)])


def stored(bench):
    """A thousand sessions in the store, and a million; and what each session takes there."""
    loads, rows, facts = [], [], {}
    for number in (1_000, MANY):
        redis, file = bench.redis(f"redis-{number}"), f"{number}.db"
        for store, server in (("Redis", bench.sessiond(redis)), ("SQLite", bench.sessiond(file))):
            empty = redis.memory()
            cookies = load.issue(server, standard(number), max(1, number // COOKIES))
            if store == "Redis":
                takes = (redis.memory() - empty) / number
            else:
                time.sleep(1)
                takes = sum(path.stat().st_size for path in Path(bench.folder).glob(file + "*") if "secret" not in path.name) / number
            loads.append(bench.resolves(f"{store}, {number:,}", server, cookies))
            if number == MANY:
                facts[f"{store} bytes"] = takes
            # Of a few, most would be what the store takes when empty.
            rows.append((loads[-1].name, store, f"{takes:,.0f}" if number == MANY else ""))
    runs = bench.runs(loads)
    table = []
    for name, store, takes in rows:
        ratio = runs.ratio(name, f"{store}, 1,000")
        table.append([name, f"{runs.median(name, 'rps'):,.0f}", f"{ratio:.2f}", *costs(runs, name), takes])
        facts[f"{store} stored rps"] = ratio
    headings = ["", "requests/s", "against 1,000", "CPU us/request", "Redis CPU us/request", "p50 ms", "p99 ms", "bytes/session"]
    text = ("Resolves with 1,000 and 1,000,000 standard sessions in the store, one a user; 1,000 and 10,000 of them in turn. Bytes per session: "
            "what Redis says it uses (`used_memory`) beyond what it used when empty, users' index and all; on disk, the size of the "
            "database and its log.")
    return Section("Sessions stored, and their memory", text, [(headings, table)], facts)


def user(bench):
    """One user with 10,000 sessions."""
    rows = []
    for store, server in bench.stores():
        cookies = load.issue(server, ['{"user_id":"user-many","data":{"theme":"dark"}}' for _ in range(10_000)])
        connection, path = server.connect(), "/v1/users/user-many/sessions"

        def median(*arguments, times=99):
            return statistics.median(load.timed(connection, *arguments)[0] for _ in range(times))

        found = [median("GET", server.resolve, None, {"Cookie": cookies[0]}),
                 *(median("GET", f"{path}?limit={limit}") for limit in (100, 1000)),
                 median("POST", server.issue, '{"user_id":"user-many"}')]
        took, status, answered, _ = load.timed(connection, "DELETE", path)
        assert status == 200 and json.loads(answered)["revoked"] == 10_000 + 99, answered
        rows.append([store, *(decimal(ms, 2) for ms in [*found, took])])
    headings = ["ms", "resolve one", "page of 100", "page of 1,000", "issue one more", "revoke all"]
    return Section("One user with 10,000 sessions", "One request at a time; medians of 99, but for the last.", [(headings, rows)])


def memory(bench):
    """Resident memory: idle, with 10,000 connections open, and with a million sessions cached."""
    redis = bench.redis()
    named = {
        "sessiond on Redis": bench.sessiond(redis), "sessiond on SQLite": bench.sessiond("bench.db"),
        "express": bench.start(servers.express, redis), "fastify": bench.start(servers.fastify, redis),
        "tower-sessions": bench.start(servers.tower_sessions, redis, "system"),
    }
    rows = []
    for name, server in named.items():
        idle = server.rss()
        cookie = load.issue(server, standard(1))[0]
        with resting(server, 10_000, load.request(server, "GET", server.resolve, cookie=cookie)):
            rows.append([name, mib(idle), mib(server.rss()), ""])
    server = bench.sessiond(redis, *CACHE)
    idle, cookies = server.rss(), load.issue(server, standard(MANY))
    load.pour(server, (load.request(server, "GET", server.resolve, cookie=cookie) for cookie in cookies), lambda _: None)
    rows.append(["sessiond, near-cache", mib(idle), "", mib(server.rss())])
    headings = ["MiB resident", "idle", "10,000 connections", "1,000,000 sessions cached"]
    text = "After one resolve on each of 10,000 connections, which stay open."
    return Section("Memory of the process", text, [(headings, rows)])


@contextmanager
def resting(server, number, request):
    """Connections that have each been answered once, and stay open."""
    host, port = server.address.rsplit(":", 1)
    opened = []
    try:
        for _ in range(number):
            connection = load.socket.create_connection((host, int(port)))
            opened.append(connection)
            connection.sendall(request)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200"), "a resting connection was not answered"
        yield
    finally:
        for connection in opened:
            connection.close()


def mib(number):
    return f"{number / 2**20:,.1f}"


def revoked(bench, trials=1_000):
    """How long after its answer is a revoke seen by another process that had the session cached?"""
    redis = bench.redis()
    here, there = (bench.sessiond(redis, *CACHE) for _ in range(2))
    revoking, resolving = here.connect(), there.connect()
    waits, asked = [], []
    for cookie in load.issue(here, standard(trials)):
        headers = {"Cookie": cookie}
        for _ in range(2):
            ms, status, *_ = load.timed(resolving, "GET", there.resolve, None, headers)
            assert status == 200, status
        asked.append(ms)
        assert load.timed(revoking, "DELETE", here.resolve, None, headers)[1] == 204
        answered, polls = time.perf_counter(), 0
        while load.timed(resolving, "GET", there.resolve, None, headers)[1] != 401:
            polls += 1
            assert time.perf_counter() - answered < 10, "a revoke was not seen for 10 s"
        # What the first poll finds was there before it came.
        waits.append(1000 * (time.perf_counter() - answered) if polls else 0)
    waits.sort()
    p50, p99 = waits[trials // 2], waits[trials * 99 // 100 - 1]
    row = ["near-cache", f"{p50:.2f}", f"{p99:.2f}", f"{waits[-1]:.2f}", f"{statistics.median(asked):.2f}"]
    text = (f"Two processes on one Redis. The second has resolved the session; the first revokes it; from the answer to that, the second "
            f"is asked until it says 401. {trials:,} times; 0 when its first answer says so.")
    headings = ["", "p50 ms", "p99 ms", "longest ms", "one resolve ms"]
    return Section("A revoke, seen by another process", text, [(headings, [row])], {"revoke ms": p99})


GROUPS = {group.__name__: group for group in (resolve, write, batch, connections, size, stored, user, memory, revoked)}
