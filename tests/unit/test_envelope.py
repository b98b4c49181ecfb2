"""What may stand in a lane: whatever it is, no dispatcher and no reader breaks on it."""

import pytest
from msgspec.structs import replace

from dispatcher.letters import MAX_LETTER_BYTES, Letters
from dispatcher.messages import TRACEBACK_CHARS
from mayfly import view
from mayfly.adapters.kafka import MAX_MESSAGE_BYTES
from mayfly.events import Attempt, DeadLetter, DeferredRecord, Reason
from mayfly.fold import HISTORY_CHARS, Phase, TaskState
from mayfly.task import (
    LAST_MILLISECOND,
    MAX_ATTEMPTS,
    MAX_COMMAND_BYTES,
    MAX_LOSSES,
    Envelope,
    Failure,
    FailureType,
    Lane,
    MalformedCommand,
    Origin,
    decode_envelope,
    encode,
    new_task_id,
    place_id,
)


@pytest.mark.parametrize("at", [-1, LAST_MILLISECOND + 1, 10**18, 10**30])
def test_a_time_that_is_none_is_no_envelope(at: int) -> None:
    with pytest.raises(MalformedCommand):
        decode_envelope(b'{"taskType": "f", "runAt": %d}' % at, topic="t", partition=0, offset=0)


@pytest.mark.parametrize(
    "fields",
    [
        b'"origin": {"lane": "low", "offset": 0, "acceptedAt": 1%s}' % (b"0" * 400),
        b'"origin": {"lane": "low", "offset": 9223372036854775808, "acceptedAt": 0}',
        b'"origin": {"lane": "low", "offset": -1, "acceptedAt": 0}',
        b'"releases": 9223372036854775808',
        b'"releases": -2',
    ],
)
def test_what_only_an_owner_writes_holds_no_number_that_it_would_not_write(fields: bytes) -> None:
    """Redis, asked to sort by the first of these, would refuse it for ever, and all that waits behind it."""
    with pytest.raises(MalformedCommand):
        decode_envelope(b'{"taskType": "f", %s}' % fields, topic="t", partition=0, offset=0)


@pytest.mark.parametrize(
    ("at", "shown"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (-5, "1970-01-01T00:00:00.000Z"),
        (LAST_MILLISECOND, "9999-12-31T23:59:59.999Z"),
        (10**18, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_every_number_shows_as_a_time(at: int, shown: str) -> None:
    assert view.timestamp(at) == shown


def test_the_latest_time_with_the_longest_delays_shows() -> None:
    envelope = Envelope(
        "f", "a", run_at=LAST_MILLISECOND, ttl_seconds=1e7, origin=Origin(Lane.LOW, 0, 10**18)
    )
    task = view.queued(envelope, queue="q", lane=Lane.LOW, partition=0, offset=0, at=0)
    assert task.fields()["createdAt"] == "9999-12-31T23:59:59.999Z"


def test_a_command_that_is_too_large_is_refused_by_the_place_that_it_has() -> None:
    value = encode(Envelope("f", "a", payload_base64="A" * MAX_COMMAND_BYTES))
    with pytest.raises(MalformedCommand, match="600000") as refused:
        decode_envelope(value, topic="t", partition=1, offset=2)
    assert refused.value.envelope == Envelope("", place_id("t", 1, 2))


def test_the_largest_command_fits_one_record_with_all_that_comes_to_be_said_of_it() -> None:
    """Else its task could never wait, or never be over."""
    value = Envelope("f", "01a20d95-a793-7451-bb42-c188ec8c0cdd", payload_base64="")
    room = MAX_COMMAND_BYTES - len(encode(value))
    largest = Envelope(
        "f", value.task_id, payload_base64="A" * room, origin=Origin(Lane.NORMAL, 10**12, 10**13)
    )
    attempt = Attempt(
        100,
        10**12,
        "a-host-with-a-name-of-its-own-1234567-abcdef01",
        10**13,
        10**13,
        image="mayfly/" + "f" * 63 + ":" + "0" * 64,
        # A control character is six bytes in JSON.
        failure=Failure(FailureType.ERROR, "\x01" * HISTORY_CHARS, error="E" * 100),
    )
    attempts = (attempt,) * (MAX_ATTEMPTS + MAX_LOSSES)
    record = DeferredRecord(largest, 10**12, 100, Reason.RETRY, due=10**13, history=attempts)
    assert len(encode(record)) < MAX_MESSAGE_BYTES
    failure = Failure(FailureType.ERROR, "ü" * 4096, error="E" * 4096, traceback="ü" * 32 * 1024)
    letter = DeadLetter(value.task_id, "default", largest, failure, 10**13, attempts)
    assert len(encode(letter)) < MAX_MESSAGE_BYTES


def test_a_letter_that_does_not_fit_one_record_leaves_its_traceback_out() -> None:
    """A control character is six bytes in JSON, and a function may say nothing else."""
    envelope = Envelope("f", "a", payload_base64="A" * (MAX_COMMAND_BYTES - 1000))
    failure = Failure(
        FailureType.ERROR, "\x01" * 4096, error="\x01" * 4096, traceback="\x01" * TRACEBACK_CHARS
    )
    told = "\x01" * HISTORY_CHARS
    over = Attempt(
        1, 1, "d" * 40, 1, 1, image="i" * 140, failure=Failure(FailureType.ERROR, told, error=told)
    )
    state = TaskState(
        Phase.TERMINAL,
        1,
        1,
        "d",
        1,
        history=(over,) * (MAX_ATTEMPTS + MAX_LOSSES),
        failure=failure,
        ended_at=10**13,
    )
    letter = Letters("q").write("a", state, envelope)
    assert letter is not None
    assert len(encode(letter)) <= MAX_LETTER_BYTES < MAX_MESSAGE_BYTES
    assert (letter.failure.message, letter.failure.traceback) == (failure.message, None)
    small = Letters("q").write("a", replace(state, history=()), Envelope("f", "a"))
    assert small is not None
    assert small.failure == failure


@pytest.mark.parametrize("tenant", ["", "Acme", "a b", "-a", "a\n", "a" * 64, "a:b", "a@b", "redrive"])
def test_a_name_that_no_tenant_has_is_no_envelopes(tenant: str) -> None:
    """`redrive`, since with an Idempotency-Key of its own choice it would have the ids of others' tasks."""
    value = encode(Envelope("echo", new_task_id(), tenant=tenant))
    with pytest.raises(MalformedCommand, match="tenant") as raised:
        decode_envelope(value, topic="t", partition=0, offset=0)
    assert raised.value.envelope.tenant == "default"
