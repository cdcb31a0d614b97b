"""What is asked of the service: figures that do not depend on the machine."""
from dataclasses import dataclass


@dataclass
class Target:
    name: str
    # The figure's name in a group's facts.
    fact: str
    least: float | None = None
    most: float | None = None
    unit: str = ""

    def required(self):
        return f">= {self.least:g}{self.unit}" if self.most is None else f"<= {self.most:.3g}{self.unit}"

    def score(self, figure):
        """1 and more is reached; 2 is twice as good as required."""
        if self.most is None:
            return figure / self.least
        return self.most / figure if figure else float("inf")


TARGETS = [
    Target("resolve through Redis against hello, requests/s", "resolve rps", least=0.62),
    Target("the same, hello under axum::serve", "resolve axum rps", least=0.62),
    Target("resolve from the near-cache against hello, requests/s", "cache rps", least=0.88),
    Target("the same, hello under axum::serve", "cache axum rps", least=0.88),
    Target("resolve through Redis against express, requests/s", "express rps", least=10, unit="x"),
    Target("the same, express with disableTouch", "express, disableTouch rps", least=10, unit="x"),
    Target("resolve through Redis against express, CPU/request", "express cpu", most=1 / 13),
    Target("the same, express with disableTouch", "express, disableTouch cpu", most=1 / 13),
    Target("resolve through Redis against fastify, requests/s", "fastify rps", least=4, unit="x"),
    Target("resolve through Redis against tower-sessions, CPU/request", "tower-sessions cpu", most=0.55),
    Target("the same, tower-sessions with mimalloc", "tower-sessions, mimalloc cpu", most=0.55),
    Target("issue on SQLite against hello, requests/s", "issue rps", least=0.30),
    Target("resolve with 10^6 stored against 10^3, Redis, requests/s", "Redis stored rps", least=0.85),
    Target("resolve with 10^6 stored against 10^3, SQLite, requests/s", "SQLite stored rps", least=0.85),
    Target("memory per session in Redis", "Redis bytes", most=520, unit=" B"),
    Target("revoke seen by another process, p99", "revoke ms", most=5, unit=" ms"),
]
