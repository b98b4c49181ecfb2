"""Signed heartbeats: what is believed, whatever stands in Redis."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mayfly.identity.signatures import Signatures

SECRET = b"of thirty-two bytes, or a few more"
LIFE = 5000
NOW = 1_795_521_600_123
TEXT = '{"id": "a", "fences": []}'


def signatures(secret: bytes = SECRET) -> Signatures:
    return Signatures(secret, life=LIFE)


def refusal(reader: Signatures, text: str | bytes, *, who: str = "a", now: int = NOW) -> str:
    believed, refused = reader.look({who: text}, now)
    assert not believed
    return refused[who]


def is_believed(reader: Signatures, text: str, *, now: int = NOW) -> bool:
    believed, refused = reader.look({"a": text}, now)
    assert believed.keys() | refused.keys() == {"a"}
    return believed == {"a": TEXT}


@given(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")), st.integers(0, 2**52))
def test_what_is_signed_is_believed_as_it_was(who: str, text: str, now: int) -> None:
    signed = signatures().sign(who, text, now)
    assert signatures().look({who: signed}, now) == ({who: text}, {})


@given(st.dictionaries(st.text(), st.binary() | st.text()))
def test_no_bytes_are_believed_or_break_it(found: dict[str, str | bytes]) -> None:
    believed, refused = signatures().look(found, NOW)
    assert (believed, refused.keys()) == ({}, found.keys())


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "heartbeat": st.text() | st.none(),
            "timestamp": st.integers() | st.floats() | st.booleans() | st.text(),
            "nonce": st.integers() | st.lists(st.integers()),
            "signature": st.text() | st.from_regex(r"[0-9a-f]{64}\n?", fullmatch=True),
        },
    )
)
def test_what_looks_like_a_signed_one_is_refused(found: dict[str, object]) -> None:
    assert refusal(signatures(), json.dumps(found))


@given(st.data())
def test_a_signed_one_of_which_any_byte_was_changed_is_refused(data: st.DataObject) -> None:
    signed = bytearray(signatures().sign("a", TEXT, NOW).encode())
    at = data.draw(st.integers(0, len(signed) - 1))
    signed[at] = data.draw(st.integers(0, 255).filter(lambda byte: byte != signed[at]))
    assert refusal(signatures(), bytes(signed))


def test_one_without_a_signature_is_refused() -> None:
    assert refusal(signatures(), TEXT) == "it is not signed"


def test_one_of_another_secret_is_refused() -> None:
    forged = signatures(b"another one, that has thirty-two bytes").sign("a", TEXT, NOW)
    assert refusal(signatures(), forged) == "its signature is of another secret"


@pytest.mark.parametrize("field", ["heartbeat", "timestamp", "nonce"])
def test_one_that_says_something_else_than_was_signed_is_refused(field: str) -> None:
    signed = json.loads(signatures().sign("a", TEXT, NOW))
    signed[field] = {"heartbeat": '{"id": "a"}', "timestamp": NOW + 1, "nonce": 2}[field]
    assert refusal(signatures(), json.dumps(signed)) == "its signature is of another secret"


def test_one_dispatchers_is_not_anothers() -> None:
    signed = signatures().sign("a", TEXT, NOW)
    assert refusal(signatures(), signed, who="b") == "its signature is of another secret"


@pytest.mark.parametrize("age", [LIFE + 1, -LIFE - 1, NOW])
def test_one_that_is_older_than_a_life_or_of_the_future_is_refused(age: int) -> None:
    assert "by this machine's clock" in refusal(signatures(), signatures().sign("a", TEXT, NOW - age))


@pytest.mark.parametrize("age", [0, LIFE, -LIFE])
def test_clocks_may_be_apart_by_a_life(age: int) -> None:
    assert is_believed(signatures(), signatures().sign("a", TEXT, NOW - age))


def test_one_that_stays_is_believed_until_it_is_a_life_old() -> None:
    reader, signed = signatures(), signatures().sign("a", TEXT, NOW)
    for now in range(NOW, NOW + LIFE + 1, 500):
        assert is_believed(reader, signed, now=now)
    assert not is_believed(reader, signed, now=NOW + LIFE + 1)


def test_an_older_one_than_was_seen_is_refused() -> None:
    writer, reader = signatures(), signatures()
    older, newer = (writer.sign("a", TEXT, NOW) for _ in range(2))
    assert is_believed(reader, newer)
    assert refusal(reader, older) == "it is a copy of an older one"
    assert is_believed(reader, newer), "the dispatcher's own is back"


def test_one_that_comes_back_after_it_was_gone_is_refused_and_the_next_is_not() -> None:
    writer, reader = signatures(), signatures()
    signed = writer.sign("a", TEXT, NOW)
    assert is_believed(reader, signed)
    assert reader.look({}, NOW + 500) == ({}, {})
    assert refusal(reader, signed, now=NOW + 1000) == "it is a copy of an older one"
    assert is_believed(reader, writer.sign("a", TEXT, NOW + 1000), now=NOW + 1000)


def test_a_forged_one_does_not_keep_the_dispatchers_own_out() -> None:
    writer, reader = signatures(), signatures()
    signed = writer.sign("a", TEXT, NOW)
    assert is_believed(reader, signed)
    ahead = json.dumps(json.loads(signed) | {"nonce": 1000})
    assert refusal(reader, ahead) == "its signature is of another secret"
    assert refusal(reader, signatures().sign("b", TEXT, NOW)) == "its signature is of another secret"
    assert is_believed(reader, writer.sign("a", TEXT, NOW))


def test_dispatchers_that_are_gone_for_a_life_are_forgotten() -> None:
    reader = signatures()
    for number in range(100):
        now = NOW + number * LIFE
        reader.look({str(number): signatures().sign(str(number), TEXT, now)}, now)
    assert len(reader._seen) <= 2


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 32 bytes"):
        Signatures(b"x" * 31, life=LIFE)
