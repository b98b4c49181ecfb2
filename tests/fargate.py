"""AWS ECS with Fargate, as far as it can be had here: moto keeps the books, and this starts what it only
writes down, as processes or containers of this machine, and says what became of them.

It is spoken to by HTTP, as ECS is, so that a dispatcher in a process of its own meets it too.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

import boto3
import docker
from botocore import xform_name
from botocore.exceptions import ClientError
from docker.models.containers import Container
from moto import mock_aws
from moto.core import DEFAULT_ACCOUNT_ID
from moto.ec2 import ec2_backends
from moto.moto_api import state_manager

from mayfly.settings import Settings

BOOTSTRAP = Path(__file__).parent.parent / "images" / "python" / "bootstrap.py"
REPOSITORY = "registry.invalid/functions"


class Machine(Protocol):
    """What one task runs on."""

    def stop(self) -> None:
        """SIGTERM."""

    def kill(self) -> None: ...

    def wait(self) -> int:
        """The exit code, once it has ended."""


Start = Callable[[dict[str, Any], dict[str, str]], Machine]
"""Starts a machine, by its task's definition and the environment that it was given."""


class Process:
    """The bootstrap in a process: all that a task's container runs."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-X", "utf8", str(BOOTSTRAP), "remote"],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "LANG": "C", **environment},
            start_new_session=True,
        )

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """All of it, as with a machine."""
        pid = self._process.pid
        with suppress(OSError):
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            for child in (pid, *map(int, children)):
                os.kill(child, signal.SIGKILL)

    def wait(self) -> int:
        return self._process.wait()


class InContainer:
    """The function's image, under the confinement that its task's definition asks for."""

    def __init__(
        self, engine: docker.DockerClient, definition: dict[str, Any], environment: dict[str, str]
    ) -> None:
        [asked] = definition["containerDefinitions"]
        name, _, version = asked["image"].removeprefix(f"{REPOSITORY}:").rpartition("-")
        self._container: Container = engine.containers.run(
            f"mayfly/fn-{name}:{version}",
            asked["command"],
            detach=True,
            environment=environment,
            user=asked["user"],
            cap_drop=asked["linuxParameters"]["capabilities"]["drop"],
            init=asked["linuxParameters"]["initProcessEnabled"],
            mem_limit=f"{asked['memory']}m",
            network_mode="host",
        )

    def stop(self) -> None:
        self._container.kill("SIGTERM")

    def kill(self) -> None:
        self._container.kill()

    def wait(self) -> int:
        code = int(self._container.wait()["StatusCode"])
        self._container.remove(force=True)
        return code


@dataclass
class Run:
    """One task of the cluster."""

    arn: str
    request: dict[str, Any]
    machine: Machine | None
    told: dict[str, Any] = field(default_factory=dict)
    """What ECS says of it, over what moto does."""
    container: dict[str, Any] = field(default_factory=dict)
    stopped: bool = False
    """Whether that was asked for."""

    @property
    def environment(self) -> dict[str, str]:
        [override] = self.request["overrides"]["containerOverrides"]
        return {one["name"]: one["value"] for one in override["environment"]}


class Fargate:
    """`begin` first. Its `start` makes a task's machine; None leaves all of them PENDING."""

    def __init__(self) -> None:
        self._client = boto3.client(
            "ecs", region_name="us-east-1", endpoint_url="https://ecs.us-east-1.amazonaws.com"
        )
        # By its API it would be a second's work to load what EC2 can do.
        self.subnet: str = ec2_backends[DEFAULT_ACCOUNT_ID]["us-east-1"].describe_subnets()[0].id
        state_manager.set_transition("ecs::task", {"progression": "manual", "times": 1_000_000})
        self._lock = threading.RLock()
        self.url = ""
        self.begin(None)

    def begin(self, start: Start | None) -> None:
        """A new cluster, of which nothing is known."""
        self.start = start
        self.cluster = f"functions-{uuid.uuid4().hex[:8]}"
        self._client.create_cluster(clusterName=self.cluster)
        self.runs: list[Run] = []
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.why = ""
        """What is said of the container of a machine that ends by itself."""
        self.refusals: deque[dict[str, Any]] = deque()
        """What the next calls of RunTask are answered with: an error, or failures."""

    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(
            update={
                "ecs_cluster": self.cluster,
                "ecs_region": "us-east-1",
                "ecs_subnets": (self.subnet,),
                "ecs_security_groups": ("sg-1",),
                "ecs_execution_role": "arn:aws:iam::123456789012:role/execution",
                "functions_repository": REPOSITORY,
            }
        )

    @property
    def variables(self) -> dict[str, str]:
        """The same, for a process."""
        return {
            "AWS_ENDPOINT_URL_ECS": self.url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "MAYFLY_ECS_CLUSTER": self.cluster,
            "MAYFLY_ECS_REGION": "us-east-1",
            "MAYFLY_ECS_SUBNETS": self.subnet,
            "MAYFLY_ECS_SECURITY_GROUPS": "sg-1",
            "MAYFLY_FUNCTIONS_REPOSITORY": REPOSITORY,
        }

    def refuse(self, code: str, message: str) -> None:
        self.refusals.append({"__type": code, "message": message})

    def fail(self, reason: str) -> None:
        self.refusals.append({"tasks": [], "failures": [{"arn": "arn:aws:ecs:fargate", "reason": reason}]})

    def named(self, operation: str) -> list[dict[str, Any]]:
        return [asked for name, asked in self.calls if name == operation]

    def end(self, run: Run, *, reason: str, code: str, exit_code: int | None = None, why: str = "") -> None:
        """Its machine is gone, and ECS says why."""
        run.told = {"lastStatus": "STOPPED", "stopCode": code, "stoppedReason": reason}
        run.container = {"exitCode": exit_code} if exit_code is not None else {}
        run.container |= {"reason": why} if why else {}
        if run.machine is not None:
            run.machine.kill()

    def answer(self, operation: str, asked: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            self.calls.append((operation, asked))
            if operation == "RunTask" and self.refusals:
                return self.refusals.popleft()
            answered: dict[str, Any] = getattr(self._client, xform_name(operation))(**asked)
            if operation == "RunTask":
                self._run(answered["tasks"][0]["taskArn"], asked)
            if operation == "StopTask":
                self._stop(answered["task"]["taskArn"])
            for task in answered.get("tasks", ()):
                run = self.run_of(task["taskArn"])
                task |= run.told
                task["containers"] = [task["containers"][0] | run.container]
            return answered

    def end_all(self) -> None:
        for run in self.runs:
            if run.machine is not None and run.told["lastStatus"] != "STOPPED":
                run.machine.kill()

    def run_of(self, arn: str) -> Run:
        return next(run for run in self.runs if run.arn == arn)

    def _run(self, arn: str, asked: dict[str, Any]) -> None:
        run = Run(arn, asked, None, {"lastStatus": "PENDING"})
        self.runs.append(run)
        if self.start is not None:
            definition = self._client.describe_task_definition(taskDefinition=asked["taskDefinition"])
            run.machine = self.start(dict(definition["taskDefinition"]), run.environment)
            run.told = {"lastStatus": "RUNNING"}
            threading.Thread(target=self._wait, args=(run, run.machine), daemon=True).start()

    def _stop(self, arn: str) -> None:
        run = self.run_of(arn)
        run.stopped = True
        if run.machine is None:
            run.told = {"lastStatus": "STOPPED", "stopCode": "UserInitiated", "stoppedReason": "stopped"}
        elif run.told["lastStatus"] == "RUNNING":
            run.machine.stop()

    def _wait(self, run: Run, machine: Machine) -> None:
        code = machine.wait()
        if run.told["lastStatus"] != "STOPPED":
            stop_code = "UserInitiated" if run.stopped else "EssentialContainerExited"
            reason = "stopped" if run.stopped else "Essential container in task exited"
            run.container = {"exitCode": code} | ({"reason": self.why} if self.why else {})
            run.told = {"lastStatus": "STOPPED", "stopCode": stop_code, "stoppedReason": reason}


@contextmanager
def fargate() -> Iterator[Fargate]:
    with mock_aws():
        cloud = Fargate()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                operation = self.headers["X-Amz-Target"].rpartition(".")[2]
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                try:
                    answered = cloud.answer(operation, asked)
                except ClientError as error:
                    answered = {"__type": error.response["Error"]["Code"], "message": str(error)}
                body = json.dumps(answered, default=lambda value: value.timestamp()).encode()
                self.send_response(400 if "__type" in answered else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        cloud.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield cloud
        finally:
            server.shutdown()
            server.server_close()
            cloud.end_all()
