"""TLS on the way to each part, under a CA of our own; and no secret where others can read it."""

import asyncio
import os
import ssl
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import docker
import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from pydantic import SecretStr

from mayfly.adapters.kafka import FUNCTIONS_TOPIC, Log, ensure_topics, lane_topic, replay
from mayfly.adapters.kafka_table import Row, Table
from mayfly.adapters.redis import ReadModel
from mayfly.adapters.s3 import Blobs
from mayfly.audit.stores import Hashes
from mayfly.errors import BlobsUnavailable, LogUnavailable, ReadModelUnavailable
from mayfly.settings import Settings
from mayfly.stack import jars
from mayfly.stack.home import Home
from mayfly.stack.kafka import JARS, JVM
from mayfly.stack.process import Process, run
from mayfly.task import Lane

PATIENCE = 120.0
PASSWORD = "a-password-that-nobody-may-see"


@dataclass
class Authority:
    """A CA, a certificate of 127.0.0.1's under it, and its file; `another` is the file of one that is not."""

    server: trustme.LeafCert
    file: Path
    another: Path


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    folder = tmp_path_factory.mktemp("authority")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(folder / "ca.pem")
    trustme.CA().cert_pem.write_to_path(folder / "another.pem")
    return Authority(ca.issue_cert("127.0.0.1", "localhost"), folder / "ca.pem", folder / "another.pem")


@asynccontextmanager
async def behind_tls(authority: Authority, port: int) -> AsyncIterator[int]:
    """A port with TLS in front of one without."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    carried: dict[asyncio.Task[Any] | None, tuple[asyncio.StreamWriter, ...]] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        carried[asyncio.current_task()] = (writer, back)
        await asyncio.gather(carry(reader, back), carry(there, writer))

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.server.configure_cert(context)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        # Clients keep their connections for later.
        for writers in carried.values():
            for writer in writers:
                writer.close()
        await asyncio.gather(*filter(None, carried), return_exceptions=True)


async def test_redis_is_spoken_to_by_tls_with_a_user_and_only_if_its_ca_is_ours(
    settings: Settings, authority: Authority
) -> None:
    url = urlsplit(settings.redis.get_secret_value())
    assert url.port is not None
    async with behind_tls(authority, url.port) as port:
        address = f"rediss://{url.username}:{url.password}@127.0.0.1:{port}/12"
        tls = settings.model_copy(update={"redis": SecretStr(address), "redis_ca_file": authority.file})
        model, hashes = ReadModel(tls), Hashes(tls)
        await model.ping()
        assert [page async for page in hashes.all()] == [[]]
        for ca_file in (authority.another, None):
            stranger = ReadModel(tls.model_copy(update={"redis_ca_file": ca_file}))
            with pytest.raises(ReadModelUnavailable, match="certificate"):
                await stranger.ping()
            await stranger.close()
        await model.close()
        await hashes.close()


async def test_s3_is_spoken_to_by_tls_and_only_if_its_ca_is_ours(
    settings: Settings, authority: Authority
) -> None:
    port = urlsplit(settings.s3_endpoint or "").port
    assert port is not None
    async with behind_tls(authority, port) as tls_port:
        endpoint = f"https://127.0.0.1:{tls_port}"
        tls = settings.model_copy(update={"s3_endpoint": endpoint, "s3_ca_file": authority.file})
        blobs, key = Blobs(tls), f"payloads/{uuid.uuid4()}"
        await blobs.ensure_bucket()
        await blobs.put(key, b"bytes", "text/plain")
        assert await blobs.get(key) == b"bytes"
        await blobs.delete([key])
        for ca_file in (authority.another, None):
            stranger = Blobs(tls.model_copy(update={"s3_ca_file": ca_file}))
            with pytest.raises(BlobsUnavailable):
                await stranger.ping()
            with pytest.raises(BlobsUnavailable, match="certificate"):
                await stranger.delete([key])


# --- Kafka, which tells its clients where it is, so that nothing can stand in front of it

PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=SASL_SSL://127.0.0.1:{port},INTERNAL://127.0.0.1:{internal},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=SASL_SSL://127.0.0.1:{port},INTERNAL://127.0.0.1:{internal}
listener.security.protocol.map=SASL_SSL:SASL_SSL,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=INTERNAL
log.dirs={folder}/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config=\
org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=\
org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_ssl.plain.sasl.jaas.config=\
org.apache.kafka.common.security.plain.PlainLoginModule required user_mayfly="{password}";
ssl.keystore.type=PEM
ssl.keystore.location={folder}/keystore.pem
"""


