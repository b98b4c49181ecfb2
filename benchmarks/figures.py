"""What a run has seen, as figures, ratios, a table and JSON. Pure."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from benchmarks.contenders.base import Measured


class Figure(NamedTuple):
    """A line of the table."""

    key: str
    what: str


FIGURES: Final = (
    Figure("docker_run_per_s", "`docker run --rm`, in a loop"),
    Figure("docker_run_p50_ms", "the same, one at a time"),
    Figure("docker_api_per_s", "Docker's API: create, start, wait, remove, in a loop"),
    Figure("celery_prefork_per_s", "Celery, a pool of processes, with Redis"),
    Figure("celery_process_per_task_per_s", "Celery, a process per task, with Redis"),
    Figure("rq_per_s", "RQ, with Redis"),
    Figure("bare_post_per_s", "bare Starlette answering the POST"),
    Figure("container_per_s", "**Mayfly**, `container`: a container per task"),
    Figure("container_armed_p50_ms", "a task in an armed container, from its POST to COMPLETED"),
    Figure("oci_per_s", "**Mayfly**, `container` on the runtime `oci`"),
    Figure("fork_per_s", "**Mayfly**, `fork`: a process in its own namespaces per task"),
    Figure("fork_p50_ms", "one such task, from its POST to COMPLETED"),
    Figure("warm_per_s", "**Mayfly**, `warm`: a process that serves many"),
    Figure("warm_p50_ms", "one such task, from its POST to COMPLETED"),
    Figure("post_per_s", "**Mayfly**, POST of a task, acknowledged by Kafka (`acks=all`)"),
    Figure("backlog_1k_per_s", "**Mayfly**, tasks a second while 1,000 wait"),
    Figure("backlog_1m_per_s", "**Mayfly**, tasks a second while 1,000,000 wait"),
)
SAME_AT_ONCE: Final = {"container": "docker_api"}
"""Whose concurrency is that of the peer it is held against; all else is shown at its best."""
PEERS: Final = ("docker_run", "docker_api", "celery_prefork", "celery_process_per_task", "rq", "bare_post")


class Floor(NamedTuple):
    over: str
    under: str
    at_least: float


FLOORS: Final = (
    Floor("container_per_s", "docker_api_per_s", 0.9),
    Floor("docker_run_p50_ms", "container_armed_p50_ms", 10),
    Floor("oci_per_s", "docker_run_per_s", 4),
    Floor("fork_per_s", "docker_run_per_s", 30),
    Floor("fork_per_s", "celery_process_per_task_per_s", 20),
    Floor("warm_per_s", "celery_prefork_per_s", 1.2),
    Floor("post_per_s", "bare_post_per_s", 0.25),
    Floor("backlog_1m_per_s", "backlog_1k_per_s", 0.9),
)


@dataclass(frozen=True)
class Ratio:
    """`value` is None where one of the two was not measured."""

    floor: Floor
    value: float | None

    @property
    def name(self) -> str:
        return f"{self.floor.over} / {self.floor.under}"

    @property
    def met(self) -> bool:
        return self.value is not None and self.value >= self.floor.at_least

    @property
    def verdict(self) -> str:
        return "not measured" if self.value is None else "met" if self.met else "MISSED"


@dataclass
class Results:
    """Slices by contender and how many it ran at once, and why others were not measured."""

    slices: dict[tuple[str, int], list[Measured]] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)

    def leave_out(self, name: str, why: str) -> None:
        """Some of its slices, without those that others had beside the rest, say nothing."""
        self.unavailable[name] = why
        self.slices = {key: slices for key, slices in self.slices.items() if key[0] != name}

    def add(self, name: str, at_once: int, measured: Measured) -> None:
        self.slices.setdefault((name, at_once), []).append(measured)

    def rate(self, name: str) -> float | None:
        """Per second: all that ended over all that its slices took, at the concurrency that `at_once`
        says. So the slices of a slow minute weigh as much as they lasted, as a peer's beside them do."""
        at_once = self.at_once(name)
        return None if at_once is None else self._rate(name, at_once)

    def at_once(self, name: str) -> int | None:
        """The concurrency at which it is shown: its best, or that of the peer it is held against."""
        levels = [level for other, level in self.slices if other == name]
        peer = self.at_once(SAME_AT_ONCE[name]) if name in SAME_AT_ONCE else None
        if peer in levels:
            return peer
        return max(levels, key=lambda level: self._rate(name, level), default=None)

    def p50(self, name: str) -> float | None:
        """Milliseconds: the median of all that were timed with the fewest at once."""
        found = min((level for other, level in self.slices if other == name), default=None)
        if found is None:
            return None
        timed = [one for measured in self.slices[name, found] for one in measured.latencies_ms]
        return statistics.median(timed) if timed else None

    def figures(self) -> dict[str, float | None]:
        """By the keys of `FIGURES`."""
        found: dict[str, float | None] = {}
        for key, _ in FIGURES:
            if key.endswith("_p50_ms"):
                value = self.p50(key.removesuffix("_p50_ms"))
            else:
                value = self.rate(key.removesuffix("_per_s"))
            found[key] = None if value is None else _rounded(value)
        return found

    def _rate(self, name: str, at_once: int) -> float:
        slices = self.slices[name, at_once]
        return sum(one.count for one in slices) / sum(one.seconds for one in slices)

    def samples(self) -> dict[str, list[dict[str, Any]]]:
        """Every slice, as it was."""
        return {
            f"{name} x{at_once}": [
                {"count": one.count, "seconds": round(one.seconds, 3), "perSecond": _rounded(one.per_second)}
                | ({"timed": len(one.latencies_ms)} if one.latencies_ms else {})
                | ({"clientCpu": round(one.client_cpu, 2)} if one.client_cpu is not None else {})
                | ({"residentMib": round(one.resident_mib)} if one.resident_mib is not None else {})
                for one in slices
            ]
            for (name, at_once), slices in self.slices.items()
        }


