"""The functions' folder, watched: what is in it is built and in the catalog within two seconds."""

import asyncio
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import docker
import msgspec
from watchfiles import awatch

from mayfly.adapters.kafka import Log, ensure_topics
from mayfly.adapters.kafka_catalog import Catalog, publish
from mayfly.adapters.kafka_trail import TrailTopic
from mayfly.base_image import ensure_base
from mayfly.build import build, function_folders
from mayfly.errors import FunctionError, MayflyError, StackError
from mayfly.folder import LEFT_OUT, is_function
from mayfly.function import Function
from mayfly.identity.chain import Entry
from mayfly.identity.trail import Trail
from mayfly.registry import Registry
from mayfly.settings import Settings
from mayfly.stack.home import Home
from mayfly.stack.packages import MMDEBSTRAP, install
from mayfly.stack.part import Say
from mayfly.task import DEFAULT_TENANT
from mayfly.versions import deployed as deployed_version
from mayfly.versions import retired

QUIET_MS: Final = 200
"""How long a folder must rest before it is built: an editor, or `cp`, writes more than one file."""
LOOK_MS: Final = 1000
"""How often the folder is looked at even if nothing was heard of it."""
RETRY_SECONDS: Final = 2.0
BUILDS: Final = 2
"""Builds at once."""
BUILD_TIMEOUT: Final = 900


Stamp = frozenset[tuple[str, int, int]]
"""Of a folder: its files' names, sizes in bytes, and times of change in nanoseconds."""

NOTHING: Final[Stamp] = frozenset()
"""No function's folder is empty."""


@dataclass(frozen=True)
class Deployed:
    """What became of a folder: the version that serves, and, if its last change is broken, why."""

    name: str
    version: str | None
    error: str | None = None


