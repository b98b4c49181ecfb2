"""Secrets are taken out of what a task says, whatever the pieces that it comes in."""

import itertools
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.redaction import MASK, SHORTEST, Redactor, redacted

FEW = st.sampled_from("ab")
"""Of two letters, so that occurrences overlap and begin within one another."""
SECRETS = st.lists(st.text(FEW, min_size=SHORTEST, max_size=14), min_size=1, max_size=3)
TEXTS = st.text(st.sampled_from("abc"), max_size=120)


def covered(text: str, secrets: list[str]) -> str:
    """The rule, the slow way."""
    inside = [False] * len(text)
    for secret in secrets:
        for start in range(len(text) - len(secret) + 1):
            if text.startswith(secret, start):
                inside[start : start + len(secret)] = [True] * len(secret)
        ends = range(min(len(secret) - 1, len(text)), max(SHORTEST, len(secret) // 2) - 1, -1)
        if (cut := next((length for length in ends if text.endswith(secret[:length])), 0)) > 0:
            inside[len(text) - cut :] = [True] * cut
    marked = "".join("*" if hit else letter for letter, hit in zip(text, inside, strict=True))
    return re.sub(r"\*+", "***", marked)


def streamed(pieces: list[bytes], secrets: list[str]) -> bytes:
    redactor = Redactor(secrets)
    return b"".join([*(redactor.feed(piece) for piece in pieces), redactor.end()])


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(TEXTS, SECRETS, st.lists(st.integers(0, 1000), max_size=20))
def test_every_byte_of_a_secret_is_taken_out_wherever_the_text_is_cut(
    text: str, secrets: list[str], places: list[int]
) -> None:
    given = streamed(cut(text.encode(), places), secrets)
    assert given.decode() == covered(text, secrets)
    assert not any(secret.encode() in given for secret in secrets)


@given(TEXTS, SECRETS, TEXTS, st.data())
def test_a_secret_that_is_there_is_found_byte_by_byte(
    before: str, secrets: list[str], after: str, data: st.DataObject
) -> None:
    text = before + data.draw(st.sampled_from(secrets)) + after
    given = streamed([bytes([byte]) for byte in text.encode()], secrets)
    assert MASK in given
    assert given == redacted(text, secrets).encode()


@given(
    st.text(min_size=SHORTEST, max_size=30), st.text(max_size=50), st.lists(st.integers(0, 1000), max_size=9)
)
def test_letters_of_several_bytes_may_be_cut_as_well(secret: str, around: str, places: list[int]) -> None:
    data = f"{around}{secret}{around}".encode()
    given = streamed(cut(data, places), [secret])
    assert secret.encode() not in given.replace(MASK, b"\xff")
    assert given == streamed([data], [secret])


@given(st.binary(max_size=200), st.lists(st.integers(0, 1000), max_size=9))
def test_what_holds_no_secret_is_given_out_as_it_came(data: bytes, places: list[int]) -> None:
    assert streamed(cut(data, places), []) == data
    assert streamed(cut(data, places), ["short"]) == data
    assert streamed(cut(data, places), ["a long one that is nowhere"]) == data


def test_what_cannot_be_the_beginning_of_a_secret_is_not_held_back() -> None:
    redactor = Redactor(["correct horse"])
    assert redactor.feed(b"a line\n") == b"a line\n"
    assert redactor.feed(b"and correct ") == b"and "
    assert redactor.feed(b"hose\n") == b"correct hose\n"
    assert redactor.feed(b"correct ho") == b""
    assert redactor.feed(b"rse\n") == b"***\n"
    assert redactor.end() == b""


def test_a_secret_that_the_end_of_a_text_cuts_is_taken_out_from_half_of_it_on() -> None:
    assert redacted("password: correct hor", ["correct horse"]) == "password: ***"
    assert redacted("that is correct", ["correct horse"]) == "that is correct"


def test_short_secrets_are_left() -> None:
    assert redacted("the key is 1234567", ["1234567"]) == "the key is 1234567"
    assert redacted("the key is 12345678", ["12345678"]) == "the key is ***"


@pytest.mark.parametrize("secret", ['with "quotes" and\nlines', "käse und brot", "back\\slash\\es"])
def test_a_secret_is_known_in_json_too(secret: str) -> None:
    for text in (json.dumps({"key": secret}), json.dumps({"key": secret}, ensure_ascii=False)):
        assert redacted(text, [secret]) == '{"key": "***"}'


def test_a_long_secret_of_one_letter_takes_no_longer_than_another() -> None:
    secret = "a" * 60_000
    redactor = Redactor([secret])
    for _ in range(10):
        assert redactor.feed(b"a" * 59_999) == b""
        assert redactor.feed(b"b") == b"a" * 59_999 + b"b"
    assert redactor.feed(secret.encode()) + redactor.feed(b"\n") == b"***\n"
