"""The runtime `oci`: a container per sandbox, started with `crun` or `runc`, without an engine in the path.

The engine still builds the images. An image's root file system is unpacked once (`rootfs`) and is every
sandbox's root, read-only; what confines it is `hardening`'s, in another form (`bundle`). A keeper (`keeper`)
starts the program and is the containers' parent; their streams are plain pipes.
"""

import asyncio
import contextlib
import errno
import hashlib
import os
import shutil
import signal
import sys
import uuid
from pathlib import Path
from typing import Final

from dispatcher.runtimes import cgroups
from dispatcher.runtimes.base import Exit, SandboxSpec, is_full
from dispatcher.runtimes.bundle import INIT, Place, RootFilesystem, Template
from dispatcher.runtimes.hardening import HOSTS
from dispatcher.runtimes.keeper import Folder
from dispatcher.runtimes.launcher import Container, Launcher
from dispatcher.runtimes.ownership import OwnerLock
from dispatcher.runtimes.pipes import Pipes
from dispatcher.runtimes.program import Program, find_init, programs
from dispatcher.runtimes.rootfs import RootFilesystems
from dispatcher.runtimes.streams import Readable
from mayfly.errors import SandboxesUnavailable, SandboxLost, StackError
from mayfly.settings import Settings

RUN: Final = Path("/run/mayfly")
TRIAL_SECONDS: Final = 60.0
CLOSE_SECONDS: Final = 30.0
TEMPLATES: Final = 256
ELSE: Final = "MAYFLY_RUNTIME=docker needs none of it"


class OciSandbox:
    """One container, used once."""

    def __init__(
        self, runtime: "OciRuntime", name: str, image: str, pipes: Pipes, container: Container
    ) -> None:
        self.name = name
        self._runtime = runtime
        self._image: str | None = image
        self._pipes = pipes
        self._container = container

    @property
    def stdout(self) -> Readable:
        return self._pipes.stdout

    @property
    def stderr(self) -> Readable:
        return self._pipes.stderr

    async def write(self, data: bytes) -> None:
        await self._pipes.write(data)

    async def close_stdin(self) -> None:
        self._pipes.write_eof()

    async def kill(self, signal_name: str = "SIGKILL") -> None:
        self._container.kill(signal.Signals[signal_name])

    async def wait(self) -> Exit:
        return await asyncio.shield(self._container.exit)

    async def remove(self) -> None:
        self._pipes.close()
        self._container.discard()
        if self._image is not None:
            self._runtime.give_back(self._image)
            self._image = None


