"""The rules of `docs/protocol.md`, as the partition's owner keeps them.

Each test is a way to lose a task, or to give it two outcomes, that a rule closes. `tests/model` finds such
ways; here the code is held to the rules.
"""

from collections import Counter

import pytest
from shared_log import DONE, FAILED, Owner, SharedLog

from dispatcher.offsets import MAX_PENDING, MAX_RESUMED, Checkpoint
from mayfly.events import Purpose, Reason
from mayfly.fold import Phase
from mayfly.task import NO_FENCE, Lane, Position

C0 = Position(Lane.NORMAL, 0)


@pytest.fixture
def log() -> SharedLog:
    return SharedLog()


def waiting(log: SharedLog, task: str = "a", due: int = 10**15, **fields: int) -> tuple[Owner, int]:
    """An owner that keeps the task in a record, and the fence of its wait."""
    command = log.command(task)
    fence = log.defer(task, log.claim(task, command), due, **fields)
    owner = Owner(log)
    owner.read()
    owner.run_errands()
    state = owner.state(task)
    assert state is not None
    assert state.record is not None
    return owner, fence


def release(log: SharedLog, task: str, fence: int) -> Position:
    """As any owner that has come so far may write it."""
    return log.command(task, releases=fence)


# --- what counts


def test_a_takeover_that_lands_after_the_wait_began_does_not_end_the_wait(log: SharedLog) -> None:
    """It would name a command that is done: if its dispatcher dies, nobody finds the task."""
    owner, _ = waiting(log)
    log.claim("a", C0, follows=0, by="late", attempt=2)
    owner.read()
    state = owner.state("a")
    assert state is not None
    assert state.phase is Phase.WAITING


def test_the_first_claim_of_a_task_that_is_over_and_forgotten_is_void(log: SharedLog) -> None:
    log.finish("a", log.claim("a", log.command("a")))
    owner = Owner(log)
    owner.read()
    owner.commit()
    log.claim("a", C0, by="late")
    reborn = Owner(log)
    for one in (owner, reborn):
        one.read()
        assert one.state("a") is None


def test_a_cancellation_is_known_although_its_record_is_gone(log: SharedLog) -> None:
    """The request lies before the claim, where nothing is known of the task without its record."""
    owner, fence = waiting(log)
    holds_the_start = log.claim("b", log.command("b"))
    owner.read()
    log.cancel("a", C0)
    log.claim("a", release(log, "a", fence), follows=fence, attempt=2)
    owner.read()
    owner.commit()
    owner.run_errands()
    owner.commit()
    assert log.records[-1] == ("a/0", None)
    reborn = Owner(log)
    reborn.read()
    state = reborn.state("a")
    assert state is not None
    assert (state.phase, state.cancelled) == (Phase.CLAIMED, True)
    assert reborn.partition.origin.start <= holds_the_start


def test_a_cancellation_is_known_although_its_task_waits_in_its_next_record(log: SharedLog) -> None:
    """The request landed just before a claim that lets the task wait again, and did not know of it. The
    second owner knows of it by the list alone, and has to tell the third."""
    owner, fence = waiting(log)
    log.cancel("a", C0)
    log.claim("a", release(log, "a", fence), follows=fence, purpose=Purpose.DEFER, reason=Reason.LIMIT)
    owner.read()
    owner.commit()
    ((key, _),) = owner.asked.tombstones
    log.tombstone(key)
    second = Owner(log)
    second.read()
    second.run_errands()
    assert not second.commit().resumed
    third = Owner(log)
    third.read()
    state = third.state("a")
    assert state is not None
    assert (state.phase, state.cancelled) == (Phase.WAITING, True)


# --- records


def test_a_record_behind_one_that_is_not_settled_does_not_back_its_task_yet(log: SharedLog) -> None:
    """The checkpoint could not vouch for it: a new owner would take it for stale, and the task is lost."""
    command = log.command("a")
    fence = log.defer("a", log.claim("a", command))
    log.record("b", 0, "stale", Position(Lane.LOW, 0))
    owner = Owner(log)
    owner.read()
    (record,) = owner.asked.kept
    log.record("a", fence, "a/1", command)
    owner.read()
    assert not owner.is_done(command)
    assert owner.commit().deferred == 0
    owner.asked.kept.clear()
    owner.run_errands()
    assert owner.is_done(command)
    assert owner.partition.checkpoint().deferred == 3
    assert record.fence == fence


