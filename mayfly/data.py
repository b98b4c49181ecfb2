"""Where the files are that Mayfly ships beside its code: in a checkout, or in an installed wheel."""

from pathlib import Path

_PACKAGE = Path(__file__).parent


def images_dir() -> Path:
    """The recipes of the base images, with the bootstrap."""
    return _find("images")


def functions_dir() -> Path:
    """The example functions."""
    return _find("functions")


def _find(name: str) -> Path:
    installed = _PACKAGE / "_data" / name
    return installed if installed.is_dir() else _PACKAGE.parent / name
