"""The notice of a task's end: written by the owner once the outcome counts, and before the task is over.

What becomes of it then is in test_deliveries.py.
"""

import json
from typing import Any

import pytest
from owner_world import claimed, command, finished, owner, world
from shared_log import DONE, FAILED, Owner, SharedLog

from mayfly.events import Finished
from mayfly.task import (
    BlobRef,
    Envelope,
    Failure,
    FailureType,
    Lane,
    Log,
    Origin,
    Outcome,
    Position,
    Result,
)
from mayfly.webhooks.notice import Notice

URL = "https://example.com/hook"
C0 = Position(Lane.NORMAL, 0)
CANCELLED = Outcome(0, 1, failure=Failure(FailureType.CANCELLED, "it was cancelled"))


@pytest.fixture
def log() -> SharedLog:
    return SharedLog()


def ended(log: SharedLog, outcome: Outcome = DONE, **fields: Any) -> int:
    """A task with a callback that was claimed, and has ended; the fence."""
    fence = log.claim("a", log.command("a", callback_url=URL, **fields))
    log.finish("a", fence, outcome)
    return fence


def body(notice: Notice) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(bytes(notice.body))
    return found


@pytest.mark.parametrize(
    ("outcome", "status"), [(DONE, "COMPLETED"), (FAILED, "FAILED"), (CANCELLED, "CANCELLED")]
)
def test_each_end_is_told(log: SharedLog, outcome: Outcome, status: str) -> None:
    fence = ended(log, outcome)
    mine = Owner(log)
    mine.read()
    [notice] = mine.asked.notices
    assert (notice.task_id, notice.id, notice.url) == ("a", f"msg_a_{fence}", URL)
    assert body(notice)["status"] == status


def test_a_task_without_a_callback_tells_nobody(log: SharedLog) -> None:
    log.finish("a", log.claim("a", log.command("a")))
    mine = Owner(log)
    mine.read()
    assert mine.asked.notices == []
    assert mine.is_done(C0)
    assert mine.state("a") is None


def test_the_command_is_done_only_when_the_notice_is_acknowledged(log: SharedLog) -> None:
    ended(log)
    mine = Owner(log)
    mine.read()
    mine.commit()
    assert not mine.is_done(C0)
    assert mine.partition.checkpoint().start == 0
    mine.run_errands()
    assert mine.is_done(C0)
    assert mine.state("a") is None


def test_a_new_owner_writes_what_the_one_before_did_not(log: SharedLog) -> None:
    ended(log)
    first = Owner(log)
    first.read()
    first.commit()
    second = Owner(log)
    second.read()
    assert first.asked.notices == second.asked.notices != []
    second.run_errands()
    second.commit()
    third = Owner(log)
    third.read()
    assert third.asked.notices == []


def test_an_outcome_that_is_void_tells_nobody(log: SharedLog) -> None:
    command = log.command("a", callback_url=URL)
    first = log.claim("a", command)
    second = log.claim("a", command, follows=first, by="new")
    log.finish("a", first)
    mine = Owner(log)
    mine.read()
    assert mine.asked.notices == []
    log.finish("a", second, FAILED)
    mine.read()
    log.finish("a", second)
    mine.read()
    [notice] = mine.asked.notices
    assert (notice.id, body(notice)["status"]) == (f"msg_a_{second}", "FAILED")


def test_a_failed_task_is_over_when_both_its_letter_and_its_notice_are_there(log: SharedLog) -> None:
    ended(log, FAILED)
    mine = Owner(log)
    mine.read()
    assert len(mine.asked.letters) == len(mine.asked.notices) == 1
    mine.partition.buried("a")
    assert not mine.is_done(C0)
    mine.partition.notified("a")
    assert mine.is_done(C0)
    assert mine.state("a") is None


def test_an_end_whose_command_was_not_read_yet_waits_for_it(log: SharedLog) -> None:
    """Only the command says whether anybody is to be told."""
    fence = ended(log)
    mine = Owner(log)
    mine.read(commands=False)
    assert mine.asked.notices == []
    mine.read()
    assert [notice.id for notice in mine.asked.notices] == [f"msg_a_{fence}"]
    mine.run_errands()
    assert mine.is_done(C0)


