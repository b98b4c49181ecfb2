"""A task's end is posted to its callback: signed, once it counts, and whoever dies before."""

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from mayfly.adapters.kafka import CONTROL_TOPIC, Log, events_topic, replay
from mayfly.client import Client
from mayfly.events import Finished
from mayfly.faultpoints import WEBHOOKS, FaultPoint
from mayfly.function import Function
from mayfly.task import NO_FENCE, Failure, FailureType, Outcome, encode
from tests.e2e.conftest import Fleet, eventually
from tests.web import WEB


@dataclass
class Post:
    headers: dict[str, str]
    body: bytes

    @property
    def task(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


@dataclass
class Receiver:
    """Notes what is posted, and answers with the statuses that a test wants; 204 when there are no more."""

    port: int = 0
    posts: list[Post] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    always: int = 204

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def of(self, task_id: str) -> list[Post]:
        return [post for post in self.posts if post.task["taskId"] == task_id]

    def answer(self, post: Post) -> int:
        self.posts.append(post)
        return self.answers.pop(0) if self.answers else self.always


@pytest.fixture
def receiver(fleet: Fleet) -> Iterator[Receiver]:
    made = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            self.send_response(made.answer(Post(headers, body)))
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.port = server.server_address[1]
    fleet.environment["MAYFLY_WEBHOOK_ALLOW"] = f"127.0.0.1:{made.port}"
    fleet.environment["MAYFLY_WEBHOOK_ALLOW_HTTP"] = "true"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


def new_secret(client: Client) -> str:
    answer = WEB.put(f"{client.url}/webhooks/secret")
    assert answer.status_code == 200, answer.text
    secret: str = answer.json()["secret"]
    return secret


def is_signed(post: Post, secret: str) -> bool:
    """As docs/webhooks.md has it."""
    headers = post.headers
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + post.body
    key = base64.b64decode(secret.removeprefix("whsec_"))
    expected = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return any(hmac.compare_digest(expected, one) for one in headers["webhook-signature"].split())


def submit(client: Client, receiver: Receiver, seconds: float = 0.0, index: int = 7) -> str:
    payload = {"index": index, "seconds": seconds}
    return client.submit("sleeper", payload, callback_url=receiver.url).task_id


def delivered(fleet: Fleet) -> Callable[[], bool]:
    """Whether nothing is left to be delivered, by the dispatchers' metrics."""

    def none_waits() -> bool:
        for service in fleet.services:
            if service.process.poll() is None and "dispatcher" in service.log.name:
                text = WEB.get(f"{service.url}/metrics").text
                if "\nmayfly_webhooks_waiting 0.0" not in text:
                    return False
        return True

    return none_waits


def test_a_completed_task_is_posted_once_and_as_a_client_reads_it(
    fleet: Fleet, sleeper: Function, receiver: Receiver
) -> None:
    client = fleet.gateway()
    old, secret = new_secret(client), new_secret(client)
    fleet.dispatchers(1)
    task_id = submit(client, receiver)
    silent = client.submit("sleeper", {"index": 1, "seconds": 0}).task_id
    eventually(lambda: bool(receiver.of(task_id)), "the task is posted")
    assert client.wait(silent, timeout=60).status == "COMPLETED"
    eventually(delivered(fleet), "nothing is left")
    [post] = receiver.posts
    assert is_signed(post, secret)
    assert is_signed(post, old)
    assert not is_signed(post, "whsec_" + base64.b64encode(bytes(32)).decode())
    assert post.headers["content-type"] == "application/json"
    assert post.task["result"] == {"index": 7, "attempt": 1}
    assert post.task == WEB.get(f"{client.url}/tasks/{task_id}").json()


def test_what_was_not_taken_is_posted_again(fleet: Fleet, sleeper: Function, receiver: Receiver) -> None:
    client = fleet.gateway()
    secret = new_secret(client)
    fleet.dispatchers(1)
    receiver.answers = [500, 503]
    task_id = submit(client, receiver)
    eventually(lambda: len(receiver.of(task_id)) == 3, "it is posted three times")
    eventually(delivered(fleet), "nothing is left")
    posts = receiver.of(task_id)
    assert len(posts) == 3
    assert all(is_signed(post, secret) for post in posts)
    assert len({post.headers["webhook-id"] for post in posts}) == 1
    assert len({post.body for post in posts}) == 1


def test_who_takes_over_from_a_killed_deliverer_goes_on(
    fleet: Fleet, sleeper: Function, receiver: Receiver
) -> None:
    client = fleet.gateway()
    new_secret(client)
    [first] = fleet.dispatchers(1)
    receiver.always = 500
    task_id = submit(client, receiver)
    eventually(lambda: bool(receiver.of(task_id)), "it is tried")
    first.process.kill()
    first.process.wait()
    before = len(receiver.of(task_id))
    receiver.always = 204
    fleet.start("dispatcher").until_up()
    eventually(lambda: len(receiver.of(task_id)) > before, "it is posted by another")
    eventually(delivered(fleet), "nothing is left")
    assert len(receiver.of(task_id)) == before + 1


def test_dispatchers_share_what_is_to_be_posted_and_post_each_once(
    fleet: Fleet, light_sleeper: Function, receiver: Receiver
) -> None:
    client = fleet.gateway()
    new_secret(client)
    fleet.dispatchers(2)
    ids = [submit(client, receiver, index=number) for number in range(40)]
    eventually(lambda: len(receiver.posts) >= len(ids), "all of them are posted")
    eventually(delivered(fleet), "nothing is left")
    assert sorted(post.task["taskId"] for post in receiver.posts) == sorted(ids)


@pytest.mark.parametrize("point", WEBHOOKS)
def test_a_dispatcher_that_dies_there_loses_no_webhook(
    fleet: Fleet, sleeper: Function, receiver: Receiver, point: FaultPoint
) -> None:
    client = fleet.gateway()
    new_secret(client)
    doomed = fleet.start("dispatcher", MAYFLY_FAULT_POINT=point.value)
    task_id = submit(client, receiver)
    eventually(lambda: doomed.process.poll() is not None, f"it comes to {point}")
    fleet.start("dispatcher").until_up()
    at_least = 2 if point is FaultPoint.DELIVERED else 1
    eventually(lambda: len(receiver.of(task_id)) >= at_least, "it is posted")
    eventually(delivered(fleet), "nothing is left")
    posts = receiver.of(task_id)
    assert len({post.headers["webhook-id"] for post in posts}) == 1
    assert posts[0].task["status"] == "COMPLETED"


async def test_what_it_is_signed_with_is_not_in_the_control_topic(
    fleet: Fleet, sleeper: Function, receiver: Receiver
) -> None:
    client = fleet.gateway()
    made = [client.renew_webhook_secret().secret for _ in range(2)]
    fleet.dispatchers(1)
    task_id = submit(client, receiver)
    eventually(lambda: bool(receiver.of(task_id)), "the task is posted")
    [post] = receiver.of(task_id)
    assert all(is_signed(post, secret) for secret in made)
    entries = [entry async for batch in replay(fleet.settings, [(CONTROL_TOPIC, 0)]) for entry in batch]
    written = [entry.value or b"" for entry in entries if entry.key == "webhook/default"]
    assert b'"ciphertext"' in written[-1]
    assert not any(secret.removeprefix("whsec_").encode() in one for secret in made for one in written)


async def test_an_outcome_that_is_void_is_not_posted(
    fleet: Fleet, sleeper: Function, receiver: Receiver
) -> None:
    client = fleet.gateway()
    new_secret(client)
    fleet.dispatchers(1)
    task_id = submit(client, receiver, seconds=3)
    eventually(lambda: client.get(task_id).status == "IN_PROGRESS", "it runs")
    record = WEB.get(f"{client.url}/tasks/{task_id}").json()
    assert "finishedAt" not in record
    log = Log(fleet.settings)
    await log.start()
    void = Finished(task_id, NO_FENCE, 1, Outcome(0, 1, failure=Failure(FailureType.ERROR, "void")))
    for partition in range(fleet.settings.partitions):
        await log.append(events_topic(fleet.settings.queue), encode(void), key=task_id, partition=partition)
    await log.close()
    eventually(lambda: bool(receiver.of(task_id)), "its end is posted")
    eventually(delivered(fleet), "nothing is left")
    [post] = receiver.of(task_id)
    assert post.task["status"] == "COMPLETED"
