"""The Docker peers of `make bench` run what Mayfly's own containers are."""

from pathlib import Path

from benchmarks.contenders.docker import run_flags
from dispatcher.runtimes.base import SandboxSpec
from dispatcher.runtimes.hardening import container_config

TOLD_OTHERWISE = {"NetworkMode", "Privileged", "RestartPolicy"}
"""`--network none` is beside the flags; the others are what the command does by itself."""
FLAGS = {
    "ReadonlyRootfs": "--read-only",
    "CapDrop": "--cap-drop",
    "SecurityOpt": "--security-opt",
    "IpcMode": "--ipc",
    "ShmSize": "--shm-size",
    "Tmpfs": "--tmpfs",
    "Memory": "--memory",
    "MemorySwap": "--memory-swap",
    "NanoCpus": "--cpus",
    "PidsLimit": "--pids-limit",
    "Ulimits": "--ulimit",
    "OomScoreAdj": "--oom-score-adj",
    "LogConfig": "--log-driver",
    "Init": "--init",
}


def test_docker_run_gets_a_flag_for_all_that_confines_a_container() -> None:
    config = container_config(SandboxSpec("image", task_id="", function="f"), labels={})
    assert config["HostConfig"].keys() == FLAGS.keys() | TOLD_OTHERWISE
    flags = run_flags(config, Path("/profile.json"))
    assert set(FLAGS.values()) | {"--user", "--no-healthcheck", "--env"} <= set(flags)
    assert flags[flags.index("--cpus") + 1] == "1"
    assert flags[flags.index("--memory") + 1] == str(256 * 2**20)
    assert "seccomp=/profile.json" in flags
    assert "nofile=1024:1024" in flags
