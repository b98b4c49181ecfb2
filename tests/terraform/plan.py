"""What a plan says, in the words of the tests."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

Values = dict[str, Any]


class Statement(NamedTuple):
    """One of an IAM policy, and the resource that it stands in."""

    where: str
    sid: str
    effect: str
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    has_condition: bool


class Plan:
    """A plan made after an apply: all of its values are known.

    `resources` are by address, without the module's.
    """

    def __init__(self, document: Any) -> None:
        self.document = document
        module = document["planned_values"]["root_module"]["child_modules"][0]
        self.resources: dict[str, Values] = {
            one["address"].removeprefix("module.mayfly."): one["values"] for one in module["resources"]
        }

    def of(self, kind: str) -> dict[str, Values]:
        """The resources of a type, by address."""
        return {
            address: values for address, values in self.resources.items() if address.startswith(f"{kind}.")
        }

    def one(self, kind: str) -> Values:
        [values] = self.of(kind).values()
        return values

    @property
    def parts(self) -> dict[str, Values]:
        """The tasks of ECS, by name: gateway, dispatcher, and where there are functions the deployer."""
        prefix = "aws_ecs_task_definition"
        return {_name(address): task for address, task in self.of(prefix).items()}

    def container(self, part: str) -> Values:
        """The one container of a part."""
        [container] = json.loads(self.parts[part]["container_definitions"])
        assert isinstance(container, dict)
        return container

    def environment(self, part: str) -> dict[str, str]:
        """What a container is told openly."""
        return {one["name"]: one["value"] for one in self.container(part)["environment"]}

    def secrets(self, part: str) -> dict[str, str]:
        """What it is told by secrets: their values."""
        by_arn = {}
        for address, secret in self.of("aws_secretsmanager_secret").items():
            version = address.replace("aws_secretsmanager_secret.", "aws_secretsmanager_secret_version.")
            by_arn[secret["arn"]] = self.resources[version]["secret_string"]
        return {one["name"]: by_arn[one["valueFrom"]] for one in self.container(part)["secrets"]}

    def statements(self) -> Iterator[Statement]:
        """Of every policy that there is: roles', keys', buckets', and who may assume what."""
        for address, values in self.resources.items():
            for field in ("policy", "assume_role_policy", "access_policy"):
                text = values.get(field)
                document = json.loads(text) if isinstance(text, str) and text.startswith("{") else {}
                for one in document.get("Statement", ()):
                    yield Statement(
                        address,
                        one.get("Sid", ""),
                        one["Effect"],
                        _listed(one["Action"]),
                        _listed(one.get("Resource", ())),
                        "Condition" in one,
                    )

    def allowed(self, role: str, action: str) -> tuple[str, ...]:
        """The resources that a part's own role may do something to."""
        return tuple(
            resource
            for one in self.statements()
            if one.where == f'aws_iam_role_policy.task["{role}"]' and action in one.actions
            for resource in one.resources
        )

    def connections(self) -> set[tuple[str, str, int]]:
        """From which group to which, or to which addresses, on which port: where both ends allow it."""
        names = {values["id"]: values["name"] for values in self.of("aws_security_group").values()}
        out, into = set(), set()
        for rules, ends in (("egress", out), ("ingress", into)):
            for rule in self.of(f"aws_vpc_security_group_{rules}_rule").values():
                assert rule["ip_protocol"] == "tcp"
                assert rule["from_port"] == rule["to_port"]
                here = _short(names[rule["security_group_id"]])
                other = rule["referenced_security_group_id"]
                there = _short(names[other]) if other in names else rule["cidr_ipv4"]
                ends.add(
                    (here, there, rule["to_port"]) if rules == "egress" else (there, here, rule["to_port"])
                )
        inside = {one for one in out | into if "/" not in one[0] + one[1]}
        assert inside <= out & into, f"only one end allows {inside - (out & into)}"
        return out | into


def _name(address: str) -> str:
    """`aws_lb.this` is `this`, `aws_lb.this[0]` too."""
    return address.split(".", 1)[1].partition("[")[0]


def _short(name: str) -> str:
    return name.rsplit("-", 1)[-1]


def _listed(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)
