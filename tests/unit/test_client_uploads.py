"""Uploads by the client and the command: to the gateway for a URL, to the store with the bytes."""

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted import TASK_ID, Mayfly, ScriptedGateway, command

from mayfly.client import AsyncClient, Client, UnexpectedAnswer, Unreachable

UPLOAD = "01939c1a-0000-7000-8000-0000000000ad"
DATA = bytes(range(256)) * 8192
"""Two of the pieces in which it is sent."""


@pytest.fixture
def gateway() -> Iterator[ScriptedGateway]:
    with ScriptedGateway() as script:
        script.answer("POST /uploads", target(script.url), 201)
        script.answer("PUT /mayfly/uploads/a", b"")
        script.answer("POST /tasks", script.task("QUEUED"), 202)
        yield script


@pytest.fixture
def client(gateway: ScriptedGateway) -> Iterator[Client]:
    with Client(gateway.url, api_key="mf_a.b") as client:
        yield client


@pytest.fixture
def mayfly(gateway: ScriptedGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mayfly:
    return command(gateway, tmp_path, monkeypatch)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "photo.png").write_bytes(DATA)
    return tmp_path / "photo.png"


def target(store: str) -> dict[str, object]:
    """What the gateway answers; the scripted one is the store as well."""
    return {
        "uploadId": UPLOAD,
        "method": "PUT",
        "url": f"{store}/mayfly/uploads/a?X-Amz-Signature=1",
        "headers": {"content-type": "image/png", "x-amz-meta-sha256": "2"},
        "expiresAt": "2026-11-24T12:00:00.123Z",
    }


def test_a_file_goes_to_the_store_with_what_the_gateway_says_and_no_credential(
    gateway: ScriptedGateway, client: Client, file: Path
) -> None:
    assert client.upload(file) == UPLOAD
    asked, put = gateway.requests
    digest = hashlib.sha256(DATA).hexdigest()
    assert asked.json == {"size": len(DATA), "contentType": "image/png", "sha256": digest}
    assert asked.headers["authorization"] == "Bearer mf_a.b"
    assert (put.method, put.query, put.body) == ("PUT", [("X-Amz-Signature", "1")], DATA)
    assert put.headers["content-length"] == str(len(DATA))
    assert (put.headers["content-type"], put.headers["x-amz-meta-sha256"]) == ("image/png", "2")
    assert not {"authorization", "transfer-encoding"} & put.headers.keys()


async def test_the_asynchronous_client_sends_the_same(gateway: ScriptedGateway, file: Path) -> None:
    async with AsyncClient(gateway.url) as client:
        assert await client.upload(str(file), "image/x-own") == UPLOAD
    asked, put = gateway.requests
    assert asked.json["contentType"] == "image/x-own"
    assert (put.body, put.headers["content-length"]) == (DATA, str(len(DATA)))
    assert "transfer-encoding" not in put.headers


def test_a_file_that_is_open_is_sent_from_its_beginning(gateway: ScriptedGateway, client: Client) -> None:
    file = io.BytesIO(DATA)
    file.seek(100)
    client.upload(file)
    asked, put = gateway.requests
    assert (asked.json["size"], asked.json["contentType"]) == (len(DATA), "application/octet-stream")
    assert put.body == DATA


def test_an_empty_file_is_sent_as_well(gateway: ScriptedGateway, client: Client) -> None:
    assert client.upload(io.BytesIO()) == UPLOAD
    assert gateway.requests[1].headers["content-length"] == "0"


def test_what_the_store_says_against_it_is_told_and_its_url_is_not(file: Path) -> None:
    refusal = b"<Error><Code>X</Code><Message>Request has expired</Message></Error>"
    with ScriptedGateway() as gateway, Client(gateway.url) as client:
        gateway.answer("POST /uploads", target(gateway.url), 201)
        gateway.answer("PUT /mayfly/uploads/a", refusal, 403)
        with pytest.raises(UnexpectedAnswer, match="403 Request has expired"):
            client.upload(file)
        gateway.lose("PUT /mayfly/uploads/a")
        gateway.lose("PUT /mayfly/uploads/a")
        with pytest.raises(UnexpectedAnswer):
            client.upload(file)
        with pytest.raises(Unreachable) as lost:
            client.upload(file)
        assert "Signature" not in str(lost.value)


def test_a_task_names_its_upload_in_place_of_a_payload(gateway: ScriptedGateway, client: Client) -> None:
    assert client.submit("thumbnail", upload=UPLOAD, tags=["a"]).task_id == TASK_ID
    assert gateway.requests[0].json == {"taskType": "thumbnail", "upload": UPLOAD, "tags": ["a"]}


def test_a_task_has_one_payload_and_neither_a_call_nor_a_batch_has_an_upload(client: Client) -> None:
    with pytest.raises(ValueError, match="only one"):
        client.submit("thumbnail", 1, upload=UPLOAD)
    with pytest.raises(ValueError, match="only one"):
        client.submit("thumbnail", data=b"", upload=UPLOAD)
    with pytest.raises(ValueError, match="submit"):
        client.invoke("thumbnail", upload=UPLOAD)
    with pytest.raises(ValueError, match="upload"):
        next(client.submit_many("thumbnail", [1], upload=UPLOAD))


def test_a_result_has_a_url(gateway: ScriptedGateway, client: Client) -> None:
    body = {"url": "http://store/a", "expiresAt": "2026-11-24T12:00:00.123Z"}
    gateway.answer(f"GET /tasks/{TASK_ID}/result/url", body)
    where = client.result_url(TASK_ID)
    assert (where.url, where.expires_at.year) == ("http://store/a", 2026)


def test_the_command_uploads_a_file_and_submits_it(
    gateway: ScriptedGateway, mayfly: Mayfly, file: Path
) -> None:
    assert mayfly("submit", "thumbnail", "--upload", str(file)).stdout == TASK_ID + "\n"
    asked, put, posted = gateway.requests
    assert (asked.json["contentType"], put.body) == ("image/png", DATA)
    assert posted.json == {"taskType": "thumbnail", "upload": UPLOAD}
    mayfly("submit", "thumbnail", "--upload", str(file), "--content-type", "image/x-own")
    assert gateway.requests[3].json["contentType"] == "image/x-own"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--upload", "none.png"), "none.png cannot be read"),
        (("--upload", "a", "-d", "1"), "leave out -d and -f"),
        (("--upload", "a", "--batch", "b"), "leave out -d, -f, --upload"),
    ],
)
def test_an_upload_that_cannot_be_is_refused_with_what_to_do(
    mayfly: Mayfly, options: tuple[str, ...], message: str
) -> None:
    done = mayfly("submit", "thumbnail", *options)
    assert done.exit_code == 2
    assert message in done.stderr


def test_the_command_prints_where_a_result_is(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    body = {"url": "http://store/a", "expiresAt": "2026-11-24T12:00:00.123Z"}
    gateway.answer(f"GET /tasks/{TASK_ID}", gateway.task("COMPLETED"))
    gateway.answer(f"GET /tasks/{TASK_ID}/result/url", body)
    assert mayfly("get", TASK_ID, "--result-url").stdout == "http://store/a\n"
    shown = json.loads(mayfly("get", TASK_ID, "--result-url", "--json").stdout)
    assert shown["url"] == "http://store/a"
