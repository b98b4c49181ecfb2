"""An owner's commands: each has one place, is taken up once, and a checkpoint can name what is pending."""

from unittest.mock import patch

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

import dispatcher.commands
from dispatcher.buffers import Command
from dispatcher.commands import Commands
from dispatcher.offsets import Checkpoint
from mayfly.task import NO_FENCE, Envelope, Lane, Position
from tests.stateful.bounds import Machine, explore, patient

MAX_PENDING = 6
"""Instead of hundreds."""

lanes = st.sampled_from(Lane)
numbers = st.integers(0, 20)


class CommandsMachine(Machine):
    """Of each command that was read and is not done, the place where it is: with whoever took it up, parked,
    put back, or in its lane, once more or still."""

    def __init__(self) -> None:
        super().__init__()
        self._patch = patch.object(dispatcher.commands, "MAX_PENDING", MAX_PENDING)
        self._patch.start()
        self.log: dict[Lane, list[Envelope]] = {lane: [] for lane in Lane}
        self.committed = Checkpoint()
        self.was_done: set[Position] = set()
        self.restart()

    def close(self) -> None:
        self._patch.stop()

    def restart(self) -> None:
        self.commands = Commands(Checkpoint.decode(self.committed.encode()))
        self.done = set(self.was_done)
        self.age = 0
        self.read_to = {lane: self.committed.of(lane).start for lane in Lane}
        self.open: dict[Position, Command] = {}
        self.started: set[Position] = set()
        self.out: list[Command] = []
        self.parked: list[Command] = []
        self.back: list[Command] = []
        self.again: dict[Lane, list[Command]] = {lane: [] for lane in Lane}
        self.unread: dict[Lane, list[Command]] = {lane: [] for lane in Lane}
        self.base = {lane: self.committed.lanes.get(lane, (0, ()))[0] for lane in Lane}

    # --- what is read

    @initialize(count=st.integers(3, 9))
    def begin(self, count: int) -> None:
        for lane in Lane:
            self.post(lane, count, 0, again=False)

    @rule(lane=lanes, count=st.integers(1, 4), releases=st.sampled_from([0, 0, 0, 1, 2]), again=st.booleans())
    def post(self, lane: Lane, count: int, releases: int, again: bool) -> None:
        """First commands, copies, and releases of a wait; they are read, and some of them once more."""
        for _ in range(count):
            number = sum(map(len, self.log.values())) // 2
            self.log[lane].append(Envelope("f", f"t{number}", releases=releases - 1))
        for offset in range(self.read_to[lane], len(self.log[lane])):
            self.read(Position(lane, offset))
            if again:
                assert not self.commands.read(self._command(Position(lane, offset)))

    def _command(self, position: Position) -> Command:
        return Command(self.log[position.lane][position.offset], 0, position, at=0, size=7)

    def read(self, position: Position) -> None:
        command = self._command(position)
        assert self.commands.read(command) == (position not in self.done)
        self.read_to[position.lane] = position.offset + 1
        if position not in self.done:
            self.open[position] = command
            self.unread[position.lane].append(command)

    # --- what is taken up

    def named(self) -> set[Position]:
        """What a checkpoint may have to name as pending."""
        below = (Position(lane, offset) for lane, base in self.base.items() for offset in range(base))
        return self.started | {position for position in below if position not in self.done}

    @rule(lane=lanes, times=st.integers(1, 4))
    def take(self, lane: Lane, times: int) -> None:
        """What is there for the second time goes first; else the next, unless too many would be pending."""
        for _ in range(times):
            queue = self.again[lane] or self.unread[lane]
            head = queue[0] if queue else None
            if head is not None and queue is self.unread[lane]:
                new = head.position not in self.done and head.position not in self.named()
                if new and len(self.named()) >= MAX_PENDING:
                    head = None
            assert self.commands.first(lane) is head
            if head is None:
                return
            assert self.commands.take(lane) is queue.pop(0)
            assert self.commands.is_started(head) == (head.position not in self.done)
            if head.position not in self.done:
                self.started.add(head.position)
                self.out.append(head)

    @precondition(lambda self: self.out)
    @rule(number=numbers, aside=st.booleans())
    def put_aside(self, number: int, aside: bool) -> None:
        command = self.out.pop(number % len(self.out))
        (self.commands.park if aside else self.commands.put_back)(command)
        (self.parked if aside else self.back).append(command)

    @precondition(lambda self: self.parked)
    @rule(number=numbers, back=st.booleans())
    def look_again(self, number: int, back: bool) -> None:
        command = self.parked.pop(number % len(self.parked))
        (self.commands.put_back if back else self.commands.unpark)(command)
        (self.back if back else self.out).append(command)

    @rule(every=st.integers(1, 3))
    def hand_back(self, every: int) -> None:
        """Each is handed back once; some of them wait in their lane for a slot."""
        handed = list(self.commands.hand_back())
        assert handed == self.back
        self.back = []
        for number, command in enumerate(handed):
            if number % every == 0:
                self.commands.wait(command)
                self.again[command.position.lane].append(command)
            elif command.position not in self.done:
                self.out.append(command)

    @precondition(lambda self: self.open)
    @rule(number=numbers, times=st.integers(1, 3), early=st.booleans())
    def finish(self, number: int, times: int, early: bool) -> None:
        """Wherever it is; `early` of those that were not taken up, too, while they can be named."""
        for _ in range(times):
            some = sorted(self.open if early else self.started)
            if not some:
                return
            position = some[number % len(some)]
            lane, offset = position
            passed = {Position(lane, one) for one in range(self.base[lane], offset)} - self.done
            if position not in self.started and len(self.named() | passed) > MAX_PENDING:
                return
            self.commands.done(self.open.pop(position).task_id, position)
            self.done.add(position)
            self.started.discard(position)
            self.base[lane] = max(self.base[lane], offset + 1)
            for place in (self.out, self.parked):
                place[:] = [one for one in place if one.position != position]

    @rule()
    def commit(self) -> None:
        self.committed = self.commands.offsets.checkpoint(0, 0, ())
        self.was_done = set(self.done)

    @precondition(lambda self: self.age > 4)
    @rule()
    def die(self) -> None:
        """What is pending is read again, and what was done since."""
        self.restart()
        for lane, log in self.log.items():
            for offset in range(self.read_to[lane], len(log)):
                self.read(Position(lane, offset))

    # --- what must hold

    def check(self) -> None:
        self.age += 1
        commands = self.commands
        assert commands.offsets.pending <= MAX_PENDING
        assert list(commands.parked.values()) == self.parked
        # Those that are done are passed over later.
        places = [
            *self.out,
            *self.parked,
            *self.back,
            *(one for lane in Lane for one in (*self.again[lane], *self.unread[lane])),
        ]
        there = [one.position for one in places if one.position not in self.done]
        assert sorted(there) == sorted(self.open), "one is lost, or in two places"
        for task in {command.task_id for command in self.open.values()}:
            self._tells_of(task)

    def _tells_of(self, task: str) -> None:
        """What is known of a task is what its open commands say."""
        commands, fence = self.commands, 1
        mine = {position: one for position, one in self.open.items() if one.task_id == task}
        firsts = [position for position, one in mine.items() if one.releases == NO_FENCE]
        before = [one for one in mine.values() if one.releases < fence]
        assert set(commands.started(task)) == {mine[one] for one in mine if one in self.started}
        assert commands.asked(task) == bool(firsts)
        assert commands.earliest(task) == min(firsts, default=None)
        found = commands.release_of(task, 0)
        assert (found in mine.values() and found.releases == 0) if found else not self._releases(mine, 0)
        assert (commands.before(task, fence) in before) if before else commands.before(task, fence) is None
        for position, command in mine.items():
            assert commands.was_read(task, position)
            earlier = [
                one for one in firsts if one < position and (one.lane is position.lane or one in self.started)
            ]
            assert commands.comes_second(command) == bool(earlier)
            led = [
                one
                for one in before
                if one.position in self.started
                or (one.position.lane is position.lane and one.position <= position)
            ]
            assert set(commands.named(task, position, fence)) == set(led)

    @staticmethod
    def _releases(mine: dict[Position, Command], fence: int) -> bool:
        return any(one.releases == fence for one in mine.values())

    def come_to_an_end(self) -> None:
        """Whoever has one sees it through: then each is done, in whatever lane."""
        for _ in range(sum(map(len, self.log.values())) + 1):
            self.hand_back(1)
            for lane in Lane:
                self.take(lane, 1)
            self.finish(0, 1, early=False)
        self.check()
        assert not self.open
        assert self.commands.offsets.pending == 0


@patient
def test_no_command_is_in_two_places_and_none_is_lost() -> None:
    explore(CommandsMachine, part=0.1, steps_of_one=50)
