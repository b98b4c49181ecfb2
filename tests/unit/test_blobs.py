"""Keys that no object can have: a foreign command may name one."""

import pytest

from mayfly.adapters.s3 import Blobs
from mayfly.errors import BlobNotFound
from mayfly.settings import Settings


@pytest.mark.parametrize("key", ["", "x" * 1025, "é" * 600, "../x", "a//b", "a/../b", ".", "a\x00b"])
async def test_a_key_that_cannot_be_names_nothing(key: str) -> None:
    """An answer at once: a store that is away would be asked for ever."""
    blobs = Blobs(Settings(s3_endpoint="http://127.0.0.1:1"))
    with pytest.raises(BlobNotFound):
        await blobs.get(key)
