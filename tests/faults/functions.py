"""The functions that are run meanwhile, and what each of their tasks has to come to."""

import hashlib
import random
from pathlib import Path
from typing import Any, Final

PREFIX: Final = "faults-"
NAP: Final = f"{PREFIX}nap"
FORKED: Final = f"{PREFIX}forked"
WARM: Final = f"{PREFIX}warm"
FLAKY: Final = f"{PREFIX}flaky"
BULKY: Final = f"{PREFIX}bulky"
DOOMED: Final = f"{PREFIX}doomed"

_NAP: Final = """\
import time


def handler(event, context):
    time.sleep(event["seconds"])
    return {"index": event["index"], "attempt": context.attempt}
"""
HANDLERS: Final = {
    NAP: _NAP,
    FORKED: _NAP,
    WARM: _NAP,
    # Whoever took the task over has another attempt's number, and need not fail first.
    FLAKY: """\
def handler(event, context):
    if context.attempt == 1:
        raise RuntimeError("the first attempt fails")
    return {"index": event["index"], "attempt": context.attempt}
""",
    BULKY: """\
def handler(event, context):
    line = f"{event['index']} of attempt {context.attempt}\\n"
    return {"index": event["index"], "attempt": context.attempt, "text": line * (event["bytes"] // len(line))}
""",
    DOOMED: """\
def handler(event, context):
    raise ValueError(f"task {event['index']} was never to succeed")
""",
}
MANIFESTS: Final = {
    FORKED: 'isolation = "fork"\n',
    WARM: 'isolation = "warm"\n',
    BULKY: 'isolation = "warm"\n',
    # Attempts that were lost count as well: there are to be some left.
    FLAKY: 'isolation = "fork"\n[retries]\nmax_attempts = 10\ninitial_delay = 0.5\nmax_delay = 5\n',
}
SHARES: Final = {NAP: 10, FORKED: 35, WARM: 30, FLAKY: 10, BULKY: 10, DOOMED: 5}
"""Of a hundred tasks."""
ASKED_ATTEMPTS: Final = {NAP: 1, FORKED: 1, WARM: 1, FLAKY: 2, BULKY: 1, DOOMED: 1}
"""How often a task runs if nothing happens to it."""
NEVER_FAIL: Final = frozenset((NAP, FORKED, WARM, BULKY))


def write(folder: Path) -> None:
    for name, handler in HANDLERS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "function.toml").write_text(MANIFESTS.get(name, ""))
        (folder / name / "handler.py").write_text(handler)


def draw(random_: random.Random, index: int) -> tuple[str, dict[str, Any]]:
    """A function, and the payload for it."""
    (name,) = random_.choices(list(SHARES), list(SHARES.values()))
    payload: dict[str, Any] = {"index": index}
    if name in (NAP, FORKED, WARM):
        payload["seconds"] = round(random_.uniform(0.0, 0.1), 3)
    if name == BULKY:
        payload["bytes"] = random_.randrange(50_000, 300_000)
    return name, payload


def key(seed: int, index: int) -> str:
    """The Idempotency-Key of a task."""
    return hashlib.sha256(f"{seed}/{index}".encode()).hexdigest()[:32]
