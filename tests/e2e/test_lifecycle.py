"""What becomes of a task, from its acceptance to its end: on the real parts, over HTTP, as a client does."""

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import httpx
import pytest

from mayfly.adapters.kafka import Log, lane_topic
from mayfly.adapters.kafka_commands import CommandReader
from mayfly.adapters.redis import ReadModel
from mayfly.task import Lane, place_id
from tests.conftest import Mayfly
from tests.e2e.tasks import ended, logs, post, result

FUNCTIONS = {
    "flaky": """\
        print("attempt", context.attempt)
        if context.attempt < event["from"]:
            raise RuntimeError(f"attempt {context.attempt} is too early")
        return context.attempt
""",
    "advised": """\
        import mayfly
        if event == "retry" and context.attempt == 1:
            raise mayfly.Retry("not now", after=0.2)
        if event == "permanent":
            raise mayfly.Permanent("never")
        return context.attempt
""",
    "slow": """\
        import sys, time
        for step in range(int(event["seconds"] * 10)):
            context.progress(step / (event["seconds"] * 10), f"step {step}")
            print("step", step, file=sys.stderr, flush=True)
            time.sleep(0.1)
        return "done"
""",
    "single": """\
        import time
        began = time.time()
        time.sleep(event)
        return [began, time.time()]
""",
}
TOMLS = {
    "flaky": "retries = 2\n[env]\nA = 'b'\n",
    "advised": "[retries]\nmax_attempts = 4\ninitial_delay = 0.1\n",
    "single": "concurrency = 1\n",
}
SOON = 60.0


@pytest.fixture(scope="module")
def http(mayfly: Mayfly) -> httpx.Client:
    """The gateway, with this module's functions deployed."""
    for name, body in FUNCTIONS.items():
        folder = mayfly.functions / name
        folder.mkdir()
        if name in TOMLS:
            (folder / "function.toml").write_text(TOMLS[name])
        lines = "\n".join(line[4:] for line in body.splitlines())
        (folder / "handler.py").write_text(f"def handler(event, context):\n{lines}\n")
    eventually(
        lambda: all(mayfly.http.get(f"/functions/{name}").status_code == 200 for name in FUNCTIONS),
        mayfly.stack.output,
    )
    return mayfly.http


def eventually(condition: Callable[[], Any], what: str, seconds: float = 240) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)
    return found


def until_status(http: httpx.Client, task_id: str, *statuses: str) -> dict[str, Any]:
    def there() -> dict[str, Any] | None:
        task: dict[str, Any] = http.get(f"/tasks/{task_id}").json()
        return task if task.get("status") in statuses else None

    found: dict[str, Any] = eventually(there, f"{task_id} is one of {statuses}")
    return found


def outcomes(task: dict[str, Any]) -> list[str | None]:
    return [attempt.get("error", {}).get("type") for attempt in task["attempts"]]


# --- retries


def test_a_failed_attempt_is_tried_again_and_every_attempt_is_kept(http: httpx.Client) -> None:
    task = ended(http, post(http, "flaky", {"from": 3}))
    assert (task["status"], task["attempt"], task["result"]) == ("COMPLETED", 3, 3)
    assert outcomes(task) == ["Function.Error", "Function.Error", None]
    assert "error" not in task
    second = http.get(f"/tasks/{task['taskId']}/logs", params={"attempt": "2"})
    assert second.text == "attempt 2\n"
    starts = [attempt["startedAt"] for attempt in task["attempts"]]
    assert starts == sorted(starts)


def test_a_task_may_have_a_policy_of_its_own(http: httpx.Client) -> None:
    once = ended(http, post(http, "flaky", {"from": 9}, retry={"maxAttempts": 1}))
    assert (once["status"], once["attempt"], outcomes(once)) == ("FAILED", 1, ["Function.Error"])
    never = ended(http, post(http, "flaky", {"from": 9}, retry={"neverOn": ["Function.Error"]}))
    assert never["attempt"] == 1
    policy = {"maxAttempts": 2, "initialDelay": 0}
    twice = ended(http, post(http, "flaky", {"from": 9}, retry=policy))
    assert (twice["status"], twice["attempt"]) == ("FAILED", 2)
    assert twice["error"]["message"] == "attempt 2 is too early"