def ratios(figures: Mapping[str, float | None]) -> list[Ratio]:
    found = []
    for floor in FLOORS:
        over, under = figures[floor.over], figures[floor.under]
        found.append(Ratio(floor, over / under if over is not None and under else None))
    return found


def as_json(results: Results, about: Mapping[str, Any]) -> dict[str, Any]:
    """`about` is what is known of the run: when, where, on what."""
    figures = results.figures()
    names = dict.fromkeys(name for name, _ in results.slices)
    return {
        **about,
        **figures,
        "ratios": [
            {
                "name": ratio.name,
                "value": None if ratio.value is None else _rounded(ratio.value),
                "atLeast": ratio.floor.at_least,
                "met": ratio.met,
            }
            for ratio in ratios(figures)
        ],
        "atOnce": {name: results.at_once(name) for name in names},
        "unavailable": results.unavailable,
        "samples": results.samples(),
    }


def as_markdown(seen: Mapping[str, Any]) -> str:
    """The tables, from what `as_json` gave: they fit a terminal, too."""
    figures = [
        (what, f"`{key}`", _shown(seen[key]), _at_once(seen, key))
        for key, what in FIGURES
    ]  # fmt: skip
    held = [
        (f"`{ratio.name}`", _shown(ratio.value), f"{ratio.floor.at_least:g}", ratio.verdict)
        for ratio in ratios(seen)
    ]
    lines = [
        *_table(("", "key", "seen", "at once"), figures),
        "",
        *_table(("ratio", "seen", "at least", ""), held),
    ]
    if seen["unavailable"]:
        lines += ["", *(f"- {name} was not measured: {why}" for name, why in seen["unavailable"].items())]
    return "\n".join(lines) + "\n"


def _at_once(seen: Mapping[str, Any], key: str) -> str:
    if key.endswith("_p50_ms"):
        return "1"
    return str(seen["atOnce"].get(key.removesuffix("_per_s"), ""))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    rows = [head, *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    right = [column for column in range(len(head)) if head[column] in ("seen", "at least", "at once")]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.rjust(widths[column]) if column in right else cell.ljust(widths[column])
            for column, cell in enumerate(row)
        ]
        return f"| {' | '.join(cells)} |"

    rule = [
        ("-" * (width - 1) + ":") if column in right else "-" * width for column, width in enumerate(widths)
    ]
    return [line(head), f"| {' | '.join(rule)} |", *(line(row) for row in rows[1:])]


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _rounded(value: float) -> float:
    """Four figures: no run says more."""
    return float(f"{value:.4g}")