@pytest.fixture
async def secured(authority: Authority, settings: Settings, tmp_path: Path) -> AsyncIterator[Settings]:
    """A broker that speaks only TLS, and only to `mayfly`."""
    folder = tmp_path / "secured"
    home = Home(folder)
    home.make()
    ports = {name: home.port(name, None) for name in ("port", "internal", "controller")}
    text = PROPERTIES.format(**ports, folder=folder, password=PASSWORD)
    (folder / "server.properties").write_text(text)
    key = serialization.load_pem_private_key(authority.server.private_key_pem.bytes(), None)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain = b"".join(blob.bytes() for blob in authority.server.cert_chain_pems)
    (folder / "keystore.pem").write_bytes(pem + chain)
    tool = [*jars.java(JARS, JVM), "kafka.tools.StorageTool", "format", "-t", "AAAAAAAAAAAAAAAAAAAAAQ"]
    tool += ["-c", str(folder / "server.properties")]
    for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
        tool += ["--add-scram", f"{mechanism}=[name=mayfly,password={PASSWORD}]"]
    code, output = await run(tool)
    assert code == 0, output
    broker = Process(home, "kafka", [*jars.java(JARS, JVM), "kafka.Kafka", str(folder / "server.properties")])
    update = {
        "kafka": f"127.0.0.1:{ports['port']}",
        "kafka_security": "SASL_SSL",
        "kafka_sasl_mechanism": "SCRAM-SHA-512",
        "kafka_user": "mayfly",
        "kafka_password": SecretStr(PASSWORD),
        "kafka_ca_file": authority.file,
        "partitions": 2,
    }
    found = settings.model_copy(update=update)
    deadline = time.monotonic() + PATIENCE
    while True:
        assert broker.exit_code is None, broker.last_words(50)
        assert time.monotonic() < deadline, broker.last_words(50)
        with suppress(LogUnavailable):
            await ensure_topics(found)
            break
    yield found
    await broker.end(30)


async def test_kafka_is_spoken_to_by_tls_and_only_where_both_know_each_other(secured: Settings) -> None:
    topic = lane_topic(secured.queue, Lane.NORMAL)
    for mechanism in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"):
        ours = secured.model_copy(update={"kafka_sasl_mechanism": mechanism})
        await ensure_topics(ours)
        async with producer(ours) as log:
            await log.ready()
            at = await log.append(topic, mechanism.encode(), partition=0)
        found = [entry.value async for batch in replay(ours, [(topic, 0)]) for entry in batch]
        assert found[at.offset] == mechanism.encode()
        rows: list[Row] = []
        table = Table(ours, FUNCTIONS_TOPIC, rows.append)
        await table.start()
        await table.reach_end()
        await table.close()
    wrongs: list[dict[str, Any]] = [
        {"kafka_password": SecretStr("a wrong one")},
        {"kafka_ca_file": None},
        {"kafka_security": "SASL_PLAINTEXT", "kafka_ca_file": None},
    ]
    for wrong in wrongs:
        async with producer(secured.model_copy(update=wrong)) as log:
            with pytest.raises(LogUnavailable) as raised:
                await log.ready()
            assert "wrong one" not in str(raised.value)


