"""The command deploy: functions' folders, to the system that a gateway is part of."""

import ipaddress
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import typer

from mayfly.cli.deploy import all_folders
from mayfly.cli.folders import FunctionsDir, engine, find_folder, in_folder
from mayfly.cli.options import Json, Url
from mayfly.cli.output import CHANGES, FAILED, USAGE, fail, say, show, show_json, spinner

if TYPE_CHECKING:
    from docker import DockerClient

    from mayfly.build import Blueprint
    from mayfly.client import Catalog, Client
    from mayfly.function import Function
    from mayfly.plan import Planned
    from mayfly.registry import Registry

REPOSITORY: Final = re.compile(r"[a-z0-9][a-z0-9.-]*(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+")
LONGEST: Final = 60
"""Characters of a value that is shown."""
SIGNS: Final = {"new": "+", "changed": "~", "unchanged": "=", "retired": "-"}


class Candidate(NamedTuple):
    """A function of the folder. `certain` is False where only its image, which is not there, can say what it
    takes."""

    blueprint: "Blueprint"
    function: "Function"
    certain: bool


def deploy(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME...", help="Functions; all of them unless named.")
    ] = None,
    functions: FunctionsDir = Path("functions"),
    plan: Annotated[
        bool, typer.Option("--plan", help="Only show what would change: exits with 4 if anything would.")
    ] = False,
    no_traffic: Annotated[
        bool, typer.Option("--no-traffic", help="No task runs on the new versions before `mayfly traffic`.")
    ] = False,
    registry: Annotated[
        str | None,
        typer.Option(
            "--registry", metavar="HOST/REPO", help="Where images go; where the gateway says, unless given."
        ),
    ] = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Retire the functions that the folder does not have.")
    ] = False,
    json: Json = False,
    url: Url = None,
) -> None:
    """Deploy functions to the system that the gateway is part of: build what changed, push, and switch.

    Nothing is switched before every image is where it has to be. What has not changed is neither built, nor
    pushed, nor written. Needs a key with the scope admin, of an operator.
    """
    from mayfly.cli.gateway import connect
    from mayfly.client import NotFound

    if prune and names:
        fail("--prune is for the whole folder: name no functions with it", code=USAGE)
    if registry is not None and not REPOSITORY.fullmatch(registry):
        hint = "a host and a path without a scheme and a tag, such as registry.example.com/functions"
        fail(f"--registry {registry} is no repository", hint=hint, code=USAGE)
    folders = [find_folder(name, functions) for name in names or ()] or all_folders(functions)
    with connect(url) as client:
        try:
            catalog = client.catalog()
        except NotFound:
            fail(f"the gateway at {client.url} takes no deployments: it is of an older version", code=FAILED)
        repository = registry or catalog.repository
        if repository is None and not _is_here(client.url):
            hint = "give --registry, and set MAYFLY_FUNCTIONS_REPOSITORY for gateways and dispatchers"
            fail(f"no registry is named that carries images to {client.url}", hint=hint, code=FAILED)
        docker = engine()
        deployment = Deployment(client, catalog, docker, _registry(repository), traffic=not no_traffic)
        candidates, errors = deployment.read(folders)
        if errors and not plan:
            _give_up(errors, "nothing was deployed")
        steps = [deployment.plan(one) for one in candidates]
        steps += deployment.retirements({folder.name for folder in folders}) if prune else []
        if not plan:
            steps = deployment.carry_out(candidates, steps)
    if json:
        show_json({"repository": repository, "functions": list(map(_document, steps)), "errors": errors})
    else:
        _show(steps, {one.function.name for one in candidates if not one.certain} if plan else set())
    others = _others(catalog, folders) if not (names or prune) else []
    if others:
        say(f"not in {functions}, and left alone: {', '.join(others)}; --prune retires them")
    _conclude(steps, errors, plan=plan)


