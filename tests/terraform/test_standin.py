"""The stand-in for the AWS provider: that it would say so if the code were wrong."""

from collections.abc import Callable, Iterator

import pytest

from tests.terraform import tools
from tests.terraform.schema import recover
from tests.terraform.tools import Missing

CONFIGURATION = """\
terraform {
  required_providers {
    aws = { source = "hashicorp/aws" }
  }
}

data "aws_region" "here" {}

resource "aws_kms_key" "this" {
  description = "in ${data.aws_region.here.region}"
}

resource "aws_ecr_repository" "this" {
  name = "mayfly"

  encryption_configuration {
    encryption_type = "KMS"
    kms_key         = aws_kms_key.this.arn
  }
}
"""

Judge = Callable[[str, str], str]


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    """What `terraform validate` has against the configuration with one thing in it changed, or nothing."""
    file = tmp_path_factory.mktemp("judged") / "main.tf"
    file.write_text(CONFIGURATION)

    def judged(old: str, new: str) -> str:
        assert old in CONFIGURATION
        file.write_text(CONFIGURATION.replace(old, new))
        done = terraform.run(file.parent, "validate", "-no-color")
        return "" if done.returncode == 0 else done.stderr

    try:
        # One for all: what it knows is read from a package of 37 MB.
        with tools.terraform(file.parent) as terraform:
            terraform.succeed(file.parent, "init")
            yield judged
    except Missing as reason:
        pytest.skip(f"Terraform's code is not tested: {reason}")


def test_what_is_right_is_taken(judge: Judge) -> None:
    assert judge("mayfly", "another") == ""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "mayfly"', 'name = "mayfly"\n  tag_mutability = "x"', 'An argument named "tag_mutability"'),
        ('name = "mayfly"', "", 'The argument "name" is required'),
        ("encryption_configuration {", "encryption {", 'Blocks of type "encryption"'),
        ("this.arn", "this.anr", "no argument, nested block, or exported attribute"),
        ('name = "mayfly"', 'name = ["mayfly"]', 'Inappropriate value for attribute "name"'),
        ("here.region", "here.continent", "This object has no argument, nested block"),
    ],
    ids=["argument", "missing", "block", "attribute", "wrong type", "attribute of data"],
)
def test_what_is_wrong_is_found(judge: Judge, old: str, new: str, said: str) -> None:
    told = judge(old, new)
    assert said.lower() in " ".join(told.lower().replace("│", " ").split())


def test_a_type_that_the_provider_has_not_is_named() -> None:
    try:
        package = tools.bindings()
    except Missing as reason:
        pytest.skip(f"the schema is not here: {reason}")
    with pytest.raises(LookupError, match="aws_no_such_thing"):
        recover(package, ["aws_no_such_thing"])
