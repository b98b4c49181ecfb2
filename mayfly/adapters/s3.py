"""S3: where the bytes are. Any S3-compatible store will do; nothing here needs a conditional PUT.

The data path is obstore (a fraction of boto3's CPU per small object). What that cannot do is boto3's, which
is imported only then: to import it takes longer than to import a service's own code.
"""

import asyncio
import base64
import hashlib
import threading
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Literal, NamedTuple

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from mayfly.errors import BlobNotFound, BlobsUnavailable, SettingsError
from mayfly.settings import MIB, Settings
from mayfly.task import BlobRef

if TYPE_CHECKING:
    # It is there for types only.
    from obstore.store import ClientConfig

MAX_KEY_BYTES: Final = 1024
NOWHERE: Final = "nothing-is-here/"
"""A prefix that no key has."""
CHUNK_BYTES: Final = 10 * MIB
STREAMED_BYTES: Final = MIB
"""What is in memory of an object: of one that is read at once, and of one that is taken slowly."""
PROMISED: Final = "sha256"
"""An object's metadata: what whoever put it there said that its hash is."""
COPY_SECONDS: Final = 300.0
"""What S3 may take to copy 5 GiB."""


class Stored(NamedTuple):
    """What the store says of an object: bytes, content type, and the SHA-256 in hex that whoever put it there
    promised, or nothing."""

    size: int
    content_type: str
    sha256: str


class Presigned(NamedTuple):
    """A URL to which a request with these headers needs no credential."""

    url: str
    headers: dict[str, str]


