"""The cloud's code: that it is whole, and that what it plans is what Mayfly wants of a cloud."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mayfly.adapters.kafka import (
    AUDIT_TOPIC,
    CONTROL_TOPIC,
    DEAD_LETTER_TOPIC,
    FUNCTIONS_TOPIC,
    deferred_topic,
    dispatcher_group,
    events_topic,
    lane_topic,
    webhooks_topic,
)
from mayfly.identity.keys import parse
from mayfly.settings import Settings
from mayfly.task import Lane
from tests.terraform.conftest import Deployed
from tests.terraform.tools import CODE, Terraform

LOG = {
    "MAYFLY_KAFKA",
    "MAYFLY_KAFKA_SECURITY",
    "MAYFLY_KAFKA_SASL_MECHANISM",
    "MAYFLY_PARTITIONS",
    "MAYFLY_QUEUE",
}
SERVICE = {
    *LOG,
    "MAYFLY_REDIS",
    "MAYFLY_S3_BUCKET",
    "MAYFLY_S3_REGION",
    "MAYFLY_HEARTBEAT_KEY",
    "MAYFLY_SECRETS_KMS_KEY",
}
NEEDED = {
    "gateway": {
        *SERVICE,
        "MAYFLY_HOST",
        "MAYFLY_AUTH",
        "MAYFLY_ADMIN_KEY",
        "MAYFLY_FUNCTIONS_REPOSITORY",
    },
    "dispatcher": {
        *SERVICE,
        "MAYFLY_SLOTS",
        "MAYFLY_GRACE_SECONDS",
        "MAYFLY_STATE_DIR",
        "MAYFLY_DISPATCHER_PORT",
        "MAYFLY_FUNCTIONS_REPOSITORY",
    },
    "deployer": {*LOG, "MAYFLY_FUNCTIONS_REPOSITORY", "MAYFLY_DOCKER_HOST"},
}
"""What each part has to be told: their defaults are for one machine."""
HIDDEN = {
    f"MAYFLY_{name.upper()}"
    for name, field in Settings.model_fields.items()
    if "SecretStr" in str(field.annotation)
}
ANYWHERE = {"Account", "Logs", "Alarms", "Registry", "Endpoint", "Agent", "Sessions"}
ANYWHERE_ON_FARGATE = {"Finds", "Registers"}
"""Statements whose actions have no resource to be limited to, or, in a key's policy, only one."""


# --- the code


def test_the_code_is_formatted(terraform: Terraform, code: Path) -> None:
    terraform.succeed(code, "fmt", "-check", "-recursive", "-diff")


def test_its_own_tests_pass(terraform: Terraform, code: Path) -> None:
    terraform.succeed(code, "init")
    assert "0 failed" in terraform.succeed(code, "test")


def test_only_the_aws_provider_is_used() -> None:
    files = list(CODE.rglob("*.tf"))
    assert files
    for file in files:
        assert set(re.findall(r'source\s+=\s+"([^".][^"]*)"', file.read_text())) <= {"hashicorp/aws"}


def test_the_readme_has_every_variable_and_output() -> None:
    page = (CODE / "README.md").read_text()
    for file, kind in (("variables.tf", "variable"), ("outputs.tf", "output")):
        names = re.findall(rf'^{kind} "(\w+)"', (CODE / file).read_text(), re.MULTILINE)
        assert names
        assert [name for name in names if f"| `{name}` |" not in page] == []


def test_a_host_is_set_up_by_a_script_that_a_shell_reads(production: Deployed) -> None:
    script = (CODE / "templates/host.sh.tftpl").read_text()
    subprocess.run(["sh", "-n"], input=re.sub(r"\$\{\w+\}", "x", script), text=True, check=True)


# --- the examples


def test_an_example_that_was_applied_plans_no_change(example: Deployed) -> None:
    assert not example.changes


