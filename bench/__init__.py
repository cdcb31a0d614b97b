"""The benchmarks: what scripts/bench runs.

groups.py says what is measured, servers.py on what, load.py how; targets.py what is asked of it; report.py and chart.py write
it down. The peers are in express/, fastify/ and tower-sessions/, pinned by lock files, and are built into target/bench.
"""