def test_a_handler_says_whether_it_is_worth_another_attempt(http: httpx.Client) -> None:
    again = ended(http, post(http, "advised", "retry"))
    assert (again["status"], again["attempt"]) == ("COMPLETED", 2)
    final = ended(http, post(http, "advised", "permanent"))
    assert (final["status"], final["attempt"], final["error"]["message"]) == ("FAILED", 1, "never")


# --- time


def test_a_delayed_task_is_scheduled_and_starts_when_it_is_due(http: httpx.Client) -> None:
    due = datetime.now(UTC) + timedelta(seconds=2)
    at = post(http, "echo", "at", runAt=due.isoformat())
    later = post(http, "echo", "later", delaySeconds=2)
    assert http.get(f"/tasks/{at}").json()["status"] == "SCHEDULED"
    task = ended(http, at)
    assert task["status"] == "COMPLETED"
    assert datetime.fromisoformat(task["startedAt"]) >= due - timedelta(milliseconds=2)
    assert ended(http, later)["result"] == "later"


def test_a_task_that_waits_survives_a_dispatcher_that_is_killed(mayfly: Mayfly, http: httpx.Client) -> None:
    waiting = [post(http, "echo", number, delaySeconds=6) for number in range(5)]
    for task_id in waiting:
        eventually(lambda task_id=task_id: http.get(f"/tasks/{task_id}").json().get("dueAt"), "a record")
    killed = mayfly.stack.part("dispatcher-1")
    assert killed.pid is not None
    os.kill(killed.pid, signal.SIGKILL)
    for number, task_id in enumerate(waiting):
        task = ended(http, task_id)
        assert (task["status"], task["result"], task["attempt"]) == ("COMPLETED", number, 1)


def test_a_task_that_is_too_late_fails_as_expired_and_is_a_dead_letter(http: httpx.Client) -> None:
    blocker = post(http, "single", 3)
    late = post(http, "single", 0, ttlSeconds=0.5)
    task = ended(http, late)
    assert (task["status"], task["error"]["type"]) == ("FAILED", "Task.Expired")
    assert "attempt" not in task
    letters = http.get("/dead-letters", params={"errorType": "Task.Expired"}).json()["tasks"]
    assert late in [letter["taskId"] for letter in letters]
    assert ended(http, blocker)["status"] == "COMPLETED"


# --- cancel


def cancel(http: httpx.Client, task_id: str) -> dict[str, Any]:
    answer = http.post(f"/tasks/{task_id}/cancel")
    assert answer.status_code in (200, 202), answer.text
    return ended(http, task_id)


def test_a_scheduled_task_is_cancelled_at_once(http: httpx.Client) -> None:
    task = cancel(http, post(http, "echo", 1, delaySeconds=3600))
    assert (task["status"], task["error"]["type"]) == ("CANCELLED", "Task.Cancelled")
    assert "attempt" not in task


def test_a_retrying_task_is_cancelled_at_once(http: httpx.Client) -> None:
    policy = {"maxAttempts": 3, "initialDelay": 3600, "maxDelay": 3600}
    task_id = post(http, "flaky", {"from": 9}, retry=policy)
    retrying = until_status(http, task_id, "RETRYING")
    assert retrying["error"]["message"] == "attempt 1 is too early"
    task = cancel(http, task_id)
    assert (task["status"], task["attempt"]) == ("CANCELLED", 1)


def test_a_queued_task_is_cancelled_although_nothing_is_free(http: httpx.Client) -> None:
    blocker = post(http, "single", 4)
    queued = post(http, "single", 0)
    task = cancel(http, queued)
    assert task["status"] == "CANCELLED"
    assert http.get(f"/tasks/{blocker}").json()["status"] in ("QUEUED", "IN_PROGRESS")
    assert ended(http, blocker)["status"] == "COMPLETED"