class OciRuntime:
    """`dispatcher` is the id of the process that the sandboxes belong to."""

    def __init__(self, settings: Settings, dispatcher: str) -> None:
        self._settings = settings
        self._dispatcher = dispatcher
        self._lock = OwnerLock(settings.state_dir, dispatcher)
        self._folder, self._group = traces_of(self._lock.label)
        self._images = RootFilesystems(settings)
        self._templates: dict[object, Template] = {}
        self._place: Place | None = None
        self._program: Program | None = None
        self._launcher: Launcher | None = None
        self._restart = asyncio.Lock()

    @property
    def egress_refusal(self) -> str | None:
        return (
            'network = "egress" is refused: the runtime oci makes no networks. '
            "With MAYFLY_RUNTIME=docker there is one"
        )

    async def healthy(self) -> bool:
        """There is no engine that could be down: what fails, fails for a reason of its own."""
        return self._program is not None

    # --- its start

    async def start(self) -> None:
        if sys.platform != "linux" or os.geteuid() != 0:
            raise StackError(f"the runtime oci starts containers by itself, as root on Linux. {ELSE}")
        try:
            found = cgroups.hierarchies()
        except OSError as error:
            raise StackError(f"the runtime oci cannot limit a sandbox: {error}. {ELSE}") from error
        candidates = programs(found)
        init = find_init()
        if not candidates:
            raise StackError(
                f"the runtime oci needs runc or crun. {ELSE}",
                mend="apt-get install --no-install-recommends crun",
            )
        if init is None:
            raise StackError(
                f"the runtime oci needs docker-init or tini-static. {ELSE}",
                mend="apt-get install --no-install-recommends tini",
            )
        self._lock.acquire()
        hosts = self._lock.beside("hosts", HOSTS)
        reasons = []
        for program in candidates:
            place = Place(
                init=init,
                hosts=hosts,
                group=self._group,
                counts_swap=cgroups.swap_is_counted(found),
                closes_cgroups=program.is_crun and found.version == 1,
            )
            try:
                await self._try(program, place)
            except (SandboxLost, OSError) as error:
                reasons.append(f"{program.name}: {error}")
            else:
                self._program, self._place = program, place
                return
        raise StackError(f"the runtime oci can start no container here: {'; '.join(reasons)}. {ELSE}")

    async def _try(self, program: Program, place: Place) -> None:
        """Run a container of nothing but its first process. Raises `SandboxLost` or `OSError`."""
        launcher = await self._started(program, place)
        root = RootFilesystem(Path(self._folder.empty), {}, (INIT, "--version"), (), "/", ())
        spec = SandboxSpec(image="", task_id="", function="")
        pipes, container = Pipes(), Container()
        try:
            async with asyncio.timeout(TRIAL_SECONDS):
                config = Template(spec, root, place).fill("trial", spec)
                await launcher.launch("trial", config, pipes.theirs, container)
                exit = await container.exit
                if exit.code != 0:
                    raise SandboxLost(f"a first container ended with {exit.code}")  # noqa: TRY301
        except BaseException as error:
            container.discard()
            await launcher.close()
            if isinstance(error, TimeoutError):
                raise SandboxLost(f"nothing happened for {TRIAL_SECONDS:g} s") from error
            raise
        finally:
            pipes.close()
        self._launcher = launcher

    async def _started(self, program: Program, place: Place) -> Launcher:
        self._folder.make(self._lock.label)
        launcher = Launcher(program, self._folder, place.group)
        launcher.start()
        return launcher

    async def _living(self) -> Launcher:
        """The launcher; another one, where its keeper was killed: with what that one kept ended before."""
        async with self._restart:
            assert self._launcher is not None, "the runtime was not started"
            assert self._program is not None
            assert self._place is not None
            if not self._launcher.alive:
                await self._launcher.close()
                try:
                    await asyncio.to_thread(_sweep, self._folder)
                    self._launcher = await self._started(self._program, self._place)
                except OSError as error:
                    raise SandboxesUnavailable(f"sandboxes cannot be started: {error}") from error
            return self._launcher

    # --- a sandbox's life

    async def launch(self, spec: SandboxSpec) -> OciSandbox:
        try:
            self._refuse_egress(spec)
            root = await self._images.take(spec.image)
            try:
                return await self._launch(spec, root)
            except BaseException:
                self._images.give_back(spec.image)
                raise
        except (SandboxLost, OSError) as error:
            full = is_full(str(error)) or isinstance(error, SandboxesUnavailable)
            lost = SandboxesUnavailable if full else SandboxLost
            raise lost(f"no sandbox for {spec.function}: {error}") from error

    def _refuse_egress(self, spec: SandboxSpec) -> None:
        if spec.network != "none":
            raise SandboxLost(str(self.egress_refusal))

    async def _launch(self, spec: SandboxSpec, root: RootFilesystem) -> OciSandbox:
        launcher = await self._living()
        name = uuid.uuid4().hex
        config = self._template(spec, root).fill(name, spec)
        pipes, container = Pipes(), Container()
        try:
            await launcher.launch(name, config, pipes.theirs, container)
            pipes.given()
            await pipes.connect()
        except BaseException:
            container.discard()
            pipes.close()
            raise
        return OciSandbox(self, name, spec.image, pipes, container)

    def _template(self, spec: SandboxSpec, root: RootFilesystem) -> Template:
        key = (spec.image, spec.use, spec.limits)
        template = self._templates.get(key)
        if template is None:
            assert self._place is not None
            if len(self._templates) >= TEMPLATES:
                self._templates.clear()
            template = self._templates[key] = Template(spec, root, self._place)
        return template

    def give_back(self, image: str) -> None:
        self._images.give_back(image)

    # --- the end

    async def remove_orphans(self) -> int:
        try:
            removed = await asyncio.to_thread(self._remove_orphans)
        except OSError as error:
            raise SandboxLost(f"sandboxes of a dead dispatcher cannot be removed: {error}") from error
        self._lock.forget_dead()
        return removed

    def _remove_orphans(self) -> int:
        removed = 0
        for owner in RUN.glob("*/owner"):
            with contextlib.suppress(FileNotFoundError):
                if self._lock.is_dead(owner.read_text()):
                    removed += _sweep(Folder(str(owner.parent)))
        return removed

    async def close(self) -> None:
        if self._launcher is not None:
            self._launcher.discard_all()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._launcher.empty()
            await self._launcher.close()
            self._launcher = None
            with contextlib.suppress(OSError):
                await asyncio.to_thread(_sweep, self._folder)
        self._images.close()
        self._lock.release()


def traces_of(label: str) -> tuple[Folder, str]:
    """Where a dispatcher's sandboxes have their files, and the control group that theirs are in."""
    digest = hashlib.sha256(label.encode()).hexdigest()[:16]
    return Folder(str(RUN / digest)), f"mayfly-{digest}"


def _sweep(folder: Folder) -> int:
    """End what a dispatcher that is dead, or its keeper, has left: how many sandboxes. Blocks.

    Raises `OSError` where they do not end.
    """
    names = folder.names()
    _kill_starters(folder)
    cgroups.end(cgroups.hierarchies(), f"mayfly-{Path(folder.path).name}")
    shutil.rmtree(folder.path, ignore_errors=True)
    return len(names)


def _kill_starters(folder: Folder) -> None:
    """The keeper and what it was starting: they are in no control group yet."""
    wanted = folder.path.encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        process = int(path.parent.name)
        try:
            descriptor = os.pidfd_open(process)
        except OSError:
            continue
        try:
            arguments = path.read_bytes().split(b"\0")
            if any(part == wanted or part.startswith(wanted + b"/") for part in arguments):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        except OSError as error:
            if error.errno not in (errno.ESRCH, errno.ENOENT):
                raise
        finally:
            os.close(descriptor)
