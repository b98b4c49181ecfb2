"""Who waits in records: in which order they are released, and which records are believed, and which go."""

from collections import Counter
from typing import NamedTuple
from unittest.mock import patch

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

import dispatcher.waiting
from dispatcher.records import Records, Restored, Verdict, key_of, task_of
from dispatcher.waiting import ENDS, Room, Share, Waiting, WaitingRoom
from mayfly.events import DeferredRecord, Reason
from mayfly.placement import Limit
from mayfly.task import NO_FENCE, Envelope, Lane, Origin, encode
from tests.stateful.bounds import Machine, explore, patient

NEVER = 10**12


def roomy(_: Share) -> int:
    return 1


GROUPS = ("f", "g")
SLACK = 0
"""Instead of a thousand entries, before a heap is made anew."""

guests = st.sampled_from("abcdef")


def value_of(task: str, fence: int, reason: Reason, due: int, attempt: int) -> bytes:
    envelope = Envelope("f", task, origin=Origin(Lane.LOW, 0, 0))
    return encode(DeferredRecord(envelope, fence, attempt, reason, due))


# --- the waiting room ---------------------------------------------------------------------------------------


class Guest(NamedTuple):
    fence: int
    due: int
    """When it is released at the latest: it waits for a time, or for its turn."""
    expires: int
    group: str | None
    in_turn: bool