class Deployment:
    """Folders on their way into the catalog."""

    def __init__(
        self,
        client: "Client",
        catalog: "Catalog",
        engine: "DockerClient",
        registry: "Registry | None",
        *,
        traffic: bool,
    ) -> None:
        self._client = client
        self._entries = {entry.name: entry for entry in catalog.functions}
        self._engine = engine
        self._registry = registry
        self._traffic = traffic

    def read(self, folders: list[Path]) -> tuple[list[Candidate], dict[str, str]]:
        """The functions, and by name what is wrong with the others. Nothing is built but the base."""
        from mayfly.build import blueprint, without_building
        from mayfly.versions import versions

        candidates = []

        def look(folder: Path, progress: Callable[[str], None]) -> None:
            plan = blueprint(folder, self._engine, on_progress=progress)
            entry = self._entries.get(plan.folder.name)
            found = without_building(plan, self._engine, versions(entry) if entry else ())
            candidates.append(Candidate(plan, found or plan.function({}), found is not None))

        errors = _each("reading", folders, look)
        return candidates, errors

    def plan(self, candidate: Candidate) -> "Planned":
        from mayfly.plan import planned

        function = candidate.function
        return planned(self._entries.get(function.name), function, traffic=self._traffic)

    def retirements(self, names: set[str]) -> "list[Planned]":
        from mayfly.plan import retirement

        gone = (entry for name, entry in self._entries.items() if name not in names and not entry.retired)
        return list(map(retirement, gone))

    def carry_out(self, candidates: list[Candidate], steps: "list[Planned]") -> "list[Planned]":
        """What was done. Every image is where it has to be before the first entry is written."""
        from mayfly.plan import Change

        lacking = [one for one in candidates if not self._is_there(one)]
        built, errors = self._build([*lacking, *(one for one in candidates if not one.certain)])
        pushed: list[str] = []
        if not errors and self._registry is not None:
            errors = self._push([built.get(one.function.name, one.function) for one in lacking], pushed)
        if errors:
            done = f"; pushed were {', '.join(pushed)}" if pushed else ""
            _give_up(errors, f"nothing was deployed{done}")
        functions = [built.get(one.function.name, one.function) for one in candidates]
        retired = [step for step in steps if step.change is Change.RETIRED]
        return self._write(functions, retired)

    def _is_there(self, candidate: Candidate) -> bool:
        """Whether dispatchers find its image: in the registry, or, without one, in the engine here."""
        from mayfly.image import find_image

        image = candidate.function.image
        if self._registry is not None:
            return self._registry.has(self._engine.api, image)
        return find_image(self._engine, image) is not None

    def _build(self, candidates: list[Candidate]) -> "tuple[dict[str, Function], dict[str, str]]":
        from mayfly.build import build

        built: dict[str, Function] = {}
        plans = {one.blueprint.folder.path: one.blueprint for one in candidates}

        def make(folder: Path, progress: Callable[[str], None]) -> None:
            function = build(plans[folder], self._engine, on_progress=progress)
            built[function.name] = function

        return built, _each("building", plans, make)

    def _push(self, functions: "list[Function]", pushed: list[str]) -> dict[str, str]:
        from mayfly.errors import MayflyError

        assert self._registry is not None
        errors: dict[str, str] = {}
        with spinner("pushing", total=len(functions)) as meanwhile:
            for function in functions:
                meanwhile.say(f"pushing {function.image}")
                try:
                    self._registry.push(self._engine.api, function.image)
                    pushed.append(function.name)
                except MayflyError as error:
                    hint = "is it the right repository, and are you logged in (docker login)?"
                    errors[function.name] = f"its image was not pushed: {error}; {hint}"
                meanwhile.advance()
        return errors

    def _write(self, functions: "list[Function]", retired: "list[Planned]") -> "list[Planned]":
        from mayfly.errors import MayflyError
        from mayfly.plan import Change, planned

        done: list[Planned] = []
        try:
            for function in functions:
                step = planned(self._entries.get(function.name), function, traffic=self._traffic)
                if step.change is not Change.UNCHANGED:
                    # What it is by now: somebody else may have deployed it meanwhile.
                    newest = self._client.deploy(function, traffic=self._traffic).versions[0]
                    step = step._replace(version=newest.version, share=newest.share)
                done.append(step)
            for step in retired:
                self._client.retire(step.name)
                done.append(step)
        except MayflyError:
            changed = [step.name for step in done if step.change is not Change.UNCHANGED]
            say(f"deployed before this went wrong: {', '.join(changed) or 'nothing'}; the rest is as it was")
            raise
        return done


# --- what it meets ------------------------------------------------------------------------------------------


def _each(
    doing: str, folders: Iterable[Path], work: Callable[[Path, Callable[[str], None]], None]
) -> dict[str, str]:
    """Do the work for each folder; by name what is wrong with those of which it could not be done."""
    from mayfly.errors import FunctionError

    errors, every = {}, list(folders)
    with spinner(doing, total=len(every)) as meanwhile:
        for folder in every:
            try:
                work(folder, meanwhile.say)
            except FunctionError as error:
                errors[folder.resolve().name] = str(in_folder(error, folder))
            meanwhile.advance()
    return errors


def _registry(repository: str | None) -> "Registry | None":
    from mayfly.registry import Registry

    return None if repository is None else Registry(repository)


def _is_here(url: str) -> bool:
    """Whether a gateway at that URL may well use the engine of this machine."""
    import httpx

    host = httpx.URL(url).host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _others(catalog: "Catalog", folders: list[Path]) -> list[str]:
    own = {folder.name for folder in folders}
    return [entry.name for entry in catalog.functions if entry.name not in own and not entry.retired]


# --- what it says -------------------------------------------------------------------------------------------


def _give_up(errors: dict[str, str], what: str) -> None:
    for error in errors.values():
        say(f"error: {error}")
    fail(what, hint=None, code=FAILED)


def _show(steps: "list[Planned]", uncertain: set[str]) -> None:
    for step in steps:
        zero = step.change != "retired" and step.share == 0
        idle = f"  gets no task yet: `mayfly traffic {step.name} {step.version}=100%`" if zero else ""
        show(f"{SIGNS[step.change]} {step.name}  {step.version}  {step.change}{idle}")
        for difference in step.differences:
            if not (step.name in uncertain and difference.field.split(".")[0] in ("schema", "accepts_bytes")):
                show(f"    {difference.field}: {_text(difference.before)} -> {_text(difference.after)}")
        if step.name in uncertain:
            show("    schema: as its handler's type hint says, which is read when it is built")


def _text(value: Any) -> str:
    import msgspec

    if value is None:
        return "unset"
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _document(step: "Planned") -> dict[str, Any]:
    differences = [{"field": one.field, "from": one.before, "to": one.after} for one in step.differences]
    return {
        "name": step.name,
        "change": step.change,
        "version": step.version,
        "share": step.share,
        "differences": differences,
    }


def _conclude(steps: "list[Planned]", errors: dict[str, str], *, plan: bool) -> None:
    counts = {change: sum(step.change == change for step in steps) for change in SIGNS}
    told = ", ".join(f"{count} {change}" for change, count in counts.items() if count)
    changes = len(steps) - counts["unchanged"]
    for error in errors.values():
        say(f"error: {error}")
    if errors:
        raise typer.Exit(FAILED)
    if not changes:
        say("nothing to do: what is deployed is what is here")
    elif plan:
        say(f"a deployment would change this: {told}")
        raise typer.Exit(CHANGES)
    else:
        say(f"deployed: {told}")