def test_a_record_is_not_stale_because_the_one_before_it_is_still_there(log: SharedLog) -> None:
    """Whoever wrote it never knew that one. Once it is gone, the next owner finds the record good, vouches
    for it, and loses it to a tombstone that was on its way."""
    owner, fence = waiting(log)
    again = log.claim("a", release(log, "a", fence), follows=fence, attempt=2)
    wait = log.defer("a", again)
    log.record("a", wait, "another's", C0)
    owner.read()
    owner.commit()
    ((before, _),) = owner.asked.tombstones
    assert before == "a/0"
    assert not owner.asked.kept
    owner.run_errands()
    state = owner.state("a")
    assert state is not None
    assert state.record == "another's"


def test_a_record_that_is_stale_goes_only_after_a_commit(log: SharedLog) -> None:
    """Who cannot commit is behind, and may have found stale what its successor rests on."""
    log.record("a", NO_FENCE, "stale", C0)
    owner = Owner(log)
    owner.read()
    owner.act()
    assert owner.partition.wants_commit
    assert not owner.asked.tombstones
    owner.commit()
    assert owner.asked.tombstones == [("stale", "a")]
    owner.run_errands()
    assert not owner.partition.wants_commit


def test_what_is_found_stale_while_a_commit_is_on_its_way_waits_for_the_next(log: SharedLog) -> None:
    owner = Owner(log)
    owner.read()
    checkpoint = owner.partition.checkpoint()
    owner.partition.before_commit()
    log.record("a", NO_FENCE, "stale", C0)
    owner.read()
    owner.partition.committed(checkpoint)
    assert not owner.asked.tombstones
    owner.commit()
    assert owner.asked.tombstones == [("stale", "a")]


def test_a_late_record_of_a_task_that_went_on_is_not_believed(log: SharedLog) -> None:
    fence = log.defer("a", log.claim("a", log.command("a")))
    log.finish("a", log.claim("a", release(log, "a", fence), follows=fence, attempt=2))
    log.record("a", fence, "late", C0)
    owner = Owner(log)
    owner.read()
    assert len(owner.partition.waiting) == 0
    owner.commit()
    assert owner.asked.tombstones == [("late", "a")]


def test_a_record_is_judged_when_the_fold_has_come_to_what_let_it_wait(log: SharedLog) -> None:
    owner = Owner(log)
    owner.read()
    command = log.command("a")
    fence = log.defer("a", log.claim("a", command))
    log.record("a", fence, "early", command)
    owner.read(events=False)
    assert not owner.partition.wants_commit
    owner.read()
    state = owner.state("a")
    assert state is not None
    assert state.record == "early"


def test_the_record_of_a_wait_that_is_over_goes_only_when_the_claim_is_listed(log: SharedLog) -> None:
    owner, fence = waiting(log)
    owner.commit()
    before = owner.partition.checkpoint()
    claim = log.claim("a", release(log, "a", fence), follows=fence, attempt=2)
    owner.read()
    owner.partition.committed(before)
    assert not owner.asked.tombstones
    checkpoint = owner.commit()
    assert [one.claim for one in checkpoint.resumed] == [claim]
    assert [task for _, task in owner.asked.tombstones] == ["a"]


def test_a_task_out_of_its_record_is_known_with_and_without_that_record(log: SharedLog) -> None:
    owner, fence = waiting(log)
    owner.commit()
    history = owner.state("a").history  # type: ignore[union-attr]
    log.claim("a", release(log, "a", fence), follows=fence, attempt=2, history=history)
    owner.read()
    owner.commit()
    with_record = Owner(log)
    with_record.read()
    owner.run_errands()
    without = Owner(log)
    without.read()
    for one in (with_record, without):
        state = one.state("a")
        assert state is not None
        assert (state.phase, state.fence, state.attempt) == (Phase.CLAIMED, fence + 1, 2)
        assert [attempt.attempt for attempt in state.history] == [1]


def test_a_task_that_ended_is_remembered_until_its_record_is_gone(log: SharedLog) -> None:
    """Or a new owner would believe the record."""
    owner, fence = waiting(log)
    owner.commit()
    log.finish("a", log.claim("a", release(log, "a", fence), follows=fence, attempt=2))
    owner.read()
    assert owner.commit().start == 2
    owner.run_errands()
    assert owner.commit() == Checkpoint(4, {Lane.HIGH: (0, ()), C0.lane: (2, ()), Lane.LOW: (0, ())}, 2)


def test_a_second_wait_has_its_record_only_when_the_first_ones_is_gone(log: SharedLog) -> None:
    owner, fence = waiting(log)
    log.defer("a", log.claim("a", release(log, "a", fence), follows=fence, attempt=2))
    owner.read()
    assert not owner.asked.kept
    owner.commit()
    owner.run_errands()
    state = owner.state("a")
    assert state is not None
    assert (state.phase, state.record, state.stale) == (Phase.WAITING, "a/2", None)
    assert owner.is_done(Position(Lane.NORMAL, 1))


