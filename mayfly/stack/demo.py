"""Runs a task for every example of every function, over HTTP as any client would, and checks the result."""

import asyncio
import email.policy
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import httpx

from mayfly.build import function_folders
from mayfly.errors import FunctionError
from mayfly.example import JSON, Example, read_examples
from mayfly.stack.mail import messages
from mayfly.stack.services import client_of
from mayfly.stack.stack import Stack

PATIENCE: Final = 120.0
"""Seconds for one task, from its POST to its end."""
SHOWN: Final = 400
"""Characters of a result that are printed."""


async def run_examples(stack: Stack) -> bool:
    """Prints each task's id, its result and what was checked; whether everything was as expected."""
    assert stack.gateway is not None
    assert stack.functions is not None
    demo = Demo(stack)
    passed = []
    headers = {"authorization": f"Bearer {stack.admin_key}"} if stack.admin_key else {}
    async with client_of(stack.gateway, timeout=60, headers=headers) as http:
        for folder in function_folders(stack.functions):
            try:
                examples = read_examples(folder)
            except FunctionError as error:
                stack.say(f"\n{folder.name}: {error}")
                passed.append(False)
                continue
            passed += [await demo.run(http, folder.name, example) for example in examples]
    stack.say(f"\n{passed.count(True)} of {len(passed)} examples gave what they should")
    return bool(passed) and all(passed)


class Demo:
    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._say = stack.say

    async def run(self, http: httpx.AsyncClient, function: str, example: Example) -> bool:
        self._say(f"\n{function} {example.description or example.name}")
        mail_before = set(messages(self._stack.home))
        try:
            problems = await self._try(http, function, example)
        except httpx.HTTPError as error:
            problems = [f"the gateway does not answer: {error or type(error).__name__}"]
        arrived = [path for path in messages(self._stack.home) if path not in mail_before]
        self._show_mail(arrived)
        if function == "email" and not problems and not arrived:
            problems = ["no message arrived"]
        for problem in problems:
            self._say(f"  FAILED  {problem}")
        if not problems:
            self._say("  check   as expected")
        return not problems

    async def _try(self, http: httpx.AsyncClient, function: str, example: Example) -> list[str]:
        began = time.monotonic()
        answer = await self._post(http, function, example)
        if answer.status_code != httpx.codes.ACCEPTED:
            return [f"POST /tasks answers {answer.status_code}: {answer.text}"]
        task_id = answer.json()["taskId"]
        self._say(f"  task    {task_id}")
        task = await self._end(http, task_id)
        self._say(f"  status  {task['status']} after {time.monotonic() - began:.2f} s")
        if task["status"] != "COMPLETED":
            return [str(task.get("error") or f"it did not end within {PATIENCE:.0f} s")]
        result = await http.get(f"/tasks/{task_id}/result")
        if result.status_code != httpx.codes.OK:
            return [f"GET /tasks/{task_id}/result answers {result.status_code}: {result.text}"]
        content_type = result.headers.get("content-type", "")
        self._say(f"  result  {_shown(content_type, result.content)}")
        return example.problems(content_type, result.content)

    async def _post(self, http: httpx.AsyncClient, function: str, example: Example) -> httpx.Response:
        if example.is_json:
            body = b'{"taskType":"%s","payload":%s}' % (function.encode(), example.payload)
            return await http.post("/tasks", content=body, headers={"content-type": JSON})
        return await http.post(
            "/tasks",
            content=example.payload,
            headers={"content-type": example.content_type},
            params={"taskType": function},
        )

    async def _end(self, http: httpx.AsyncClient, task_id: str) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        while True:
            answer = await http.get(f"/tasks/{task_id}", params={"wait": "10"})
            task: dict[str, Any] = (
                answer.json() if answer.status_code == httpx.codes.OK else {"status": "UNKNOWN"}
            )
            if task["status"] in ("COMPLETED", "FAILED", "CANCELLED") or time.monotonic() > deadline:
                return task
            if "finishedAt" not in task and answer.elapsed.total_seconds() < 1:
                await asyncio.sleep(0.2)

    def _show_mail(self, arrived: Sequence[Path]) -> None:
        for path in arrived:
            message = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
            self._say(f"  mail    {path}")
            for name in ("From", "To", "Subject", "Message-ID"):
                self._say(f"          {name}: {message[name]}")
            body = message.get_body(("plain", "html"))
            for line in (body.get_content() if body else "").splitlines():
                self._say(f"          {line}")


def _shown(content_type: str, body: bytes) -> str:
    if not content_type.startswith(("text/", JSON)):
        return f"{len(body):,} bytes of {content_type}"
    text = " ".join(body.decode(errors="replace").split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(body):,} bytes of {content_type})"
