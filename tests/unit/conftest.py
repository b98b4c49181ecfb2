"""What unit tests share."""

import importlib
from collections.abc import Callable
from types import ModuleType

import pytest

from mayfly.base_image import python_files


@pytest.fixture
def image_module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """A module of the Python image by its name: those find each other where they lie."""

    def load(name: str) -> ModuleType:
        monkeypatch.syspath_prepend(str(python_files()[f"{name}.py"].parent))
        return importlib.import_module(name)

    return load