def test_a_tombstone_that_another_wrote_is_as_good_as_our_own(log: SharedLog) -> None:
    """It had the partition before. If the record that it wrote next were found stale, the next owner would
    vouch for that one, and our tombstone would land later."""
    owner, fence = waiting(log)
    owner.commit()
    log.defer("a", log.claim("a", release(log, "a", fence), follows=fence, attempt=2))
    owner.read()
    log.tombstone("a/0")
    log.record("a", 3, "a/another", C0)
    owner.read()
    state = owner.state("a")
    assert state is not None
    assert state.record == "a/another"
    assert not owner.partition.wants_commit


def test_a_command_that_was_not_taken_up_is_done_with_the_wait_that_came_of_it(log: SharedLog) -> None:
    """A new owner finds the record before it comes to the command. A late claim for that one must be void."""
    for task in ("x", "y"):
        log.command(task)
    command = log.command("a")
    fence = log.defer("a", log.claim("a", command))
    log.record("a", fence, "k", command)
    owner = Owner(log)
    owner.read(commands=False)
    assert owner.partition.checkpoint().deferred == 0, "nothing is known of the lane yet"
    owner.read()
    assert owner.partition.checkpoint() == Checkpoint(
        2, {Lane.HIGH: (0, ()), Lane.NORMAL: (3, (0, 1)), Lane.LOW: (0, ())}, 1
    )
    # Those that became pending by it are taken up all the same.
    assert [work.task_id for _ in range(2) if (work := owner.next())] == ["x", "y"]
    assert owner.next() is None


# --- cancelling


def test_a_task_that_waits_is_ended_by_its_release(log: SharedLog) -> None:
    """A claim by a command that is done would leave nothing to find the task by, if its dispatcher dies."""
    owner, fence = waiting(log)
    log.cancel("a", C0)
    owner.read()
    assert owner.partition.next_chore() is None
    ((lane, envelope),) = owner.asked.releases
    assert (lane, envelope.releases) == (Lane.NORMAL, fence)
    owner.run_errands()
    chore = owner.partition.next_chore()
    assert chore is not None
    assert (chore.purpose, chore.position) == (Purpose.END, Position(Lane.NORMAL, 1))


def test_a_task_whose_release_waits_for_a_slot_is_ended_at_once(log: SharedLog) -> None:
    log.command("before")
    owner, fence = waiting(log)
    release(log, "a", fence)
    owner.read()
    log.cancel("a", Position(Lane.NORMAL, 1))
    owner.read()
    chore = owner.partition.next_chore()
    assert chore is not None
    assert (chore.purpose, chore.position) == (Purpose.END, Position(Lane.NORMAL, 2))


def test_a_wait_that_is_to_end_is_known_to_a_new_owner(log: SharedLog) -> None:
    """The record does not say it: the log must be kept from the request on."""
    owner, _ = waiting(log)
    log.cancel("a", C0)
    owner.read()
    assert owner.commit().start == 2
    reborn = Owner(log)
    reborn.read()
    assert [envelope.task_id for _, envelope in reborn.asked.releases] == ["a"]


def test_a_task_that_is_cancelled_before_its_record_is_there_ends_when_it_is(log: SharedLog) -> None:
    command = log.command("a")
    log.defer("a", log.claim("a", command), 10**15)
    owner = Owner(log)
    owner.read()
    log.cancel("a", command)
    owner.read()
    owner.run_errands()
    chore = owner.partition.next_chore()
    assert chore is not None
    assert chore.purpose is Purpose.END


def test_a_cancel_that_comes_before_any_claim_ends_the_task_without_waiting_for_its_lane(
    log: SharedLog,
) -> None:
    log.command("before")
    command = log.command("a")
    log.cancel("a", command)
    owner = Owner(log)
    owner.read()
    chore = owner.partition.next_chore()
    assert chore is not None
    assert (chore.task_id, chore.purpose, chore.position) == ("a", Purpose.END, command)
    log.finish("a", log.claim("a", command, purpose=Purpose.END, attempt=0, cancelled=True))
    owner.read()
    owner.partition.chore_done(chore)
    work = owner.next()
    assert work is not None
    assert work.task_id == "before"
    assert owner.next() is None
    assert owner.is_done(command)
    assert owner.state("a") is None