@asynccontextmanager
async def producer(settings: Settings) -> AsyncIterator[Log]:
    log = Log(settings)
    await log.start()
    yield log
    await log.close()


# --- secrets

SECRETS = {
    "MAYFLY_ADMIN_KEY": "mf_0123456789abcdef." + "Secret0admin" * 3 + "Secret0",
    "MAYFLY_JWT_SECRET": "Secret1jwt" * 4,
    "MAYFLY_REDIS": "redis://mayfly:Secret2redis%2F@127.0.0.1:1/0",
    "MAYFLY_S3_ACCESS_KEY": "Secret3access",
    "MAYFLY_S3_SECRET_KEY": "Secret4key",
    "MAYFLY_KAFKA_PASSWORD": "Secret5kafka",
    "MAYFLY_HEARTBEAT_KEY": "Secret6heartbeat" * 3,
    "MAYFLY_SECRET_TOKEN": "Secret7function",
}
AWAY = {
    "MAYFLY_KAFKA": "127.0.0.1:1",
    "MAYFLY_KAFKA_SECURITY": "SASL_SSL",
    "MAYFLY_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
    "MAYFLY_KAFKA_USER": "mayfly",
    "MAYFLY_S3_ENDPOINT": "http://127.0.0.1:1",
    "MAYFLY_PORT": "0",
    "MAYFLY_AUTH": "true",
    "MAYFLY_LOG_LEVEL": "DEBUG",
}
WORD = "Secret"


def start(module: str, log: Path, **variables: str) -> "subprocess.Popen[bytes]":
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAYFLY_")}
    with log.open("wb") as out:
        return subprocess.Popen(
            [sys.executable, "-m", module],
            env={**env, **AWAY, **SECRETS, **variables},
            stdout=out,
            stderr=out,
        )


async def until_said(process: "subprocess.Popen[bytes]", log: Path, *words: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not all(word in log.read_text() for word in words) and process.poll() is None:
        assert time.monotonic() < deadline, log.read_text()
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("module", ["gateway", "dispatcher"])
async def test_no_secret_stands_in_a_log_line_or_on_a_command_line_while_every_part_is_away(
    module: str, tmp_path: Path, docker_engine: docker.DockerClient
) -> None:
    log, address = tmp_path / "log", tmp_path / "address"
    engine = f"unix://{docker_engine.api._custom_adapter.socket_path}"
    process = start(
        module,
        log,
        MAYFLY_DOCKER_HOST=engine,
        MAYFLY_STATE_DIR=str(tmp_path / "state"),
        MAYFLY_ADDRESS_FILE=str(address),
    )
    try:
        if module == "gateway":
            await until_said(process, log, "Kafka at 127.0.0.1:1 does not answer", "S3 bucket")
            assert process.poll() is None, log.read_text()
        lines = [path.read_bytes() for path in Path("/proc").glob(f"{process.pid}/task/*/cmdline")]
        assert lines or process.poll() is not None
        assert not any(WORD.encode() in line for line in lines)
        if module == "dispatcher":
            assert await asyncio.to_thread(process.wait, PATIENCE) == 1
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, PATIENCE)
    said = log.read_text()
    assert "127.0.0.1:1" in said, said
    assert WORD not in said


@pytest.mark.parametrize("module", ["gateway", "dispatcher"])
@pytest.mark.parametrize(
    "wrong",
    [
        {"MAYFLY_REDIS": "redis://:Secret2redis/@127.0.0.1:1/0"},
        {"MAYFLY_HEARTBEAT_KEY": "Secret6short"},
    ],
)
async def test_no_secret_stands_in_an_error_of_settings(
    module: str, wrong: dict[str, str], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    process = start(module, log, MAYFLY_STATE_DIR=str(tmp_path / "state"), **wrong)
    assert await asyncio.to_thread(process.wait, PATIENCE) in (1, 2)
    said = log.read_text()
    [name] = wrong
    assert name in said
    assert WORD not in said
    assert "Traceback" not in said
