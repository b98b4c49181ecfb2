"""The shapes of uploads, and of downloads from the store itself."""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field, StringConstraints, WithJsonSchema

from gateway.models import Timestamp, _Model
from gateway.models_limits import WHOLE

# As the document has them: what fits is found out where they are read.
_SIZE: Final[dict[str, Any]] = {"type": "integer", "minimum": 0, "maximum": 5 * 1024**3}
_TYPE: Final[dict[str, Any]] = {
    "type": "string",
    "maxLength": 200,
    "pattern": r"^[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+( *;[ -~]*)?$",
}


class UploadRequest(_Model):
    """Bytes that are to go to the store."""

    size: Annotated[int, Field(ge=0), WHOLE, WithJsonSchema(_SIZE)] = Field(
        description="How many they are: the URL takes no more and no less."
    )
    content_type: Annotated[str, StringConstraints(max_length=200), WithJsonSchema(_TYPE)] = Field(
        "application/octet-stream", description="What they are; the function is told."
    )
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")] | None = Field(
        None, description="Their hash, in hex: a function is given no other bytes."
    )


class Upload(_Model):
    """Where to send them, with nothing but these headers."""

    upload_id: str = Field(description="A UUID: what a task gives as `upload`.")
    method: Literal["PUT"]
    url: str
    headers: dict[str, str] = Field(description="To be sent as they are, beside Content-Length.")
    expires_at: Timestamp = Field(description="Until then the URL is good.")


class ResultUrl(_Model):
    """Where the result can be had without a credential."""

    url: str
    expires_at: Timestamp = Field(description="Until then the URL is good.")


MODELS: Final[tuple[type[BaseModel], ...]] = (UploadRequest, Upload, ResultUrl)