class RoomMachine(Machine):
    """Beside the room, a list of who is in it."""

    def __init__(self) -> None:
        super().__init__()
        self._patch = patch.object(dispatcher.waiting, "_SLACK", SLACK)
        self._patch.start()
        self.room = WaitingRoom()
        self.now = 100
        self.fences = 0
        self.guests: dict[str, Guest] = {}
        self.released: dict[str, str | None] = {}
        self.hurried: list[tuple[str, int]] = []
        # Who waits for his turn, and what is left of others. Groups are in the order in which they came.
        self.queues: dict[str, list[tuple[str, int]]] = {}
        self.ready: list[str] = []

    def close(self) -> None:
        self._patch.stop()

    # --- who comes and goes

    @initialize(turns=st.lists(st.sampled_from(GROUPS), min_size=2, max_size=6))
    def begin(self, turns: list[str]) -> None:
        for task, group in zip("abcdef", turns, strict=False):
            self.add(task, Reason.LIMIT, group, 0, None, 0)

    @rule(
        task=guests,
        reason=st.sampled_from(Reason),
        group=st.sampled_from([None, *GROUPS]),
        delay=st.integers(-2, 9),
        ttl=st.sampled_from([None, None, 1, 5]),
        attempt=st.sampled_from([0, 0, 1]),
    )
    def add(
        self, task: str, reason: Reason, group: str | None, delay: int, ttl: int | None, attempt: int
    ) -> None:
        """It waits; where it did before, that is over."""
        self.remove(task)
        self.fences += 1
        limit = Limit(group, 1) if group else None
        due = 0 if reason is Reason.LIMIT else self.now + delay
        expires = None if ttl is None else self.now + ttl
        value = value_of(task, self.fences, reason, due, attempt)
        waiting = Waiting(task, f"{task}/{self.fences}", self.fences, value, limit)
        self.room.add(waiting, waiting.record, expires)
        in_turn = reason is Reason.LIMIT and group is not None
        begun = expires is None or attempt > 0
        self.guests[task] = Guest(
            self.fences, due, NEVER if begun or expires is None else expires, group, in_turn
        )
        if in_turn and group is not None:
            self.queues.setdefault(group, []).append((task, self.fences))
            self.freed(group)
        most = 4 * len(self.guests) + SLACK + 2
        assert all(len(heap) <= most for heap in self.room._due.values()), "what waits no more takes room"

    @rule(task=guests)
    def remove(self, task: str) -> None:
        guest, left = self.guests.pop(task, None), self.room.remove(task)
        assert (left and left.fence) == (guest and guest.fence)
        self.released.pop(task, None)

    @rule(task=guests)
    def hurry(self, task: str) -> None:
        self.room.hurry(task)
        if task in self.guests:
            self.hurried.append((task, self.guests[task].fence))

    @rule(group=st.sampled_from([*GROUPS, None]))
    def freed(self, group: str | None) -> None:
        """There may be room for one of the group; of None, for any, since the limits have changed."""
        if group is None:
            self.room.all_may_be_ready()
        else:
            self.room.freed(group)
        ready = self.queues if group is None else [group]
        self.ready += [one for one in ready if one in self.queues and one not in self.ready]

    # --- who is released

    def _most(self, most: int) -> Room:
        """All of them are of one lane; nothing is set aside for those that are to end."""
        before = self.room.released
        return lambda share: 0 if share == ENDS else most - (self.room.released - before)

    def _waits(self, task: str, fence: int) -> bool:
        guest = self.guests.get(task)
        return guest is not None and guest.fence == fence and task not in self.released

    @rule(later=st.sampled_from([0, 0, 1, 2, 5, 20]), most=st.sampled_from([0, 1, 2, 99]))
    def due(self, later: int, most: int) -> None:
        """First who is in a hurry, then whose time has come or is over, the longest overdue before all."""
        self.now += later
        waits = {task: guest for task, guest in self.guests.items() if task not in self.released}
        timed = [(one.due, one.fence, task) for task, one in waits.items() if not one.in_turn]
        timed += [(one.expires, one.fence, task) for task, one in waits.items() if one.expires < NEVER]
        first = dict.fromkeys(task for task, fence in self.hurried if self._waits(task, fence))
        last = dict.fromkeys(
            task for time, _, task in sorted(timed) if time <= self.now and task not in first
        )
        found = [one.task_id for one in self.room.due(self.now, self._most(most))]
        assert found == [*first, *last][:most]
        self.released |= {task: self.guests[task].group for task in found}
        if most > len(found):
            next_time = self.room.next_time(roomy)
            assert next_time is None or next_time > self.now, "it is looked at again for nothing"

    @rule(
        places=st.fixed_dictionaries({group: st.integers(0, 3) for group in GROUPS}),
        most=st.sampled_from([0, 1, 2, 99]),
    )
    def turns(self, places: dict[str, int], most: int) -> None:
        """Of each group that may have room as many as it has, those that came first; whoever's turn was cut
        short is behind the others the next time."""
        expected: list[str] = []
        ready, self.ready = self.ready, []
        for number, group in enumerate(ready):
            left = most - len(expected)
            if left <= 0:
                self.ready = [*ready[number:], *self.ready]
                break
            queue = self.queues[group]
            waits = [place for place, one in enumerate(queue) if self._waits(*one)]
            turn = min(places[group], left, len(waits))
            expected += [queue[place][0] for place in waits[:turn]]
            self.queues[group] = queue[waits[turn] :] if turn < len(waits) else []
            if not self.queues[group]:
                del self.queues[group]
            elif places[group] > turn:
                self.ready.append(group)
        asked = Counter[str]()

        def room(waiting: Waiting) -> int:
            assert waiting.limit is not None
            asked[waiting.limit.group] += 1
            return places[waiting.limit.group]

        found = [one.task_id for one in self.room.turns(room, self._most(most))]
        assert found == expected
        assert all(times == 1 for times in asked.values())
        self.released |= {task: self.guests[task].group for task in found}

    # --- what must hold

    def check(self) -> None:
        room = self.room
        assert len(room) == len(self.guests)
        assert room.released == len(self.released)
        for group in GROUPS:
            assert room.released_of(group) == sum(of == group for of in self.released.values())
            assert room.waits(group) == (group in self.queues)
        waits = [guest for task, guest in self.guests.items() if task not in self.released]
        times = [min(one.expires, NEVER if one.in_turn else one.due) for one in waits]
        times += [0 for one in self.hurried if self._waits(*one)]
        first = min(times, default=NEVER)
        next_time = room.next_time(roomy)
        assert first == NEVER or (next_time is not None and next_time <= first), "it is late"

    def come_to_an_end(self) -> None:
        """Time passes, and there is room for all: nobody stays."""
        self.due(NEVER, 99)
        self.freed(None)
        self.turns(dict.fromkeys(GROUPS, 99), 99)
        assert self.released.keys() == self.guests.keys()
        assert self.room.next_time(roomy) is None
        for task in list(self.guests):
            self.remove(task)
        self.check()


