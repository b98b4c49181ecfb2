"""Uploads and downloads by presigned URLs, on the real S3."""

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import msgspec
import pytest
from gateway_process import StartGateway, commands, until

from mayfly.adapters import kafka, kafka_catalog
from mayfly.adapters.s3 import Blobs
from mayfly.client import AsyncClient, Client, NotFound
from mayfly.errors import BlobNotFound
from mayfly.function import Function
from mayfly.identity.keys import new_credential
from mayfly.settings import Settings
from mayfly.task import BlobRef, Lane, new_task_id

DATA = bytes(range(256)) * 100
DIGEST = hashlib.sha256(DATA).hexdigest()


async def test_a_presigned_url_takes_so_many_bytes_of_that_type_and_no_others(settings: Settings) -> None:
    blobs, key = Blobs(settings), f"uploads/default/{new_task_id()}"
    target = await blobs.put_url(key, size=len(DATA), content_type="image/png", sha256=DIGEST, seconds=60)
    async with httpx.AsyncClient(trust_env=False) as http:

        async def put(data: bytes, **headers: str) -> int:
            return (await http.put(target.url, content=data, headers=target.headers | headers)).status_code

        assert await put(DATA[:-1]) == 403
        assert await put(DATA, **{"content-type": "text/html"}) == 403
        with pytest.raises(BlobNotFound):
            await blobs.describe(key)
        assert await put(DATA) == 200
    assert tuple(await blobs.describe(key)) == (len(DATA), "image/png", DIGEST)


async def test_what_was_put_can_be_copied_read_from_anywhere_and_found_by_its_age(settings: Settings) -> None:
    blobs = Blobs(settings)
    folder = f"uploads/{new_task_id()}/"
    key, copy = f"{folder}a", f"payloads/{new_task_id()}"
    target = await blobs.put_url(key, size=len(DATA), content_type="image/png", sha256=DIGEST, seconds=60)
    async with httpx.AsyncClient(trust_env=False) as http:
        await http.put(target.url, content=DATA, headers=target.headers)
        await blobs.copy(key, copy)
        assert await blobs.describe(copy) == await blobs.describe(key)
        chunks = [chunk async for chunk in await blobs.stream(copy, 10)]
        assert b"".join(chunks) == DATA[10:]
        now = datetime.now(UTC)
        assert await blobs.older(folder, now + timedelta(hours=1)) == [key]
        assert await blobs.older(folder, now - timedelta(hours=1)) == []
        await blobs.delete([key])
        assert await blobs.older(folder, now + timedelta(hours=1)) == []
        with pytest.raises(BlobNotFound):
            await blobs.copy(key, copy)
        url = await blobs.get_url(copy, content_type="text/x-own", disposition="attachment", seconds=60)
        got = await http.get(url)
        assert (got.content, got.headers["content-type"]) == (DATA, "text/x-own")
        assert got.headers["content-disposition"] == "attachment"
        assert (await http.get(url.replace(copy, key))).status_code == 403


async def test_a_url_leads_to_where_clients_reach_the_store(settings: Settings) -> None:
    public = settings.model_copy(update={"s3_public_endpoint": "https://files.example.com"})
    target = await Blobs(public).put_url("uploads/a", size=1, content_type="a/b", sha256=None, seconds=60)
    assert target.url.startswith(f"https://files.example.com/{settings.s3_bucket}/uploads/a?")


async def test_a_file_that_the_client_sends_is_the_payload_of_its_own_tenants_tasks_alone(
    start_gateway: StartGateway, settings: Settings, function: Function, tmp_path: Path
) -> None:
    log = kafka.Log(settings)
    await log.start()
    function = msgspec.structs.replace(function, schema=None)
    await kafka_catalog.publish(log, function)
    await log.close()
    admin = str(new_credential())
    gateway = start_gateway(MAYFLY_AUTH="true", MAYFLY_ADMIN_KEY=admin)
    headers = {"authorization": f"Bearer {admin}"}
    file = tmp_path / "picture.png"
    file.write_bytes(DATA)
    async with gateway.client() as http:
        await until(http, "/readyz", 200)
        keys = []
        for tenant in ("acme", "zeta"):
            body = {"tenant": tenant, "scopes": ["submit", "read"]}
            keys.append((await http.post("/keys", json=body, headers=headers)).json()["key"])
    acme, zeta = Client(gateway.url, api_key=keys[0]), Client(gateway.url, api_key=keys[1])
    with acme, zeta:
        upload = await asyncio.to_thread(acme.upload, file)
        with pytest.raises(NotFound) as refused:
            await asyncio.to_thread(zeta.submit, function.name, upload=upload)
        assert refused.value.code == "unknown_upload"
        task = await asyncio.to_thread(acme.submit, function.name, upload=upload)
        async with AsyncClient(gateway.url, api_key=keys[0]) as client:
            with file.open("rb") as opened:
                second = await client.upload(opened, "image/x-own")
            other = await client.submit(function.name, upload=second)
    placed = commands(settings, Lane.NORMAL, 2)
    for one, content_type in ((task, "image/png"), (other, "image/x-own")):
        _, envelope = placed[one.task_id]
        assert envelope.payload_ref == BlobRef(f"payloads/{one.task_id}", len(DATA), DIGEST)
        assert (envelope.content_type, envelope.tenant) == (content_type, "acme")
        assert await Blobs(settings).get(f"payloads/{one.task_id}") == DATA