def test_whoever_holds_a_task_is_told_that_its_end_is_asked_for(log: SharedLog) -> None:
    command = log.command("a")
    log.claim("a", command)
    owner = Owner(log)
    owner.read()
    log.cancel("a", command)
    owner.read()
    assert owner.cancelled == ["a"]


# --- commands


def test_a_copy_is_not_claimed_while_the_first_command_is_not_done(log: SharedLog) -> None:
    """Its claim, landing when the task is over and forgotten, would count."""
    log.command("a")
    copy = log.command("a")
    owner = Owner(log)
    owner.read()
    assert owner.next() is not None
    assert owner.next() is None
    log.finish("a", log.claim("a", C0))
    owner.read()
    assert owner.is_done(copy)
    assert owner.state("a") is None


def test_a_release_of_what_the_fold_has_not_come_to_waits(log: SharedLog) -> None:
    owner = Owner(log)
    owner.read()
    command = release(log, "a", 1)
    owner.read()
    assert not owner.is_done(command)
    log.claim("b", log.command("b"))
    log.claim("c", log.command("c"))
    owner.read()
    list(owner.partition.held())
    owner.act()
    assert owner.is_done(command), "the fold has read past it, and knows of no such task"


def test_a_release_of_an_earlier_wait_is_done_and_of_a_later_one_waits(log: SharedLog) -> None:
    owner, fence = waiting(log)
    earlier = release(log, "a", fence - 1)
    later = release(log, "a", fence + 7)
    owner.read()
    assert owner.is_done(earlier)
    assert not owner.is_done(later)


def test_a_forgotten_task_keeps_no_release_that_is_still_in_a_buffer(log: SharedLog) -> None:
    """Nor does the release keep the task: it names a wait that is over."""
    owner, fence = waiting(log)
    mine = release(log, "a", fence)
    owner.read()
    assert owner.next() is not None
    log.command("between")
    copy = release(log, "a", fence)
    log.finish("a", log.claim("a", mine, follows=fence, attempt=2))
    owner.read()
    owner.commit()
    owner.run_errands()
    assert owner.state("a") is None
    assert owner.next() is not None
    assert owner.next() is None
    assert owner.is_done(copy)


# --- dead letters


def test_a_task_that_failed_is_done_only_when_its_dead_letter_is_acknowledged(log: SharedLog) -> None:
    command = log.command("a")
    owner = Owner(log)
    owner.read()
    assert owner.next() is not None
    log.finish("a", log.claim("a", command), FAILED)
    owner.read()
    (letter,) = owner.asked.letters
    assert (letter.task_id, letter.failure) == ("a", FAILED.failure)
    assert [attempt.attempt for attempt in letter.attempts] == [1]
    assert not owner.is_done(command)
    owner.run_errands()
    assert owner.is_done(command)
    assert owner.state("a") is None


def test_a_dead_letter_that_nobody_acknowledged_is_written_by_the_next_owner(log: SharedLog) -> None:
    command = log.command("a")
    log.finish("a", log.claim("a", command), FAILED)
    owner = Owner(log)
    owner.read(commands=False)
    assert not owner.asked.letters
    owner.read()
    assert [letter.task_id for letter in owner.asked.letters] == ["a"]


def test_a_dead_letter_is_not_missed_of_a_task_whose_command_is_done(log: SharedLog) -> None:
    """It was acknowledged before: the task, whose record may be gone, would be kept for ever."""
    owner, fence = waiting(log)
    owner.commit()
    log.claim("b", log.command("b"))
    log.finish("a", log.claim("a", release(log, "a", fence), follows=fence, attempt=2), FAILED)
    owner.read()
    owner.partition.buried("a")
    owner.commit()
    reborn = Owner(log)
    reborn.read()
    assert not reborn.asked.letters
    reborn.commit()
    reborn.run_errands()
    assert reborn.state("a") is None


# --- bounds


def test_what_is_pending_by_the_checkpoint_counts_before_it_is_read(log: SharedLog) -> None:
    """Or two lanes' worth of pending commands would not fit the metadata."""
    pending = tuple(range(MAX_PENDING - 1))
    log.committed = Checkpoint(0, {Lane.LOW: (MAX_PENDING, pending)}).encode()
    for offset in range(MAX_PENDING + 1):
        log.command(f"low{offset}", Lane.LOW)
        log.command(f"high{offset}", Lane.HIGH)
    owner = Owner(log)
    owner.read()
    assert owner.next(Lane.HIGH) is not None
    assert owner.next(Lane.HIGH) is None
    started = 0
    while owner.next(Lane.LOW):
        started += 1
    assert started == len(pending)