@patient
def test_whoever_waits_is_released_once_in_the_order_of_time_or_of_turns() -> None:
    explore(RoomMachine, part=0.15, steps_of_one=50)


# --- the records --------------------------------------------------------------------------------------------


class View(NamedTuple):
    """What an owner's fold says of a task that waits, or was claimed since."""

    waits: bool
    fence: int
    record: str | None = None
    """Key of what backs it."""
    stale: str | None = None
    """Key of the record that it came out of, until that is gone."""


Commit = tuple[int, dict[str, View], int]
"""How far the events were read, what is known, and the deferred offset."""


class Entry(NamedTuple):
    offset: int
    key: str
    value: bytes | None


class RecordsMachine(Machine):
    """Tasks wait and go on; owners write records, some of them late; one after the other reads the topic and
    acts on it as `docs/protocol.md` says. An event is a wait or its end here, a fence where one stands.
    """

    TASKS = ("a", "b")

    def __init__(self) -> None:
        super().__init__()
        self.log: list[tuple[str, bool]] = []
        self.waits: list[tuple[str, int]] = []
        self.topic: list[Entry] = []
        self.end = 0
        self.gone: set[str] = set()
        self.flight: list[str] = []
        self.committed: Commit = (0, {}, 0)
        self.restart()

    @initialize(tasks=st.lists(st.sampled_from(TASKS), min_size=1, max_size=3))
    def begin(self, tasks: list[str]) -> None:
        for task in tasks:
            self.move(task)

    # --- the log, and what lands in the topic

    def view(self) -> dict[str, View]:
        """What the whole log says, records aside."""
        view: dict[str, View] = {}
        for offset, (task, waits) in enumerate(self.log):
            view[task] = View(waits, offset)
        return view

    @rule(task=st.sampled_from(TASKS))
    def move(self, task: str) -> None:
        """It comes to wait, or is claimed."""
        now = self.view().get(task)
        self.log.append((task, now is None or not now.waits))
        if self.log[-1][1]:
            self.waits.append((task, len(self.log) - 1))

    def append(self, key: str, value: bytes | None) -> None:
        self.topic.append(Entry(self.end, key, value))
        self.end += 1

    def write(self, task: str, fence: int) -> None:
        value = value_of(task, fence, Reason.RETRY, 0, 1)
        self.append(key_of(task, fence, str(self.end)), value)

    def compact(self) -> None:
        latest = {entry.key: entry for entry in self.topic}
        self.topic = [entry for entry in self.topic if latest[entry.key] is entry]

    @precondition(lambda self: self.waits)
    @rule(
        back=st.sampled_from([1, 1, 1, 2, 3, 9]), nonsense=st.sampled_from([False, False, b"", b"{}", None])
    )
    def write_late(self, back: int, nonsense: bytes | bool | None) -> None:
        """An owner before wrote a record of a wait, or another one; or somebody what is no record."""
        if isinstance(nonsense, bool):
            self.write(*self.waits[-min(back, len(self.waits))])
        else:
            self.append("nonsense", nonsense)

    @precondition(lambda self: self.flight)
    @rule(number=st.integers(0, 3), acknowledged=st.booleans())
    def land(self, number: int, acknowledged: bool) -> None:
        """A tombstone. Who sent it may hear of that, or read it."""
        key = self.flight.pop(number % len(self.flight))
        self.append(key, None)
        self.gone.add(key)
        if acknowledged:
            self.tombstoned(key)

    # --- an owner

    def restart(self) -> None:
        start, view, vouched = self.committed
        self.records = Records(vouched)
        self.known = dict(view)
        self.start, self.events_end = start, len(self.log)
        self.at = 0
        self.settled = vouched
        self.taken: Commit | None = None
        self.committing: Commit | None = None
        self.leaving: set[str] = set()
        self.restored: dict[str, str] = {}
        self.found_stale: set[str] = set()

    @property
    def acts(self) -> bool:
        """Whether it has read enough to act."""
        return self.records.loaded and self.start >= self.events_end

    @rule(
        events=st.sampled_from([0, 1, 99, 99, 99]),
        records=st.sampled_from([0, 1, 2, 99, 99, 99]),
        at_hand=st.sampled_from([TASKS, TASKS, TASKS, ("a",), ()]),
        steps=st.sampled_from([0, 1, 2, 3, 4, 5, 7, 8, 8, 8, 8, 8]),
        older=st.booleans(),
        what=st.sampled_from(["", "", "", "", "fails", "new", "new and lost", "compacted"]),
    )
    def act(
        self, events: int, records: int, at_hand: tuple[str, ...], steps: int, older: bool, what: str
    ) -> None:
        """It reads so much, and does so much about it. It may be a new one; of the one before all may be lost
        that is on its way."""
        if what == "compacted":
            self.compact()
        if what == "new and lost":
            self.flight.clear()
        if "new" in what:
            self.restart()
        self.read(events, records)
        todo = (
            lambda: self.judge(at_hand),
            self.keep,
            lambda: self.read(events, records),
            lambda: self.judge(at_hand),
            lambda: self.commit(older),
            lambda: self.read(events, records),
            lambda: self.judge(at_hand),
            lambda: self.committed_it(what == "fails"),
        )
        for step in todo[:steps]:
            if self.acts:
                step()
                self.check()

    def read(self, events: int, records: int) -> None:
        for entry in [entry for entry in self.topic if entry.offset >= self.at][:records]:
            loaded = self.records.loaded
            told = self.records.read(*entry)
            self.at = entry.offset + 1
            if told is not None:
                assert not loaded
                self._restore(told)
            if entry.value is None and loaded:
                self.tombstoned(entry.key)
        if not any(entry.offset >= self.at for entry in self.topic):
            self.records.reached(self.end)
            if not self.records.loaded:
                self._load()
        if self.records.loaded:
            for offset in range(self.start, min(len(self.log), self.start + events)):
                self._fold(offset, *self.log[offset])

    def _restore(self, told: Restored) -> None:
        task, waiting = told
        if waiting is None:
            del self.restored[task]
        else:
            assert waiting.task_id == task == task_of(waiting.key)
            self.restored[task] = waiting.key

    def _load(self) -> None:
        """What the records alone tell must be what the checkpoint relied on."""
        self.records.load()
        _, view, _ = self.committed
        relied_on = {task: one.record for task, one in view.items() if one.record}
        going = {task: one.stale for task, one in view.items() if one.stale and one.stale not in self.gone}
        assert self.restored == relied_on | going
        for task, one in self.known.items():
            if one.stale in self.gone:
                self.known[task] = one._replace(stale=None)

    def _fold(self, offset: int, task: str, waits: bool) -> None:
        before = self.known.get(task, View(False, NO_FENCE))
        self.known[task] = View(waits, offset, stale=before.record or before.stale)
        self.start = offset + 1

    def tombstoned(self, key: str) -> None:
        self.records.gone(key)
        for task, one in self.known.items():
            assert one.record != key, "it is what its task rests on"
            if one.stale == key:
                self.known[task] = one._replace(stale=None)

    def _would_back(self, waiting: Waiting) -> bool:
        one = self.known.get(waiting.task_id)
        return one is not None and one.waits and one.record is None and one.fence == waiting.fence

    def judge(self, at_hand: tuple[str, ...]) -> None:
        """As far as it can: the command that led to a wait may not have been read yet."""

        def back(waiting: Waiting) -> Verdict:
            task, key = waiting.task_id, waiting.key
            if not self._would_back(waiting):
                self.found_stale.add(key)
                return Verdict.STALE
            one = self.known[task]
            if one.stale is not None or task not in at_hand:
                assert self.records.is_to_back(task, one.fence)
                return Verdict.WAITS
            assert key not in self.found_stale, "it was condemned"
            self.known[task] = one._replace(record=key)
            return Verdict.BACKS

        def backs(waiting: Waiting) -> bool:
            assert waiting.fence < self.start, "the fold has not come to it"
            good = self._would_back(waiting)
            if not good:
                self.found_stale.add(waiting.key)
            return good

        self.records.judge(self.start, backs)
        self.records.settle(back)

    def keep(self) -> None:
        """The owner writes a record where there is none, and none on its way that it knows of."""
        for task, one in self.known.items():
            needs_one = one.waits and not one.record and not one.stale
            if needs_one and not self.records.is_to_back(task, one.fence):
                self.write(task, one.fence)

    def commit(self, older: bool) -> None:
        """It is on its way. The read model is told before: so it may have been taken a while ago."""
        before, self.taken = self.taken, (self.start, dict(self.known), self.records.settled)
        self._vouches()
        self.committing = before if older and before else self.taken
        assert self.committing[2] >= self.committed[2]
        self.records.before_commit()
        self.leaving = set(self.found_stale)

    def committed_it(self, fails: bool = False) -> None:
        if fails or self.committing is None:
            return
        self.committed, self.committing = self.committing, None
        stale = [key for key, task in self.records.after_commit() if task == task_of(key)]
        assert self.leaving >= set(stale), "it was found stale after the commit was made"
        assert len(stale) == len(set(stale)), "it is asked for twice"
        listed = {one.stale for one in self.committed[1].values()}
        going = [one.stale for one in self.known.values() if one.stale and one.stale in listed]
        self.flight += [key for key in (*stale, *going) if key not in self.flight and key not in self.gone]

    def _vouches(self) -> None:
        """What is there before the offset that will be committed is some task's state, or on its way out."""
        latest = {entry.key: entry for entry in self.topic if entry.offset < self.at}
        there = {key for key, entry in latest.items() if entry.value and entry.offset < self.records.settled}
        there -= self.gone | {"nonsense"}
        known = self.known.values()
        resting = {one.record for one in known if one.record}
        assert there == resting | {one.stale for one in known if one.stale and one.stale not in self.gone}

    # --- what must hold

    def check(self) -> None:
        assert self.records.settled >= self.settled, "its word is taken away"
        self.settled = self.records.settled
        assert self.settled <= self.end
        _, view, _ = self.committed
        for one in view.values():
            assert one.record not in self.gone, "the last checkpoint relies on it"
        if self.records.some_stale:
            assert self.found_stale

    def come_to_an_end(self) -> None:
        """Nothing is in the way any more: each task that waits has one record, and there is no other."""
        for _ in range(len(self.topic) + 3):
            self.read(len(self.log), len(self.topic))
            self.judge(self.TASKS)
            self.commit(older=False)
            self.committed_it()
            while self.flight:
                self.land(0, acknowledged=True)
            self.judge(self.TASKS)
            self.keep()
        self.commit(older=False)
        self.committed_it()
        assert self.records.settled == self.end
        waits = {task: one.fence for task, one in self.view().items() if one.waits}
        assert {task: one.fence for task, one in self.known.items() if one.record} == waits
        latest = {entry.key: entry for entry in self.topic}
        there = {key for key, entry in latest.items() if entry.value and key != "nonsense"}
        assert there == {one.record for one in self.known.values() if one.record}


@patient
def test_a_record_counts_while_its_task_waits_and_the_checkpoint_relies_on_no_other() -> None:
    explore(RecordsMachine, part=0.2, steps_of_one=60)
