"""Building functions' images with a real engine."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import docker
import pytest

from mayfly.base_image import ensure_base
from mayfly.build import build, build_all
from mayfly.errors import FunctionError
from mayfly.function import Function
from mayfly.image import find_image
from tests.engine import remove_images


@dataclass
class Workshop:
    """A directory of functions, and the engine that builds them; `told` is what the last build said."""

    folders: Path
    client: docker.DockerClient
    told: list[str] = field(default_factory=list)

    def write(self, name: str, files: dict[str, str]) -> Path:
        folder = self.folders / name
        for file, content in files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(content)
        return folder

    def build(self, name: str, files: dict[str, str] | None = None) -> Function:
        folder = self.write(name, files or {})
        self.told.clear()
        return build(folder, self.client, on_progress=self.told.append)

    def id_of(self, function: Function) -> str:
        image = find_image(self.client, function.image)
        assert image is not None
        return image.id

    def layers(self, function: Function) -> list[str]:
        found: list[str] = self.client.images.get(function.image).attrs["RootFS"]["Layers"]
        return found

    def run(self, function: Function, *command: str, entrypoint: str = "sh") -> str:
        output: bytes = self.client.containers.run(
            function.image,
            list(command),
            entrypoint=entrypoint,
            network_mode="none",
            read_only=True,
            remove=True,
        )
        return output.decode()


@pytest.fixture
def workshop(docker_engine: docker.DockerClient, tmp_path: Path) -> Iterator[Workshop]:
    folders = tmp_path / "functions"
    folders.mkdir()
    yield Workshop(folders, docker_engine)
    remove_images(docker_engine, "testonly")


@pytest.fixture
def name() -> str:
    """A name that no image of another run has."""
    return f"testonly-{uuid.uuid4().hex[:8]}"


PLAIN = {"handler.py": "def handler(event, context):\n    return event\n"}


def test_a_folder_of_one_file_becomes_a_function(workshop: Workshop, name: str) -> None:
    function = workshop.build(name, PLAIN)
    assert function.image == f"mayfly/fn-{name}:{function.version}"
    assert (function.contract, function.schema, function.accepts_bytes) == ("python", None, True)
    assert workshop.told == [f"building {name}"]
    assert workshop.run(function, "-c", "ls /function/__pycache__").startswith("handler.cpython-")
    assert workshop.run(function, "-c", "id -u; touch /function/x 2>&1 || true").splitlines()[0] == "65532"


def test_an_unchanged_folder_is_not_built_again(workshop: Workshop, name: str) -> None:
    first = workshop.build(name, PLAIN)
    image = workshop.id_of(first)
    again = workshop.build(
        name, {"function.toml": "timeout = 5", ".env": "KEY=x", "examples/a.json": '{"input": 1}'}
    )
    assert workshop.told == []
    assert (again.version, workshop.id_of(again)) == (first.version, image)
    assert (again.limits.timeout_seconds, again.examples) == (5.0, ("1",))


def test_changed_code_keeps_the_layer_of_its_packages(workshop: Workshop, name: str) -> None:
    files = {
        "handler.py": "import idna\ndef handler(event, context): return 1\n",
        "requirements.txt": "idna\n",
    }
    first = workshop.build(name, files)
    below = workshop.layers(first)[:-2]
    second = workshop.build(name, {"handler.py": "import idna\ndef handler(event, context): return 2\n"})
    assert workshop.told == [f"building {name}"]
    assert second.version != first.version
    assert workshop.layers(second)[: len(below)] == below
    assert "idna" in workshop.run(second, "-c", "ls /opt/mayfly/site")


def test_packages_may_come_from_a_block_in_the_handler(workshop: Workshop, name: str) -> None:
    block = '# /// script\n# dependencies = ["idna"]\n# ///\n'
    function = workshop.build(name, {"handler.py": block + "import idna\n" + PLAIN["handler.py"]})
    assert "idna" in workshop.run(function, "-c", "ls /opt/mayfly/site")


def test_the_input_schema_is_read_from_the_type_hint_inside_the_image(workshop: Workshop, name: str) -> None:
    handler = (
        "from dataclasses import dataclass\n@dataclass\nclass Size:\n    width: int\n"
        "def handler(event: Size, context):\n    return event\n"
    )
    function = workshop.build(name, {"handler.py": handler})
    assert function.schema is not None
    assert function.schema["properties"] == {"width": {"type": "integer"}}
    assert function.accepts_bytes is False


def test_a_pydantic_model_gives_the_schema_where_the_image_has_pydantic(
    workshop: Workshop, name: str
) -> None:
    handler = (
        "from pydantic import BaseModel\nclass Size(BaseModel):\n    width: int\n"
        "def handler(event: Size, context):\n    return event\n"
    )
    function = workshop.build(name, {"handler.py": handler, "requirements.txt": "pydantic>=2"})
    assert function.schema is not None
    assert function.schema["required"] == ["width"]


def test_a_schema_in_the_manifest_wins_over_the_hint(workshop: Workshop, name: str) -> None:
    manifest = '[schema]\ntype = "object"\n'
    handler = "def handler(event: int, context):\n    return event\n"
    function = workshop.build(name, {"handler.py": handler, "function.toml": manifest})
    assert (function.schema, function.accepts_bytes) == ({"type": "object"}, False)


def test_a_secret_is_never_in_the_image(workshop: Workshop, name: str) -> None:
    files = {**PLAIN, ".env": "KEY=very-secret", "function.toml": 'secrets = ["KEY"]'}
    function = workshop.build(name, files)
    assert workshop.run(function, "-c", "ls -A /function").split() == ["__pycache__", "handler.py"]
    attributes = workshop.client.images.get(function.image).attrs
    assert "very-secret" not in str(attributes)
    assert function.secrets == ("KEY",)


BROKEN = [
    ({"handler.py": "def handler(event, context)\n    pass\n"}, "handler.py:1: SyntaxError: expected ':'"),
    (
        {"handler.py": "import os\nimport requests\n"},
        "handler.py:2: No module named 'requests'; if it is a package, name it in requirements.txt",
    ),
    ({"handler.py": "x = 1\n"},
     "handler.py: handler.py defines no `handler`: add `def handler(event, context): ...`"),
    ({**PLAIN, "lib/a.py": "",
     "handler.py": "import lib.a\n1 / 0\n"}, "handler.py:2: ZeroDivisionError: division by zero"),
    (
        {"handler.py": "import os\nKEY = os.environ['KEY']\n", "function.toml": 'secrets = ["KEY"]'},
        "handler.py:2: KeyError: 'KEY'; secrets come with each task: read KEY inside handler",
    ),
    ({"handler.py": "import os\nos._exit(3)\n"}, "handler.py: the import ended the process (exit code 3)"),
    (
        {**PLAIN, "requirements.txt": "# ours\nno-such-package-of-mayfly-tests\n"},
        "requirements.txt:2: the packages cannot be had: Because no-such-package-of-mayfly-tests was "
        "not found in the package registry and you require no-such-package-of-mayfly-tests.",
    ),
    (
        {**PLAIN, "requirements.txt": "idna\nidna >>3\n"},
        "requirements.txt:2: the packages cannot be had: no such comparison operator \">>\", must be one of "
        "~= == != <= >= < > === idna >>3 ^^^",
    ),
    (
        {"handler.py": '# /// script\n# requires-python = ">=3.99"\n# ///\n' + PLAIN["handler.py"]},
        "handler.py:1: requires-python is >=3.99, and the image has Python ",
    ),
    ({"Dockerfile": "FROM mayfly/base\n\nRUN exit 7\n"},
     "Dockerfile:3: The command '/bin/sh -c exit 7' returned "
     "a non-zero code: 7"),
    ({"Dockerfile": "FROM mayfly/base\nCOPY nothing /\n"},
     "Dockerfile:2: COPY failed: file not found in build context"),
    ({"Dockerfile": "FROM mayfly/base\nBAKE cake\n"}, "Dockerfile:2: "),
    ({"Dockerfile": "FROM mayfly/base\n"}, "Dockerfile: names nothing to run: add ENTRYPOINT or CMD"),
    ({**PLAIN, "examples/a.json": "{}"}, "examples/a.json: an example has either input or inputFile"),
]  # fmt: skip


@pytest.mark.parametrize(("files", "message"), BROKEN, ids=[case[1][:40] for case in BROKEN])
def test_a_broken_function_is_told_with_its_file_and_line(
    workshop: Workshop, name: str, files: dict[str, str], message: str
) -> None:
    with pytest.raises(FunctionError) as caught:
        workshop.build(name, files)
    assert str(caught.value).startswith(message)


def test_a_build_shows_its_output_only_when_it_fails(workshop: Workshop, name: str) -> None:
    with pytest.raises(FunctionError, match="marmalade"):
        workshop.build(
            name, {"Dockerfile": "FROM mayfly/base\nRUN echo marm''alade && false\nCMD [\"true\"]"}
        )
    workshop.build(name, {"Dockerfile": "FROM mayfly/base\nRUN echo marm''alade\nCMD [\"true\"]"})
    assert workshop.told == [f"building {name}"]


def test_a_broken_function_that_is_mended_is_built(workshop: Workshop, name: str) -> None:
    with pytest.raises(FunctionError):
        workshop.build(name, {"handler.py": "1 / 0\n"})
    assert workshop.build(name, PLAIN).contract == "python"


def test_a_dockerfile_function_has_the_unix_contract(workshop: Workshop, name: str) -> None:
    files = {
        "Dockerfile": 'FROM mayfly/base\nCOPY run.sh /\nENTRYPOINT ["/run.sh"]\n',
        "run.sh": "#!/bin/sh\ncat\n",
    }
    folder = workshop.write(name, files)
    (folder / "run.sh").chmod(0o755)
    function = workshop.build(name)
    assert (function.contract, function.schema, function.accepts_bytes) == ("unix", None, True)
    assert "-rwxr-xr-x" in workshop.run(function, "-c", "ls -l /run.sh")


def test_a_dockerfile_may_keep_the_python_contract(workshop: Workshop, name: str) -> None:
    dockerfile = "FROM mayfly/python\nRUN echo extra > /extra\nCOPY handler.py /function/\n"
    handler = "def handler(event: int, context):\n    return event\n"
    function = workshop.build(
        name, {"Dockerfile": dockerfile, "handler.py": handler, "function.toml": 'contract = "python"'}
    )
    assert (function.contract, function.schema) == ("python", {"type": "integer"})


def test_one_broken_function_does_not_keep_the_others_back(workshop: Workshop, name: str) -> None:
    workshop.write(name, PLAIN)
    workshop.write(f"{name}-broken", {"handler.py": "1 / 0\n"})
    workshop.write("notes", {"readme.md": "no function"})
    built = build_all(workshop.folders, workshop.client, on_progress=workshop.told.append)
    assert [function.name for function in built.functions] == [name]
    assert {key: str(error) for key, error in built.errors.items()} == {
        f"{name}-broken": "handler.py:1: ZeroDivisionError: division by zero"
    }


def test_the_base_image_tells_nothing_of_the_machine_that_made_it(workshop: Workshop, name: str) -> None:
    function = workshop.build(name, PLAIN)
    found = workshop.run(
        function, "-c", "find /etc/apt -name '*sources*' -o -name '*.conf' -path '*auth*'; ls /var/log"
    )
    assert found.strip() == ""


def test_the_base_image_is_made_once(docker_engine: docker.DockerClient) -> None:
    ensure_base(docker_engine, on_progress=lambda message: None)
    told: list[str] = []
    base = ensure_base(docker_engine, on_progress=told.append)
    assert told == []
    assert base.platform.startswith(("x86_64-manylinux_2_", "aarch64-manylinux_2_"))
