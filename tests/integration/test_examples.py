"""The example functions, each on its own example inputs, in the sandboxes that tasks get."""

import socket
from collections.abc import AsyncIterator
from email import message_from_bytes, policy
from pathlib import Path

import docker
import orjson
import pytest

from dispatcher.invocation import Reply, Request, invoke
from dispatcher.runtimes.base import SandboxSpec
from dispatcher.runtimes.docker import DockerRuntime
from dispatcher.runtimes.egress import ensure_egress_network
from mayfly.build import build, function_folders
from mayfly.data import functions_dir
from mayfly.example import Example, read_examples
from mayfly.settings import Settings
from mayfly.stack.home import Home
from mayfly.stack.mail import MailSink, messages

NAMES = ["echo", "email", "report", "thumbnail", "wordcount"]
OFFLINE = [name for name in NAMES if name != "email"]


def test_these_are_the_examples() -> None:
    assert [folder.name for folder in function_folders(functions_dir())] == NAMES
    assert all(read_examples(folder) for folder in function_folders(functions_dir()))


async def run(
    runtime: DockerRuntime,
    client: docker.DockerClient,
    name: str,
    payload: bytes,
    content_type: str,
    secrets: dict[str, str] | None = None,
) -> Reply:
    function = build(functions_dir() / name, client, on_progress=print)
    spec = SandboxSpec(
        image=function.image,
        task_id="0193f5a0-0000-7000-8000-000000000002",
        function=name,
        limits=function.limits,
        network=function.network,
        env=function.env,
    )
    sandbox = await runtime.launch(spec)
    request = Request(
        task_id=spec.task_id,
        task_type=name,
        attempt=1,
        deadline_seconds=60,
        payload=payload,
        content_type=content_type,
        version=function.version,
        memory_mib=function.limits.memory_mib,
        max_result=6 << 20,
        max_log=1 << 20,
        env=secrets or {},
    )
    try:
        return await invoke(sandbox, function.contract, request)
    finally:
        await sandbox.remove()


@pytest.fixture
def mail_sink(tmp_path: Path) -> MailSink:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return MailSink(Home(tmp_path / "mail"), port)


@pytest.fixture
async def runtime(engine_address: str, tmp_path: Path, mail_sink: MailSink) -> AsyncIterator[DockerRuntime]:
    allowed = (mail_sink.environment()["MAYFLY_EGRESS_ALLOW"],)
    settings = Settings(state_dir=tmp_path / "state", docker_host=engine_address, egress_allow=allowed)
    runtime = DockerRuntime(settings, "test-examples")
    await runtime.start()
    yield runtime
    await runtime.close()


@pytest.fixture
async def mail(
    engine_address: str, tmp_path: Path, mail_sink: MailSink, docker_engine: docker.DockerClient
) -> AsyncIterator[MailSink]:
    allowed = (mail_sink.environment()["MAYFLY_EGRESS_ALLOW"],)
    settings = Settings(state_dir=tmp_path / "state", docker_host=engine_address, egress_allow=allowed)
    await mail_sink.start(ensure_egress_network(settings, docker_engine.api))
    yield mail_sink
    await mail_sink.stop()


def examples_of(*names: str) -> list[tuple[str, Example]]:
    return [(name, example) for name in names for example in read_examples(functions_dir() / name)]


@pytest.mark.parametrize(
    ("name", "example"), examples_of(*OFFLINE), ids=[f"{n}-{e.name}" for n, e in examples_of(*OFFLINE)]
)
async def test_an_example_gives_what_it_promises(
    runtime: DockerRuntime, docker_engine: docker.DockerClient, name: str, example: Example
) -> None:
    reply = await run(runtime, docker_engine, name, example.payload, example.content_type)
    assert reply.failure is None, reply.log.decode()
    assert reply.result is not None
    assert example.problems(reply.content_type, reply.result) == []


def secrets_of(mail: MailSink) -> dict[str, str]:
    found = mail.environment()
    return {name: found[f"MAYFLY_SECRET_{name}"] for name in ("SMTP_URL", "SMTP_CA")}


async def test_a_mail_arrives_and_the_result_names_it(
    runtime: DockerRuntime, docker_engine: docker.DockerClient, mail: MailSink, tmp_path: Path
) -> None:
    [(_, example)] = examples_of("email")
    reply = await run(
        runtime, docker_engine, "email", example.payload, example.content_type, secrets_of(mail)
    )
    assert reply.failure is None, (reply.failure, reply.log.decode())
    assert reply.result is not None
    assert example.problems(reply.content_type, reply.result) == []
    [path] = messages(Home(tmp_path / "mail"))
    message = message_from_bytes(path.read_bytes(), policy=policy.default)
    assert message["Message-ID"] == orjson.loads(reply.result)["messageId"]
    assert (message["Subject"], message["To"]) == ("Welcome, Ada", "ada@example.com")
    body = message.get_body(("plain",))
    assert body is not None
    assert body.get_content().strip() == "Your account is ready."


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"SMTP_CA": ""}, "SSLCertVerificationError"),
        ({"SMTP_URL": "http://127.0.0.1"}, "ValueError"),
    ],
)
async def test_a_mail_is_not_sent_over_a_connection_that_cannot_be_trusted(
    runtime: DockerRuntime,
    docker_engine: docker.DockerClient,
    mail: MailSink,
    tmp_path: Path,
    changed: dict[str, str],
    error: str,
) -> None:
    [(_, example)] = examples_of("email")
    secrets = secrets_of(mail) | changed
    reply = await run(runtime, docker_engine, "email", example.payload, example.content_type, secrets)
    assert reply.failure is not None
    assert reply.failure.error == error
    assert messages(Home(tmp_path / "mail")) == []


REFUSED = [
    ("report", b"a,b\n", "ValueError", "the CSV needs a header and a row, with a label and a number in each"),
    ("report", b"a,b\nx,1\ny,z\n", "ValueError", "row 3 has no number in its second column: ['y', 'z']"),
    ("thumbnail", b"no picture", "UnidentifiedImageError", "cannot identify image file"),
]


@pytest.mark.parametrize(("name", "payload", "error", "message"), REFUSED)
async def test_an_example_says_what_is_wrong_with_its_input(
    runtime: DockerRuntime,
    docker_engine: docker.DockerClient,
    name: str,
    payload: bytes,
    error: str,
    message: str,
) -> None:
    reply = await run(runtime, docker_engine, name, payload, "application/octet-stream")
    assert reply.failure is not None
    assert reply.failure.error == error
    assert reply.failure.message.startswith(message)


async def test_a_text_without_words_is_bad_data(
    runtime: DockerRuntime, docker_engine: docker.DockerClient
) -> None:
    reply = await run(runtime, docker_engine, "wordcount", b" \n", "text/plain")
    assert reply.failure is not None
    assert reply.failure.exit_code == 65
    assert reply.log == b"there is no word in the text\n"
