"""`make bench`: Mayfly and its peers in one run on this machine, each ratio beside its floor.

Every contender has a slice in every round, and every second round goes backwards, so that what the machine
does meanwhile befalls all alike. A rate is the median over the rounds; a peer's is its best of 1, 2 and 4 at
once. Writes `benchmarks/results/latest.json` and `latest.md`. Exits 1 if a floor is missed or could not be
measured, and names it.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
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
SLOTS: Final = 128
"""Where a sandbox is quickly had: the more tasks are on their way, the more share a round trip."""
KEPT: Final = 400
"""Tasks that wait, so that no slot does."""


class Plan(NamedTuple):
    rounds: int
    seconds: float
    """Of a slice. Rounds and slice together are at least 20 s for each rate."""
    long_backlog: int
    objects: int
    """That are put into S3 before the first round,"""
    tasks: int
    """and that the stack serves after those."""


FULL: Final = Plan(rounds=3, seconds=6.7, long_backlog=1_000_000, objects=20_000, tasks=12_000)
QUICK: Final = Plan(rounds=1, seconds=1.0, long_backlog=20_000, objects=0, tasks=0)


def contenders(arena: Arena, plan: Plan) -> list[Contender]:
    """In the order of the first round: peers beside what is held against them."""
    backlog = "container" if arena.refused("warm") else "warm"
    return [
        *(docker.DockerRun(arena, at_once) for at_once in AT_ONCE),
        # In turn, for containers in a row slow down those behind them.
        *(
            one
            for at_once in AT_ONCE
            for one in (
                docker.DockerApi(arena, at_once),
                Mayfly(arena, "container", "container", at_once, keep=2 * at_once + 2),
            )
        ),
        Mayfly(arena, "container_armed", "container", 2, keep=0, singles=plan.seconds, pause=0.8),
        Mayfly(arena, "oci", "container", 4, keep=40, runtime="oci"),
        *(celery.Celery(arena, at_once, per_task=True) for at_once in AT_ONCE),
        *(rq.Rq(arena, at_once) for at_once in AT_ONCE),
        Mayfly(arena, "fork", "fork", SLOTS, keep=KEPT, singles=1.5, runtime="oci"),
        *(celery.Celery(arena, at_once, per_task=False) for at_once in AT_ONCE),
        Mayfly(arena, "warm", "warm", SLOTS, keep=KEPT, singles=1.5, runtime="oci"),
        Backlog(arena, "backlog_1k", backlog, SLOTS, 1000, runtime="oci"),
        Backlog(arena, "backlog_1m", backlog, SLOTS, plan.long_backlog, runtime="oci"),
        BarePost(arena),
        Post(arena),
    ]


def measure(arena: Arena, plan: Plan, only: Sequence[str] = ()) -> Results:
    results = Results()
    field = [one for one in contenders(arena, plan) if not only or one.name in only]
    try:
        for contender in list(field):
            if not _ready(contender, results):
                field.remove(contender)
        if any(isinstance(one, Mayfly | Backlog | Post) for one in field):
            _run_in(arena, plan)
        for number in range(plan.rounds):
            for contender in field if number % 2 == 0 else reversed(field):
                if contender.name not in results.unavailable:
                    _slice(contender, plan.seconds, number, results)
    finally:
        for contender in field:
            contender.close()
    return results


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
    try:
        contender.prepare()
    except Exception as error:  # noqa: BLE001 - what stops one contender leaves the others
        _left_out(contender, error, results)
    return contender.name not in results.unavailable


def _slice(contender: Contender, seconds: float, number: int, results: Results) -> None:
    began = time.monotonic()
    try:
        measured = contender.run(seconds)
    except Exception as error:  # noqa: BLE001 - as above
        _left_out(contender, error, results)
        return
    results.add(contender.name, contender.at_once, measured)
    took = time.monotonic() - began
    rate = f"{measured.per_second:>9,.1f}/s"
    print(
        f"round {number + 1}  {contender.name:<24} x{contender.at_once:<3} {rate}  {took:5.1f} s", flush=True
    )


def _left_out(contender: Contender, error: Exception, results: Results) -> None:
    why = str(error) if isinstance(error, Unavailable) else f"{type(error).__name__}: {error}"
    results.unavailable[contender.name] = why
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
    parser.add_argument("--quick", action="store_true", help="one short round: to see that everything runs")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="measure no other")
    parser.add_argument("--docs", action="store_true", help="put the tables into docs/performance.md")
    options = parser.parse_args()
    plan = QUICK if options.quick else FULL
    began, about = time.monotonic(), machine()
    with arena() as here:
        results = measure(here, plan, options.only)
        here.check_results()
        about |= {"versions": versions(here), "rounds": plan.rounds, "sliceSeconds": plan.seconds}
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
