"""The audit log's chains: what several writers wrote is whole, and what was done to it afterwards shows."""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from hypothesis import assume, given
from hypothesis import strategies as st

from mayfly.identity import chain
from mayfly.identity.chain import BEGINNING, Chain, Entry, Link, Verifier


class Written(NamedTuple):
    """A topic, and for each place the one behind it at which it is held on to; None where nothing does."""

    values: list[bytes]
    held: list[int | None]


def write(turns: Sequence[tuple[int, bool]]) -> Written:
    """Each turn is a writer's; one that is new, or begins again, looks at the end of what is there."""
    values: list[bytes] = []
    held: list[int | None] = []
    chains: dict[int, Chain] = {}
    for writer, begins in turns:
        if begins or writer not in chains:
            seen = chain.link(len(values) - 1, values[-1]) if values else BEGINNING
            chains[writer] = Chain(seen)
        value = chains[writer].next(Entry("task.cancel", f"t{len(values)}", at=len(values)))
        record = chain.read(value)
        assert record is not None
        if record.after >= 0 and held[record.after] is None:
            held[record.after] = len(values)
        values.append(value)
        held.append(None)
        assert chains[writer].went(len(values) - 1)
    return Written(values, held)


def findings(values: Sequence[bytes | None], start: int = 0) -> list[str]:
    verifier = Verifier(start)
    return [one.what for place, value in enumerate(values, start) for one in verifier.take(place, value)]


LOGS = st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=2, max_size=20).map(write)


@given(LOGS)
def test_what_nobody_touched_is_whole(log: Written) -> None:
    assert findings(log.values) == []


@given(LOGS, st.data())
def test_a_record_that_was_changed_is_found_whichever_byte_it_was(log: Written, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(log.values) - 1))
    changed = bytearray(log.values[place])
    at = data.draw(st.integers(0, len(changed) - 1))
    changed[at] = data.draw(st.integers(0, 255).filter(lambda byte: byte != changed[at]))
    assert findings([*log.values[:place], bytes(changed), *log.values[place + 1 :]])


@given(LOGS, st.data())
def test_a_record_that_was_changed_with_its_own_hash_is_found_by_the_one_that_holds_on_to_it(
    log: Written, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(log.values) - 1))
    assume(log.held[place] is not None)
    record = chain.read(log.values[place])
    assert record is not None
    raw = msgspec.json.encode(msgspec.structs.replace(record, target="another"))
    forged = msgspec.json.encode(chain.Stored(chain.sha256(raw), msgspec.Raw(raw)))
    assert chain.read(forged) is not None
    assert findings([*log.values[:place], forged, *log.values[place + 1 :]])


@given(LOGS, st.data())
def test_a_record_that_was_taken_out_is_found_unless_it_was_among_the_last(
    log: Written, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(log.values) - 1))
    assume(_goes_on(log, place))
    assert findings([*log.values[:place], *log.values[place + 1 :]])


def _goes_on(log: Written, place: int) -> bool:
    """Whether a record behind it holds on to that one, or to one behind it."""
    return any(held is not None for held in log.held[place:])


@given(LOGS, st.data())
def test_a_record_that_was_put_in_is_found(log: Written, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(log.values) - 1))
    assume(_goes_on(log, place))
    twice = data.draw(st.booleans())
    new = log.values[place] if twice else Chain(BEGINNING).next(Entry("key.create", "mine"))
    assert findings([*log.values[:place], new, *log.values[place:]])


@given(LOGS, st.data())
def test_records_that_changed_places_are_found_if_anything_holds_on_to_one_of_them(
    log: Written, data: st.DataObject
) -> None:
    one = data.draw(st.integers(0, len(log.values) - 2))
    other = data.draw(st.integers(one + 1, len(log.values) - 1))
    assume(log.held[one] is not None or log.held[other] is not None)
    moved = list(log.values)
    moved[one], moved[other] = moved[other], moved[one]
    assert findings(moved)


@given(LOGS, st.data())
def test_the_head_that_was_kept_shows_what_was_done_to_the_last_records(
    log: Written, data: st.DataObject
) -> None:
    verifier = Verifier()
    for place, value in enumerate(log.values):
        verifier.take(place, value)
    assert verifier.holds(verifier.head)
    assert verifier.head == chain.link(len(log.values) - 1, log.values[-1])
    left = data.draw(st.integers(0, len(log.values) - 1))
    shorter = Verifier()
    for place, value in enumerate(log.values[:left]):
        shorter.take(place, value)
    assert not shorter.holds(verifier.head)


@given(LOGS, st.data())
def test_a_log_whose_beginning_is_gone_says_so_once(log: Written, data: st.DataObject) -> None:
    start = data.draw(st.integers(1, len(log.values) - 1))
    verifier = Verifier(start)
    assert verifier.trimmed is not None
    assert str(start) in verifier.trimmed.what
    assert findings(log.values[start:], start) == []


@given(LOGS, st.data())
def test_places_that_hold_nothing_are_found(log: Written, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(log.values) - 2))
    verifier = Verifier()
    found = []
    for place, value in enumerate(log.values):
        if place != first:
            found += verifier.take(place, value)
    assert any("gone" in one.what and one.place == first for one in found)


def test_what_is_no_record_is_found_and_what_follows_still_has_its_place() -> None:
    log = write([(0, False)] * 3)
    for foreign in (b"", b"{}", b"\xff", b'{"sha256":"","record":{}}', None):
        assert len(findings([*log.values, foreign])) == 1


def test_a_record_says_who_did_what_to_what() -> None:
    entry = Entry("key.create", "k1", "user:ana", "acme", address="10.0.0.1", request_id="r", at=5)
    record = chain.read(Chain(Link(4, "ab")).next(entry))
    assert record is not None
    assert {name: getattr(record, name) for name in Entry.__struct_fields__} == {
        name: getattr(entry, name) for name in Entry.__struct_fields__
    }
    assert (record.number, record.after, record.hash) == (0, 4, "ab")
