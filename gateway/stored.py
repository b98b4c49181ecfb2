"""Inputs that the store has before there is the task: an upload, or the payload of another task."""

import re
from typing import Final

import msgspec

from gateway.errors import Problem
from gateway.ports import Blobs, StoredObject
from gateway.submissions import BYTES, Submission
from mayfly.errors import BlobNotFound
from mayfly.settings import Settings
from mayfly.task import BlobRef
from mayfly.uploads import PAYLOADS, upload_key

_SHA256: Final = re.compile("[0-9a-f]{64}")


class StoredInputs:
    """Found, and copied for the task that is to have them: no later upload, sweep or task touches a copy."""

    def __init__(self, settings: Settings, blobs: Blobs) -> None:
        self._settings = settings
        self._blobs = blobs

    async def find(self, submission: Submission) -> Submission:
        """With what the store says of its upload, if it names one. Raises `Problem`, and
        `BlobsUnavailable`."""
        if submission.upload is None or submission.stored is not None:
            return submission
        key = upload_key(submission.tenant, submission.upload)
        try:
            found = await self._blobs.describe(key)
        except BlobNotFound as error:
            raise self._unknown(submission.upload) from error
        content_type = found.content_type or BYTES
        return msgspec.structs.replace(submission, stored=_ref(key, found), content_type=content_type)

    async def copy(self, submission: Submission, task_id: str) -> BlobRef:
        """The task's own copy, which nobody can write to, and which is kept as long as the task is.

        Raises `Problem`, and `BlobsUnavailable`.
        """
        stored, upload = submission.stored, submission.upload
        assert stored is not None
        assert upload is not None
        key = f"{PAYLOADS}{task_id}"
        try:
            await self._blobs.copy(stored.key, key)
            copied = await self._blobs.describe(key)
        except BlobNotFound as error:
            raise self._unknown(upload) from error
        ref = _ref(key, copied)
        # Its URL may be good still, and somebody wrote once more between the two looks at it.
        same = ref == msgspec.structs.replace(stored, key=key)
        if not same or (copied.content_type or BYTES) != submission.content_type:
            detail = "The upload was written anew meanwhile; post the task again once that is done."
            raise Problem("upload_changed", detail, field="upload")
        return ref

    def _unknown(self, upload: str) -> Problem:
        detail = (
            f"There are no bytes of an upload {upload}. PUT them to the url that POST /uploads gave, then "
            f"post the task within {self._settings.upload_hours:g} h."
        )
        return Problem("unknown_upload", detail, field="upload")


def _ref(key: str, found: StoredObject) -> BlobRef:
    # Not every store keeps a promise to whoever does not sign it: what is no hash is none.
    return BlobRef(key, found.size, found.sha256 if _SHA256.fullmatch(found.sha256) else "")
