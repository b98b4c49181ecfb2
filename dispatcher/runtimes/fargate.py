"""What is asked of AWS ECS: to run a task on Fargate, to stop one, and what became of them.

Everything blocks. What ECS has no room for, or cannot be asked at the moment, is `SandboxesUnavailable`:
whoever wants a sandbox waits. All else that it refuses is `SandboxLost`.
"""

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from dispatcher.runtimes.base import SandboxSpec
from dispatcher.runtimes.hardening import USER
from mayfly.errors import ImageNotThere, SandboxesUnavailable, SandboxLost, SettingsError
from mayfly.fargate import size_of
from mayfly.registry import Registry
from mayfly.settings import Settings

T = TypeVar("T")

CONTAINER: Final = "function"
COMMAND: Final = "remote"
"""Of the Python images' bootstrap: `images/python/mayfly_remote.py`."""
ORDERS: Final = "MAYFLY_ORDERS"
"""The one variable that a task is started with: where its orders are."""
CARRIER_MIB: Final = 64
"""For what carries the function's streams, beside its own memory."""
STOP_SECONDS: Final = 30
"""Between SIGTERM and SIGKILL: the function has its grace of it, and what it has said is brought home."""
BATCH: Final = 100
"""Tasks that can be asked about at once."""
GROUP: Final = "mayfly:"
"""What a task's group begins with; the fence that it runs under follows."""
ROOM: Final = (
    "RESOURCE:",
    "capacity is unavailable",
    "throttl",
    "rate exceeded",
    "reached the limit",
    "network interface",
)
"""Of what ECS says when it has no room for one more task now."""
WRONG: Final = ("ClientException", "InvalidParameterException", "UnsupportedFeatureException")
"""What trying again, and mending the cloud's rights, would not change."""


class State(NamedTuple):
    """What ECS says of one task."""

    arn: str
    status: str
    """`PENDING`, `RUNNING`, `STOPPED` and what lies between."""
    reason: str = ""
    """Why it stopped, or has not started."""
    never_ran: bool = False

    @property
    def has_started(self) -> bool:
        return self.status in ("RUNNING", "DEACTIVATING", "STOPPING", "DEPROVISIONING", "STOPPED")

    @property
    def is_over(self) -> bool:
        return self.status == "STOPPED"

    @property
    def oom_killed(self) -> bool:
        return "OutOfMemory" in self.reason

    @property
    def found_no_room(self) -> bool:
        return self.never_ran and is_no_room(self.reason)