class Blobs:
    """Objects by key. Every method raises `BlobsUnavailable` when the store does not do its part."""

    def __init__(self, settings: Settings) -> None:
        """Raises `SettingsError` for a CA file that has no certificates."""
        self._settings = settings
        options: dict[str, Any] = {"region": settings.s3_region}
        if settings.s3_endpoint:
            options |= {"endpoint": settings.s3_endpoint, "virtual_hosted_style_request": False}
        if settings.s3_access_key and settings.s3_secret_key:
            options |= {
                "access_key_id": settings.s3_access_key.get_secret_value(),
                "secret_access_key": settings.s3_secret_key.get_secret_value(),
            }
        client: ClientConfig = {
            "allow_http": bool(settings.s3_endpoint and settings.s3_endpoint.startswith("http://")),
            "timeout": timedelta(seconds=30),
            "connect_timeout": timedelta(seconds=2),
        }
        if settings.s3_ca_file is not None:
            client["root_certificate"] = _certificates(settings.s3_ca_file)
        # Whoever calls knows better how long to go on: an attempt for ever, a reader not at all.
        retry: Any = {"max_retries": 1, "retry_timeout": timedelta(seconds=5)}
        self._store = S3Store(settings.s3_bucket, **options, client_options=client, retry_config=retry)
        patient: ClientConfig = {**client, "timeout": timedelta(seconds=COPY_SECONDS)}
        # What takes as long as an object is large: its time is not bounded by that of a request.
        self._patient = S3Store(settings.s3_bucket, **options, client_options=patient, retry_config=retry)
        self._signer: Any = None
        self._making_signer = threading.Lock()

    async def put(self, key: str, data: bytes, content_type: str) -> BlobRef:
        try:
            await obstore.put_async(
                self._store, key, data, attributes={"Content-Type": content_type}, use_multipart=False
            )
        except BaseError as error:
            raise BlobsUnavailable(f"S3 did not take {key}: {_reason(error)}") from error
        return BlobRef(key=key, size=len(data), sha256=hashlib.sha256(data).hexdigest())

    async def get(self, key: str) -> bytes:
        """The object, whole. Raises `BlobNotFound`."""
        _, chunks = await self.open(key)
        return b"".join([chunk async for chunk in chunks])

    async def open(self, key: str) -> tuple[int, AsyncIterator[bytes]]:
        """The object's size in bytes, and its chunks as they arrive. Raises `BlobNotFound`."""
        response = await self._get(self._store, key)
        return response.meta["size"], self._chunks(key, response)

    async def stream(self, key: str, start: int) -> AsyncIterator[bytes]:
        """The object's chunks from that byte on, as slowly as they are taken. Raises `BlobNotFound`."""
        response = await self._get(self._patient, key, range={"offset": start})
        return self._chunks(key, response, STREAMED_BYTES)

    async def describe(self, key: str) -> Stored:
        """Raises `BlobNotFound`."""
        response = await self._get(self._store, key, head=True)
        told: dict[str, Any] = dict(response.attributes)
        return Stored(response.meta["size"], str(told.get("Content-Type", "")), str(told.get(PROMISED, "")))

    async def copy(self, key: str, to: str) -> None:
        """Within the store. Raises `BlobNotFound`."""
        try:
            await obstore.copy_async(self._patient, key, to)
        except FileNotFoundError as error:
            raise BlobNotFound(f"S3 has no {key}") from error
        except BaseError as error:
            raise BlobsUnavailable(f"S3 did not copy {key}: {_reason(error)}") from error

    async def put_file(self, key: str, file: IO[bytes], content_type: str) -> None:
        """An object of any size, from where the file stands."""
        attributes: dict[str, str] = {"Content-Type": content_type} if content_type else {}
        try:
            await obstore.put_async(self._patient, key, file, attributes=attributes)
        except BaseError as error:
            raise BlobsUnavailable(f"S3 did not take {key}: {_reason(error)}") from error

    async def keys(self) -> AsyncIterator[str]:
        """Of all objects that there are."""
        try:
            async for page in obstore.list(self._store):
                for one in page:
                    yield one["path"]
        except BaseError as error:
            raise BlobsUnavailable(f"S3 did not list its objects: {_reason(error)}") from error

    async def older(self, prefix: str, before: datetime) -> list[str]:
        """The keys below that prefix of what was put before then."""
        found: list[str] = []
        try:
            async for page in obstore.list(self._store, prefix):
                found += [one["path"] for one in page if one["last_modified"] < before]
        except FileNotFoundError:
            return []
        except BaseError as error:
            raise BlobsUnavailable(f"S3 did not list {prefix}: {_reason(error)}") from error
        return found

    async def put_url(
        self, key: str, *, size: int, content_type: str, sha256: str | None, seconds: int
    ) -> Presigned:
        """Where so many bytes of that type can be put; with their SHA-256 in hex, no others."""
        asked: dict[str, Any] = {"ContentType": content_type, "ContentLength": size}
        headers = {"content-type": content_type}
        if sha256 is not None:
            checksum = base64.b64encode(bytes.fromhex(sha256)).decode()
            asked |= {"ChecksumSHA256": checksum, "Metadata": {PROMISED: sha256}}
            headers |= {"x-amz-checksum-sha256": checksum, f"x-amz-meta-{PROMISED}": sha256}
        return Presigned(await asyncio.to_thread(self._sign, "put_object", key, asked, seconds), headers)

    async def get_url(self, key: str, *, content_type: str, disposition: str, seconds: int) -> str:
        """Where the object can be had, with these headers."""
        asked = {"ResponseContentType": content_type, "ResponseContentDisposition": disposition}
        return await asyncio.to_thread(self._sign, "get_object", key, asked, seconds)

    async def bare_url(self, method: Literal["get_object", "put_object"], key: str, seconds: int) -> str:
        """Where an object can be had, or put whatever it is, for so long, by whoever has the URL."""
        return await asyncio.to_thread(self._sign, method, key, {}, seconds)

    def _sign(self, method: str, key: str, asked: dict[str, Any], seconds: int) -> str:
        """Nothing is asked of the store: a signature is a matter of arithmetic."""
        from botocore.exceptions import BotoCoreError

        with self._making_signer:
            if self._signer is None:
                self._signer = self._client(self._settings.s3_public_endpoint or self._settings.s3_endpoint)
        parameters = {"Bucket": self._settings.s3_bucket, "Key": key, **asked}
        try:
            url: str = self._signer.generate_presigned_url(method, parameters, ExpiresIn=seconds)
        except BotoCoreError as error:
            raise BlobsUnavailable(f"no URL of {key} can be signed: {error}") from error
        return url

    async def _get(self, store: S3Store, key: str, **options: Any) -> "obstore.GetResult":
        """Raises `BlobNotFound`."""
        if not 0 < len(key.encode()) <= MAX_KEY_BYTES:
            raise BlobNotFound(f"S3 can have no key of {len(key.encode())} bytes")
        try:
            return await obstore.get_async(store, key, options=options)  # type: ignore[arg-type]
        except (FileNotFoundError, ValueError) as error:
            # A ValueError is a key that is no path, such as a foreign command may name.
            raise BlobNotFound(f"S3 has no {key}") from error
        except BaseError as error:
            raise BlobsUnavailable(f"S3 did not give {key}: {_reason(error)}") from error

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; one that is not there is no error."""
        if keys:
            await asyncio.to_thread(self._delete, keys)

    def _delete(self, keys: Sequence[str]) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        # One by one, and not by obstore: it asks for many at once, which S3Proxy cannot do.
        admin = self._admin()
        for key in keys:
            try:
                admin.delete_object(Bucket=self._settings.s3_bucket, Key=key)
            except (BotoCoreError, ClientError) as error:
                raise BlobsUnavailable(f"S3 did not remove {key}: {error}") from error

    async def _chunks(
        self, key: str, response: "obstore.GetResult", size: int = CHUNK_BYTES
    ) -> AsyncIterator[bytes]:
        try:
            async for chunk in response.stream(min_chunk_size=size):
                yield bytes(chunk)
        except BaseError as error:
            raise BlobsUnavailable(f"S3 broke off in {key}: {_reason(error)}") from error

    async def ensure_bucket(self) -> None:
        if not await self._is_there():
            await asyncio.to_thread(self._make_bucket)

    async def ping(self) -> None:
        if not await self._is_there():
            raise BlobsUnavailable(f"S3 has no bucket {self._settings.s3_bucket}")

    async def _is_there(self) -> bool:
        try:
            async for _ in obstore.list(self._store, NOWHERE):
                pass
        except FileNotFoundError:
            return False
        except BaseError as error:
            raise BlobsUnavailable(f"S3 bucket {self._settings.s3_bucket}: {_reason(error)}") from error
        return True

    def _admin(self) -> Any:
        return self._client(self._settings.s3_endpoint)

    def _client(self, endpoint: str | None) -> Any:
        import boto3
        from botocore.config import Config

        settings = self._settings
        keys = (settings.s3_access_key, settings.s3_secret_key)
        return boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name=settings.s3_region,
            aws_access_key_id=keys[0].get_secret_value() if keys[0] else None,
            aws_secret_access_key=keys[1].get_secret_value() if keys[1] else None,
            verify=str(settings.s3_ca_file) if settings.s3_ca_file else None,
            config=Config(
                connect_timeout=2,
                read_timeout=5,
                retries={"max_attempts": 1},
                # Stores other than AWS's own do not all know the newer checksums.
                request_checksum_calculation="when_required",
                # A presigned URL that is signed by the version before holds no header.
                signature_version="s3v4",
                s3={"addressing_style": "path"} if endpoint else None,
            ),
        )

    def _make_bucket(self) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        region = self._settings.s3_region
        elsewhere = {"CreateBucketConfiguration": {"LocationConstraint": region}}
        try:
            self._admin().create_bucket(
                Bucket=self._settings.s3_bucket, **({} if region == "us-east-1" else elsewhere)
            )
        except (BotoCoreError, ClientError) as error:
            raise BlobsUnavailable(f"S3 bucket {self._settings.s3_bucket}: {error}") from error


def _certificates(path: Path) -> str:
    """PEM. Raises `SettingsError`."""
    try:
        text = path.read_text()
    except (OSError, ValueError) as error:
        raise SettingsError(f"MAYFLY_S3_CA_FILE {path} cannot be read: {error}") from error
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise SettingsError(f"MAYFLY_S3_CA_FILE {path} has no PEM certificate")
    return text


def _reason(error: Exception) -> str:
    """The first line: what follows is the Rust side's own debug output."""
    return str(error).partition("\n")[0][:300]
