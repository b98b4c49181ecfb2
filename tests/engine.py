"""A Docker engine of a test's own: to be killed."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import docker
from docker.errors import DockerException

from mayfly import image
from mayfly.base_image import BASE, PYTHON
from mayfly.stack.engine import with_crun

PATIENCE = 120.0
MEBIBYTE = 1 << 20


class OwnEngine:
    """Socket, data and network namespace of its own. A short directory: a socket's path has 107 bytes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "docker.sock"
        self.process: subprocess.Popen[bytes] | None = None
        self._log = (directory / "log").open("wb")

    @classmethod
    def somewhere(cls) -> "OwnEngine":
        """In a temporary directory, which `remove` takes away."""
        return cls(Path(tempfile.mkdtemp(prefix="engine")))

    @property
    def address(self) -> str:
        return f"unix://{self.socket}"

    @property
    def died(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def start(self) -> None:
        # In a network namespace of its own, for a second engine takes the first one's bridge and rules away.
        command = ["dockerd", "--host", self.address, "--data-root", str(self.directory / "data")]
        command += ["--exec-root", str(self.directory / "exec"), "--pidfile", str(self.directory / "pid")]
        command += ["--bridge", "none", "--iptables=false", "--ip-forward=false", "--ip-masq=false"]
        command = ["unshare", "--net", *with_crun(command)]
        self._forget_containerd()
        self.process = subprocess.Popen(command, stdout=self._log, stderr=self._log, start_new_session=True)
        deadline = time.monotonic() + PATIENCE
        while not self._listens():
            assert time.monotonic() < deadline, (self.directory / "log").read_text()
            time.sleep(0.05)
        client = docker.APIClient(base_url=self.address, version="1.41")
        assert client.ping()
        client.close()

    def _forget_containerd(self) -> None:
        """A killed engine's containerd dies after it; a successor that still sees it would wait for it."""
        record = self.directory / "exec/containerd/containerd.pid"
        if record.exists():
            status = Path("/proc", record.read_text(), "status")
            while status.exists() and "State:\tZ" not in status.read_text():
                time.sleep(0.05)
            record.unlink()

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            return connection.connect_ex(str(self.socket)) == 0

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(PATIENCE)
            self.process = None
        self._log.close()

    def _sweep(self) -> None:
        """An engine that was killed while it started may have forgotten containers: their shims are left."""
        shims = set()
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if str(self.directory) in path.read_bytes().decode(errors="replace"):
                    shims.add(int(path.parent.name))
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                parent = int(path.read_text().rpartition(")")[2].split()[1])
                if parent in shims:
                    os.kill(int(path.parent.name), signal.SIGKILL)
        for shim in shims - {os.getpid()}:
            with contextlib.suppress(OSError):
                os.kill(shim, signal.SIGKILL)

    def remove(self) -> None:
        """Stop it, and leave nothing of it."""
        # A killed engine leaves its containers running: its successor ends them.
        if self.died:
            self.start()
        self.stop()
        self._sweep()
        # The engine leaves its data directory mounted on itself.
        subprocess.run(["umount", "--lazy", self.directory / "data"], capture_output=True, check=False)
        shutil.rmtree(self.directory, ignore_errors=True)


def copy_base_images(address: str) -> None:
    """From the engine of this machine, if it has them: to make them takes half a minute."""
    with contextlib.suppress(DockerException, OSError):
        ours, theirs = docker.from_env(timeout=120), docker.DockerClient(base_url=address, timeout=120)
        tags = [tag for name in (BASE, PYTHON) for tag in ours.images.get(f"{name}:latest").tags]
        # All in one archive, in which they share their layers, and a name of an image costs nothing.
        with ours.api.get(f"{ours.api.base_url}/images/get", params={"names": tags}, stream=True) as saved:
            saved.raise_for_status()
            theirs.api.load_image(saved.iter_content(MEBIBYTE))
        ours.close()
        theirs.close()


def build_image(engine: docker.DockerClient, dockerfile: str, tag: str) -> None:
    """Of a Dockerfile alone, which is in its own context."""
    context = image.Context()
    context.add_text("Dockerfile", dockerfile)
    image.build_image(engine, context, tag=tag)


def remove_images(engine: docker.DockerClient, prefix: str) -> None:
    """Those of the functions whose names start so, once nothing stands on them any more: sandboxes that were
    kept ready are removed in their own time. By their tags: what was built of the same files is one image,
    and may have another test's tag as well."""
    deadline = time.monotonic() + PATIENCE
    while tags := tags_of(engine, f"mayfly/fn-{prefix}"):
        for tag in tags:
            with contextlib.suppress(DockerException):
                engine.images.remove(tag)
        assert time.monotonic() < deadline, f"in use: {', '.join(tags)}"
        time.sleep(0.05)


def tags_of(engine: docker.DockerClient, prefix: str) -> list[str]:
    """Of the images whose names start so."""
    # Not `images.list`, which looks at each image once more: another test may have removed it.
    tags = [tag for each in engine.api.images() for tag in each["RepoTags"] or ()]
    return [tag for tag in tags if tag.startswith(prefix)]
