"""How it is measured: wrk for requests per second and latency, the operating system for CPU; medians over rounds."""
import json, os, re, socket, statistics, subprocess, sys, time
from dataclasses import dataclass

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "requests.lua")
COOKIES = 10_000
CONNECTIONS = 64


@dataclass
class Measure:
    """One run: requests answered 2xx per second, latency in ms, CPU of the server and of its Redis in us per request, and the
    share that was answered otherwise."""
    rps: float
    p50: float
    p99: float
    cpu: float
    redis_cpu: float | None
    requests: int
    refused: float = 0


class Load:
    """One kind of request to one server, at full speed."""

    def __init__(self, name, server, path, lines, folder, method="GET", kind="application/json", connections=CONNECTIONS,
                 once=False, refusals=False):
        """`lines` are the requests, as requests.lua reads them; `once`: none may be sent twice, so `lines(n)` makes n more;
        `refusals`: an answer other than 2xx is counted, and not the end."""
        self.name, self.server, self.path, self.method, self.kind = name, server, path, method, kind
        self.connections, self.lines, self.once, self.refusals = connections, lines, once, refusals
        self.file = os.path.join(folder, re.sub(r"\W+", "-", f"{name}-{id(self)}") + ".requests")
        # How many are made for a second, when none may be sent twice; and where numbered bodies go on, away from `standard`.
        self.rate, self.first = 4 * COOKIES, 500 * COOKIES
        if not once:
            write(self.file, lines)

    def wrk(self, seconds, connections):
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "--timeout", "30s", "-s", SCRIPT,
                   f"http://{self.server.address}{self.path}", "--", self.method, self.file, self.kind, str(self.first)]
        out = subprocess.run(command, capture_output=True, text=True, check=False)
        refused = "Non-2xx" in out.stdout and not self.refusals
        if out.returncode or refused or "Socket errors" in out.stdout or "99%" not in out.stdout:
            sys.exit(f"{self.name} failed under load:\n{' '.join(command)}\n{out.stdout}{out.stderr}")
        requests = int(re.search(r"(\d+) requests in", out.stdout)[1])
        if not requests:
            sys.exit(f"{self.name}: not one request was answered in {seconds} s")
        self.first += requests + connections
        return out.stdout, requests

    def run(self, seconds):
        if self.connections > 1_000:
            # So many take seconds to connect.
            seconds = max(seconds, 10)
        if self.once:
            made = write(self.file, self.lines(self.rate * (seconds + 1)))
        else:
            # A touch that is due is written now, and what compiles at run time has compiled.
            self.wrk(1, min(self.connections, CONNECTIONS))
        processes = [self.server, self.server.redis]
        before = [process and process.cpu() for process in processes]
        out, requests = self.wrk(seconds, self.connections)
        took = [process and process.cpu() - at for process, at in zip(processes, before)]
        if self.once:
            self.rate = int(1.3 * requests / seconds) + 1
            if requests + self.connections > made:
                return self.run(seconds)
        cpu, redis_cpu = (seconds and 1e6 * seconds / requests for seconds in took)
        other = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
        refused = int(other[1]) / requests if other else 0
        rps = (1 - refused) * float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1])
        return Measure(rps, milliseconds(out, "50%"), milliseconds(out, "99%"), cpu, redis_cpu, requests, refused)


class Floor:
    """redis-benchmark GET of values as large as a record: what Redis itself can do."""
    name = "redis-benchmark GET"

    def __init__(self, redis, size):
        self.redis, self.size = redis, size
        self.benchmark(COOKIES * 10, "SET", "floor:__rand_int__", "x" * size)
        self.rps = self.benchmark(100_000)["rps"]

    def benchmark(self, number, *command):
        """Runs for `number` requests over 10,000 keys."""
        command = command or ("GET", "floor:__rand_int__")
        out = subprocess.run(["redis-benchmark", "-s", self.redis.socket, "-c", str(CONNECTIONS), "-n", str(number),
                              "-r", str(COOKIES), "--csv", *command], capture_output=True, text=True, check=True).stdout
        header, line = ([field.strip('"') for field in re.split('(?<="),(?=")', line)] for line in out.strip().split("\n")[-2:])
        fields = dict(zip(header, line))
        return {"rps": float(fields["rps"]), "p50": float(fields["p50_latency_ms"]), "p99": float(fields["p99_latency_ms"])}

    def run(self, seconds):
        requests, before = int(self.rps * seconds), self.redis.cpu()
        said = self.benchmark(requests)
        return Measure(**said, cpu=1e6 * (self.redis.cpu() - before) / requests, redis_cpu=None, requests=requests)