def test_an_example_is_destroyed_whole(example: Deployed, terraform: Terraform, tmp_path: Path) -> None:
    root = example.folder.parent.parent
    copy = tmp_path / "code"
    shutil.copytree(root, copy)
    folder = copy / example.folder.relative_to(root)
    terraform.succeed(folder, "init")
    terraform.succeed(folder, "destroy", "-auto-approve")
    assert "root_module" not in terraform.read(folder).get("values", {})


# --- who may do what


def test_no_action_has_a_wildcard(example: Deployed) -> None:
    statements = list(example.plan.statements())
    assert statements
    assert [one for one in statements if any("*" in action for action in one.actions)] == []


def test_only_what_cannot_be_limited_is_allowed_anywhere(example: Deployed) -> None:
    everywhere = {
        one.sid for one in example.plan.statements() if one.effect == "Allow" and "*" in one.resources
    }
    on_fargate = "MAYFLY_ECS_CLUSTER" in example.plan.environment("dispatcher")
    assert everywhere == ANYWHERE | (ANYWHERE_ON_FARGATE if on_fargate else set())


def test_each_part_has_roles_of_its_own(example: Deployed) -> None:
    kinds = ("task_role_arn", "execution_role_arn")
    roles = [task[kind] for task in example.plan.parts.values() for kind in kinds]
    roles += [example.plan.resources[f"aws_iam_role.{name}"]["arn"] for name in ("host", "flows")]
    roles += [
        one["arn"] for address, one in example.plan.resources.items() if address == "aws_iam_role.function[0]"
    ]
    assert len(set(roles)) == len(roles)


def test_a_dispatcher_runs_functions_on_fargate_in_their_cluster_and_does_nothing_else_there(
    production: Deployed,
) -> None:
    told = production.plan.environment("dispatcher")
    settings = Settings(
        **{name.removeprefix("MAYFLY_").lower(): told[name] for name in told if "_ECS_" in name},
        functions_repository=told["MAYFLY_FUNCTIONS_REPOSITORY"],
    )  # type: ignore[arg-type]
    may = {
        action: (one.resources, one.has_condition)
        for one in production.plan.statements()
        if one.where == "aws_iam_role_policy.runs_functions[0]"
        for action in one.actions
    }
    [definitions], conditional = may.pop("ecs:RunTask")
    assert definitions.endswith(f":task-definition/{settings.ecs_family}-*:*")
    assert conditional
    for action in ("ecs:StopTask", "ecs:DescribeTasks"):
        [tasks], conditional = may.pop(action)
        assert tasks.endswith(f":task/{settings.ecs_cluster}/*")
        assert conditional
    assert may == {
        "ecs:ListTasks": (("*",), True),
        "ecs:RegisterTaskDefinition": (("*",), False),
        "iam:PassRole": ((settings.ecs_execution_role,), True),
    }
    # Gateways and dispatchers are in another one.
    assert settings.ecs_cluster != production.plan.resources["aws_ecs_cluster.this"]["name"]
    assert any(one.endswith("/remote/*") for one in production.plan.allowed("dispatcher", "s3:PutObject"))


def test_without_functions_on_fargate_a_dispatcher_may_nothing_of_the_kind(dev: Deployed) -> None:
    actions = {action for one in dev.plan.statements() for action in one.actions}
    assert not actions & {"ecs:RunTask", "ecs:StopTask", "ecs:RegisterTaskDefinition", "iam:PassRole"}


