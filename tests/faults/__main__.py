"""Kills, stops and flushes the parts of a stack while it works, and checks that nothing is lost.

Everything is its own: Kafka, Redis, S3, a Docker engine (so it needs root), a gateway, two dispatchers.
Exits with 0 if every promise was kept. The seed that it prints gives the same faults again.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import signal
import sys
from pathlib import Path

from tests.faults.chaos import Chaos, Plan
from tests.faults.schedule import Target
from tests.faults.stage import Stage


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--tasks", type=int, default=2100, help="so many are submitted at least; 2100")
    parser.add_argument("--seconds", type=float, default=600, help="for so long at least; 600")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument(
        "--only", action="append", choices=list(Target), help="only faults of this; repeatable"
    )
    parser.add_argument("--no-pauses", action="store_true", help="SIGKILL and FLUSHALL alone")
    parser.add_argument("--history", type=Path, help="write what happened to this file, as JSON")
    parser.add_argument("--keep", action="store_true", help="keep the stack's directory, with its logs")
    options = parser.parse_args()
    targets = tuple(Target(one) for one in options.only) if options.only else tuple(Target)
    plan = Plan(
        options.seed,
        tasks=options.tasks,
        targets=targets,
        pauses=not options.no_pauses,
        seconds=options.seconds,
    )
    # However it ends, nothing of the stage is left.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    stage = Stage(own_engine=True)
    try:
        print(f"seed {plan.seed}; the stack is in {stage.base}", flush=True)
        stage.start()
        chaos = Chaos(plan, stage, lambda line: print(line, flush=True))
        found = asyncio.run(chaos.run())
    finally:
        stage.remove(keep=options.keep)
    if options.history:
        options.history.write_text(json.dumps(chaos.history.plain(), indent=1))
    print(f"\nseed {plan.seed}, {os.cpu_count()} cores, {platform.platform()}")
    for verdict in found:
        print(verdict)
    return 0 if all(verdict.kept is not False for verdict in found) else 1


if __name__ == "__main__":
    sys.exit(main())
