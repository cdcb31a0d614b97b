"""The command line of scripts/bench."""
import argparse, sys, tempfile, time
from pathlib import Path

from . import build, report, servers
from .groups import GROUPS, Bench


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measures sessiond beside its peers, and writes docs/benchmarks.md.",
                                     formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="groups:\n" + "\n".join(f"  {name:12} {group.__doc__}" for name, group in GROUPS.items()))
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="how often each load is run (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=4, metavar="S", help="how long each time (default: %(default)s)")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(GROUPS), metavar="GROUP,...",
                        help="these groups, not all")
    parser.add_argument("--out", type=Path, metavar="FOLDER",
                        help="where benchmarks.md and its chart go (default: docs, when all groups run; target/bench, when only some)")
    options = parser.parse_args()
    if unknown := [name for name in options.only if name not in GROUPS]:
        parser.error(f"no such group: {', '.join(unknown)}; there are {', '.join(GROUPS)}")
    if min(options.rounds, options.seconds) < 1:
        parser.error("at least one round of one second")
    out = options.out or (build.ROOT / "docs" if set(options.only) == set(GROUPS) else build.PEERS)

    build.check_tools()
    servers.allow_files()
    servers.Sessiond.built()
    began, sections, facts = time.monotonic(), [], {}
    for name in dict.fromkeys(options.only):
        print(f"{name}: {GROUPS[name].__doc__}", file=sys.stderr)
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            bench = Bench(folder, options.rounds, options.seconds)
            try:
                sections.append(GROUPS[name](bench))
            finally:
                bench.stop()
        facts |= sections[-1].facts

    how = (f"{options.rounds} round{'s' * (options.rounds > 1)} of {options.seconds} s, "
           f"{(time.monotonic() - began) / 60:.0f} minutes in all, on {time.strftime('%Y-%m-%d', time.gmtime())}")
    command = f"scripts/bench --rounds {options.rounds} --seconds {options.seconds}"
    if set(options.only) != set(GROUPS):
        command += " --only " + ",".join(options.only)
    text = report.markdown(sections, facts, command, build.versions(), how)
    out.mkdir(parents=True, exist_ok=True)
    (out / "benchmarks.md").write_text(text)
    (out / "benchmarks.svg").write_text(report.svg(sections, facts))
    print(text)
    print(f"written: {out / 'benchmarks.md'} and benchmarks.svg", file=sys.stderr)


main()
