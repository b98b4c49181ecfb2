"""A stand-in for Terraform's AWS provider: the real one's schema, and no AWS behind it.

It speaks plugin protocol 6 (https://developer.hashicorp.com/terraform/plugin/terraform-plugin-protocol) on
a Unix socket, and goes on until its standard input ends: one process serves many runs of Terraform, which
find it by `TF_REATTACH_PROVIDERS`. Validate, plan, apply and destroy work on made-up values, and nothing
leaves the machine. It finds wrong names and types, and what a configuration does not say; it does not know
which values AWS takes.

`python standin.py SCHEMA SOCKET`, in an environment that has the package `tf` (see `standin.lock`). It prints
a line when it is ready.
"""

import hashlib
import json
import sys
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import msgpack
from tf.gen import tfplugin_pb2 as pb
from tf.gen import tfplugin_pb2_grpc as rpc

ACCOUNT = "123456789012"
REGION = "eu-central-1"
UNKNOWN = msgpack.ExtType(0, b"\x00")
NESTING = {"single": 1, "list": 2, "set": 3, "map": 4, "group": 5}

Value = dict[str, Any]
Block = dict[str, Any]


def decoded(value: pb.DynamicValue) -> Any:
    if value.msgpack:
        return msgpack.unpackb(value.msgpack, raw=False, strict_map_key=False)
    return json.loads(value.json) if value.json else None


def encoded(value: Any) -> pb.DynamicValue:
    return pb.DynamicValue(msgpack=msgpack.packb(value, use_bin_type=True))


def as_message(block: Block) -> pb.Schema.Block:
    flags = ("required", "optional", "computed", "sensitive")
    return pb.Schema.Block(
        attributes=[
            pb.Schema.Attribute(
                name=name,
                type=json.dumps(attribute["type"]).encode(),
                **{flag: attribute.get(flag, False) for flag in flags},
            )
            for name, attribute in sorted(block["attributes"].items())
        ],
        block_types=[
            pb.Schema.NestedBlock(
                type_name=name,
                nesting=NESTING[nested["nesting_mode"]],
                block=as_message(nested["block"]),
                min_items=nested.get("min_items", 0),
                max_items=nested.get("max_items", 0),
            )
            for name, nested in sorted(block.get("block_types", {}).items())
        ],
    )


# --- made-up values


def made_up(name: str, kind: Any, resource: str, seed: str) -> Any:
    """What AWS would have said of a computed attribute: the same for the same resource and configuration."""
    if kind == "string":
        return _made_up_string(
            name, resource, hashlib.sha256(f"{resource}.{name}.{seed}".encode()).hexdigest()
        )
    if kind in ("number", "bool"):
        return {"number": 0, "bool": False}[kind]
    if kind[0] == "object":
        return {key: made_up(key, inner, resource, seed) for key, inner in kind[1].items()}
    return {} if kind[0] == "map" else []


def _made_up_string(name: str, resource: str, digest: str) -> str:
    if name == "arn" or name.endswith("_arn"):
        service = resource.split("_")[1]
        return f"arn:aws:{service}:{REGION}:{ACCOUNT}:{resource.removeprefix('aws_')}/{digest[:12]}"
    if name.startswith("bootstrap_brokers"):
        return ",".join(f"b-{number}.{digest[:6]}.kafka.example:9098" for number in (1, 2))
    known = {
        "region": REGION,
        "account_id": ACCOUNT,
        "owner_id": ACCOUNT,
        "cidr_block": "10.0.0.0/16",
        "prefix": "",
    }
    return known.get(name, f"{resource.removeprefix('aws_').replace('_', '-')}-{digest[:12]}")


def filled(block: Block, value: Value, resource: str, seed: str | None) -> Value:
    """With the computed attributes that are not set: unknown where there is no seed, else made up."""
    value = dict(value)
    for name, attribute in block["attributes"].items():
        current = value.get(name)
        if isinstance(current, msgpack.ExtType) or (current is None and attribute.get("computed")):
            value[name] = UNKNOWN if seed is None else made_up(name, attribute["type"], resource, seed)
    for name, nested in block.get("block_types", {}).items():
        current = value.get(name)
        if isinstance(current, list):
            value[name] = [filled(nested["block"], one, resource, seed) for one in current]
        elif isinstance(current, dict) and nested["nesting_mode"] == "single":
            value[name] = filled(nested["block"], current, resource, seed)
    return value


# --- data sources


def _zones(value: Value) -> Value:
    letters = "abc"
    return {
        **value,
        "names": [REGION + letter for letter in letters],
        "zone_ids": [f"euc1-az{n}" for n in (1, 2, 3)],
    }


def _identity(value: Value) -> Value:
    return {
        **value,
        "account_id": ACCOUNT,
        "arn": f"arn:aws:iam::{ACCOUNT}:user/standin",
        "user_id": "STANDIN",
    }


