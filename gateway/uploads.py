"""Uploads: bytes that go to the store by a presigned URL, past the gateway, and then into tasks."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from gateway.access import principal_of
from gateway.bodies import is_media_type
from gateway.errors import Problem
from gateway.limits.limits import admission_of
from gateway.models_uploads import UploadRequest
from gateway.parameters import parameters
from gateway.ports import Blobs
from gateway.responses import json_response
from gateway.submissions import checked, json_body
from gateway.times import now
from mayfly.settings import Settings
from mayfly.task import new_task_id
from mayfly.uploads import upload_key
from mayfly.view import timestamp


class Uploads:
    """The handler of /uploads. The gateway keeps nothing of an upload: the store has it under a key that its
    tenant and its id make."""

    def __init__(self, settings: Settings, blobs: Blobs) -> None:
        self._settings = settings
        self._blobs = blobs

    async def create(self, request: Request) -> Response:
        parameters(request)
        wanted = checked(UploadRequest, await json_body(request), "invalid_body")
        if not is_media_type(wanted.content_type):
            detail = f"contentType: {wanted.content_type[:100]!r} is no content type, such as image/png."
            raise Problem("invalid_body", detail, field="contentType")
        if wanted.size > self._settings.upload_bytes:
            detail = f"The upload has {wanted.size} bytes; {self._settings.upload_bytes} is the most."
            raise Problem("payload_too_large", detail, field="size")
        if (admission := admission_of(request)) is not None:
            admission.passed(wanted.size)
            # It is no task yet.
            admission.close(accepted=False)
        upload_id, seconds = new_task_id(), self._settings.presigned_seconds
        expires_at = timestamp(now() + seconds * 1000)
        target = await self._blobs.put_url(
            upload_key(principal_of(request).tenant, upload_id),
            size=wanted.size,
            content_type=wanted.content_type,
            sha256=wanted.sha256,
            seconds=seconds,
        )
        answer: dict[str, Any] = {
            "uploadId": upload_id,
            "method": "PUT",
            "url": target.url,
            "headers": target.headers,
            "expiresAt": expires_at,
        }
        return json_response(answer, 201, {"cache-control": "no-store"})
