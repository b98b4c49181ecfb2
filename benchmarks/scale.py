"""`make bench-scale`: what Mayfly's rate and memory are against how much there is of a thing.

Against tasks that wait, functions that take turns, bytes of a payload, and dispatchers: one grows, the rest
stays. With `warm` sandboxes where there are any, so that the control path is what is measured. Memory is what
the gateway's process and the dispatchers' hold when the clock stops, without sandboxes. Writes
`benchmarks/results/scale.json` and a plot of each into `docs/`.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from benchmarks.arena import Arena, arena
from benchmarks.bench import RESULTS, machine, versions
from benchmarks.contenders.mayfly import Backlog, Mayfly
from benchmarks.plot import Panel, number_of, svg
from benchmarks.stage import REPOSITORY

DOCS: Final = REPOSITORY / "docs"
SECONDS: Final = 20.0
KIB, MIB = 1024, 1024 * 1024


class Point(NamedTuple):
    at: str
    per_second: float
    gateway_mib: float
    dispatchers_mib: float


class Series(NamedTuple):
    name: str
    against: str
    points: Callable[[], Iterable[Point]]


class Scale:
    """The series, on one arena, each slice of so many seconds."""

    def __init__(self, arena: Arena, seconds: float, backlogs: Sequence[int]) -> None:
        self._arena, self._seconds, self._backlogs = arena, seconds, backlogs
        self.isolation, self._slots, self._keep = (
            ("container", 4, 10) if arena.refused("warm") else ("warm", 16, 200)
        )

    def series(self) -> list[Series]:
        return [
            Series("backlog", "tasks that wait", self._against_backlog),
            Series("functions", "functions that take turns", self._against_functions),
            Series("payload", "bytes of a payload", self._against_payload),
            Series("dispatchers", "dispatchers", self._against_dispatchers),
        ]

    def _against_backlog(self) -> Iterable[Point]:
        for waiting in self._backlogs:
            name = f"scale_{waiting}"
            yield self._point(
                f"{waiting:,}", Backlog(self._arena, name, self.isolation, self._slots, waiting)
            )

    def _against_functions(self) -> Iterable[Point]:
        for count in (1, 100):
            contender = self._contender()
            contender.copies = count
            yield self._point(str(count), contender)

    def _against_payload(self) -> Iterable[Point]:
        for label, size in (("1 KB", KIB), ("60 KB", 60 * KIB), ("1 MB", MIB), ("6 MB", 6 * MIB - KIB)):
            contender = self._contender(keep=min(self._keep, 40))
            contender.payload = size
            yield self._point(label, contender)

    def _against_dispatchers(self) -> Iterable[Point]:
        for count in (1, 2, 4):
            contender = self._contender()
            contender.dispatchers = count
            yield self._point(str(count), contender)

    def _contender(self, keep: int | None = None) -> Mayfly:
        return Mayfly(self._arena, "scale", self.isolation, self._slots, keep=keep or self._keep)

    def _point(self, at: str, contender: Mayfly | Backlog) -> Point:
        contender.prepare()
        with contender.up():
            measured = contender.run(self._seconds)
        return Point(at, measured.per_second, self._arena.gateway_mib, measured.resident_mib or 0)


def panels(series: Series, points: Sequence[Point]) -> list[Panel]:
    labels = [point.at for point in points]
    memory = {
        "gateway": [point.gateway_mib for point in points],
        "dispatchers": [point.dispatchers_mib for point in points],
    }
    rates = {"rate": [point.per_second for point in points]}
    return [
        Panel(f"Tasks a second against {series.against}", labels, rates),
        Panel(f"MiB against {series.against}", labels, memory),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="short: to see that everything runs; writes no file"
    )
    options = parser.parse_args()
    about = machine()
    backlogs = (1000, 5000) if options.quick else (1000, 100_000, 1_000_000)
    seen: dict[str, list[Point]] = {}
    with arena() as here:
        scale = Scale(here, 1.0 if options.quick else SECONDS, backlogs)
        about |= {"versions": versions(here), "isolation": scale.isolation}
        print(f"{'':<28} {'':>10} {'tasks/s':>10} {'gateway':>12} {'dispatchers':>12}")
        for series in scale.series():
            points = seen[series.name] = []
            for point in series.points():
                points.append(point)
                memory = [f"{number_of(mib)} MiB" for mib in (point.gateway_mib, point.dispatchers_mib)]
                rate = number_of(point.per_second)
                print(
                    f"{series.against:<28} {point.at:>10} {rate:>10} {memory[0]:>12} {memory[1]:>12}",
                    flush=True,
                )
            if not options.quick:
                picture = svg(f"Mayfly against {series.against}", panels(series, points))
                (DOCS / f"scale-{series.name}.svg").write_text(picture)
    if not options.quick:
        found = {name: [point._asdict() for point in points] for name, points in seen.items()}
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "scale.json").write_text(json.dumps(about | found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
