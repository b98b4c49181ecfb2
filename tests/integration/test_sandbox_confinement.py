"""What a function can see and do from inside its sandbox. Every runtime and isolation has to pass it."""

import json
import os
from pathlib import Path

import pytest
from conftest import KINDS

from mayfly.function import Limits
from tests.engine import build_image


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["container", "fork", "warm"])
def isolation(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def only(*isolations: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("isolation", isolations, indirect=True)


SYSCALLS = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
result = {}
for name, (number, *arguments) in given.items():
    ctypes.set_errno(0)
    answer = libc.syscall(number, *arguments)
    result[name] = "done" if answer >= 0 else errno.errorcode[ctypes.get_errno()]
"""
X86_64 = {
    "mount": (165, 0, 0, 0, 0, 0),
    "umount2": (166, 0, 0),
    "pivot_root": (155, 0, 0),
    "unshare new user": (272, 0x10000000),
    "unshare new net": (272, 0x40000000),
    "setns": (308, 0, 0),
    "clone new user": (56, 0x10000011, 0, 0, 0, 0),
    "clone new pid": (56, 0x20000011, 0, 0, 0, 0),
    "bpf": (321, 0, 0, 0),
    "ptrace": (101, 0, 0, 0, 0),
    "process_vm_readv": (310, 0, 0, 0, 0, 0, 0),
    "keyctl": (250, 0, 0, 0, 0, 0),
    "add_key": (248, 0, 0, 0, 0, 0),
    "userfaultfd": (323, 0),
    "perf_event_open": (298, 0, 0, 0, 0, 0),
    "io_uring_setup": (425, 1, 0),
    "kexec_load": (246, 0, 0, 0, 0),
    "init_module": (175, 0, 0, 0),
    "open_by_handle_at": (304, 0, 0, 0),
    "fsopen": (430, 0, 0),
    "pidfd_getfd": (438, 0, 0, 0),
    "reboot": (169, 0, 0, 0, 0),
    "settimeofday": (164, 0, 0),
    "personality without randomized addresses": (135, 0x0040000),
}


async def test_it_is_not_root_and_has_no_capability(sandboxes):
    status = await sandboxes.inside("""
import os
fields = dict(line.split(":\\t", 1) for line in open("/proc/self/status"))
names = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Uid", "Gid", "Groups")
result = {name: fields[name].strip() for name in names}
""")
    nobody = "\t".join(["65532"] * 4)
    none = "0" * 16
    assert status == {
        "CapInh": none,
        "CapPrm": none,
        "CapEff": none,
        "CapBnd": none,
        "CapAmb": none,
        "NoNewPrivs": "1",
        "Seccomp": "2",
        "Uid": nobody,
        "Gid": nobody,
        "Groups": status["Groups"],
    }
    assert status["Groups"] in ("", "65532")


async def test_a_set_uid_program_does_not_make_it_root(sandboxes):
    assert (
        await sandboxes.inside("""
import os, subprocess
programs = ["/usr/bin/su", "/usr/bin/mount", "/usr/bin/passwd", "/usr/bin/chsh", "/usr/bin/newgrp"]
setuid = [program for program in programs if os.path.exists(program) and os.stat(program).st_mode & 0o4000]
children = [subprocess.Popen(program, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) for program in setuid]
result = {open(f"/proc/{child.pid}/status").read().split("Uid:")[1].split()[1] for child in children}
result = sorted(result - {"65532"})
try:
    os.setuid(0)
    result.append("setuid")
except OSError:  # EPERM, or EINVAL where its user namespace has no root
    pass
""")
        == []
    )


async def test_its_root_is_read_only_and_only_tmp_and_shared_memory_take_files(sandboxes):
    places = [
        "/",
        "/function",
        "/opt/mayfly",
        "/etc",
        "/usr",
        "/var/tmp",
        "/root",
        "/proc/sys/kernel",
        "/sys",
        "/sys/fs/cgroup",
    ]
    code = """
import os
result = {}
for place in given:
    try:
        open(os.path.join(place, "written"), "w").close()
        result[place] = "written"
    except OSError as error:
        result[place] = error.__class__.__name__
for place in ("/tmp", "/dev/shm"):
    with open(os.path.join(place, "written"), "w") as file:
        file.write("x")
mounts = {line.split()[1]: line.split()[3].split(",") for line in open("/proc/mounts")}
result["root"] = "ro" in mounts["/"]
result["tmp"] = sorted({"nosuid", "nodev", "size=65536k"} & set(mounts["/tmp"]))
"""
    found = await sandboxes.inside(code, given=places)
    for place in places:
        assert found[place] in ("OSError", "PermissionError", "FileNotFoundError"), place
    assert found["root"] is True
    assert found["tmp"] == ["nodev", "nosuid", "size=65536k"]


async def test_tmp_is_full_at_its_limit(sandboxes):
    written = await sandboxes.inside(
        """
result = 0
try:
    with open("/tmp/large", "wb", buffering=0) as file:
        while result < 64:
            file.write(bytes(1 << 20))
            result += 1
except OSError as error:
    assert error.errno == 28
""",
        spec={"limits": Limits(tmp_mib=8)},
    )
    assert written == 8


@only("container")
async def test_a_volume_that_the_image_declares_is_memory_with_the_same_limit(sandboxes, engine):
    tag = "mayfly/test-volume:1"
    build_image(engine, f"FROM {sandboxes.unix_probe.image}\nVOLUME /data\n", tag)
    try:
        reply = await sandboxes.unix(
            'print([l.split()[2] for l in open("/proc/mounts") if l.split()[1] == "/data"][0])',
            spec={"image": tag},
        )
        assert reply.result == b"tmpfs\n"
    finally:
        engine.images.remove(tag, force=True)


async def test_it_has_no_network_but_its_own_loopback(sandboxes):
    found = await sandboxes.inside(
        """
import socket
result = {"interfaces": [name for _, name in socket.if_nameindex()]}
for address in given:
    try:
        socket.create_connection((address, 53), timeout=5).close()
        result[address] = "connected"
    except OSError as error:
        result[address] = error.errno
try:
    socket.getaddrinfo("example.com", 80)
    result["names"] = "resolved"
except OSError as error:
    result["names"] = "none"
""",
        given=["172.17.0.1", "169.254.169.254", "127.0.0.1"],
    )
    assert found == {
        "interfaces": ["lo"],
        "172.17.0.1": 101,  # network is unreachable
        "169.254.169.254": 101,
        "127.0.0.1": 111,  # its own loopback, where nobody listens
        "names": "none",
    }


async def test_its_own_names_are_its_own_loopback(sandboxes):
    assert await sandboxes.inside("""
import socket
server = socket.create_server(("localhost", 0))
socket.create_connection(("localhost", server.getsockname()[1])).close()
result = [socket.gethostbyname("localhost"), socket.gethostbyname(socket.gethostname())]
""") == ["127.0.0.1", "127.0.0.1"]


async def test_it_can_open_no_socket_that_goes_round_the_network(sandboxes):
    assert (
        await sandboxes.inside("""
import socket
result = []
packet, vsock, crypto, raw, audit = (17, 3, 0), (40, 1, 0), (38, 5, 0), (2, 3, 1), (16, 3, 9)
for kind in (packet, vsock, crypto, raw, audit):
    try:
        socket.socket(*kind).close()
        result.append("opened")
    except PermissionError:
        result.append("EPERM")
""")
        == ["EPERM"] * 5
    )


async def test_there_is_no_engine_socket(sandboxes):
    assert (
        await sandboxes.inside("""
import os, stat
result = []
for top in ("/run", "/var/run", "/tmp", "/dev", "/function", "/opt"):
    for folder, _, files in os.walk(top):
        paths = [os.path.join(folder, file) for file in files]
        result += [path for path in paths if stat.S_ISSOCK(os.lstat(path).st_mode)]
""")
        == []
    )


async def test_its_environment_holds_nothing_of_the_control_plane(sandboxes, monkeypatch):
    monkeypatch.setenv("MAYFLY_KAFKA", "10.1.2.3:9092")
    monkeypatch.setenv("MAYFLY_S3_SECRET_KEY", "hunter2")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    code = """
import os
result = {"environment": dict(os.environ), "first": open("/proc/1/environ", errors="replace").read()
    if os.access("/proc/1/environ", os.R_OK) else "", "arguments": open("/proc/1/cmdline").read()}
"""
    found = await sandboxes.inside(code, spec={"env": {"GREETING": "hello"}})
    assert found["environment"].pop("GREETING") == "hello"
    assert found["environment"].pop("HOME") == "/tmp"
    known = {"PATH", "HOSTNAME", "LANG", "GPG_KEY", "PYTHON_VERSION", "PYTHON_SHA256", "LC_CTYPE"}
    assert set(found["environment"]) <= known
    text = json.dumps(found)
    for secret in ("hunter2", "10.1.2.3", "MAYFLY_", "AWS_", "docker.sock", os.uname().nodename + "/"):
        assert secret not in text


async def test_it_sees_no_process_but_its_own(sandboxes):
    processes = await sandboxes.inside("""
import os
result = sorted(open(f"/proc/{p}/cmdline").read().split("\\0")[0] for p in os.listdir("/proc") if p.isdigit())
""")
    first = "python3" if sandboxes.isolation == "fork" else "docker-init"
    assert [Path(name).name for name in processes] == [first, "python3"]


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86-64")
async def test_dangerous_system_calls_are_refused(sandboxes):
    found = await sandboxes.inside(SYSCALLS, given=X86_64)
    assert found == dict.fromkeys(X86_64, "EPERM")


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86-64")
async def test_clone3_answers_as_a_kernel_without_it_would(sandboxes):
    assert await sandboxes.inside(SYSCALLS, given={"clone3": (435, 0, 0)}) == {"clone3": "ENOSYS"}


async def test_threads_processes_pools_pipes_and_asyncio_work(sandboxes):
    assert await sandboxes.inside("""
import asyncio, concurrent.futures, mmap, multiprocessing, os, queue, socket, subprocess, tempfile, threading

def double(number):
    return number * 2

async def main():
    process = await asyncio.create_subprocess_exec("echo", "child", stdout=subprocess.PIPE)
    output, _ = await process.communicate()
    return output.decode().strip()

threads = queue.Queue()
thread = threading.Thread(target=lambda: threads.put(1)); thread.start(); thread.join()
pair = socket.socketpair(); pair[0].sendall(b"x")
read, write = multiprocessing.Pipe()
process = multiprocessing.get_context("fork").Process(target=lambda: write.send(7))
process.start(); seven = read.recv(); process.join()
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    doubled = list(pool.map(double, range(4)))
area = mmap.mmap(-1, 4096); area[0] = 9
with tempfile.TemporaryDirectory() as folder:
    os.mkfifo(os.path.join(folder, "pipe"))
lock = multiprocessing.Lock()
result = [threads.get(), pair[1].recv(1).decode(), seven, doubled, asyncio.run(main()), area[0],
          subprocess.run(["sh", "-c", "echo shell | cat"], capture_output=True, text=True).stdout.strip()]
""") == [1, "x", 7, [0, 2, 4, 6], "child", 9, "shell"]


@only("container", "warm")
async def test_its_limits_are_on(sandboxes):
    limits = Limits(memory_mib=96, cpu=0.5, pids=40, open_files=640, tmp_mib=16)
    found = await sandboxes.inside(
        """
import os, resource
def read(*paths):
    for path in paths:
        if os.path.exists(path):
            return open(path).read().strip()
result = {
    "files": resource.getrlimit(resource.RLIMIT_NOFILE),
    "core": resource.getrlimit(resource.RLIMIT_CORE),
    "memory": read("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"),
    "swap": read("/sys/fs/cgroup/memory.swap.max", "/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes"),
    "pids": read("/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/pids/pids.max"),
    "quota": read("/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us"),
    "tmp": os.statvfs("/tmp").f_blocks * os.statvfs("/tmp").f_frsize,
    "shm": os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize,
    "oom": read("/proc/self/oom_score_adj"),
}
""",
        spec={"limits": limits},
    )
    mib = 1024 * 1024
    assert found["files"] == [640, 640]
    assert found["core"] == [0, 0]
    assert found["memory"] == str(96 * mib)
    # cgroup v1 counts memory and swap together, v2 swap alone; a kernel may count no swap at all.
    assert found["swap"] in (str(96 * mib), "0", None)
    assert found["pids"] == "40"
    assert found["quota"] in ("50000 100000", "50000")
    assert found["tmp"] == 16 * mib
    assert found["shm"] == 16 * mib
    assert int(found["oom"]) >= 500


@only("fork")
async def test_a_forks_limits_are_on(sandboxes):
    limits = Limits(memory_mib=96, pids=40, open_files=640, tmp_mib=16)
    found = await sandboxes.inside(
        """
import os, resource
names = ("DATA", "NPROC", "NOFILE", "CORE")
result = {name: resource.getrlimit(getattr(resource, "RLIMIT_" + name)) for name in names}
for place in ("/tmp", "/dev/shm"):
    result[place] = os.statvfs(place).f_blocks * os.statvfs(place).f_frsize
result["oom"] = int(open("/proc/self/oom_score_adj").read())
""",
        spec={"limits": limits},
    )
    mib = 1024 * 1024
    assert found["DATA"][0] == 96 * mib
    assert found["DATA"][1] < 128 * mib
    assert (found["NPROC"], found["NOFILE"], found["CORE"]) == ([40, 40], [640, 640], [0, 0])
    assert (found["/tmp"], found["/dev/shm"]) == (16 * mib, 16 * mib)
    # Its parent has 500: a task goes first.
    assert found["oom"] > 500


async def test_it_cannot_open_more_files_than_its_limit(sandboxes):
    assert (
        await sandboxes.inside("""
import os
held = []
try:
    while len(held) < 5000:
        held.append(os.open("/dev/null", os.O_RDONLY))
    result = "no limit"
except OSError as error:
    result = error.errno
for descriptor in held:
    os.close(descriptor)
""")
        == 24
    )


async def test_one_sandbox_sees_nothing_that_another_of_its_function_left(sandboxes):
    code = """
import os, glob
result = sorted(glob.glob("/tmp/*") + glob.glob("/dev/shm/*"))
for place in ("/tmp/left", "/dev/shm/left"):
    open(place, "w").close()
"""
    assert await sandboxes.inside(code) == []
    assert await sandboxes.inside(code) == []