def _partition(value: Value) -> Value:
    return {**value, "partition": "aws", "dns_suffix": "amazonaws.com", "reverse_dns_prefix": "com.amazonaws"}


def _password(value: Value) -> Value:
    digest = hashlib.sha512(b"password").hexdigest()
    return {**value, "random_password": (digest * 4)[: int(value.get("password_length") or 32)]}


def _policy(value: Value) -> Value:
    """As the real one writes a policy, near enough to be read by the same tools."""
    names = {"sid": "Sid", "actions": "Action", "not_actions": "NotAction", "resources": "Resource"}
    statements = [
        one for text in value.get("source_policy_documents") or [] for one in json.loads(text)["Statement"]
    ]
    for given in value.get("statement") or []:
        statement: Value = {"Effect": given.get("effect") or "Allow"}
        statement |= {theirs: given[ours] for ours, theirs in names.items() if given.get(ours)}
        for principal in given.get("principals") or []:
            statement.setdefault("Principal", {})[principal["type"]] = principal["identifiers"]
        for condition in given.get("condition") or []:
            tests = statement.setdefault("Condition", {}).setdefault(condition["test"], {})
            tests[condition["variable"]] = condition["values"]
        statements.append(statement)
    text = json.dumps({"Version": "2012-10-17", "Statement": statements})
    return {**value, "json": text, "minified_json": text}


READERS = {
    "aws_availability_zones": _zones,
    "aws_caller_identity": _identity,
    "aws_iam_policy_document": _policy,
    "aws_partition": _partition,
    "aws_secretsmanager_random_password": _password,
}


# --- the protocol


class Provider(rpc.ProviderServicer):
    """The calls of the protocol that Terraform makes, by the names that the protocol gives them."""

    def __init__(self, schema: Block) -> None:
        self._schema = schema
        self._message = self._as_message()

    def GetMetadata(self, request, context):
        return pb.GetMetadata.Response()

    def GetProviderSchema(self, request, context):
        return self._message

    def _as_message(self) -> pb.GetProviderSchema.Response:
        def all_of(kind: str) -> dict[str, pb.Schema]:
            return {
                name: pb.Schema(block=as_message(one["block"])) for name, one in self._schema[kind].items()
            }

        return pb.GetProviderSchema.Response(
            provider=pb.Schema(block=as_message(self._schema["provider"]["block"])),
            provider_meta=pb.Schema(block=pb.Schema.Block()),
            resource_schemas=all_of("resources"),
            data_source_schemas=all_of("data_sources"),
            server_capabilities=pb.ServerCapabilities(),
        )

    def ValidateProviderConfig(self, request, context):
        return pb.ValidateProviderConfig.Response()

    def ValidateResourceConfig(self, request, context):
        return pb.ValidateResourceConfig.Response()

    def ValidateDataResourceConfig(self, request, context):
        return pb.ValidateDataResourceConfig.Response()

    def ConfigureProvider(self, request, context):
        return pb.ConfigureProvider.Response()

    def UpgradeResourceState(self, request, context):
        return pb.UpgradeResourceState.Response(upgraded_state=encoded(json.loads(request.raw_state.json)))

    def ReadResource(self, request, context):
        return pb.ReadResource.Response(new_state=request.current_state, private=request.private)

    def PlanResourceChange(self, request, context):
        planned = decoded(request.proposed_new_state)
        if planned is not None and decoded(request.prior_state) is None:
            planned = filled(self._block("resources", request), planned, request.type_name, None)
        return pb.PlanResourceChange.Response(planned_state=encoded(planned), legacy_type_system=True)

    def ApplyResourceChange(self, request, context):
        state = decoded(request.planned_state)
        if state is not None:
            seed = hashlib.sha256(request.config.msgpack).hexdigest()
            state = filled(self._block("resources", request), state, request.type_name, seed)
        return pb.ApplyResourceChange.Response(new_state=encoded(state), legacy_type_system=True)

    def ReadDataSource(self, request, context):
        read = READERS.get(request.type_name, dict)(decoded(request.config))
        return pb.ReadDataSource.Response(
            state=encoded(filled(self._block("data_sources", request), read, request.type_name, ""))
        )

    def StopProvider(self, request, context):
        return pb.StopProvider.Response()

    def _block(self, kind: str, request: Any) -> Block:
        return self._schema[kind][request.type_name]["block"]


def main(schema: Path, socket: Path) -> None:
    unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    server = grpc.server(futures.ThreadPoolExecutor(16), options=unlimited)
    rpc.add_ProviderServicer_to_server(Provider(json.loads(schema.read_text())), server)
    server.add_insecure_port(f"unix://{socket}")
    server.start()
    print("ready", flush=True)
    sys.stdin.read()
    server.stop(None)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
