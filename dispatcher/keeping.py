"""The tasks of a partition that wait, and their records: written, believed, and taken away.

`docs/protocol.md` has a record's life step by step, and what goes wrong in any other order.
"""

import msgspec

from dispatcher.buffers import Command
from dispatcher.endings import Endings
from dispatcher.holdings import Holdings
from dispatcher.offsets import Checkpoint
from dispatcher.records import Restored, Verdict, task_of
from dispatcher.waiting import Waiting
from mayfly.events import DeferredRecord, Reason
from mayfly.fold import Phase, TaskState, needs_record
from mayfly.task import NO_FENCE, Origin, Position, expires_at


class Keeping:
    def __init__(self, known: Holdings, endings: Endings) -> None:
        self._known = known
        self._endings = endings
        self._begun = False
        # Of tasks that wait: the fences of the records that are on their way.
        self._kept: dict[str, int] = {}
        self._stale: dict[str, str] = {}

    # --- reading

    def take(self, offset: int, key: str, value: bytes | None) -> None:
        """A record; without a value, a tombstone."""
        if restored := self._known.records.read(offset, key, value):
            self._restore(restored)
        if value is None and self._known.records.loaded:
            # Whoever wrote it. A task's next record may follow at once, and is not to be found stale.
            self.tombstoned(key, task_of(key))
        self.judge()

    def _restore(self, restored: Restored) -> None:
        self._known.waiting.remove(restored.task_id)
        if restored.waiting is None:
            self._known.fold.unrestore(restored.task_id)
        else:
            record = restored.waiting.record
            self._known.fold.restore(restored.waiting.key, record)
            self._admit(restored.waiting, record)

    def judge(self) -> None:
        """Look at the records that nobody has vouched for, as far as the fold has come."""
        if not self._known.caught_up:
            return
        self._known.records.judge(self._known.end, self._would_back)
        self._known.records.settle(self._back)
        if not self._begun:
            self._begun = True
            for task_id in self._known.fold.in_the_log:
                self.keep_waiting(task_id)

    def _would_back(self, waiting: Waiting) -> bool:
        state = self._known.fold.get(waiting.task_id)
        if state is None or state.phase is not Phase.WAITING or state.record is not None:
            return False
        return state.fence == waiting.fence

    def _back(self, waiting: Waiting) -> Verdict:
        """The record is the task's state from here on, if it can be: the commands before it are done."""
        task_id, fence = waiting.task_id, waiting.fence
        state = self._known.fold.get(task_id)
        if state is None or not self._would_back(waiting):
            return Verdict.STALE
        if state.stale is not None:
            # The record before it is still there. That makes this one early, and not stale: below as well.
            return Verdict.WAITS
        claimed = _claimed_by(state)
        if claimed is not None and not self._known.commands.was_read(task_id, claimed):
            # It cannot be marked done yet. To call the record stale for that would be wrong: another owner
            # may find it good, and vouch for it, before the tombstone lands.
            self._known.commands.need(claimed)
            return Verdict.WAITS
        self._known.fold.back(task_id, fence, waiting.key)
        self._kept.pop(task_id, None)
        self._endings.left.pop(task_id, None)
        self._admit(waiting, waiting.record)
        if state.command is not None:
            # All at once, also what was not taken up yet: a late claim for one of them would count where
            # nothing is left of the task but this record, and then not even that.
            for command in self._known.commands.named(task_id, state.command, fence):
                self._endings.mark_done(task_id, command.position)
        return Verdict.BACKS

    def _admit(self, waiting: Waiting, record: DeferredRecord) -> None:
        """The record backs its task, which waits."""
        waiting = waiting.limited(self._known.world.limit_of(record.envelope))
        self._known.waiting.add(waiting, record, expires_at(record.envelope, 0))
        state = self._known.fold.get(waiting.task_id)
        if state is not None and state.cancelled:
            self._endings.end_wait(waiting.task_id, state)

    # --- writing

    def keep_waiting(self, task_id: str) -> None:
        """The task may wait without a record: write one, however far its command is from its turn."""
        state = self._known.fold.get(task_id)
        if state is None or not needs_record(state) or not self._known.caught_up:
            return
        command, claimed = self._known.commands.before(task_id, state.fence), _claimed_by(state)
        at_hand = claimed is None or self._known.commands.was_read(task_id, claimed)
        if command is not None and at_hand:
            self.keep(command, state)

    def keep(self, command: Command, state: TaskState) -> None:
        """Write the record of a task that waits, unless that is under way, or there is one already."""
        task_id, fence = command.task_id, state.fence
        if self._kept.get(task_id) == fence or self._known.records.is_to_back(task_id, fence):
            return
        self._kept[task_id] = fence
        origin = command.envelope.origin or Origin(*command.position, command.at)
        record = DeferredRecord(
            msgspec.structs.replace(command.envelope, releases=NO_FENCE, origin=origin),
            fence,
            state.attempt,
            state.reason or Reason.SCHEDULE,
            due=state.due,
            losses=state.losses,
            group=state.group,
            history=state.history,
            cancelled=state.cancelled,
        )
        self._known.world.errands.keep(self._known.partition, record)

    # --- taking away

    def claimed(self, task_id: str, after: TaskState) -> None:
        """The task was claimed, and waits no more; `after` is its state by then."""
        self._kept.pop(task_id, None)
        if left := self._known.waiting.remove(task_id):
            self._endings.left[task_id] = left
            if left.limit is not None:
                self._known.waiting.freed(left.limit.group)
        if after.stale is not None:
            self._stale[task_id] = after.stale

    def committed(self, checkpoint: Checkpoint) -> None:
        """The records that the checkpoint does without may go."""
        errands, partition = self._known.world.errands, self._known.partition
        for stale in self._known.records.after_commit():
            errands.tombstone(partition, stale.key, stale.task_id)
        listed = set(checkpoint.resumed)
        for task_id, key in list(self._stale.items()):
            state = self._known.fold.get(task_id)
            if state is None or (state.resumed in listed and not self._endings.is_owed(task_id, state)):
                del self._stale[task_id]
                errands.tombstone(partition, key, task_id)

    def tombstoned(self, key: str, task_id: str) -> None:
        """The record is gone for good."""
        self._known.records.gone(key)
        self._known.fold.unbacked(task_id, key)
        self._endings.record_gone(task_id)
        self.judge()
        # What had to wait for this: its next record.
        self.keep_waiting(task_id)


def _claimed_by(state: TaskState) -> Position | None:
    """Of a task that came out of no record, the command that it was claimed by."""
    return state.command if state.resumed is None else None
