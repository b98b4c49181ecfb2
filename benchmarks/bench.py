"""`make bench`: Mayfly and its peers in one run on this machine, each ratio beside its floor.

Those whose rates are held against each other take turns, every second time backwards, so that what the
machine does meanwhile befalls all alike. A rate is what ended in all turns over what they took; a peer's is
its best of 1, 2 and 4 at once. Writes `benchmarks/results/latest.json` and `latest.md`. Exits 1 if
a floor is missed or could not be measured, and names it.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.arena import Arena, arena
from benchmarks.contenders import celery, docker, rq
from benchmarks.contenders.base import Contender, Unavailable
from benchmarks.contenders.mayfly import Backlog, Mayfly, Post
from benchmarks.contenders.starlette import BarePost
from benchmarks.figures import Results, as_json, as_markdown, ratios
from benchmarks.stage import REPOSITORY
from mayfly.stack.jars import POMS

RESULTS: Final = REPOSITORY / "benchmarks" / "results"
PAGE: Final = REPOSITORY / "docs" / "performance.md"
BEGIN, END = "<!-- begin: make bench -->\n", "<!-- end: make bench -->\n"
AT_ONCE: Final = (1, 2, 4)
SLOTS: Final = 256
"""Where a sandbox is quickly had: the more tasks are on their way, the more share a round trip."""
KEPT: Final = 400
"""Tasks that wait, so that no slot does."""
BACKLOG_SLOTS: Final = 64
"""Whose processes are started for each turn."""


class Plan(NamedTuple):
    turns: int
    """Of each contender, at most."""
    seconds: float
    """Of all turns of a contender together: at least 20 for each rate that a floor rests on."""
    long_backlog: int
    objects: int
    """That are put into S3 before the first slice,"""
    tasks: int
    """and that the stack serves after those."""


FULL: Final = Plan(turns=4, seconds=20.4, long_backlog=1_000_000, objects=20_000, tasks=9_000)
QUICK: Final = Plan(turns=1, seconds=1.0, long_backlog=20_000, objects=0, tasks=0)


class Group(NamedTuple):
    """What is held against each other, up together, and how many turns each takes."""

    turns: int
    contenders: Sequence[Contender]
    share: float = 1.0
    """Of the plan's seconds: less, where no floor rests on it."""


def groups(arena: Arena, plan: Plan) -> list[Group]:
    docker_run = [docker.DockerRun(arena, at_once) for at_once in AT_ONCE]
    one, two, four = (celery.Celery(arena, at_once, per_task=True) for at_once in AT_ONCE)
    prefork = [celery.Celery(arena, at_once, per_task=False) for at_once in AT_ONCE]
    oci = Mayfly(arena, "oci", "container", 4, keep=40, runtime="oci")
    fork = Mayfly(arena, "fork", "fork", SLOTS, keep=KEPT, singles=1.5, runtime="oci")
    warm = Mayfly(arena, "warm", "warm", SLOTS, keep=KEPT, singles=1.5, runtime="oci")
    backlog = "container" if arena.refused("warm") else "warm"
    backlogs = [
        Backlog(arena, name, backlog, BACKLOG_SLOTS, waiting, runtime="oci")
        for name, waiting in (("backlog_1k", 1000), ("backlog_1m", plan.long_backlog))
    ]
    return [
        *(Group(4, [docker.DockerApi(arena, at_once), _container(arena, at_once)]) for at_once in AT_ONCE),
        Group(1, [Mayfly(arena, "container_armed", "container", 2, keep=0, pause=0.8)]),
        # With one process, five seconds pass until a first task has ended, for each start.
        Group(1, [one], share=0.5),
        # `fork` and `warm` in the middle, so that they never rest until their dispatchers keep nothing ready.
        Group(4, [*docker_run, fork, four, two, oci]),
        *(Group(1, [rq.Rq(arena, at_once)], share=0.5) for at_once in AT_ONCE),
        Group(4, [*prefork[:2], warm, *prefork[2:]]),
        # Each turn starts a dispatcher: there is nothing that stops one while tasks wait.
        Group(2, backlogs),
        Group(4, [BarePost(arena), Post(arena)]),
    ]


def _container(arena: Arena, at_once: int) -> Mayfly:
    return Mayfly(arena, "container", "container", at_once, keep=2 * at_once + 2)


def measure(arena: Arena, plan: Plan, only: Sequence[str] = ()) -> Results:
    results = Results()

    def chosen(contender: Contender) -> bool:
        return not only or contender.name in only

    field = [
        group._replace(contenders=[one for one in group.contenders if chosen(one) and _ready(one, results)])
        for group in groups(arena, plan)
    ]
    if any(isinstance(one, Mayfly | Backlog | Post) for group in field for one in group.contenders):
        _run_in(arena, plan)
    for group in field:
        _take_turns(group, plan, results)
    return results


