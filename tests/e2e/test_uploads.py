"""Bytes that go past the gateway: by a presigned URL to the store, as a file into a function and out."""

import hashlib
import os
import textwrap
import time
from typing import Any

import pytest

from mayfly.settings import MIB
from tests.conftest import Mayfly
from tests.e2e.tasks import ended, post_bytes, result
from tests.web import WEB

SECONDS = 120
LARGE = 20 * MIB
"""More than a body may have, and than the handler may take into its memory unnoticed."""
HANDLERS = {
    "turned": """
        import pathlib


        def handler(event: pathlib.Path, context):
            turned = pathlib.Path("/tmp/turned.png")
            turned.write_bytes(event.read_bytes()[::-1][:1000])
            print(event.suffix)
            return turned
        """,
    "counted": """
        import hashlib
        import typing


        def handler(event: typing.BinaryIO, context):
            digest, size = hashlib.sha256(), 0
            while chunk := event.read(100_000):
                digest.update(chunk)
                size += len(chunk)
            return {"size": size, "sha256": digest.hexdigest()}
        """,
    "peeked": """
        import typing


        def handler(event: typing.BinaryIO, context):
            return event.read(4).decode()
        """,
}
TOML = {
    "turned": 'tmp = 64\nmemory = 256\nisolation = "container"\n',
    "counted": 'tmp = 1\nmemory = 64\nisolation = "fork"\n',
    "peeked": 'isolation = "warm"\n',
}


@pytest.fixture(scope="module")
def uploading(mayfly: Mayfly) -> Mayfly:
    for name, handler in HANDLERS.items():
        folder = mayfly.functions / name
        folder.mkdir()
        (folder / "function.toml").write_text(TOML[name])
        (folder / "handler.py").write_text(textwrap.dedent(handler).lstrip())
    deadline = time.monotonic() + SECONDS
    while not all(mayfly.http.get(f"/functions/{name}").status_code == 200 for name in HANDLERS):
        assert time.monotonic() < deadline, mayfly.stack.output
        time.sleep(0.2)
    return mayfly


def run(mayfly: Mayfly, task_type: str, upload: str) -> dict[str, Any]:
    answer = mayfly.http.post("/tasks", json={"taskType": task_type, "upload": upload})
    assert answer.status_code == 202, answer.text
    return ended(mayfly.http, answer.json()["taskId"])


def uploaded(mayfly: Mayfly, data: bytes, content_type: str, **more: Any) -> str:
    answer = mayfly.http.post("/uploads", json={"size": len(data), "contentType": content_type, **more})
    assert answer.status_code == 201, answer.text
    target = answer.json()
    put = WEB.request(target["method"], target["url"], content=data, headers=target["headers"], timeout=60)
    assert put.status_code == 200, put.text
    upload_id: str = target["uploadId"]
    return upload_id


def test_an_upload_is_a_file_in_the_function_whose_own_file_comes_back_from_the_store(
    uploading: Mayfly,
) -> None:
    data = os.urandom(LARGE)
    upload = uploaded(uploading, data, "image/png")
    task = run(uploading, "turned", upload)
    assert task["status"] == "COMPLETED", task
    assert (task["upload"], task["resultContentType"]) == (upload, "image/png")
    where = uploading.http.get(f"{task['resultUrl']}/url").json()
    got = WEB.get(where["url"])
    assert (got.status_code, got.content) == (200, data[::-1][:1000])
    assert got.headers["content-type"] == "image/png"
    assert got.headers["content-disposition"] == f'attachment; filename="{task["taskId"]}.png"'
    assert uploading.http.get(task["logsUrl"]).text == ".png\n"


def test_a_stream_may_be_larger_than_all_the_memory_of_its_function(uploading: Mayfly) -> None:
    data = os.urandom(MIB) * 96
    digest = hashlib.sha256(data).hexdigest()
    upload = uploaded(uploading, data, "video/mp4", sha256=digest)
    task = run(uploading, "counted", upload)
    assert task["result"] == {"size": len(data), "sha256": digest}


def test_a_task_gets_its_own_payload_whatever_the_one_before_has_left_unread(uploading: Mayfly) -> None:
    for word in (b"this", b"that", b"next"):
        upload = uploaded(uploading, word + b"." * LARGE, "text/plain")
        assert run(uploading, "peeked", upload)["result"] == word.decode()


def test_a_task_with_an_upload_runs_again_on_the_same_bytes(uploading: Mayfly) -> None:
    upload = uploaded(uploading, b"once more", "text/plain")
    first = run(uploading, "peeked", upload)
    answer = uploading.http.post(f"/tasks/{first['taskId']}/rerun").json()
    again = ended(uploading.http, answer["taskId"])
    assert (again["result"], again["upload"], again["rerunOf"]) == ("once", upload, first["taskId"])


def test_bytes_that_are_not_those_that_were_promised_reach_no_function(uploading: Mayfly) -> None:
    upload = uploaded(uploading, b"other bytes", "text/plain", sha256="0" * 64)
    task = run(uploading, "counted", upload)
    assert task["status"] == "FAILED"
    assert task["error"]["type"] == "Task.Invalid"


def test_a_payload_that_is_too_large_for_tmp_says_what_to_do(uploading: Mayfly) -> None:
    upload = uploaded(uploading, b"x" * (70 * MIB), "video/mp4")
    task = run(uploading, "turned", upload)
    assert task["error"]["type"] == "Function.Error"
    assert "raise `tmp` in function.toml" in task["error"]["message"]


def test_a_small_payload_of_bytes_is_a_file_as_well(uploading: Mayfly) -> None:
    task_id = post_bytes(uploading.http, "turned", b"abc", "image/png")
    assert ended(uploading.http, task_id)["status"] == "COMPLETED"
    assert result(uploading.http, task_id) == ("image/png", b"cba")
