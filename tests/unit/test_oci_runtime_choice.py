"""Which OCI runtime a Docker engine starts sandboxes with."""

import pytest

from dispatcher.runtimes.base import SandboxSpec, Use
from dispatcher.runtimes.engine import leaves_cgroups_open, oci_runtime
from dispatcher.runtimes.hardening import READ_ONLY, container_config
from mayfly.errors import StackError

RUNC = {"Runtimes": {"runc": {}, "io.containerd.runc.v2": {}}, "DefaultRuntime": "runc"}
BOTH = {"Runtimes": {"runc": {}, "crun": {}}, "DefaultRuntime": "runc"}
GVISOR = {"Runtimes": {"runc": {}, "crun": {}, "runsc": {}}, "DefaultRuntime": "runsc"}


@pytest.mark.parametrize(
    ("wanted", "info", "chosen"),
    [
        ("", RUNC, None),
        (None, BOTH, "crun"),
        ("", BOTH, "crun"),
        ("", GVISOR, None),
        ("", {}, None),
        ("runc", BOTH, "runc"),
        ("crun", GVISOR, "crun"),
        ("runsc", GVISOR, "runsc"),
    ],
)
def test_crun_stands_in_for_runc_alone_and_a_name_is_obeyed(wanted, info, chosen) -> None:
    assert oci_runtime(wanted, info) == chosen


def test_a_runtime_that_the_engine_lacks_is_refused_with_those_that_it_has() -> None:
    with pytest.raises(StackError, match=r"MAYFLY_DOCKER_RUNTIME is runsc, .* has crun, runc") as refused:
        oci_runtime("runsc", BOTH)
    assert "daemon.json" in str(refused.value.mend)


@pytest.mark.parametrize(
    ("runtime", "default", "version", "open"),
    [
        ("crun", "runc", "1", True),
        ("crun", "runc", "2", False),
        (None, "crun", "1", True),
        (None, "runc", "1", False),
        ("runc", "crun", "1", False),
    ],
)
def test_control_groups_of_version_1_are_closed_where_crun_leaves_them_open(
    runtime, default, version, open
) -> None:
    assert leaves_cgroups_open(runtime, {"DefaultRuntime": default, "CgroupVersion": version}) is open


def test_a_container_names_its_runtime_only_where_one_was_chosen() -> None:
    spec = SandboxSpec("image", task_id="", function="f")
    assert "Runtime" not in container_config(spec, labels={})["HostConfig"]
    assert container_config(spec, labels={}, runtime="crun")["HostConfig"]["Runtime"] == "crun"


def test_closed_control_groups_are_read_only_from_the_top_down_beside_all_else() -> None:
    spec = SandboxSpec("image", task_id="", function="f")
    paths = container_config(spec, labels={}, close_cgroups=True)["HostConfig"]["ReadonlyPaths"]
    assert paths[: len(READ_ONLY) + 1] == [*READ_ONLY, "/sys/fs/cgroup"]
    assert "/sys/fs/cgroup/memory" in paths[len(READ_ONLY) + 1 :]
    forks = SandboxSpec("image", task_id="", function="f", use=Use.FORKS)
    host = container_config(forks, labels={}, close_cgroups=True)["HostConfig"]
    assert host["ReadonlyPaths"][0] == "/sys/fs/cgroup"
    assert all(path.startswith("/sys/") for path in host["MaskedPaths"])