class Deployer:
    """Deploys the folder's functions and goes on doing so. A function that it deployed, and whose folder
    is gone, is retired; those of others, in a catalog that is shared, it leaves alone."""

    def __init__(self, home: Home, folder: Path, settings: Settings, engine: str, say: Say) -> None:
        self._home = home
        self._folder = folder.resolve()
        self._log = Log(settings)
        self._settings = settings
        self._trail_topic = TrailTopic(settings, self._log)
        self._trail = Trail(self._trail_topic)
        self._catalog = Catalog(settings)
        self._docker = docker.DockerClient(base_url=engine, timeout=BUILD_TIMEOUT)
        self._registry = Registry(settings.functions_repository) if settings.functions_repository else None
        self._say = say
        self._state: dict[str, Deployed] = {state.name: state for state in deployed(home)}
        self._published: dict[str, tuple[int, Function]] = {}
        """What we have written, and the offset behind it: our own view may not have come to that yet."""
        self._seen: dict[str, Stamp] = {}
        self._builds = asyncio.Semaphore(BUILDS)
        self._settling: dict[str, asyncio.Task[None]] = {}
        self._touched: set[str] = set()
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns when every function that is there now is deployed, or reported as broken."""
        await self._ensure_base()
        await self._log.start()
        await self._catalog.start()
        # A function that was deployed before and is gone since has changed, too.
        self._seen = dict.fromkeys(self._state, NOTHING)
        self._look()
        self._watch = asyncio.create_task(self._watching())
        await asyncio.gather(*self._settling.values())
        serving = [state.name for state in self._state.values() if state.version]
        self._say(f"functions: {', '.join(sorted(serving)) or 'none yet'}; {self._folder} is watched")

    async def keep(self) -> None:
        """Goes on until it is cancelled."""
        assert self._watch is not None
        await self._watch

    async def stop(self) -> None:
        tasks = [task for task in (self._watch, *self._settling.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._catalog.close()
        await self._trail_topic.close()
        await self._log.close()
        self._docker.close()

    async def _ensure_base(self) -> None:
        """Before the first build: two that run at once would both make it."""
        try:
            await asyncio.to_thread(ensure_base, self._docker, on_progress=self._progress("base image"))
        except StackError:
            if MMDEBSTRAP.present:
                raise
            await install([MMDEBSTRAP], self._say)
            await asyncio.to_thread(ensure_base, self._docker, on_progress=self._progress("base image"))

    def _progress(self, what: str) -> Say:
        """Builds run in threads; whoever listens need not know."""
        loop = asyncio.get_running_loop()

        def say(line: str) -> None:
            loop.call_soon_threadsafe(self._say, f"{what}: {line}")

        return say

    # --- what changed

    async def _watching(self) -> None:
        while True:
            if self._folder.is_dir():
                await self._watch_folder()
            self._look()
            await asyncio.sleep(LOOK_MS / 1000)

    async def _watch_folder(self) -> None:
        """Returns when the folder is gone."""
        changes = awatch(self._folder, step=QUIET_MS, rust_timeout=LOOK_MS, yield_on_timeout=True)
        async for _ in changes:
            self._look()
            if not self._folder.is_dir():
                return

    def _look(self) -> None:
        """Deploys what differs from the last look.

        What was heard of only says when to look: of a folder that is copied here, the files that came
        before it was watched itself are never heard of.
        """
        seen = {path.name: _stamp(path) for path in function_folders(self._folder)}
        before = self._seen
        self._seen = seen
        for name in sorted(seen.keys() | before.keys()):
            if seen.get(name) != before.get(name):
                self._touch(name)

    def _touch(self, name: str) -> None:
        """Deploys the function, once more if that is under way."""
        self._touched.add(name)
        if name not in self._settling:
            self._settling[name] = asyncio.create_task(self._settle(name))

    async def _settle(self, name: str) -> None:
        try:
            await self._deploy_until_untouched(name)
        finally:
            del self._settling[name]

    async def _deploy_until_untouched(self, name: str) -> None:
        while name in self._touched:
            self._touched.discard(name)
            try:
                async with self._builds:
                    await self._deploy(name)
            except FunctionError as error:
                self._broken(name, error)
            except MayflyError as error:
                self._say(f"function {name}: not deployed yet, tried again: {error}")
                self._touched.add(name)
                await asyncio.sleep(RETRY_SECONDS)

    # --- what is done about it

    async def _deploy(self, name: str) -> None:
        if not is_function(self._folder / name):
            await self._retire(name)
            return
        began = time.monotonic()
        function = await asyncio.to_thread(
            build, self._folder / name, self._docker, on_progress=self._progress(f"function {name}")
        )
        if self._registry is not None:
            # Before the catalog has it: a dispatcher elsewhere may be given a task at once.
            await asyncio.to_thread(self._registry.push, self._docker.api, function.image)
        entry = deployed_version(self._served(name), function, _now())
        if entry is not None:
            await self._publish(entry)
            took = time.monotonic() - began
            self._say(f"function {name}: version {function.version} serves, deployed in {took:.1f} s")
        elif (state := self._state.get(name)) is None or state.error:
            self._say(f"function {name}: version {function.version} serves")
        self._remember(Deployed(name, function.version))

    async def _retire(self, name: str) -> None:
        served = self._served(name)
        if name not in self._state:
            return
        if served is not None and not served.retired:
            await self._publish(retired(served))
            self._say(f"function {name}: its folder is gone, it takes no new task")
        del self._state[name]
        self._write()

    async def _publish(self, function: Function) -> None:
        # Its queue's topics first: a task may come as soon as the catalog has the function.
        await ensure_topics(self._settings.model_copy(update={"queue": function.queue}))
        action = "function.retire" if function.retired else "function.deploy"
        target = f"{function.name}@{function.version}"
        await self._trail.write(Entry(action, target, "deployer", DEFAULT_TENANT))
        appended = await publish(self._log, function)
        self._published[function.name] = appended.offset + 1, function

    def _served(self, name: str) -> Function | None:
        """What the catalog has."""
        revision, function = self._published.get(name, (0, None))
        return function if self._catalog.revision < revision else self._catalog.get(name)

    def _broken(self, name: str, error: FunctionError) -> None:
        served = self._served(name)
        serving = served is not None and not served.retired
        rest = f"version {served.version} goes on serving" if served and serving else "it is not deployed"
        text = f"{self._folder.name}/{name}/{error}" if error.file else str(error)
        self._say(f"function {name}: {text}\n  {rest}")
        self._remember(Deployed(name, served.version if served and serving else None, text))

    def _remember(self, state: Deployed) -> None:
        if self._state.get(state.name) != state:
            self._state[state.name] = state
            self._write()

    def _write(self) -> None:
        states = [self._state[name] for name in sorted(self._state)]
        self._home.write_json("functions.json", [msgspec.to_builtins(state) for state in states])


def deployed(home: Home) -> list[Deployed]:
    """What the stack of this directory has deployed, by name, with what is broken about it."""
    found: Any = home.read_json("functions.json")
    return [Deployed(**entry) for entry in found] if isinstance(found, list) else []


def _stamp(folder: Path) -> Stamp:
    return frozenset(_files(str(folder)))


def _files(folder: str) -> Iterator[tuple[str, int, int]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if entry.name not in LEFT_OUT:
                        yield from _files(entry.path)
                elif entry.name != ".env":
                    found = entry.stat(follow_symlinks=False)
                    yield entry.path, found.st_size, found.st_mtime_ns
    except OSError:
        # It went away while it was read: the next look sees what is left.
        return


def _now() -> int:
    return int(time.time() * 1000)
