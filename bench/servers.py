"""What is measured: Redis, sessiond and its peers, each a child process on loopback with a kept-alive HTTP port."""
import http.client, json, os, re, resource, subprocess, sys, threading, time
from pathlib import Path

from . import build

SECRET = "a secret for benchmarks of 32 bytes"
# sessiond's near-cache.
CACHE = ("--cache", "2GiB")
CONNECTIONS = 12_000
TICK = os.sysconf("SC_CLK_TCK")


def allow_files():
    """Connections are files: as many as this user may have."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < CONNECTIONS:
        sys.exit(f"the limit of open files is {hard}: raise it to {CONNECTIONS} (ulimit -Hn)")


def session(number=None, data=None):
    """What a caller issues: the standard session is 400 bytes when resolved. No number: one is put in for each request."""
    user = "@@@@@@@" if number is None else f"{number:07}"
    return json.dumps({"user_id": f"user-{user}", "data": data or {"theme": "dark", "cart": [3, 5, 8], "csrf": "x" * 73}},
                      separators=(",", ":"))


class Process:
    def __init__(self, command, folder, **environment):
        self.process = subprocess.Popen([str(part) for part in command], cwd=folder, env=os.environ | environment,
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def cpu(self):
        """Seconds of CPU so far, of all its threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def rss(self):
        """Bytes of memory now."""
        return 1024 * int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())[1])

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Redis(Process):
    def __init__(self, folder, name="redis"):
        self.socket = os.path.join(folder, name + ".sock")
        super().__init__(["redis-server", "--port", "0", "--unixsocket", self.socket, "--save", "", "--appendonly", "no",
                          "--maxclients", "1000", "--dir", folder, "--logfile", os.path.join(folder, name + ".log")], folder)
        while not os.path.exists(self.socket):
            if self.process.poll() is not None:
                sys.exit("redis-server ended: " + self.process.stderr.read())
            time.sleep(0.01)

    def memory(self):
        """Bytes that it has in use."""
        time.sleep(1)
        said = subprocess.run(["redis-cli", "-s", self.socket, "info", "memory"], capture_output=True, text=True, check=True)
        return int(re.search(r"used_memory:(\d+)", said.stdout)[1])


class Service(Process):
    """An HTTP server that says on stderr where it listens."""
    issue, resolve, redis = "/sessions", "/session", None

    def __init__(self, command, folder, **environment):
        super().__init__(command, folder, **environment)
        said = []
        for line in self.process.stderr:
            if matched := re.search(r"listens on (\S+)", line):
                self.address = matched[1]
                break
            said.append(line)
        else:
            sys.exit(f"{' '.join(map(str, command))} did not start:\n{''.join(said)}")
        # What it says later is thrown away, that it may go on.
        threading.Thread(target=lambda: [None for _ in self.process.stderr], daemon=True).start()

    def connect(self):
        return http.client.HTTPConnection(self.address, timeout=60)

    def hello(self, body):
        """Makes /hello answer with `body`."""
        connection = self.connect()
        connection.request("PUT", "/hello", body)
        assert connection.getresponse().status == 200

    def body(self, session):
        """What this server is sent to issue `session`."""
        return session


class Sessiond(Service):
    issue, resolve = "/v1/sessions", "/v1/session"
    binary = None

    def __init__(self, folder, store, *flags):
        self.redis = store if isinstance(store, Redis) else None
        url = f"redis+unix://{store.socket}" if self.redis else f"sqlite:{store}"
        super().__init__([self.built(), "--listen", "127.0.0.1:0", "--secret", SECRET, "--store", url,
                          "--max-connections", CONNECTIONS, "--max-in-flight", CONNECTIONS, *flags], folder)

    @classmethod
    def built(cls):
        cls.binary = cls.binary or build.sessiond()
        return cls.binary


class Peer(Service):
    """Another way to have sessions. It stores what sessiond would answer, so that both send the same body."""

    def __init__(self, command, folder, redis, **environment):
        self.redis = redis
        super().__init__(command, folder, NODE_ENV="production", REDIS_SOCKET=redis.socket, SECRET=SECRET, **environment)

    def body(self, session):
        given, at = json.loads(session), "2026-01-01T00:00:00.000Z"
        return json.dumps({"user_id": given["user_id"], "data": given["data"], "created_at": at, "touched_at": at,
                           "expires_at": at, "lifetime_ends_at": at, "idle_timeout_ms": 86_400_000, "client": None},
                          separators=(",", ":"))


def axum(folder):
    return Service([build.axum()], folder)


def express(folder, redis, disable_touch=False):
    return Peer(["node", build.node("express")], folder, redis, DISABLE_TOUCH=str(int(disable_touch)))


def fastify(folder, redis):
    return Peer(["node", build.node("fastify")], folder, redis)


def tower_sessions(folder, redis, allocator):
    return Peer([build.tower_sessions()[allocator]], folder, redis, REDIS_POOL="6")
