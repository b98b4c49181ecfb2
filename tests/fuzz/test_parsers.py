"""What strangers send is parsed or refused, and nothing else happens: each parser with whatever there may be,
and with what nearly is as it should be. What was written is read back as it was.
"""

import base64
import json
from collections.abc import Callable
from typing import Any, Final

import jwt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dispatcher.frames import HEADER, Frame, FrameParser, Violation, frame
from dispatcher.runtimes.engine_http import Answer, Reader
from gateway.errors import Problem
from gateway.items import _lines
from mayfly.identity import keys, sigv4
from mayfly.identity.principal import Principal, Scope
from mayfly.identity.signatures import Signatures
from mayfly.identity.tokens import Tokens
from mayfly.strictjson import StrictJSONError, loads
from mayfly.webhooks import callback
from tests.fuzz.bounds import fuzzed

SECRET: Final = "of thirty-two bytes, or a few more"
NOW: Final = 1_795_521_600
DATE: Final = "20261124T120000Z"
CAPS: Final = {"A": 16, "R": 64}

latin = st.text(st.characters(max_codepoint=255))
"""What a header may hold."""
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda parts: st.lists(parts) | st.dictionaries(st.text(st.characters(codec="utf-8")), parts),
    max_leaves=10,
)


def damaged(data: bytes) -> st.SearchStrategy[bytes]:
    """The bytes with some in the middle in place of others."""
    places = st.integers(0, len(data))
    return st.builds(
        lambda start, end, other: data[: min(start, end)] + other + data[max(start, end) :],
        places,
        places,
        st.binary(max_size=4),
    )


def refusal(call: Callable[[], object]) -> str | None:
    """What it says where it refuses, which is never nothing."""
    try:
        call()
    except ValueError as error:
        return str(error) or pytest.fail("refused without a word")
    return None


# --- JSON ---------------------------------------------------------------------------------------------------


@fuzzed
@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()).flatmap(damaged))
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(b"1" * 10_000)
def test_json_is_read_as_json_reads_it_or_refused(data: bytes) -> None:
    try:
        value = loads(data)
    except StrictJSONError:
        return
    assert json.loads(data) == value


@fuzzed
@given(json_values)
def test_json_that_was_written_is_read_back(value: Any) -> None:
    assert loads(json.dumps(value).encode(), max_depth=100) == value


# --- keys and tokens ----------------------------------------------------------------------------------------


@fuzzed
@given(latin | damaged(b"mf_0123456789abcdef." + b"a" * 43).map(lambda data: data.decode("latin-1")))
def test_a_key_is_the_text_that_it_was_parsed_from(text: str) -> None:
    parsed = keys.parse(text)
    assert parsed is None or str(parsed) == text


@fuzzed
@given(st.binary(min_size=8, max_size=8), st.binary(min_size=32, max_size=32))
def test_a_key_that_was_written_is_read_back(key_id: bytes, secret: bytes) -> None:
    made = keys.Credential(key_id.hex(), base64.urlsafe_b64encode(secret).decode().rstrip("="))
    assert keys.parse(str(made)) == made


def tokens() -> Tokens:
    return Tokens(issuer="mayfly", audience="mayfly", secret=SECRET, public=None)


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


parts = (st.binary() | json_values.map(lambda value: json.dumps(value).encode())).map(encoded)
ISSUED: Final = tokens().issue(Principal("user:ana", "default", frozenset({Scope.READ})), 10**6)
DEEP: Final = encoded(b"[" * 6000), encoded(b'{"alg":' * 900)


@fuzzed
@given(
    latin
    | st.lists(parts, min_size=2, max_size=4).map(".".join)
    | damaged(ISSUED.encode()).map(lambda data: data.decode("latin-1"))
)
@example(f"{DEEP[0]}.e30.")
@example(f"{DEEP[1]}.e30.")
def test_a_token_that_nobody_signed_is_refused(token: str) -> None:
    if not refusal(lambda: tokens().check(token)):
        # In Base64 some bits of the last letter say nothing, nor does what is no letter of it.
        assert token.rpartition(".")[0] == ISSUED.rpartition(".")[0]


