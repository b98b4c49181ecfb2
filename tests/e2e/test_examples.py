"""The example functions as a user runs them, over HTTP; and a folder that changes while everything runs."""

import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from email import message_from_bytes, policy

import docker
import pytest

from mayfly.data import functions_dir
from mayfly.example import Example, read_examples
from mayfly.stack.deployer import deployed
from mayfly.stack.home import Home
from mayfly.stack.mail import messages
from tests.conftest import Mayfly
from tests.e2e.tasks import PATIENCE, ended, logs, post, post_bytes, result
from tests.engine import remove_images

NAMES = ["echo", "email", "report", "thumbnail", "wordcount"]
EXAMPLES = [(name, example) for name in NAMES for example in read_examples(functions_dir() / name)]


@pytest.fixture(scope="module")
def posted(mayfly: Mayfly) -> dict[tuple[str, str], str]:
    """A task for every example, all at once."""

    def submit(name: str, example: Example) -> str:
        if example.is_json:
            answer = mayfly.http.post(
                "/tasks",
                content=b'{"taskType":"%s","payload":%s}' % (name.encode(), example.payload),
                headers={"content-type": "application/json"},
            )
            assert answer.status_code == 202, answer.text
            return str(answer.json()["taskId"])
        return post_bytes(mayfly.http, name, example.payload, example.content_type)

    return {(name, example.name): submit(name, example) for name, example in EXAMPLES}


@pytest.mark.parametrize(("name", "example"), EXAMPLES, ids=[f"{n}-{e.name}" for n, e in EXAMPLES])
def test_an_example_gives_what_it_promises(
    mayfly: Mayfly, posted: dict[tuple[str, str], str], name: str, example: Example
) -> None:
    task_id = posted[name, example.name]
    task = ended(mayfly.http, task_id)
    assert task["status"] == "COMPLETED", (task["error"], logs(mayfly.http, task_id))
    content_type, body = result(mayfly.http, task_id)
    assert example.problems(content_type, body) == []
    assert task["resultSize"] == len(body)
    assert task["image"] == mayfly.http.get(f"/functions/{name}").json()["image"]


def test_the_mail_has_arrived_as_it_was_written(mayfly: Mayfly, posted: dict[tuple[str, str], str]) -> None:
    task = ended(mayfly.http, posted["email", "welcome"])
    arrived = [
        message_from_bytes(path.read_bytes(), policy=policy.default)
        for path in messages(Home(mayfly.stack.directory))
    ]
    [message] = [one for one in arrived if one["Message-ID"] == task["result"]["messageId"]]
    assert (message["Subject"], message["To"]) == ("Welcome, Ada", "ada@example.com")
    assert message["From"] == "Mayfly <mayfly@example.org>"
    text, html = message.get_body(("plain",)), message.get_body(("html",))
    assert text is not None
    assert html is not None
    assert text.get_content().strip() == "Your account is ready."
    assert html.get_content().strip() == "<p>Your account is <b>ready</b>.</p>"
    assert logs(mayfly.http, task["taskId"]) == (
        f"INFO email: sent {message['Message-ID']} to 1 recipients\n"
    )


# --- a folder that changes while everything runs


class Folder:
    """A function's folder among those that are watched."""

    def __init__(self, mayfly: Mayfly) -> None:
        self._mayfly = mayfly
        self.name = f"dropped-{uuid.uuid4().hex[:8]}"
        self.path = mayfly.functions / self.name

    def write(self, text: str) -> None:
        self.path.mkdir(exist_ok=True)
        (self.path / "handler.py").write_text(text)

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, self._mayfly.stack.output
            time.sleep(0.02)

    @property
    def version(self) -> str | None:
        answer = self._mayfly.http.get(f"/functions/{self.name}")
        return str(answer.json()["version"]) if answer.status_code == 200 else None

    def run(self, payload: object) -> object:
        task = ended(self._mayfly.http, post(self._mayfly.http, self.name, payload))
        assert task["status"] == "COMPLETED", task["error"]
        return task["result"]

    def error(self) -> str | None:
        states = deployed(Home(self._mayfly.stack.directory))
        return next((state.error for state in states if state.name == self.name), None)


@pytest.fixture
def folder(mayfly: Mayfly, docker_engine: docker.DockerClient) -> Iterator[Folder]:
    folder = Folder(mayfly)
    yield folder
    shutil.rmtree(folder.path, ignore_errors=True)
    folder.until(lambda: folder.version is None)
    remove_images(docker_engine, folder.name)


def pids(mayfly: Mayfly) -> list[int | None]:
    return [mayfly.stack.part(name).pid for name in ("gateway", "dispatcher-1")]


def test_a_folder_is_served_changed_and_survives_a_broken_change_with_no_restart(
    mayfly: Mayfly, folder: Folder
) -> None:
    before = pids(mayfly)
    refused = mayfly.http.post("/tasks", json={"taskType": folder.name, "payload": 1})
    assert refused.json()["code"] == "unknown_task_type"

    folder.write('def handler(event, context):\n    return {"first": event}\n')
    folder.until(lambda: folder.version)
    first = folder.version
    assert folder.run(1) == {"first": 1}

    folder.write('def handler(event, context):\n    return {"second": event}\n')
    folder.until(lambda: folder.version != first)
    second = folder.version
    assert folder.run(2) == {"second": 2}

    folder.write('import json\n\n\ndef handler(event, context):\n    return {"third" event}\n')
    folder.until(folder.error)
    where = f"{mayfly.functions.name}/{folder.name}/handler.py:5: SyntaxError: "
    assert (folder.error() or "").startswith(where)
    assert where in mayfly.stack.output
    assert f"version {second} goes on serving" in mayfly.stack.output
    assert folder.version == second
    assert folder.run(3) == {"second": 3}

    folder.write('def handler(event, context):\n    return {"third": event}\n')
    folder.until(lambda: folder.version != second)
    assert folder.run(4) == {"third": 4}
    folder.until(lambda: folder.error() is None)
    assert pids(mayfly) == before, "nothing was restarted"


def test_a_folder_whose_handler_cannot_be_imported_is_not_served_and_its_line_is_named(
    mayfly: Mayfly, folder: Folder
) -> None:
    folder.write("import os\nimport nobody_has_this\n\n\ndef handler(event, context):\n    return event\n")
    folder.until(folder.error)
    assert folder.error() == (
        f"{mayfly.functions.name}/{folder.name}/handler.py:2: No module named 'nobody_has_this'; "
        "if it is a package, name it in requirements.txt"
    )
    assert folder.version is None
    refused = mayfly.http.post("/tasks", json={"taskType": folder.name, "payload": 1})
    assert (refused.status_code, refused.json()["code"]) == (422, "unknown_task_type")


def test_tasks_of_a_folder_that_is_gone_are_refused(mayfly: Mayfly, folder: Folder) -> None:
    folder.write("def handler(event, context):\n    return event\n")
    folder.until(lambda: folder.version)
    task_id = post(mayfly.http, folder.name, "before")
    assert ended(mayfly.http, task_id)["result"] == "before"
    shutil.rmtree(folder.path)
    folder.until(lambda: folder.version is None)
    refused = mayfly.http.post("/tasks", json={"taskType": folder.name, "payload": "after"})
    assert refused.json()["code"] == "unknown_task_type"
    assert mayfly.http.get(f"/tasks/{task_id}").json()["result"] == "before", "what was done stays"
