import pytest

from dispatcher.runtimes import cgroups
from dispatcher.runtimes.cgroups import Hierarchies, hierarchies, oom_kills, remove

NONE = "24 1 8:1 / / rw - ext4 /dev/vda rw\n"
PURE = NONE + "35 24 0:30 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
LEGACY = """\
30 29 0:26 / /sys/fs/cgroup/memory rw,nosuid shared:9 - cgroup cgroup rw,memory
31 29 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
32 29 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
"""
HYBRID = LEGACY + "33 29 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"


def test_version_2_alone_is_one_hierarchy():
    assert hierarchies(PURE) == Hierarchies(("/sys/fs/cgroup",), "/sys/fs/cgroup", "/sys/fs/cgroup", 2)
    assert not hierarchies(PURE).hybrid


def test_version_1_has_one_for_each_controller():
    found = hierarchies(LEGACY)
    assert (found.version, found.memory, found.unified) == (1, "/sys/fs/cgroup/memory", None)
    assert len(found.roots) == 3
    assert not found.hybrid


def test_where_both_are_version_1_limits_memory():
    found = hierarchies(HYBRID)
    assert (found.version, found.memory, found.hybrid) == (1, "/sys/fs/cgroup/memory", True)
    assert found.roots[-1] == found.unified == "/sys/fs/cgroup/unified"


def test_without_any_nothing_can_be_limited():
    with pytest.raises(OSError, match="no control groups are mounted"):
        hierarchies(NONE)


@pytest.mark.parametrize(
    ("version", "name", "text"),
    [
        (1, "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
        (2, "memory.events", "low 0\nhigh 0\nmax 7\noom 1\noom_kill 2\noom_group_kill 0\n"),
    ],
)
def test_what_the_kernel_killed_for_memory_is_read_in_both_versions(tmp_path, version, name, text):
    found = Hierarchies((str(tmp_path),), str(tmp_path), None, version)
    assert oom_kills(found, "a/b") == 0
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b" / name).write_text(text)
    assert oom_kills(found, "a/b") == 2


def test_a_group_is_gone_when_it_is_gone_everywhere(tmp_path):
    roots = tuple(str(tmp_path / name) for name in ("cpu", "memory"))
    found = Hierarchies(roots, roots[1], None, 1)
    assert remove(found, "a")
    (tmp_path / "memory/a/within").mkdir(parents=True)
    (tmp_path / "cpu/a").mkdir(parents=True)
    assert not remove(found, "a")
    cgroups.end(found, "a")
    assert not any(tmp_path.glob("*/a"))