def test_no_more_tasks_leave_their_records_than_a_checkpoint_can_list(log: SharedLog) -> None:
    """Also where their releases are another owner's, who had the partition before."""
    fences = {}
    for number in range(MAX_RESUMED + 1):
        command = log.command(f"t{number}")
        fences[f"t{number}"] = log.defer(f"t{number}", log.claim(f"t{number}", command), 10**15)
    owner = Owner(log)
    owner.read()
    owner.run_errands()
    assert len(owner.partition.waiting) == MAX_RESUMED + 1
    for task, fence in fences.items():
        release(log, task, fence)
    owner.read()
    works = []
    while work := owner.next():
        works.append(work)
    assert len(works) == MAX_RESUMED
    first = works[0]
    assert first.command is not None
    log.finish(first.task_id, log.claim(first.task_id, first.position, follows=first.claim.follows), DONE)
    owner.read()
    owner.partition.put_back(first.command)
    owner.commit()
    owner.run_errands()
    work = owner.next()
    assert work is not None
    assert work.task_id == f"t{MAX_RESUMED}"


def test_what_is_due_waits_while_no_more_can_be_listed(log: SharedLog) -> None:
    for number in range(MAX_RESUMED + 1):
        command = log.command(f"t{number}")
        log.defer(f"t{number}", log.claim(f"t{number}", command), due=5, reason=Reason.SCHEDULE)
    owner = Owner(log)
    owner.clock.now = 1
    owner.read()
    owner.run_errands()
    assert owner.partition.next_time == 5
    owner.clock.now = 5
    owner.act()
    assert len(owner.asked.releases) < MAX_RESUMED, "some places are set aside for others"
    assert owner.partition.next_time is None, "there is nothing to be done by waiting"


def deferred(log: SharedLog, task: str, lane: Lane, due: int) -> Position:
    command = log.command(task, lane)
    log.defer(task, log.claim(task, command), due, reason=Reason.SCHEDULE)
    return command


def test_what_waits_behind_a_backlog_holds_back_no_higher_lane_and_no_end(log: SharedLog) -> None:
    """Whose releases no free slot ever comes to."""
    for number in range(2 * MAX_RESUMED):
        deferred(log, f"low{number}", Lane.LOW, due=5)
    deferred(log, "high", Lane.HIGH, due=6)
    deferred(log, "normal", Lane.NORMAL, due=6)
    asked = deferred(log, "low and cancelled", Lane.LOW, due=10**15)
    owner = Owner(log)
    owner.clock.now = 1
    owner.read()
    owner.run_errands()
    owner.clock.now = 5
    owner.act()
    many = len(owner.asked.releases)
    assert {lane for lane, _ in owner.asked.releases} == {Lane.LOW}
    owner.run_errands()
    owner.clock.now = 6
    log.cancel("low and cancelled", asked)
    owner.read()
    assert {envelope.task_id for _, envelope in owner.asked.releases} == {
        "high",
        "normal",
        "low and cancelled",
    }
    owner.run_errands()
    chore = owner.partition.next_chore()
    assert chore is not None
    assert (chore.task_id, chore.purpose) == ("low and cancelled", Purpose.END)
    assert many < MAX_RESUMED


def test_all_lanes_together_release_no_more_than_a_checkpoint_can_list(log: SharedLog) -> None:
    for lane in Lane:
        for number in range(MAX_RESUMED):
            deferred(log, f"{lane}{number}", lane, due=5)
    owner = Owner(log)
    owner.clock.now = 1
    owner.read()
    owner.run_errands()
    for number in range(MAX_RESUMED):
        log.cancel(f"low{number}", Position(Lane.LOW, number))
    owner.clock.now = 5
    owner.read()
    assert len(owner.asked.releases) == MAX_RESUMED
    lanes = Counter(lane for lane, _ in owner.asked.releases)
    assert min(lanes.values()) >= Lane.LOW.weight


def test_a_task_that_comes_to_wait_while_a_claim_to_end_it_is_on_its_way_ends_at_once(log: SharedLog) -> None:
    """That claim is void. The release is there already, and is not to wait for a slot."""
    log.command("before")
    command = log.command("a")
    log.cancel("a", command)
    owner = Owner(log)
    owner.read()
    void = owner.partition.next_chore()
    assert void is not None
    fence = log.claim("a", command, purpose=Purpose.DEFER, reason=Reason.SCHEDULE, due=10**15, attempt=0)
    owner.read()
    owner.run_errands()
    assert owner.partition.next_chore() is None
    owner.partition.chore_done(void)
    owner.act()
    chore = owner.partition.next_chore()
    assert chore is not None
    assert (chore.purpose, chore.claim.follows) == (Purpose.END, fence)