def test_a_running_task_is_stopped(http: httpx.Client) -> None:
    task_id = post(http, "slow", {"seconds": 600})
    eventually(lambda: http.get(f"/tasks/{task_id}").json().get("progress"), "it runs")
    task = cancel(http, task_id)
    assert (task["status"], task["attempt"]) == ("CANCELLED", 1)
    assert "step 0\n" in logs(http, task_id)
    again = http.post(f"/tasks/{task_id}/cancel")
    assert (again.status_code, again.json()["status"]) == (200, "CANCELLED")


def test_what_has_ended_is_not_cancelled(http: httpx.Client) -> None:
    task = ended(http, post(http, "echo", 1))
    answer = http.post(f"/tasks/{task['taskId']}/cancel")
    assert (answer.status_code, answer.json()["code"]) == (409, "task_finished")


# --- limits and lanes


def spans(http: httpx.Client, task_ids: list[str]) -> list[tuple[float, float]]:
    tasks = [ended(http, task_id) for task_id in task_ids]
    assert [task["status"] for task in tasks] == ["COMPLETED"] * len(tasks), tasks
    return sorted((task["result"][0], task["result"][1]) for task in tasks)


def test_a_function_runs_no_more_often_at_once_than_it_allows(http: httpx.Client) -> None:
    found = spans(http, [post(http, "single", 0.2) for _ in range(6)])
    assert all(before[1] <= after[0] for before, after in pairwise(found))


def test_more_than_wait_in_memory_wait_for_their_turn_all_the_same(http: httpx.Client) -> None:
    tasks = [post(http, "single", 0) for _ in range(90)]
    found = spans(http, tasks)
    assert all(before[1] <= after[0] for before, after in pairwise(found))


def test_tasks_of_one_key_run_one_at_a_time_and_other_keys_beside_them(http: httpx.Client) -> None:
    kept = [post(http, "slow", {"seconds": 0.4}, concurrencyKey="a") for _ in range(3)]
    other = post(http, "slow", {"seconds": 0.1}, concurrencyKey="b")
    assert ended(http, other)["status"] == "COMPLETED"
    tasks = sorted((ended(http, one) for one in kept), key=lambda task: task["startedAt"])
    assert all(before["finishedAt"] <= after["startedAt"] for before, after in pairwise(tasks))


def test_a_high_lane_is_served_before_a_long_low_one(http: httpx.Client) -> None:
    low = [post(http, "slow", {"seconds": 0.2}, priority="low") for _ in range(12)]
    high = post(http, "echo", 1, priority="high")
    assert ended(http, high)["status"] == "COMPLETED"
    assert [http.get(f"/tasks/{one}").json()["status"] for one in low].count("COMPLETED") < len(low)
    assert all(ended(http, one)["status"] == "COMPLETED" for one in low)


def test_an_unknown_queue_is_refused(http: httpx.Client) -> None:
    answer = http.post("/tasks", json={"taskType": "echo", "payload": 1, "queue": "nowhere"})
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_queue")


# --- once, again


def test_the_same_key_and_body_is_the_same_task(http: httpx.Client) -> None:
    key = {"idempotency-key": f"lifecycle-{time.time_ns()}"}
    first = http.post("/tasks", json={"taskType": "echo", "payload": [1]}, headers=key)
    assert first.status_code == 202
    ended(http, first.json()["taskId"])
    again = http.post("/tasks", json={"taskType": "echo", "payload": [1]}, headers=key)
    assert (again.status_code, again.json()["taskId"]) == (202, first.json()["taskId"])
    other = http.post("/tasks", json={"taskType": "echo", "payload": [2]}, headers=key)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")


async def append_again(mayfly: Mayfly, task_id: str) -> str:
    """Append a task's command once more, and behind it a task of its own, whose id is returned."""
    settings = mayfly.stack.settings
    read_model, log, reader = ReadModel(settings), Log(settings), CommandReader(settings)
    await log.start()
    fields = await read_model.get(task_id)
    assert fields is not None
    lane, partition, offset = fields["command"].split(":")
    topic = lane_topic("default", Lane(lane))
    value = await reader.read_command("default", Lane(lane), int(partition), int(offset))
    assert value is not None
    await log.append(topic, value, partition=int(partition))
    behind = await log.append(topic, b'{"taskType":"echo"}', partition=int(partition))
    await reader.close()
    await log.close()
    await read_model.close()
    return place_id(topic, behind.partition, behind.offset)