class Runs:
    """What the rounds gave, by the load's name."""

    def __init__(self, loads, rounds, seconds):
        self.by_name = {load.name: [] for load in loads}
        assert len(self.by_name) == len(loads), "each load needs a name of its own"
        for number in range(rounds):
            for load in loads:
                print(f"  round {number + 1} of {rounds}: {load.name}", file=sys.stderr)
                self.by_name[load.name].append(load.run(seconds))

    def median(self, name, field):
        values = [getattr(run, field) for run in self.by_name[name]]
        return None if None in values else statistics.median(values)

    def ratio(self, name, to, field="rps"):
        """The median over the rounds of one against another."""
        if name not in self.by_name:
            return None
        return statistics.median(getattr(a, field) / getattr(b, field) for a, b in zip(self.by_name[name], self.by_name[to]))


def milliseconds(out, percentile):
    number, unit = re.search(rf"{percentile}\s+([\d.]+)(us|ms|s)", out).groups()
    return float(number) * {"us": 0.001, "ms": 1, "s": 1000}[unit]


def write(path, lines):
    """Returns how many."""
    count = 0
    with open(path, "w") as file:
        for line in lines:
            file.write(line + "\n")
            count += 1
    return count


def pour(server, requests, each, connections=32):
    """Sends many requests, pipelined, and gives `each` the head of every answer, in no order. All must be answered 2xx."""
    requests = iter(requests)
    host, port = server.address.rsplit(":", 1)
    sockets = [socket.create_connection((host, int(port))) for _ in range(connections)]
    readers = [connection.makefile("rb", 1 << 16) for connection in sockets]
    ended = False
    while not ended:
        sent = []
        for connection in sockets:
            batch, size = [], 0
            # So few that the answers fit into the socket's buffers while nobody reads them.
            while len(batch) < 20 and size < 16_384 and not ended:
                request = next(requests, None)
                ended = request is None
                if not ended:
                    batch.append(request)
                    size += len(request)
            connection.sendall(b"".join(batch))
            sent.append(len(batch))
        for reader, count in zip(readers, sent):
            for _ in range(count):
                each(answer(reader))
    for connection, reader in zip(sockets, readers):
        reader.close()
        connection.close()


def answer(reader):
    """Reads one HTTP answer; returns its head."""
    head, length = b"", 0
    while (line := reader.readline()) != b"\r\n":
        if not line:
            sys.exit(f"the connection ended in an answer's head: {head}")
        head += line
        if line[:15].lower() == b"content-length:":
            length = int(line[15:])
    body = reader.read(length)
    if head[9:10] != b"2":
        sys.exit(f"not issued: {head.decode()}{body.decode()}")
    return head


def request(server, method, path, body="", cookie=None):
    head = f"{method} {path} HTTP/1.1\r\nHost: {server.address}\r\n" + (f"Cookie: {cookie}\r\n" if cookie else "")
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}\r\n{body}".encode()


def issue(server, sessions, every=1):
    """Issues sessions, and returns the cookies, or one of `every` so many."""
    cookies, seen = [], 0

    def each(head):
        nonlocal seen
        seen += 1
        if seen % every == 0:
            cookies.append(re.search(rb"(?i)^set-cookie: ([^;\r]+)", head, re.M)[1].decode())

    pour(server, (request(server, "POST", server.issue, server.body(session)) for session in sessions), each)
    return cookies


def resolved(server, cookie):
    """What one session is answered with, checked."""
    connection = server.connect()
    connection.request("GET", server.resolve, headers={"Cookie": cookie})
    response = connection.getresponse()
    body = response.read()
    assert response.status == 200 and json.loads(body)["user_id"].startswith("user-"), (response.status, body)
    return body


def timed(connection, method, path, body=None, headers=None):
    """One request by itself: ms, status, and what was answered."""
    began = time.perf_counter()
    connection.request(method, path, body, {"Content-Type": "application/json"} | (headers or {}))
    response = connection.getresponse()
    answered = response.read()
    return 1000 * (time.perf_counter() - began), response.status, answered, response