def test_the_parts_may_read_and_write_their_topics_and_no_others(production: Deployed) -> None:
    plan, queue = production.plan, "default"
    lanes = {lane_topic(queue, lane) for lane in Lane}
    own = {*lanes, events_topic(queue), deferred_topic(queue), webhooks_topic(queue)}
    others = {FUNCTIONS_TOPIC, DEAD_LETTER_TOPIC, CONTROL_TOPIC, AUDIT_TOPIC}

    def may(part: str, action: str) -> set[str]:
        patterns = [arn.rsplit("/", 1)[-1] for arn in plan.allowed(part, f"kafka-cluster:{action}")]
        matched = re.compile("|".join(re.escape(one).replace(r"\*", ".*") for one in patterns))
        return {topic for topic in own | others if matched.fullmatch(topic)}

    assert may("gateway", "WriteData") == {
        *lanes,
        events_topic(queue),
        CONTROL_TOPIC,
        AUDIT_TOPIC,
        DEAD_LETTER_TOPIC,
        FUNCTIONS_TOPIC,
    }
    assert may("dispatcher", "WriteData") == {*own, DEAD_LETTER_TOPIC}
    assert may("dispatcher", "ReadData") == {*own, FUNCTIONS_TOPIC, CONTROL_TOPIC, DEAD_LETTER_TOPIC}
    assert may("deployer", "WriteData") == {FUNCTIONS_TOPIC, AUDIT_TOPIC}
    for part in plan.parts:
        # Whoever starts first makes all that are missing.
        assert may(part, "CreateTopic") == own | others


# --- who reaches whom


def test_nothing_has_a_public_address_but_the_load_balancer_and_the_ways_out(production: Deployed) -> None:
    plan = production.plan
    assert not any(subnet["map_public_ip_on_launch"] for subnet in plan.of("aws_subnet").values())
    networks = [service["network_configuration"] for service in plan.of("aws_ecs_service").values()]
    assert not any(one["assign_public_ip"] for network in networks for one in network)
    [interface] = plan.one("aws_launch_template")["network_interfaces"]
    assert interface["associate_public_ip_address"] == "false"
    [nodes] = plan.one("aws_msk_cluster")["broker_node_group_info"]
    assert nodes["connectivity_info"][0]["public_access"][0]["type"] == "DISABLED"
    assert plan.one("aws_lb")["internal"] is False
    addresses = {one["id"] for one in plan.of("aws_eip").values()}
    assert addresses == {one["allocation_id"] for one in plan.of("aws_nat_gateway").values()}


def test_dev_has_no_public_address_but_its_way_out(dev: Deployed) -> None:
    plan = dev.plan
    assert plan.one("aws_lb")["internal"] is True
    assert len(plan.of("aws_eip")) == len(plan.of("aws_nat_gateway")) == 1
    # A tunnel ends on a host.
    assert {("10.42.0.0/16", "balancer", 80), ("dispatcher", "balancer", 80)} <= plan.connections()


def test_security_groups_let_through_what_the_parts_speak_and_no_more(production: Deployed) -> None:
    plan = production.plan
    gateway, dispatcher = plan.environment("gateway"), plan.environment("dispatcher")
    front = int(gateway["MAYFLY_PORT"])
    kafka = {int(broker.rsplit(":", 1)[1]) for broker in gateway["MAYFLY_KAFKA"].split(",")}
    cache = plan.one("aws_elasticache_replication_group")["port"]
    assert kafka == {9098}
    assert dispatcher["MAYFLY_KAFKA"] == gateway["MAYFLY_KAFKA"]
    assert plan.connections() == {
        ("0.0.0.0/0", "balancer", 443),
        ("balancer", "gateway", front),
        ("gateway", "kafka", 9098),
        ("gateway", "cache", cache),
        ("gateway", "endpoints", 443),
        ("gateway", "0.0.0.0/0", 443),
        ("dispatcher", "kafka", 9098),
        ("dispatcher", "cache", cache),
        ("dispatcher", "endpoints", 443),
        ("dispatcher", "0.0.0.0/0", 443),
        ("functions", "endpoints", 443),
        ("functions", "0.0.0.0/0", 443),
    }
    [mapping] = plan.container("gateway")["portMappings"]
    assert mapping["containerPort"] == plan.one("aws_lb_target_group")["port"] == front


def test_metadata_is_closed_to_what_runs_in_containers(example: Deployed) -> None:
    [options] = example.plan.one("aws_launch_template")["metadata_options"]
    assert options["http_tokens"] == "required"
    assert options["http_put_response_hop_limit"] == 1


# --- what the parts are told


