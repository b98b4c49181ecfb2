"""What a build does when the engine says no."""

from types import SimpleNamespace
from typing import Any

import pytest

from mayfly.image import ATTEMPTS, BuildFailed, Context, build_image

REMOVED = {"error": 'unable to find image "sha256:4bca227a9cf4"'}
"""What engine 20.10 says of a build whose search of the cache met an image that was just removed."""


class ScriptedEngine:
    """What an engine answers to one build after the other: when another's removal comes, no test can say."""

    def __init__(self, *builds: list[dict[str, Any]]) -> None:
        self.builds = list(builds)
        self.contexts: list[bytes] = []
        self.api = SimpleNamespace(build=self._build)

    def _build(self, *, fileobj, **options: Any) -> list[dict[str, Any]]:
        self.contexts.append(fileobj.read())
        return self.builds.pop(0)


def context() -> Context:
    made = Context()
    made.add_text("Dockerfile", "FROM scratch\n")
    return made


def test_a_build_that_a_removal_breaks_off_is_built_again_of_the_same_files():
    engine = ScriptedEngine([REMOVED], [REMOVED], [{"stream": "Step 1/1"}, {"aux": {"ID": "sha256:cafe"}}])
    assert build_image(engine, context()) == "sha256:cafe"
    assert len(engine.contexts) == 3
    assert len(set(engine.contexts)) == 1
    assert b"FROM scratch" in engine.contexts[0]


def test_a_build_that_is_broken_off_every_time_fails():
    engine = ScriptedEngine(*[[REMOVED]] * ATTEMPTS)
    with pytest.raises(BuildFailed, match="unable to find image"):
        build_image(engine, context())
    assert engine.builds == []


def test_a_step_that_fails_is_not_built_again():
    engine = ScriptedEngine([{"stream": "Step 1/2"}, {"stream": "no such file"}, {"error": "exit code 1"}])
    with pytest.raises(BuildFailed, match="exit code 1") as failed:
        build_image(engine, context())
    assert failed.value.step == 1
    assert "no such file" in failed.value.log
