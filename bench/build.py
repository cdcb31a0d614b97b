"""Looks for the tools, and builds what is measured. Peers are built once, and again when their lock file changes."""
import os, re, shutil, subprocess, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
PEERS = TARGET / "bench"

TOOLS = {"cargo": "rustup", "redis-server": "redis-server", "redis-cli": "redis-tools", "redis-benchmark": "redis-tools",
         "wrk": "wrk", "node": "nodejs", "npm": "npm"}


def check_tools():
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing:
        packages = sorted({TOOLS[tool] for tool in missing})
        sys.exit(f"missing: {', '.join(missing)}. They come with {', '.join(packages)}.")


def sessiond():
    """The service with a hello route, as examples/hello.rs says."""
    cargo("--example", "hello", "--target-dir", TARGET)
    return TARGET / "release/examples/hello"


def axum():
    cargo("--manifest-path", ROOT / "bench/axum/Cargo.toml", "--target-dir", PEERS)
    return PEERS / "release/bench-axum"


def tower_sessions():
    """The peer's two binaries, by allocator."""
    cargo("--manifest-path", ROOT / "bench/tower-sessions/Cargo.toml", "--target-dir", PEERS)
    return {allocator: PEERS / "release" / allocator for allocator in ("mimalloc", "system")}


def node(peer):
    """The peer's server.js beside its installed packages."""
    source, folder = ROOT / "bench" / peer, PEERS / peer
    folder.mkdir(parents=True, exist_ok=True)
    installed, lock = folder / "node_modules/installed.json", source / "package-lock.json"
    for file in ("package.json", "package-lock.json", "server.js"):
        shutil.copy(source / file, folder)
    if not installed.exists() or installed.read_bytes() != lock.read_bytes():
        print(f"installing {peer}", file=sys.stderr)
        subprocess.run(["npm", "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=folder, check=True)
        shutil.copy(lock, installed)
    return folder / "server.js"


def cargo(*arguments):
    subprocess.run(["cargo", "build", "--release", "--locked", *arguments], cwd=ROOT, check=True)


def versions():
    """What was measured with: a line each."""
    def said(*command):
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip().split("\n")[0]

    peers = {}
    for peer in ("express", "fastify"):
        peers |= re.findall(r'"([^"]+)": "(\d[^"]*)"', (ROOT / "bench" / peer / "package.json").read_text())
    manifest = (ROOT / "bench/tower-sessions/Cargo.toml").read_text()
    peers |= re.findall(r'^((?:axum|fred|tower-sessions\S*)) = (?:.*?)"=([\d.]+)"', manifest, re.M)
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    redis = re.search(r"v=(\S+)", said("redis-server", "--version"))
    wrk = re.search(r"wrk (?:debian/)?(\S+)", said("wrk", "--version"))
    return {
        "machine": f"{os.cpu_count()} cores, {cpu[1] if cpu else os.uname().machine}, {int(memory[1]) / 2**20:.0f} GiB, "
                   f"Linux {os.uname().release.split('-')[0]}",
        "commit": said("git", "-C", str(ROOT), "describe", "--always", "--dirty"),
        "tools": f"{said('rustc', '--version')}, Redis {redis[1] if redis else 'unknown'}, "
                 f"Node.js {said('node', '--version')}, wrk {wrk[1] if wrk else 'unknown'}",
        "peers": ", ".join(f"{name} {version}" for name, version in sorted(peers.items())),
    }
