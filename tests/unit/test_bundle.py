import json
import platform
from pathlib import Path

import pytest

from dispatcher.runtimes.base import SandboxSpec
from dispatcher.runtimes.bundle import ARCHITECTURES, INIT, Place, RootFilesystem, Template
from dispatcher.runtimes.hardening import container_config, seccomp_profile
from mayfly.function import Limits

ROOT = RootFilesystem(
    path=Path("/images/one"),
    environment={"PATH": "/bin", "LANG": "C"},
    entrypoint=("python3", "-I"),
    command=("main.py",),
    folder="/function",
    volumes=("/data",),
)
PLACE = Place(
    init="/usr/bin/tini-static",
    hosts=Path("/state/hosts"),
    group="mayfly-1",
    counts_swap=True,
    closes_cgroups=False,
)
LIMITS = Limits(memory_mib=96, cpu=0.5, pids=40, open_files=640, tmp_mib=16)

pytestmark = pytest.mark.skipif(platform.machine() not in ARCHITECTURES, reason="no sandboxes here")


def config(spec: SandboxSpec, place: Place = PLACE) -> dict:
    return json.loads(Template(spec, ROOT, place).fill("abc", spec))


def spec(**changes) -> SandboxSpec:
    return SandboxSpec(image="one:1", task_id="t", function="f", limits=LIMITS, **changes)


def test_the_images_command_runs_under_an_init_with_its_environment_and_ours():
    process = config(spec(env={"NAME": 'quotes " and \\ and ü', "LANG": "mine"}))["process"]
    assert process["args"] == [INIT, "--", "python3", "-I", "main.py"]
    assert process["env"] == [
        "PATH=/bin",
        "HOSTNAME=sandbox",
        "LANG=mine",
        "HOME=/tmp",
        'NAME=quotes " and \\ and ü',
    ]
    assert process["cwd"] == "/function"
    assert config(spec(command=("other.py",)))["process"]["args"][-1] == "other.py"


def test_the_limits_are_those_that_an_engine_would_get():
    made, docker = config(spec()), container_config(spec(), labels={})["HostConfig"]
    resources = made["linux"]["resources"]
    assert resources["memory"] == {"limit": docker["Memory"], "swap": docker["MemorySwap"]}
    assert resources["cpu"]["quota"] / resources["cpu"]["period"] == docker["NanoCpus"] / 1e9
    assert resources["pids"]["limit"] == docker["PidsLimit"]
    assert [limit["hard"] for limit in made["process"]["rlimits"]] == [u["Hard"] for u in docker["Ulimits"]]
    assert made["process"]["oomScoreAdj"] == docker["OomScoreAdj"]


def test_where_swap_is_not_counted_it_is_not_limited():
    place = Place(**{name: getattr(PLACE, name) for name in Place.__slots__} | {"counts_swap": False})
    assert config(spec(), place)["linux"]["resources"]["memory"] == {"limit": 96 << 20}


def test_the_seccomp_profile_is_the_same_for_native_calls():
    made = config(spec())["linux"]["seccomp"]
    profile = json.loads(seccomp_profile())
    assert made["syscalls"] == profile["syscalls"]
    assert (made["defaultAction"], made["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 1)
    assert made["architectures"] == [ARCHITECTURES[platform.machine()]]


def test_each_sandbox_has_a_control_group_and_every_namespace_of_its_own():
    linux = config(spec())["linux"]
    assert linux["cgroupsPath"] == "/mayfly-1/abc"
    assert {kind["type"] for kind in linux["namespaces"]} == {
        "mount",
        "network",
        "uts",
        "pid",
        "ipc",
        "cgroup",
    }
    assert all(len(kind) == 1 for kind in linux["namespaces"])


def test_nothing_of_the_machine_is_mounted_but_an_init_and_the_names():
    mounts = config(spec())["mounts"]
    bound = {mount["source"]: mount for mount in mounts if mount["type"] == "bind"}
    assert set(bound) == {"/usr/bin/tini-static", "/state/hosts"}
    assert all("ro" in mount["options"] for mount in bound.values())
    assert [m["destination"] for m in mounts if "size=16m" in m["options"]] == ["/dev/shm", "/tmp", "/data"]


def test_it_has_no_privilege_and_a_root_that_is_read_only():
    made = config(spec())
    assert made["root"] == {"path": "/images/one", "readonly": True}
    assert made["process"]["noNewPrivileges"] is True
    assert made["process"]["capabilities"] == {}
    assert made["process"]["user"]["uid"] == 65532
