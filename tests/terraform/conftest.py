"""Terraform with the stand-in, and the examples as they are after an apply."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.terraform import tools
from tests.terraform.plan import Plan
from tests.terraform.tools import CODE, Missing, Terraform

EXAMPLES = ("dev", "production")


@dataclass(frozen=True)
class Deployed:
    """An example, applied with no variable set, and what is planned when nothing has changed since."""

    folder: Path
    plan: Plan
    changes: bool


@pytest.fixture(scope="session")
def terraform() -> Iterator[Terraform]:
    try:
        with tools.terraform() as found:
            yield found
    except Missing as reason:
        pytest.skip(f"Terraform's code is not tested: {reason}")


@pytest.fixture(scope="session")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy: Terraform leaves what it makes in the folders that it works in."""
    copy = tmp_path_factory.mktemp("terraform") / "code"
    shutil.copytree(CODE, copy, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*"))
    return copy


Deploy = Callable[[str], Deployed]
"""Applies an example, by name; once, however often it is called."""


@pytest.fixture(scope="session")
def deploy(terraform: Terraform, code: Path) -> Deploy:
    return cache(lambda name: _deploy(terraform, code / "examples" / name))


def _deploy(terraform: Terraform, folder: Path) -> Deployed:
    for arguments in (["init"], ["validate"], ["apply", "-auto-approve"]):
        terraform.succeed(folder, *arguments)
    again = terraform.run(folder, "plan", "-detailed-exitcode", "-out=again", "-no-color")
    assert again.returncode in (0, 2), again.stderr
    return Deployed(folder, Plan(terraform.read(folder, "again")), changes=again.returncode == 2)


@pytest.fixture(scope="session", params=EXAMPLES)
def example(request: pytest.FixtureRequest, deploy: Deploy) -> Deployed:
    return deploy(request.param)


@pytest.fixture(scope="session")
def dev(deploy: Deploy) -> Deployed:
    return deploy("dev")


@pytest.fixture(scope="session")
def production(deploy: Deploy) -> Deployed:
    return deploy("production")