def test_a_command_of_a_keyed_task_that_comes_again_runs_nothing(mayfly: Mayfly, http: httpx.Client) -> None:
    """Where the gateway cannot know: a copy of the command, appended by hand, after its task is forgotten."""
    key = {"idempotency-key": f"copied-{time.time_ns()}"}
    posted = http.post("/tasks", json={"taskType": "echo", "payload": "x"}, headers=key)
    task = ended(http, posted.json()["taskId"])
    # The one behind it has ended: the copy was seen to.
    ended(http, asyncio.run(append_again(mayfly, task["taskId"])))
    assert http.get(f"/tasks/{task['taskId']}").json() == task


def test_a_rerun_has_the_same_input_on_the_same_image(mayfly: Mayfly, http: httpx.Client) -> None:
    first = ended(http, post(http, "echo", {"ü": [1, 2.50]}, tags=["a"], name="one"))
    answer = http.post(f"/tasks/{first['taskId']}/rerun")
    assert (answer.status_code, answer.json()["rerunOf"]) == (202, first["taskId"])
    again = ended(http, answer.json()["taskId"])
    assert (again["rerunOf"], again["image"], again["tags"]) == (first["taskId"], first["image"], ["a"])
    assert result(http, again["taskId"]) == result(http, first["taskId"])


def test_a_dead_letter_is_driven_again_once_and_can_be_purged(http: httpx.Client) -> None:
    failed = ended(http, post(http, "flaky", {"from": 2}, retry={"maxAttempts": 1}))
    letters = http.get("/dead-letters", params={"taskType": "flaky"}).json()["tasks"]
    assert failed["taskId"] in [letter["taskId"] for letter in letters]
    driven = http.post("/dead-letters/redrive", json={"taskIds": [failed["taskId"]]}).json()["redriven"]
    new = ended(http, driven[0]["newTaskId"])
    # With the policy that it was posted with: one attempt.
    assert (new["rerunOf"], new["status"]) == (failed["taskId"], "FAILED")
    assert ended(http, failed["taskId"])["status"] == "FAILED"
    assert http.post("/dead-letters/purge", json={"taskIds": [new["taskId"]]}).status_code == 200
    left = [letter["taskId"] for letter in http.get("/dead-letters").json()["tasks"]]
    assert failed["taskId"] not in left
    assert new["taskId"] not in left


# --- live


def test_progress_and_log_lines_are_seen_while_the_task_runs(http: httpx.Client) -> None:
    task_id = post(http, "slow", {"seconds": 1.5})
    events: list[tuple[str, Any]] = []
    with http.stream("GET", f"/tasks/{task_id}/events", timeout=SOON) as stream:
        assert stream.status_code == 200
        kind = ""
        for line in stream.iter_lines():
            if line.startswith("event:"):
                kind = line.removeprefix("event:").strip()
            elif line.startswith("data:"):
                events.append((kind, json.loads(line.removeprefix("data:"))))
    statuses = [data["status"] for kind, data in events if kind == "status"]
    assert statuses[-1] == "COMPLETED"
    assert any(data.get("progress") for kind, data in events if kind == "status")
    text = "".join(data["text"] for kind, data in events if kind == "log")
    assert text == "".join(f"step {step}\n" for step in range(15))
    assert text == logs(http, task_id)


def test_the_log_so_far_can_be_read_while_the_task_runs(http: httpx.Client) -> None:
    task_id = post(http, "slow", {"seconds": 600})

    def so_far() -> str:
        answer = http.get(f"/tasks/{task_id}/logs")
        return answer.text if answer.status_code == 200 else ""

    eventually(lambda: "step 2\n" in so_far(), "the first steps are there")
    with contextlib.suppress(AssertionError):
        assert until_status(http, task_id, "IN_PROGRESS")["progress"]["message"].startswith("step")
    assert cancel(http, task_id)["status"] == "CANCELLED"
