"""Every setting, read in one place from environment variables with the prefix `MAYFLY_`.

`Settings()` reads the environment. The services take a `Settings`; nothing else looks at `os.environ`.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, FilePath, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from mayfly.errors import SettingsError
from mayfly.identity.signatures import SHORTEST_SECRET

KIB = 1024
MIB = 1024 * KIB


class Settings(BaseSettings):
    """What the gateway, the dispatcher and the tools can be told. Units are in the names or the text."""

    model_config = SettingsConfigDict(
        env_prefix="MAYFLY_",
        frozen=True,
        extra="ignore",
        # An error would show every setting, and secrets are among them.
        hide_input_in_errors=True,
    )

    # --- the gateway
    host: str = "127.0.0.1"
    """Where the gateway listens. Anything but loopback is refused while `auth` is off."""
    port: int = Field(8080, ge=0, le=65535)
    """The gateway's port; 0 takes a free one."""

    auth: bool = False
    """Whether everybody has to say who they are. Without it the gateway listens on loopback only."""
    admin_key: SecretStr | None = None
    """An API key that is good for everything and stands nowhere but here: `mayfly keys generate` prints one.
    With it the first stored keys are made."""
    jwt_secret: SecretStr | None = None
    """What tokens are signed with by HS256, 32 bytes or more; with it `POST /login` issues them."""
    jwt_jwks_url: str | None = None
    """Where an identity provider's public keys are, for tokens signed by RS256, ES256 or EdDSA."""
    jwt_issuer: str = "mayfly"
    jwt_audience: str = "mayfly"
    login_seconds: int = Field(3600, ge=60, le=86_400)
    """How long a token of `POST /login` is good for."""

    # --- secrets: the same for gateways and dispatchers
    secrets_key: SecretStr | None = None
    """What secrets are encrypted with, 32 bytes in base64: `mayfly secrets generate-key` prints one."""
    secrets_keys_old: SecretStr | None = None
    """Keys of before, with commas between: they open what `mayfly secrets rotate` has not come to yet."""
    secrets_kms_key: str | None = None
    """A key of AWS KMS that encrypts in its place: id, ARN or alias."""
    # --- what a caller may ask for, unless its key or its tenant has another allowance; unset: as it likes
    limit_requests_per_second: float | None = Field(None, gt=0)
    """On average; 5 s' worth may come at once."""
    limit_waiting_tasks: int | None = Field(None, ge=0)
    """Tasks of a tenant that are QUEUED, SCHEDULED or RETRYING."""
    limit_running_tasks: int | None = Field(None, ge=0)
    """Tasks of a tenant that are IN_PROGRESS while it posts another."""
    limit_payload_bytes_per_day: int | None = Field(None, ge=0)
    """Of the bodies that bring tasks, in a day, UTC."""
    max_waiting_tasks: int = Field(1_000_000, ge=0)
    """Tasks of everybody that may wait: beyond it a POST is a 503. 0: as many as come."""
    max_in_flight: int = Field(1000, ge=1)
    """Tasks that one gateway has on their way to the log at once: beyond it a POST is a 503."""
    max_connections: int = Field(4096, ge=1)
    """Connections that one gateway has at once: beyond it whoever has asked for nothing the longest goes."""

    # --- the log
    kafka: str = "127.0.0.1:9092"
    """Bootstrap servers, host:port, with commas between."""
    kafka_security: Literal["PLAINTEXT", "SSL", "SASL_SSL", "SASL_PLAINTEXT"] = "PLAINTEXT"
    """How the brokers are spoken to: `SSL` is TLS, `SASL` says who we are."""
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = None
    """By what: a user and a password, or, `OAUTHBEARER`, the AWS credentials that boto3 finds (MSK IAM)."""
    kafka_user: str | None = None
    kafka_password: SecretStr | None = None
    kafka_ca_file: FilePath | None = None
    """PEM certificates that the brokers' are signed by; unset means those that the system trusts."""
    kafka_region: str | None = None
    """The AWS region of an MSK cluster, for `OAUTHBEARER`; unset means the one that boto3 finds."""
    partitions: int = Field(8, ge=1, le=1000)
    """Partitions of each of a queue's topics: bounds its dispatchers, and never changes while it lives."""
    produce_timeout_seconds: float = Field(10.0, gt=0)
    """How long a POST waits for the log's acknowledgement before it answers 503."""

    # --- the read model
    redis: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    """URL of Redis, with its user and password if it has them; `rediss://` is TLS."""
    redis_ca_file: FilePath | None = None
    """PEM certificates that its own is signed by; unset means those that the system trusts."""

    # --- the store
    s3_endpoint: str | None = None
    """URL of an S3-compatible store; unset means AWS."""
    s3_bucket: str = "mayfly"
    s3_region: str = "us-east-1"
    s3_access_key: SecretStr | None = None
    s3_secret_key: SecretStr | None = None
    s3_ca_file: FilePath | None = None
    """PEM certificates that an https endpoint's own is signed by, beside those that the system trusts."""
    s3_public_endpoint: str | None = None
    """URL by which clients reach the store, for uploads and downloads; unset: as the gateway does."""
    presigned_seconds: int = Field(900, ge=1, le=7 * 86_400)
    """How long the URL of an upload or a download is good for."""
    upload_bytes: int = Field(5 * 1024 * MIB, ge=0, le=5 * 1024 * MIB)
    """A larger upload is refused with 413. S3 takes 5 GiB at once, and copies no more."""
    upload_hours: float = Field(24.0, gt=0)
    """How long an upload can be used for tasks; then it is removed. Their copies of it stay with them."""

    # --- the dispatcher
    queue: str = "default"
    """The queue that this dispatcher serves."""
    slots: int = Field(default_factory=lambda: max(2, os.cpu_count() or 1), ge=1, le=1000)
    """Tasks that a dispatcher runs at once."""
    grace_seconds: float = Field(30.0, ge=0)
    """How long a dispatcher that was told to stop lets running tasks finish."""
    dispatcher_host: str = "127.0.0.1"
    dispatcher_port: int = Field(0, ge=0, le=65535)
    """Where the dispatcher serves /healthz and /metrics; port 0 takes a free one."""
    heartbeat_seconds: float = Field(0.5, gt=0)
    """What /workers shows is to be at most a second old: half of it is the beat, the rest the way there."""
    heartbeat_life_seconds: float = Field(5.0, gt=0)
    """A dispatcher that has not been seen for this long may have its tasks taken over."""
    heartbeat_key: SecretStr | None = None
    """What heartbeats are signed with, 32 bytes or more: the same for gateways and dispatchers. Unset,
    whoever can write in Redis is believed."""
    functions_dir: Path | None = None
    """Where the functions' folders are on this machine; their `.env` files are read from there."""
    functions_repository: str | None = None
    """A registry's repository, `host/path`, that carries functions' images to other machines' dispatchers."""
    state_dir: Path = Path(".mayfly")
    """Where a dispatcher keeps the lock file that marks its sandboxes as its own."""
    runtime: Literal["docker", "oci"] = "docker"
    """What launches sandboxes: a Docker engine, or `crun` or `runc` without one (root on Linux only)."""
    egress_allow: Annotated[tuple[str, ...], NoDecode] = ()
    """`host:port` pairs, with commas between, that sandboxes with `network = "egress"` may reach although
    they are private."""
    egress_open: bool = False
    """Accept egress without address rules, where they cannot be set."""
    retention_days: float = Field(7.0, ge=0)
    """How long a task's status, result and log are kept after its end; 0 keeps them for ever."""
    dead_letter_retention_days: float = Field(30.0, ge=0)
    """The same for dead letters, which somebody is to look at."""
    pool_memory_mib: int = Field(default_factory=lambda: _memory_mib() // 4, ge=0)
    """What sandboxes that wait for a task may come to use together, MiB; 0 keeps none ready."""
    docker_host: str | None = None
    """The Docker engine's address; unset means DOCKER_HOST, the Docker context, the default socket."""
    docker_runtime: str | None = None
    """The OCI runtime, by its name in the engine's configuration, that sandboxes are started with there.
    Unset: `crun`, where the engine has it beside its default `runc` and can start a container with it; else
    the engine's default."""

    # --- tasks on AWS ECS: those of functions with `runtime = "ecs"`
    ecs_cluster: str | None = None
    """The cluster that runs them on Fargate, by name or ARN; unset: they are refused here."""
    ecs_region: str | None = None
    """Its region; unset means the one that boto3 finds."""
    ecs_subnets: Annotated[tuple[str, ...], NoDecode] = ()
    """The subnets that they are in, with commas between: the more zones, the more room."""
    ecs_security_groups: Annotated[tuple[str, ...], NoDecode] = ()
    """What they may reach is what these allow: the store and the registry, and what `egress` is to be."""
    ecs_execution_role: str | None = None
    """ARN of the role that ECS pulls their images with; unset: the registry wants none."""
    ecs_family: str = Field("mayfly-fn", pattern=r"^[A-Za-z0-9_-]{1,100}$")
    """What the names of their task definitions begin with."""
    ecs_capacity: Literal["FARGATE", "FARGATE_SPOT"] = "FARGATE"
    """`FARGATE_SPOT` is cheaper, and a task may be lost at any moment: then it runs again."""
    ecs_public_address: bool = False
    """Whether each has a public address: in a subnet without NAT it reaches nothing without one."""

    # --- webhooks
    webhook_allow: Annotated[tuple[str, ...], NoDecode] = ()
    """`host:port` pairs, with commas between, that callbacks may lead to although they are private."""
    webhook_allow_http: bool = False
    """Whether callbacks may be http URLs."""

    # --- limits, bytes
    payload_inline_bytes: int = Field(64 * KIB, ge=0, le=400 * KIB)
    """A larger payload goes to S3 and rides in the envelope by reference. A command has to fit one record of
    the log, with all that comes to be said of its task."""
    payload_bytes: int = 6 * MIB
    """A larger payload is refused with 413."""
    batch_bytes: int = 64 * MIB
    """What the lines of a batch may come to together; more is not read."""
    result_inline_bytes: int = 32 * KIB
    """A larger result is a link in a task's status."""
    result_bytes: int = 6 * MIB
    """A larger result ends its attempt with Function.BadResult."""
    log_bytes: int = 1 * MIB
    """What is kept of an attempt's log; the rest is counted and dropped."""

    fault_point: str | None = None
    """For tests: where the process kills itself. See `mayfly/faultpoints.py`."""
    log_level: str = "INFO"
    address_file: Path | None = None
    """Where a service writes the URL that it came to listen on, for whoever gave it port 0."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            first = error.errors()[0]
            name = "MAYFLY_" + "_".join(str(part) for part in first["loc"]).upper()
            raise SettingsError(f"{name}: {first['msg']}") from error

    @field_validator("egress_allow", "webhook_allow", "ecs_subnets", "ecs_security_groups", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return (
            tuple(part.strip() for part in value.split(",") if part.strip())
            if isinstance(value, str)
            else value
        )

    @model_validator(mode="after")
    def _fit(self) -> Self:
        """Raises `SettingsError` for what is well each by itself and not together."""
        security, mechanism = self.kafka_security, self.kafka_sasl_mechanism
        key = self.heartbeat_key.get_secret_value() if self.heartbeat_key is not None else None
        if key is not None and len(key.encode()) < SHORTEST_SECRET:
            raise SettingsError(f"MAYFLY_HEARTBEAT_KEY: it has at least {SHORTEST_SECRET} bytes")
        if security.startswith("SASL") != (mechanism is not None):
            raise SettingsError(
                f"MAYFLY_KAFKA_SECURITY is {security} and MAYFLY_KAFKA_SASL_MECHANISM "
                f"{mechanism or 'is not set'}: SASL_SSL and SASL_PLAINTEXT need one, the others have none"
            )
        known = self.kafka_user is not None and self.kafka_password is not None
        if mechanism not in (None, "OAUTHBEARER") and not known:
            raise SettingsError(
                f"MAYFLY_KAFKA_SASL_MECHANISM {mechanism} needs MAYFLY_KAFKA_USER and MAYFLY_KAFKA_PASSWORD"
            )
        if self.kafka_ca_file is not None and security not in ("SSL", "SASL_SSL"):
            raise SettingsError("MAYFLY_KAFKA_CA_FILE is for MAYFLY_KAFKA_SECURITY SSL and SASL_SSL")
        if self.redis_ca_file is not None and not self.redis.get_secret_value().startswith("rediss://"):
            raise SettingsError("MAYFLY_REDIS_CA_FILE is for a MAYFLY_REDIS that begins with rediss://")
        if self.s3_ca_file is not None and (self.s3_endpoint or "").startswith("http://"):
            raise SettingsError("MAYFLY_S3_CA_FILE is for a MAYFLY_S3_ENDPOINT that begins with https://")
        if self.ecs_cluster is not None:
            needed = ("ecs_subnets", "ecs_security_groups", "functions_repository")
            missing = [f"MAYFLY_{name.upper()}" for name in needed if not getattr(self, name)]
            if missing:
                raise SettingsError(f"MAYFLY_ECS_CLUSTER needs {' and '.join(missing)}")
        return self


def _memory_mib() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // MIB


def operator_secrets() -> dict[str, str]:
    """The secrets that functions may name: NAME is given to the dispatcher as MAYFLY_SECRET_NAME."""
    prefix = "MAYFLY_SECRET_"
    return {name.removeprefix(prefix): value for name, value in os.environ.items() if name.startswith(prefix)}
