"""A task that runs for an hour beside many short ones on its partition: what it costs them, and the owner.

The real owner of a partition (fold, lanes, records, checkpoint) over a log in memory: no Kafka, no sandbox,
so that what is measured is the owner's own work, and an hour needs no hour.
"""

import argparse
import gc
import statistics
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from dispatcher.buffers import Command
from dispatcher.offsets import Checkpoint
from dispatcher.partition import Partition, World
from mayfly import view
from mayfly.events import Claimed, DeadLetter, DeferredRecord, Event, Finished
from mayfly.task import Envelope, Lane, Outcome, Position, new_task_id

SHORT: Final = 20_000
AT_ONCE: Final = 4
COMMIT_EVERY: Final = 500
"""Events between two checkpoints."""


class Nobody:
    """Implements `Projection` and `Errands`: whatever is told is done."""

    def command(self, partition: int, task: view.QueuedTask) -> None: ...
    def change(self, change: view.Change) -> None: ...
    def keep(self, partition: Partition, record: DeferredRecord) -> None: ...
    def tombstone(self, partition: Partition, key: str, task_id: str) -> None: ...
    def release(self, partition: Partition, lane: Lane, envelope: Envelope) -> None: ...
    def bury(self, partition: Partition, letter: DeadLetter) -> None: ...


@dataclass(frozen=True)
class Seen:
    rate: float
    """Short tasks a second."""
    kib: float
    """What the owner's memory grew by while they ran."""
    checkpoint_bytes: int
    """Of the largest."""


def run(short: int, *, long: bool) -> Seen:
    owner, largest, events = _owner(), 0, 0
    nonces = (f"n{number}" for number in range(10 * short))

    def append(event: Event) -> None:
        nonlocal events, largest
        owner.take_event(events, event, 0)
        events += 1
        if events % COMMIT_EVERY == 0:
            checkpoint = owner.checkpoint()
            largest = max(largest, len(checkpoint.encode()))
            owner.committed(checkpoint)

    offsets = iter(range(10 * short))
    if long:
        owner.take_command(_command(next(offsets)))
        work = owner.next(Lane.NORMAL)
        assert work is not None
        # Claimed, and never finished here.
        append(_claimed(work.task_id, work.position, next(nonces)))
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    began = time.perf_counter()
    for _ in range(short // AT_ONCE):
        for _ in range(AT_ONCE):
            owner.take_command(_command(next(offsets)))
        for task_id, position in list(_taken(owner)):
            fence = events
            append(_claimed(task_id, position, next(nonces)))
            append(Finished(task_id, fence, 1, Outcome(0, 1)))
    seconds = time.perf_counter() - began
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    lane = owner.checkpoint().lanes[Lane.NORMAL]
    assert lane == (short + long, (0,) if long else ()), "all but the long one are done"
    return Seen(short / seconds, grown / 1024, largest)


def _taken(owner: Partition) -> Iterator[tuple[str, Position]]:
    while work := owner.next(Lane.NORMAL):
        yield work.task_id, work.position


def _owner() -> Partition:
    nobody = Nobody()
    world = World(
        queue="q",
        projection=nobody,
        errands=nobody,
        limit_of=lambda _: None,
        limits_revision=lambda: 0,
        share=lambda limit, partition: limit.most,
        now=lambda: 1_000_000,
        on_cancel=lambda _: None,
    )
    owner = Partition(0, checkpoint=Checkpoint(), events_end=0, world=world)
    owner.take_records_end(0)
    return owner


def _command(offset: int) -> Command:
    envelope = Envelope(task_type="f", task_id=new_task_id())
    return Command(envelope, 0, Position(Lane.NORMAL, offset), at=0, size=100)


def _claimed(task_id: str, position: Position, nonce: str) -> Claimed:
    return Claimed(task_id, position.lane, position.offset, 1, "d", nonce)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.long_task", description=__doc__)
    parser.add_argument("--short", type=int, default=SHORT, help=f"short tasks ({SHORT})")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of runs, one after the other (5)")
    options = parser.parse_args()
    pairs = [(run(options.short, long=True), run(options.short, long=False)) for _ in range(options.rounds)]
    ratios = [beside.rate / alone.rate for beside, alone in pairs]
    beside = pairs[-1][0]
    print(f"{options.short:,} short tasks, {statistics.median(one.rate for _, one in pairs):,.0f}/s alone")
    print(f"rate beside a task that runs all the while: {statistics.median(ratios):.3f} of that, median")
    print(
        f"the owner's memory grew by {beside.kib:.0f} KiB; largest checkpoint {beside.checkpoint_bytes} bytes"
    )


if __name__ == "__main__":
    main()
