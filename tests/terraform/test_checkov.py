"""What Checkov, which knows what goes wrong on AWS, says of the plan for production."""

import json
import os
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.terraform.conftest import Deployed
from tests.terraform.tools import Missing, environment


class Skip(NamedTuple):
    """A check that is not heeded: why, and of which resources that holds. Elsewhere it is."""

    why: str
    where: frozenset[str]


def _skip(why: str, *where: str) -> Skip:
    return Skip(why, frozenset(where))


SKIPPED = {
    "CKV2_AWS_28": _skip(
        "a web firewall's rules would take payloads, which are bytes of any kind, for attacks. The gateway "
        "holds every caller to an allowance, and the output load_balancer has what a firewall needs",
        "aws_lb.this",
    ),
    "CKV2_AWS_35": _skip(
        "private subnets do go out by NAT gateways, and the public ones alone by the internet's: the check "
        "does not follow for_each",
        "aws_route.private",
        "aws_route.public",
    ),
    "CKV2_AWS_5": _skip(
        "tasks have it that dispatchers start: Terraform knows none of them", "aws_security_group.functions"
    ),
    "CKV2_AWS_57": _skip(
        "to rotate them takes restarts in an order, which the README has", "aws_secretsmanager_secret.setting"
    ),
    "CKV2_AWS_62": _skip(
        "nobody wants to be told of objects: who follows tasks follows the log",
        "aws_s3_bucket.tasks",
        "aws_s3_bucket.access",
    ),
    "CKV_AWS_144": _skip(
        "the log is in one region, and results are of no use without it",
        "aws_s3_bucket.tasks",
        "aws_s3_bucket.access",
    ),
    "CKV_AWS_145": _skip(
        "load balancers write their access log to a bucket with S3's own key only", "aws_s3_bucket.access"
    ),
    "CKV_AWS_290": _skip(
        "some actions of ECS's agent and of Session Manager take no resource", "aws_iam_role_policy.host"
    ),
    "CKV_AWS_355": _skip(
        "some actions of ECS's agent and of Session Manager take no resource", "aws_iam_role_policy.host"
    ),
}


def test_checkov_finds_nothing_but_what_is_skipped_for_a_reason(production: Deployed, tmp_path: Path) -> None:
    try:
        program = environment("checkov") / "bin/checkov"
    except Missing as reason:
        pytest.skip(f"Checkov is not run: {reason}")
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(production.plan.document))
    options = ["--framework", "terraform_plan", "--skip-download", "--compact", "--quiet", "--soft-fail"]
    done = subprocess.run(
        [program, "--file", plan, *options, "--output", "json"],
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "LOG_LEVEL": "ERROR"},
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["summary"]["passed"] > 200
    assert not report["summary"]["parsing_errors"]
    failed: dict[str, set[str]] = {}
    for one in report["results"]["failed_checks"]:
        resource = one["resource"].removeprefix("module.mayfly.").partition("[")[0]
        failed.setdefault(one["check_id"], set()).add(resource)
    assert failed == {check: set(skip.where) for check, skip in SKIPPED.items()}
