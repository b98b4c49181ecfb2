"""The operations of uploads, and of downloads from the store itself, for the OpenAPI document."""

from typing import Any

from gateway import operations as op


def paths() -> dict[str, Any]:
    wrong = (*op._BODY, "payload_too_large", "overloaded", "blobs_unavailable")
    gone = ("unknown_task", "task_not_finished", "no_result", "blob_gone")
    return {
        "/uploads": {
            "post": op._operation("tasks", "createUpload", "A URL to which a task's payload can be sent")
            | {
                "description": (
                    "The bytes go to the store, past the gateway: PUT them to `url` with `headers`. A task "
                    "that names the upload in place of a payload gets a copy of them."
                ),
                "requestBody": op._body("UploadRequest", required=True),
                "responses": {"201": op._json("Where to send them", "Upload"), **op._problems(*wrong)},
            },
        },
        "/tasks/{task_id}/result/url": {
            "get": op._read(
                "tasks",
                "getResultUrl",
                "A URL at which the store itself gives the result",
                "ResultUrl",
                *gone,
                "read_model_unavailable",
                "blobs_unavailable",
            )
            | {"parameters": [op._task_id()]},
        },
    }