@pytest.mark.parametrize("url", [URL, None])
def test_so_does_one_that_came_out_of_a_record(log: SharedLog, url: str | None) -> None:
    """The record is gone by then, and its release is not read yet: nothing else says it."""
    log.command("a", callback_url=url)
    origin = Origin(*C0, accepted_at=5)
    fence = log.defer("a", log.claim("a", C0))
    first = Owner(log)
    first.read()
    first.run_errands()
    first.commit()
    release = log.append_command(
        Lane.NORMAL, Envelope("f", "a", callback_url=url, releases=fence, origin=origin)
    )
    resumed = log.claim("a", release, follows=fence, attempt=2)
    first.read()
    first.commit()
    first.run_errands()
    log.finish("a", resumed)
    second = Owner(log)
    second.read(commands=False)
    assert second.asked.notices == []
    assert second.state("a") is not None
    second.read()
    assert [notice.id for notice in second.asked.notices] == ([f"msg_a_{resumed}"] if url else [])
    second.run_errands()
    assert second.is_done(release)
    assert second.state("a") is None


def test_a_function_may_have_a_callback_for_its_tasks_and_a_task_its_own() -> None:
    def callback_of(envelope: Envelope) -> str | None:
        return envelope.callback_url or "https://example.com/of-the-function"

    of = world(callback_of=callback_of)
    mine = owner(of)
    for number, url in enumerate((None, URL)):
        task = f"t{number}"
        mine.take_command(command(task, number, callback_url=url))
        mine.take_event(2 * number, claimed(task, number, nonce=task), 0)
        mine.take_event(2 * number + 1, finished(task, 2 * number), 0)
        mine.pass_over()
    told = {notice.task_id: notice.url for notice in of.errands.notices}  # type: ignore[attr-defined]
    assert told == {"t0": "https://example.com/of-the-function", "t1": URL}


def test_a_partition_that_was_lost_is_not_told(log: SharedLog) -> None:
    ended(log)
    mine = Owner(log)
    mine.read()
    mine.partition.drop()
    mine.partition.notified("a")
    assert not mine.is_done(C0)


# --- what it says


def test_it_says_what_a_client_would_read_of_the_task(log: SharedLog) -> None:
    outcome = Outcome(
        1000,
        2000,
        result=Result(BlobRef("results/a/1-0", 7, "00"), inline=b'{"a":1}'),  # type: ignore[arg-type]
        log=Log(BlobRef("logs/a", 3, "00")),
    )
    position = log.command("a", callback_url=URL, name="n", tags=("x",), ttl_seconds=5.0)
    fence = log.claim("a", position, image="mayfly/f:1", by="me")
    log.finish("a", fence, outcome)
    mine = Owner(log)
    mine.read()
    [notice] = mine.asked.notices
    assert body(notice) == {
        "taskId": "a",
        "taskType": "f",
        "queue": "q",
        "priority": "normal",
        "status": "COMPLETED",
        "name": "n",
        "createdAt": "1970-01-01T00:00:00.000Z",
        "startedAt": "1970-01-01T00:00:01.000Z",
        "finishedAt": "1970-01-01T00:00:02.000Z",
        "dispatcher": "me",
        "image": "mayfly/f:1",
        "resultContentType": "application/json",
        "tags": ["x"],
        "attempt": 1,
        "ttlSeconds": 5.0,
        "resultUrl": "/tasks/a/result",
        "resultSize": 7,
        "result": {"a": 1},
        "logsUrl": "/tasks/a/logs",
        "attempts": body(notice)["attempts"],
    }
    assert [one["attempt"] for one in body(notice)["attempts"]] == [1]


def test_a_large_result_is_a_link(log: SharedLog) -> None:
    inline = json.dumps("x" * 40_000).encode()
    ended(log, Outcome(0, 1, result=Result(BlobRef("k", len(inline), "00"), inline=inline)))  # type: ignore[arg-type]
    mine = Owner(log)
    mine.read()
    told = body(mine.asked.notices[0])
    assert "result" not in told
    assert (told["resultUrl"], told["resultSize"]) == ("/tasks/a/result", len(inline))


def test_of_a_retried_task_it_has_every_attempt(log: SharedLog) -> None:
    command = log.command("a", callback_url=URL)
    first = log.claim("a", command)
    second = log.claim("a", command, follows=first, by="new", attempt=2)
    log.append(Finished("a", second, 2, FAILED))
    mine = Owner(log)
    mine.read()
    told = body(mine.asked.notices[0])
    assert [one["error"]["type"] for one in told["attempts"]] == ["Sandbox.Lost", "Function.Error"]
    assert told["error"] == {"type": "Function.Error", "message": "no"}
    assert told["attempt"] == 2
