"""Every answer of the gateway is as its OpenAPI document says, to right and wrong requests that are made of
it by schemathesis, with all of its checks.
"""

import json
import logging
import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import pytest
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.core.failures import AcceptedNegativeData, Failure
from schemathesis.engine import Status, events, from_schema
from schemathesis.openapi.checks import RejectedPositiveData

from tests.fuzz.bounds import AT_RANDOM, CASES, patient
from tests.fuzz.served import Served

JSON: Final = "application/json"
REFUSED: Final = ["400", "401", "403", "404", "405", "409", "413", "415", "422", "429"]
"""What wrong requests are answered with: 413 among it, and no error of the server, as schemathesis has it."""
Problem = dict[str, Any]


class Excuse(NamedTuple):
    """What a check cannot know: of which failures, by the request and the answer's body, and why."""

    failure: type[Failure]
    why: str
    holds: Callable[[Any, Problem], bool]


EXCUSES: Final = (
    Excuse(
        RejectedPositiveData,
        "which functions and queues there are, and what the one in the path takes, is no matter of a schema",
        lambda case, body: body.get("code") in ("unknown_task_type", "unknown_queue", "invalid_payload"),
    ),
    Excuse(
        RejectedPositiveData,
        "nor whether that takes anything but JSON",
        lambda case, body: body.get("detail", "").endswith(" takes JSON only: send application/json."),
    ),
    Excuse(
        RejectedPositiveData,
        "where a callback may lead is a matter of its host's address",
        lambda case, body: body.get("code") == "invalid_callback",
    ),
    Excuse(
        RejectedPositiveData,
        "a cursor is what a list gave",
        lambda case, body: (body.get("code"), body.get("field")) == ("invalid_parameter", "cursor"),
    ),
    Excuse(
        RejectedPositiveData,
        "no schema has a rule over two parameters, or knows what day it is",
        lambda case, body: (
            body.get("field") == "runAt"
            and body["detail"].endswith(("exclude each other.", "at most 366 days ahead."))
        ),
    ),
    Excuse(
        RejectedPositiveData,
        "which fields of a function fit each other, the path, and what runs, is more than a schema can say",
        lambda case, body: (
            case.operation.label == "PUT /functions/{name}"
            and body.get("code") in ("invalid_body", "invalid_number")
            and str(body.get("field")).startswith("function.")
        ),
    ),
    Excuse(
        RejectedPositiveData,
        "nor does one know which versions a function has, and what their shares come to",
        lambda case, body: (body.get("code"), body.get("field")) == ("invalid_body", "shares"),
    ),
    Excuse(
        AcceptedNegativeData,
        "the items of a batch are refused one by one, within an answer of 200",
        lambda case, body: case.operation.path == "/tasks/batch" and body.get("refused", 0) > 0,
    ),
)


@schemathesis.serializer("application/x-ndjson")
def _a_line(_context: Any, value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: dict[str, Any]) -> None:
    """The query of POST /tasks is for what comes beside bytes, and needed there: no document can say that."""
    right = case.meta is not None and case.meta.generation.mode.is_positive
    if case.operation.label == "POST /tasks" and right:
        case.query = {} if case.media_type == JSON else {"taskType": "echo", **(case.query or {})}


@schemathesis.hook
def filter_failure(_context: Any, failure: Failure, case: Any, response: Any) -> bool:
    """Whether it is one."""
    try:
        body = response.json()
    except ValueError:
        return True
    return not any(
        isinstance(failure, one.failure) and isinstance(body, dict) and one.holds(case, body)
        for one in EXCUSES
    )


def document_of(world: Served, examples: int, seed: int) -> Any:
    """The document as schemathesis takes it, with that many requests to each operation to be made up."""
    cut = not AT_RANDOM
    config = SchemathesisConfig.from_dict(
        {
            "seed": seed,
            "continue-on-failure": True,
            "auth": {"openapi": {"bearer": {"bearer": str(world.admin)}}},
            "generation": {"max-examples": examples, "deterministic": cut, "database": "none"},
            "suppress-health-check": ["all"],
            # What one run has learned is not the next one's: the cut is always the same.
            "cache": {"enabled": False},
            # Of a slow machine: nothing is waited for.
            "request-timeout": 600,
            # Each limit of each schema, and sequences of operations: thousands of requests.
            "phases": {"coverage": {"enabled": not cut}, "stateful": {"enabled": not cut}},
            "checks": {"negative_data_rejection": {"expected-statuses": REFUSED}},
            # It has no end: what is looked at is how it begins.
            "operations": [{"include-operation-id": "watchTasks", "max-stream-events": 1}],
        }
    )
    return schemathesis.openapi.from_asgi("/openapi.json", world.app, config=config)


def answers_to(document: Any) -> tuple[int, list[str]]:
    """How many requests were answered, and what was wrong with the answers."""
    count, wrong = 0, []
    for event in from_schema(document).execute():
        if isinstance(event, events.ScenarioFinished):
            count += len(event.recorder.interactions)
            for case_id, checks in event.recorder.checks.items():
                wrong += [
                    _told(event, case_id, check)
                    for check in checks
                    if check.status is not Status.SUCCESS and check.failure_info is not None
                ]
        elif isinstance(event, events.NonFatalError):
            wrong.append(f"{event.label}: {event.info.format()}")
        elif isinstance(event, events.FatalError):
            raise event.exception
    return count, wrong


def _told(event: Any, case_id: str, check: Any) -> str:
    failure = check.failure_info.failure
    at = event.recorder.interactions.get(case_id)
    answer = at.response if at is not None else None
    said = "" if answer is None else f"{answer.status_code} {answer.content!r:.1000}"
    return (
        f"{event.phase.value}, {check.name}: {failure.title}: {failure.message}\n"
        f"{check.failure_info.code_sample}\n{said}\n"
    )


@patient
def test_every_answer_is_as_the_document_says(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    count, wrong, seed = 0, [], 1
    while count < CASES and not wrong:
        world = Served()
        document = document_of(world, 1, seed)
        document.config.generation.update(max_examples=math.ceil((CASES - count) / len(document)))
        more, wrong = answers_to(document)
        count, seed = count + more, seed + 1
        # What was accepted, a dispatcher can read.
        assert world.commands.envelopes
    print(f"{count} requests")
    assert not wrong, f"{len(wrong)} of {count} answers are wrong:\n\n" + "\n".join(wrong[:20])
