"""The checkpoint: in whatever order commands come to be done, and whatever it is restored from, none is lost.

The lanes' logs and what is done are sets here; the code under test keeps a base and what is pending under it.
"""

from typing import NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from dispatcher.offsets import MAX_METADATA, MAX_PENDING, MAX_RESUMED, Checkpoint, Offsets
from mayfly.fold import Resumed
from mayfly.task import Lane, Position
from tests.stateful.bounds import Machine, explore, patient

FAR = 2_000_000
"""The offsets between one command and the next that a checkpoint is made for; of claims, half as many."""

lanes = st.sampled_from(Lane)
gaps = st.sampled_from([1, 1, 1, 2, 127, 128, 16_384, FAR])
many = st.sampled_from([20, 400])
some = st.sampled_from([1, 2, 5, 40, 400])
few = st.sampled_from([1, 1, 1, 1, 2, 5, 40])


class Commit(NamedTuple):
    """What was committed, and what it was to say."""

    text: str
    taken: Checkpoint
    done: frozenset[Position]


class CheckpointMachine(Machine):
    """Commands are appended, read and done; the owner commits, dies, and starts from any of its commits."""

    def __init__(self) -> None:
        super().__init__()
        self.log: dict[Lane, list[int]] = {lane: [] for lane in Lane}
        self.ends = dict.fromkeys(Lane, 0)
        # What lies elsewhere, and is only carried along: a lower bound each time.
        self.start, self.deferred, self.claims = 0, 0, list[Resumed]()
        self.commits = [Commit("", Checkpoint(), frozenset())]
        self.restore(0)

    # --- the logs

    @initialize(counts=st.tuples(many, many, many), gap=gaps)
    def begin(self, counts: tuple[int, ...], gap: int) -> None:
        for lane, count in zip(Lane, counts, strict=True):
            self.append(lane, gap, count, count)

    @rule(lane=lanes, gap=gaps, count=some, read=some)
    def append(self, lane: Lane, gap: int, count: int, read: int) -> None:
        """Between two commands there may be offsets that hold none."""
        for _ in range(count):
            self.log[lane].append(self.ends[lane] + gap - 1)
            self.ends[lane] += gap
        self.read(lane, read)

    # --- the owner

    @rule(lane=lanes, most=some, back=st.sampled_from([0, 0, 1, 3]))
    def read(self, lane: Lane, most: int, back: int = 0) -> None:
        """What is done came along in reading, and is passed over; where a lane is assigned in pieces, some is
        read again."""
        lane = next((one for one in (lane, *Lane) if self.at[one] < len(self.log[one])), lane)
        at = self.at[lane]
        for number in range(max(0, at - back), min(len(self.log[lane]), at + most)):
            one = Position(lane, self.log[lane][number])
            assert self.offsets.read(one) == (one not in self.done)
            if number >= at:
                self.at[lane] = number + 1
                if one not in self.done:
                    self.undone[lane].append(one.offset)

    @rule(every=st.booleans(), lane=lanes, where=st.sampled_from([0, 1, 3, 19, 900]), count=few)
    def finish(self, every: bool, lane: Lane, where: int, count: int) -> None:
        """So many of those that were read, from so far behind the first of them on."""
        for of in Lane if every else [next((one for one in (lane, *Lane) if self.undone[one]), lane)]:
            self._finish(of, where, count)

    def _finish(self, lane: Lane, where: int, count: int) -> None:
        for _ in range(count):
            undone = self.undone[lane]
            room = MAX_PENDING - self.offsets.pending
            index = min(where, len(undone) - 1)
            while index >= 0:
                passed = [offset for offset in undone[:index] if offset >= self.base[lane]]
                if len(passed) <= room:
                    break
                # So far ahead none are taken up.
                index -= len(passed) - room
            if index < 0:
                return
            one = Position(lane, undone.pop(index))
            assert self.offsets.done(one) == [Position(lane, offset) for offset in passed]
            self.base[lane] = max(self.base[lane], one.offset + 1)
            self.done.add(one)

    @rule(
        events=st.sampled_from([0, 0, 1, 70, FAR // 2]),
        claims=st.sampled_from([0, 1, 1, 2, 200]),
        gap=st.sampled_from([1, 70, FAR // 2]),
        cancelled=st.booleans(),
    )
    def commit(self, events: int, claims: int, gap: int, cancelled: bool) -> None:
        """Meanwhile the events went on, and some tasks have come out of their records."""
        self.start, self.deferred = self.start + events, self.deferred + claims
        self.claims = [one for one in self.claims if one.claim >= self.start]
        for _ in range(min(claims, MAX_RESUMED - len(self.claims))):
            last = self.claims[-1].claim if self.claims else self.start
            self.claims.append(Resumed(last + gap, cancelled))
        before = self.commits[-1]
        taken = self.offsets.checkpoint(self.start, self.deferred, self.claims)
        text = taken.encode()
        assert len(text) <= MAX_METADATA
        assert Checkpoint.decode(text) == taken
        done = frozenset(self.done)
        assert before.done <= done, "an owner knows all that was committed as done"
        self._covers(taken)
        assert not taken.is_older(before.taken)
        if done != before.done or taken.start > before.taken.start:
            assert before.taken.is_older(taken)
        for lane in Lane:
            assert taken.lanes[lane][0] >= before.taken.lanes.get(lane, (0, ()))[0]
        self.commits.append(Commit(text, taken, done))

    def _covers(self, taken: Checkpoint) -> None:
        """Every command is done, or pending, or comes yet."""
        for lane, offsets in self.log.items():
            base, pending = taken.lanes[lane]
            assert pending == tuple(one for one in offsets if one < base and (lane, one) not in self.done)
            assert all((lane, one) not in self.done for one in offsets if one >= base)

    @precondition(lambda self: self.age > 4)
    @rule(back=st.sampled_from([0, 0, 0, 1, 2, 9]))
    def die(self, back: int) -> None:
        """The next one starts from the last commit, or from one before: as safe, only longer."""
        del self.commits[max(1, len(self.commits) - back) :]
        self.restore(-1)

    def restore(self, which: int) -> None:
        text, taken, done = self.commits[which]
        checkpoint = Checkpoint.decode(text)
        assert checkpoint == taken
        self.offsets = Offsets(checkpoint)
        self.done = set(done)
        self.age = 0
        self.base = {lane: checkpoint.lanes.get(lane, (0, ()))[0] for lane in Lane}
        self.start, self.deferred, self.claims = checkpoint.start, checkpoint.deferred, [*checkpoint.resumed]
        # Of each lane: how many were read, and those of them that are not done.
        self.at = dict.fromkeys(Lane, 0)
        self.undone: dict[Lane, list[int]] = {lane: [] for lane in Lane}
        for lane, offsets in self.log.items():
            start = checkpoint.of(lane).start
            self.at[lane] = sum(offset < start for offset in offsets)
            assert all((lane, offset) in done for offset in offsets[: self.at[lane]]), (
                "it is never read again"
            )

    # --- what must hold

    def check(self) -> None:
        self.age += 1
        for lane, offsets in self.log.items():
            near = offsets[max(0, self.at[lane] - 12) : self.at[lane] + 4]
            for offset in (*near, *offsets[:4]):
                one = Position(lane, offset)
                assert self.offsets.is_done(one) == (one in self.done)

    def come_to_an_end(self) -> None:
        """Everything is read and done: then nothing is pending, and the checkpoint is at its shortest."""
        for lane in Lane:
            self.read(lane, len(self.log[lane]))
            self._finish(lane, 0, len(self.log[lane]))
        self.commit(0, 0, 1, cancelled=False)
        taken = self.commits[-1].taken
        assert self.offsets.pending == 0
        for lane, offsets in self.log.items():
            assert taken.lanes[lane] == (offsets[-1] + 1 if offsets else 0, ())
            assert all((lane, offset) in self.done for offset in offsets)


@patient
def test_no_command_is_lost_or_done_twice_whatever_checkpoint_its_lane_is_taken_up_from() -> None:
    explore(CheckpointMachine, part=0.15, steps_of_one=60)
