"""A partition's commands: none is taken up twice, none is lost, and a checkpoint can name what is pending."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from owner_world import command

from dispatcher.buffers import Command
from dispatcher.commands import Commands
from dispatcher.offsets import MAX_PENDING, Checkpoint
from mayfly.task import Lane, Position


@pytest.fixture
def commands() -> Commands:
    return Commands(Checkpoint())


def read(commands: Commands, *some: Command) -> None:
    for one in some:
        assert commands.read(one)


def test_a_command_is_taken_up_in_its_lanes_order(commands: Commands) -> None:
    read(commands, command("a", 0), command("b", 1), command("c", 0, Lane.LOW))
    assert [commands.take(Lane.NORMAL).task_id for _ in range(2)] == ["a", "b"]
    assert commands.first(Lane.NORMAL) is None
    assert commands.take(Lane.LOW).task_id == "c"


def test_what_was_put_back_goes_before_what_was_not_taken_up(commands: Commands) -> None:
    read(commands, command("a", 0), command("b", 1))
    first = commands.take(Lane.NORMAL)
    commands.put_back(first)
    assert list(commands.hand_back()) == [first]
    commands.wait(first)
    assert commands.take(Lane.NORMAL) is first
    assert commands.take(Lane.NORMAL).task_id == "b"


def test_what_is_read_twice_is_there_once(commands: Commands) -> None:
    read(commands, command("a", 0))
    assert not commands.read(command("a", 0))
    commands.take(Lane.NORMAL)
    assert not commands.read(command("a", 0))
    commands.done("a", Position(Lane.NORMAL, 0))
    assert not commands.read(command("a", 0))


def test_a_command_that_is_done_before_it_is_taken_up_starts_nothing(commands: Commands) -> None:
    read(commands, command("a", 0))
    commands.done("a", Position(Lane.NORMAL, 0))
    taken = commands.take(Lane.NORMAL)
    assert not commands.is_started(taken)
    assert not commands.started("a")


def test_what_stands_before_a_command_that_is_done_early_is_pending_and_counts(commands: Commands) -> None:
    read(commands, *(command(f"t{number}", number) for number in range(MAX_PENDING + 1)))
    read(commands, command("high", 0, Lane.HIGH))
    commands.done(f"t{MAX_PENDING}", Position(Lane.NORMAL, MAX_PENDING))
    assert commands.offsets.pending == MAX_PENDING
    assert commands.first(Lane.HIGH) is None, "it could not be named"
    for _ in range(MAX_PENDING):
        commands.take(Lane.NORMAL)
    commands.done("t0", Position(Lane.NORMAL, 0))
    assert commands.first(Lane.HIGH) is not None


def test_what_is_done_holds_up_nobody_behind_it_however_much_is_pending(commands: Commands) -> None:
    read(commands, *(command(f"t{number}", number) for number in range(MAX_PENDING + 2)))
    commands.done("t0", Position(Lane.NORMAL, 0))
    commands.done(f"t{MAX_PENDING + 1}", Position(Lane.NORMAL, MAX_PENDING + 1))
    assert [commands.take(Lane.NORMAL).task_id for _ in range(2)] == ["t0", "t1"]


def test_the_commands_of_a_task_are_told_apart(commands: Commands) -> None:
    first, copy = command("a", 0), command("a", 1)
    release = command("a", 2, releases=7)
    read(commands, first, copy, release)
    assert commands.asked("a")
    assert commands.earliest("a") == first.position
    assert commands.release_of("a", 7) is release
    assert commands.release_of("a", 6) is None
    assert commands.before("a", 7) is first
    assert not commands.comes_second(first)
    assert commands.comes_second(copy)
    commands.done("a", first.position)
    assert not commands.comes_second(copy)
    commands.done("a", copy.position)
    assert not commands.asked("a")
    commands.done("a", release.position)
    assert commands.release_of("a", 7) is None


def test_a_copy_in_another_lane_waits_for_one_that_was_taken_up(commands: Commands) -> None:
    first, copy = command("a", 0, Lane.HIGH), command("a", 0, Lane.LOW)
    read(commands, first, copy)
    assert not commands.comes_second(copy)
    commands.take(Lane.HIGH)
    assert commands.comes_second(copy)
    commands.take(Lane.LOW)
    assert not commands.comes_second(first), "one of them goes"


def test_what_led_to_a_wait_is_what_was_taken_up_and_what_lies_before_the_claimed(commands: Commands) -> None:
    some = [command("a", number) for number in range(4)]
    release = command("a", 4, releases=9)
    read(commands, *some, release)
    commands.take(Lane.NORMAL)
    assert commands.named("a", some[1].position, 9) == some[:2]
    for _ in range(3):
        commands.take(Lane.NORMAL)
    assert commands.named("a", some[1].position, 9) == some


@given(st.lists(st.sampled_from(["read", "take", "done", "back", "early"]), max_size=80), st.data())
def test_every_command_is_taken_up_or_done(steps: list[str], data: st.DataObject) -> None:
    commands, count = Commands(Checkpoint()), 0
    taken: dict[int, Command] = {}
    done: set[int] = set()
    for step in steps:
        unread = [number for number in range(count) if number not in done and number not in taken]
        if step == "read":
            read(commands, command(f"t{count}", count))
            count += 1
        elif step == "take" and commands.first(Lane.NORMAL) is not None:
            one = commands.take(Lane.NORMAL)
            assert commands.is_started(one) == (one.position.offset not in done)
            if commands.is_started(one):
                taken[one.position.offset] = one
        elif step == "back" and taken:
            number = data.draw(st.sampled_from(sorted(taken)))
            commands.put_back(taken.pop(number))
            for one in commands.hand_back():
                commands.wait(one)
        elif (step == "done" and taken) or (step == "early" and unread):
            number = data.draw(st.sampled_from(sorted(taken) if step == "done" else unread))
            commands.done(f"t{number}", Position(Lane.NORMAL, number))
            taken.pop(number, None)
            done.add(number)
        assert all(
            commands.offsets.is_done(Position(Lane.NORMAL, one)) == (one in done) for one in range(count)
        )
    while commands.first(Lane.NORMAL) is not None:
        one = commands.take(Lane.NORMAL)
        if commands.is_started(one):
            taken[one.position.offset] = one
    assert sorted(taken) == [number for number in range(count) if number not in done]