class Fargate:
    """One cluster. `start` first."""

    def __init__(self, settings: Settings) -> None:
        assert settings.ecs_cluster is not None
        assert settings.functions_repository is not None
        self._settings = settings
        self._cluster = settings.ecs_cluster
        self._registry = Registry(settings.functions_repository)
        self._registering = threading.Lock()
        self._registered: set[str] = set()
        self._client: Any = None

    def start(self) -> None:
        """Raises `SettingsError` where boto3 finds no region or no such service. Asks ECS nothing."""
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        try:
            self._client = boto3.client(
                "ecs",
                region_name=self._settings.ecs_region,
                config=Config(connect_timeout=5, read_timeout=20, retries={"mode": "standard"}),
            )
        except BotoCoreError as error:
            raise SettingsError(f"MAYFLY_ECS_CLUSTER: {error}") from error

    def run(self, spec: SandboxSpec, orders: str, token: str) -> str:
        """Start a task, and say its ARN. Two calls with one token start one.

        What runs of an earlier claim of the same task is stopped: its dispatcher is dead, or has lost it.
        Raises `SandboxLost` where there is a later one.
        """
        self._supersede(spec)
        definition = self._definition(spec)
        request = {
            "cluster": self._cluster,
            "taskDefinition": definition["family"],
            "count": 1,
            "networkConfiguration": self._network(),
            "overrides": {
                "containerOverrides": [
                    {"name": CONTAINER, "environment": [{"name": ORDERS, "value": orders}]}
                ]
            },
            "startedBy": mark_of(spec.task_id),
            "group": f"{GROUP}{spec.fence}",
            "clientToken": token,
            **self._capacity(),
        }
        answer = self._ask(lambda: self._run(request, definition))
        if not answer["tasks"]:
            failure = (answer.get("failures") or [{}])[0]
            reason = f"{failure.get('reason', 'no reason given')} {failure.get('detail', '')}".strip()
            raise _refusal(f"ECS started no task: {reason}", no_room=is_no_room(reason))
        arn: str = answer["tasks"][0]["taskArn"]
        return arn

    def stop(self, arn: str, reason: str) -> None:
        """One that has ended, or is gone, is no error."""
        self._ask(lambda: self._client.stop_task(cluster=self._cluster, task=arn, reason=reason[:255]))

    def describe(self, arns: Sequence[str]) -> list[State]:
        """Of up to `BATCH` tasks, those that ECS knows."""
        answer = self._ask(lambda: self._client.describe_tasks(cluster=self._cluster, tasks=list(arns)))
        return [_state(task) for task in answer["tasks"]]

    def _run(self, request: dict[str, Any], definition: dict[str, Any]) -> Any:
        """The definition is made by the first task that misses it."""
        from botocore.exceptions import ClientError

        try:
            return self._client.run_task(**request)
        except ClientError as error:
            if not _is_missing(error):
                raise
        family = definition["family"]
        with self._registering:
            if family not in self._registered:
                self._client.register_task_definition(**definition)
                self._registered.add(family)
        try:
            return self._client.run_task(**request)
        except ClientError:
            # It may have been taken away since: then the next try makes it again.
            self._registered.discard(family)
            raise

    def _supersede(self, spec: SandboxSpec) -> None:
        started_by = mark_of(spec.task_id)
        listed = self._ask(lambda: self._client.list_tasks(cluster=self._cluster, startedBy=started_by))
        if not (arns := listed["taskArns"]):
            return
        found = self._ask(lambda: self._client.describe_tasks(cluster=self._cluster, tasks=arns[:BATCH]))
        for task in found["tasks"]:
            fence = task.get("group", "").removeprefix(GROUP)
            if fence.lstrip("-").isdigit() and int(fence) > spec.fence:
                raise SandboxLost("a later attempt of this task runs already")
            self.stop(task["taskArn"], "another attempt of its task follows")

    def _definition(self, spec: SandboxSpec) -> dict[str, Any]:
        """What a task runs. Its family is named after all that is in it, so that one of a name never changes.

        Raises `SandboxLost`.
        """
        limits = spec.limits
        size = size_of(limits.cpu, limits.memory_mib)
        if size is None:
            raise SandboxLost(f"Fargate has no {limits.cpu:g} cores with {limits.memory_mib} MiB")
        try:
            image = self._registry.address(spec.image)
        except ImageNotThere as error:
            raise SandboxLost(str(error)) from error
        definition: dict[str, Any] = {
            "networkMode": "awsvpc",
            "requiresCompatibilities": ["FARGATE"],
            "cpu": str(size.cpu),
            "memory": str(size.memory),
            "containerDefinitions": [
                {
                    "name": CONTAINER,
                    "image": image,
                    "command": [COMMAND],
                    "essential": True,
                    "user": USER,
                    "memory": min(size.memory, limits.memory_mib + CARRIER_MIB),
                    "stopTimeout": STOP_SECONDS,
                    "linuxParameters": {"initProcessEnabled": True, "capabilities": {"drop": ["ALL"]}},
                    "ulimits": [
                        {"name": "nofile", "softLimit": limits.open_files, "hardLimit": limits.open_files}
                    ],
                }
            ],
        }
        if self._settings.ecs_execution_role:
            definition["executionRoleArn"] = self._settings.ecs_execution_role
        digest = hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()[:16]
        return {"family": f"{self._settings.ecs_family}-{spec.function}-{digest}", **definition}

    def _network(self) -> dict[str, Any]:
        settings = self._settings
        return {
            "awsvpcConfiguration": {
                "subnets": list(settings.ecs_subnets),
                "securityGroups": list(settings.ecs_security_groups),
                "assignPublicIp": "ENABLED" if settings.ecs_public_address else "DISABLED",
            }
        }

    def _capacity(self) -> dict[str, Any]:
        if self._settings.ecs_capacity == "FARGATE":
            return {"launchType": "FARGATE"}
        return {"capacityProviderStrategy": [{"capacityProvider": self._settings.ecs_capacity}]}

    def _ask(self, request: Callable[[], T]) -> T:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return request()
        except ClientError as error:
            code = error.response["Error"]["Code"]
            waits = code not in WRONG or is_no_room(str(error))
            raise _refusal(f"ECS refused: {error}", no_room=waits) from error
        except BotoCoreError as error:
            raise SandboxesUnavailable(f"ECS does not answer: {error}") from error


def mark_of(task_id: str) -> str:
    """What all ECS tasks of one task are started by: at most the 36 characters that ECS once took."""
    return f"mayfly-{hashlib.sha256(task_id.encode()).hexdigest()[:24]}"


def is_no_room(reason: str) -> bool:
    return any(said.lower() in reason.lower() for said in ROOM)


def _refusal(message: str, *, no_room: bool) -> SandboxLost:
    return SandboxesUnavailable(message) if no_room else SandboxLost(message)


def _is_missing(error: Any) -> bool:
    code, message = error.response["Error"]["Code"], error.response["Error"].get("Message", "").lower()
    unknown = any(said in message for said in ("not found", "unable to describe", "inactive"))
    return code in WRONG and "definition" in message and unknown


def _state(task: Any) -> State:
    container = (task.get("containers") or [{}])[0]
    reasons = [task.get("stoppedReason", ""), container.get("reason", "")]
    return State(
        arn=task["taskArn"],
        status=task.get("lastStatus", ""),
        reason=": ".join(dict.fromkeys(reason for reason in reasons if reason)),
        never_ran=task.get("stopCode") == "TaskFailedToStart",
    )