def _take_turns(group: Group, plan: Plan, results: Results) -> None:
    turns = min(group.turns, plan.turns)
    with ExitStack() as running:
        own = {one: running.enter_context(ExitStack()) for one in group.contenders}
        for contender in group.contenders:
            if contender.name not in results.unavailable:
                with _left_out_if_it_fails(contender, results):
                    own[contender].enter_context(contender.up())
        for turn in range(turns):
            for contender in group.contenders if turn % 2 == 0 else reversed(group.contenders):
                if contender.name not in results.unavailable:
                    _slice(contender, group.share * plan.seconds / turns, turn, results)
                if contender.name in results.unavailable:
                    # What it has left to do would be done in the others' turns.
                    own[contender].close()


def _run_in(arena: Arena, plan: Plan) -> None:
    """Of what all find running, the peers' Redis is as fast at once as it ever is. Mayfly's broker and store
    run on JVMs, which have compiled what they run only when they have done it some ten thousand times."""
    if not plan.tasks:
        return
    began = time.monotonic()
    try:
        arena.use_store(plan.objects)
        stack = Mayfly(arena, "run_in", "warm", SLOTS, keep=KEPT, runtime="oci")
        stack.prepare()
        stack.serve(plan.tasks)
    except Exception as error:  # noqa: BLE001 - what cannot be served is told again, by its own contender
        print(f"not run in: {error}", flush=True)
    else:
        print(f"run in by {plan.tasks:,} tasks in {time.monotonic() - began:.1f} s", flush=True)


def _ready(contender: Contender, results: Results) -> bool:
    with _left_out_if_it_fails(contender, results):
        contender.prepare()
    return contender.name not in results.unavailable


def _slice(contender: Contender, seconds: float, turn: int, results: Results) -> None:
    began = time.monotonic()
    with _left_out_if_it_fails(contender, results):
        measured = contender.run(seconds)
        results.add(contender.name, contender.at_once, measured)
        took = time.monotonic() - began
        rate = f"{measured.per_second:>9,.1f}/s"
        print(
            f"turn {turn + 1}  {contender.name:<24} x{contender.at_once:<3} {rate}  {took:5.1f} s", flush=True
        )


@contextmanager
def _left_out_if_it_fails(contender: Contender, results: Results) -> Iterator[None]:
    """What stops one contender leaves the others."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is
        why = str(error) if isinstance(error, Unavailable) else f"{type(error).__name__}: {error}"
        results.leave_out(contender.name, why)
        print(f"{contender.name} x{contender.at_once}: not available: {why}", flush=True)


# --- what it was measured on


def machine() -> dict[str, Any]:
    """Before anything was started."""
    cpus = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "at": datetime.now().astimezone().isoformat(timespec="seconds"),
        "loadBefore": [round(load, 2) for load in os.getloadavg()],
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "cpu": cpus[0].partition(": ")[2] if cpus else platform.processor(),
            "memoryMib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
            "system": platform.platform(),
        },
    }


def versions(arena: Arena) -> dict[str, str]:
    packages = ("mayfly-run", "starlette", "uvicorn", "confluent-kafka", "redis", "obstore")
    return {
        "python": platform.python_version(),
        "kafka": next(iter(POMS.glob("kafka-*.xml"))).stem.partition("-")[2],
        "redis server": str(arena.redis.info("server")["redis_version"]),
        **{name: version(name) for name in packages},
        **docker.versions(arena),
        **celery.versions(),
        **rq.versions(),
    }


def heading(seen: dict[str, Any]) -> str:
    machine = seen["machine"]
    load = ", ".join(f"{one:g}" for one in seen["loadBefore"])
    quick = (
        f" (`--quick`: {QUICK.seconds:g} s each, {QUICK.long_backlog:,} for a million)"
        if seen["quick"]
        else ""
    )
    return (
        f"{seen['at'][:16].replace('T', ' ')}{quick}, {machine['cores']} cores ({machine['cpu']}), "
        f"{machine['memoryMib'] / 1024:.0f} GiB; load before the run {load}.\n"
    )


def put_into_page(text: str) -> None:
    """Between the marks in docs/performance.md."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + text + END + rest.partition(END)[2])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="one short turn each: to see that everything runs"
    )
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="measure no other")
    parser.add_argument("--docs", action="store_true", help="put the tables into docs/performance.md")
    options = parser.parse_args()
    plan = QUICK if options.quick else FULL
    began, about = time.monotonic(), machine()
    with arena() as here:
        results = measure(here, plan, options.only)
        here.check_results()
        about |= {"versions": versions(here), "turns": plan.turns, "secondsEach": plan.seconds}
    about |= {"quick": options.quick, "tookSeconds": round(time.monotonic() - began)}
    seen = as_json(results, about)
    text = f"{heading(seen)}\n{as_markdown(seen)}"
    print(f"\n{text}\nin {about['tookSeconds']} s")
    name = "quick" if options.quick or options.only else "latest"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(seen, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text(text)
    if options.docs:
        put_into_page(text)
    missed = [ratio for ratio in ratios(seen) if not ratio.met]
    for ratio in missed:
        print(f"{ratio.verdict}: {ratio.name} is {ratio.value}, at least {ratio.floor.at_least:g} is asked")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