@fuzzed
@given(
    st.fixed_dictionaries(
        {
            "iss": st.just("mayfly") | json_values,
            "aud": st.just("mayfly") | json_values,
            "sub": st.just("user:ana") | json_values,
            "exp": st.just(2**40) | json_values,
        },
        optional=dict.fromkeys(("iat", "nbf", "tenant", "scope", "scp", "jti"), json_values),
    )
)
@example({"iss": "mayfly", "aud": "mayfly", "sub": "a", "exp": float("inf")})
@example({"iss": "mayfly", "aud": "mayfly", "sub": "a", "exp": 2**40, "iat": {}})
def test_the_claims_of_a_token_make_sense_or_it_is_refused(claims: dict[str, Any]) -> None:
    # Not by `jwt.encode`, which looks at them.
    token = jwt.api_jws.encode(json.dumps(claims).encode(), SECRET, algorithm="HS256")
    try:
        principal = tokens().check(token)
    except ValueError:
        return
    assert principal.subject in (claims["sub"], f"token:{claims['sub']}")
    assert principal.scopes <= frozenset(Scope)


# --- signatures ---------------------------------------------------------------------------------------------


def heartbeats() -> Signatures:
    return Signatures(SECRET.encode(), life=5000)


BEAT: Final = heartbeats().sign("a", '{"id": "a"}', NOW * 1000).encode()


@fuzzed
@given(st.binary() | damaged(BEAT) | json_values.map(lambda value: json.dumps(value).encode()))
def test_a_heartbeat_is_believed_only_as_it_was_signed(data: bytes) -> None:
    believed, refused = heartbeats().look({"a": data}, NOW * 1000)
    assert believed.keys() | refused.keys() == {"a"}
    # Blanks between its parts are not signed, and say nothing.
    assert believed in ({}, {"a": '{"id": "a"}'})


AWS: Final = (
    f"AWS4-HMAC-SHA256 Credential=0123456789abcdef/20261124/us-east-1/lambda/aws4_request, "
    f"SignedHeaders=host;x-amz-date, Signature={'0' * 64}"
)
requests = st.builds(
    sigv4.Signed,
    st.sampled_from(["GET", "POST"]) | latin,
    latin,
    latin,
    st.lists(st.tuples(st.sampled_from(["host", "x-amz-date", "x-amz-target", "accept"]), latin)),
    st.binary(),
)


@fuzzed
@given(latin | damaged(AWS.encode()).map(lambda data: data.decode("latin-1")), requests)
def test_what_nobody_signed_by_sigv4_is_refused(authorization: str, request: sigv4.Signed) -> None:
    def check() -> None:
        signature = sigv4.parse(authorization)
        sigv4.check_time(signature, request.headers, NOW, "lambda")
        sigv4.check(signature, SECRET, request)

    assert refusal(check)


@fuzzed
@given(requests)
def test_what_was_signed_by_sigv4_is_taken_and_nothing_beside_it(request: sigv4.Signed) -> None:
    headers = [(name, value) for name, value in request.headers if name in ("accept", "x-amz-target")]
    sent = request._replace(headers=[*headers, ("host", "mayfly"), ("x-amz-date", DATE)])
    names = sorted({name for name, _ in sent.headers})
    scope = ("20261124", "us-east-1", "lambda")
    signed = sigv4.sign(scope, names, SECRET, sent)
    text = (
        f"AWS4-HMAC-SHA256 Credential=0123456789abcdef/{'/'.join(scope)}/aws4_request, "
        f"SignedHeaders={';'.join(names)}, Signature={signed}"
    )
    signature = sigv4.parse(text)
    sigv4.check_time(signature, sent.headers, NOW, "lambda")
    sigv4.check(signature, SECRET, sent)
    for other in (sent._replace(body=sent.body + b"x"), sent._replace(path=f"{sent.path}/x")):
        with pytest.raises(ValueError, match="not that of this request"):
            sigv4.check(signature, SECRET, other)


# --- frames and lines ---------------------------------------------------------------------------------------

frames = st.lists(st.builds(Frame, st.sampled_from(sorted(CAPS)), st.binary(max_size=16)))


def cut(data: bytes, at: list[int]) -> list[bytes]:
    places = sorted({place % (len(data) + 1) for place in at})
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


@fuzzed
@given(
    st.binary() | frames.map(lambda sent: b"".join(frame(*one) for one in sent)).flatmap(damaged),
    st.lists(st.integers(0, 10_000)),
)
def test_frames_are_those_that_are_in_the_bytes(data: bytes, at: list[int]) -> None:
    parser = FrameParser(CAPS)
    found = [one for piece in cut(data, at) for one in parser.feed(piece)]
    read = [one for one in found if isinstance(one, Frame)]
    assert data.startswith(b"".join(frame(*one) for one in read))
    if len(read) < len(found):
        [violation] = found[len(read) :]
        assert isinstance(violation, Violation)
        assert violation.cap is None or violation.length > violation.cap
    else:
        left = data[sum(HEADER + len(one.body) for one in read) :]
        assert len(left) < HEADER or len(left) < HEADER + int.from_bytes(left[1:HEADER], "big")