def test_the_parts_are_told_settings_that_there_are_and_all_that_they_need(example: Deployed) -> None:
    known = {f"MAYFLY_{name.upper()}" for name in Settings.model_fields}
    plan = example.plan
    assert plan.parts.keys() >= {"gateway", "dispatcher"}
    for part in plan.parts:
        shown, secret = set(plan.environment(part)), set(plan.secrets(part))
        assert shown | secret <= known
        assert shown | secret >= NEEDED[part]
        assert not shown & (secret | HIDDEN)


def test_the_settings_take_what_the_parts_are_told(
    example: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in example.plan.parts:
        with monkeypatch.context() as environment:
            for name, value in {**example.plan.environment(part), **example.plan.secrets(part)}.items():
                environment.setenv(name, value)
            settings = Settings()
        assert settings.kafka_security == "SASL_SSL"
        # Whoever needs no secret has none.
        assert (settings.heartbeat_key is None) == (part == "deployer")
        assert (settings.admin_key is None) == (part != "gateway")
        assert settings.redis.get_secret_value().startswith("rediss://mayfly:") == (part != "deployer")


def test_the_gateway_asks_who_calls_and_has_a_key_to_begin_with(example: Deployed) -> None:
    assert example.plan.environment("gateway")["MAYFLY_AUTH"] == "true"
    assert parse(example.plan.secrets("gateway")["MAYFLY_ADMIN_KEY"]) is not None


def test_a_dispatcher_drives_the_engine_of_its_host(example: Deployed) -> None:
    plan = example.plan
    task = plan.resources["aws_ecs_task_definition.dispatcher"]
    told, container = plan.environment("dispatcher"), plan.container("dispatcher")
    on_host = {volume["name"]: volume["host_path"] for volume in task["volume"]}
    mounted = {one["containerPath"]: on_host[one["sourceVolume"]] for one in container["mountPoints"]}
    # The engine is told paths of the host: they have to be the dispatcher's own.
    assert all(path == host for path, host in mounted.items())
    assert told["MAYFLY_DOCKER_HOST"].removeprefix("unix://") in mounted
    assert told["MAYFLY_STATE_DIR"] in mounted
    assert task["network_mode"] == "host"
    [constraint] = plan.resources["aws_ecs_service.dispatcher"]["placement_constraints"]
    assert constraint["type"] == "distinctInstance"
    assert told["MAYFLY_DISPATCHER_PORT"] in container["healthCheck"]["command"][-1]


def test_a_dispatcher_that_is_to_go_is_drained(example: Deployed) -> None:
    plan = example.plan
    grace = float(plan.environment("dispatcher")["MAYFLY_GRACE_SECONDS"])
    # Its tasks', and then it leaves its group.
    assert plan.container("dispatcher")["stopTimeout"] >= grace + 15
    [provider] = plan.one("aws_ecs_capacity_provider")["auto_scaling_group_provider"]
    assert provider["managed_draining"] == provider["managed_termination_protection"] == "ENABLED"
    group = plan.one("aws_autoscaling_group")
    assert group["protect_from_scale_in"] is True
    [refresh] = group["instance_refresh"]
    assert refresh["preferences"][0]["scale_in_protected_instances"] == "Refresh"


def test_dispatchers_are_scaled_by_the_lag_of_their_own_group(example: Deployed) -> None:
    policy = example.plan.resources["aws_appautoscaling_policy.dispatcher_lag"]
    [tracking] = policy["target_tracking_scaling_policy_configuration"]
    [metric] = tracking["customized_metric_specification"]
    watched = set()
    for one in metric["metrics"]:
        for statistic in one["metric_stat"]:
            [told] = statistic["metric"]
            if told["metric_name"] == "SumOffsetLag":
                dimensions = {pair["name"]: pair["value"] for pair in told["dimensions"]}
                watched.add((dimensions["Consumer Group"], dimensions["Topic"]))
    queue = example.plan.environment("dispatcher")["MAYFLY_QUEUE"]
    assert watched == {(dispatcher_group(queue), lane_topic(queue, lane)) for lane in Lane}