@fuzzed
@given(st.text('{}"a1 \r\n\0\x85').map(str.encode) | st.binary(), st.lists(st.integers(0, 10_000)))
async def test_lines_are_the_same_however_the_bytes_are_cut(data: bytes, at: list[int]) -> None:
    async def pieces() -> Any:
        for piece in cut(data, at):
            yield piece

    read = [line async for line in _lines(pieces(), 8)]
    wanted = [line for line in data.split(b"\n") if line.strip() or len(line) > 8]
    assert len(read) == len(wanted)
    for item, line in zip(read, wanted, strict=True):
        assert item == line if len(line) <= 8 else isinstance(item, Problem)


# --- an engine's answers ------------------------------------------------------------------------------------

chunks = st.lists(st.binary(min_size=1, max_size=20), max_size=4)


def written(status: int, parts: list[bytes], chunked: bool) -> bytes:
    """An answer as an engine sends it."""
    head = f"HTTP/1.1 {status} Of Some Kind\r\nApi-Version: 1.41\r\n".encode()
    if not chunked:
        body = b"".join(parts)
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    pieces = [b"%x\r\n%b\r\n" % (len(part), part) for part in [*parts, b""]]
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(pieces)


@fuzzed
@given(st.integers(200, 203), chunks, st.booleans(), st.lists(st.integers(0, 10_000)))
def test_an_engines_answer_is_read_however_its_bytes_are_cut(
    status: int, parts: list[bytes], chunked: bool, at: list[int]
) -> None:
    reader = Reader()
    *before, last = [reader.feed(piece) for piece in cut(written(status, parts, chunked), at) if piece]
    assert not any(before)
    assert last == Answer(status, b"".join(parts))


@fuzzed
@given(
    st.binary()
    | st.text("HTP/1. 20\r\n:", max_size=40).map(str.encode)
    | st.builds(written, st.integers(100, 599), chunks, st.booleans()).flatmap(damaged),
    st.lists(st.integers(0, 10_000)),
)
@example(b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n", [])
@example(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n", [])
@example(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000, [])
@example(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0" * 100_000, [])
def test_what_no_engine_says_is_refused_and_no_more_is_read_than_was_said(data: bytes, at: list[int]) -> None:
    reader, answer = Reader(), None

    def feed() -> None:
        nonlocal answer
        for piece in cut(data, at):
            answer = answer or reader.feed(piece)

    if refusal(feed) is None and answer is not None:
        assert len(answer.body) + len(answer.rest) <= len(data)
        assert str(answer.status).encode() in data
    if len(data) > 100_000:
        assert refusal(lambda: Reader().feed(data))


# --- callbacks ----------------------------------------------------------------------------------------------

hosts = (
    st.from_regex(r"\A[a-z0-9.-]{1,20}\Z")
    | st.ip_addresses(v=4).map(str)
    | st.ip_addresses(v=6).map(lambda address: f"[{address}]")
    | st.text("0123456789abcdefx.:[]", max_size=20)
)
urls = st.builds(
    lambda scheme, host, port, rest: f"{scheme}://{host}{port}{rest}",
    st.sampled_from(["https", "http", "HTTPS", "ftp", ""]),
    hosts,
    st.just("") | st.integers(-1, 70_000).map(lambda port: f":{port}"),
    st.sampled_from(["", "/", "/a?b=c", "?q", "/%00", "#f", "/\\", "/\u0130"]) | latin,
)


@fuzzed
@given(
    st.text() | urls | damaged(b"https://example.com:8443/hooks?a=b").map(lambda data: data.decode("latin-1"))
)
@example("https://[::ffff:127.0.0.1]/")
@example("https://[fe80::1%25eth0]/")
@example("https://0x7f.1/")
def test_a_callback_is_taken_apart_as_it_is_put_together_or_refused(url: str) -> None:
    policy = callback.Policy()
    if refusal(lambda: callback.parse(url)):
        assert refusal(lambda: policy.check(url))
        return
    found = callback.parse(url)
    whole = f"{found.scheme}://{found.authority}{found.target}"
    assert callback.parse(whole) == found
    assert whole.isascii()
    if not refusal(lambda: policy.check(url)):
        assert policy.check(url) == found
        assert found.scheme == "https"
        assert found.address is None or policy.admits(found, found.address)
