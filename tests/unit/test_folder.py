"""Reading a function's folder: what it takes, what it refuses, and in which words."""

import os
from pathlib import Path

import pytest

from mayfly.errors import FunctionError
from mayfly.folder import Folder, read_folder
from mayfly.requirements import allows
from mayfly.task import FailureType, RetryPolicy

HANDLER = "def handler(event, context):\n    return event\n"


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def read(tmp_path: Path, files: dict[str, str | bytes], name: str = "resize") -> Folder:
    return read_folder(write(tmp_path / name, files))


def names(folder: Folder) -> list[str]:
    return [file.name for file in folder.files]


MANIFEST = [
    ("description = 5", "function.toml:1: description is 5: it must be a text of at most 1000 characters"),
    (
        "\n\ntimeout = '5m'",
        'function.toml:3: timeout is "5m": it must be a number of seconds, over 0 and at most 86400',
    ),
    (
        "timeout = 0",
        "function.toml:1: timeout is 0: it must be a number of seconds, over 0 and at most 86400",
    ),
    (
        "timeout = 86401",
        "function.toml:1: timeout is 86401: it must be a number of seconds, over 0 and at most 86400",
    ),
    ("memory = 1.5", "function.toml:1: memory is 1.5: it must be a whole number of MiB, from 16 to 1048576"),
    ("memory = 8", "function.toml:1: memory is 8: it must be a whole number of MiB, from 16 to 1048576"),
    (
        "memory = true",
        "function.toml:1: memory is true: it must be a whole number of MiB, from 16 to 1048576",
    ),
    ("cpu = -1", "function.toml:1: cpu is -1: it must be a number of cores, from 0.01 to 1024"),
    ("pids = 1", "function.toml:1: pids is 1: it must be a whole number of processes, from 4 to 32768"),
    ("open_files = 64", "function.toml:1: open_files is 64: it must be a whole number, from 512 to 1048576"),
    ("tmp = 0", "function.toml:1: tmp is 0: it must be a whole number of MiB, from 1 to 65536"),
    (
        'isolation = "none"',
        'function.toml:1: isolation is "none": it must be "container", "fork" or "warm"',
    ),
    (
        "timeout = 5\nwarm_pool = -1",
        "function.toml:2: warm_pool is -1: it must be a whole number of sandboxes, from 0 to 1000",
    ),
    (
        "warm_pool = true",
        "function.toml:1: warm_pool is true: it must be a whole number of sandboxes, from 0 to 1000",
    ),
    ('network = "host"', 'function.toml:1: network is "host": it must be "none" or "egress"'),
    (
        'queue = "A b"',
        'function.toml:1: queue is "A b": it must be lower-case letters, digits and hyphens, '
        "with a letter first",
    ),
    ("retries = -1", "function.toml:1: retries is -1: it must be a whole number from 0 to 99, or a table"),
    ("retries = 100", "function.toml:1: retries is 100: it must be a whole number from 0 to 99, or a table"),
    (
        "retries = true",
        "function.toml:1: retries is true: it must be a whole number from 0 to 99, or a table",
    ),
    ("retries = [3]", "function.toml:1: retries is [3]: it must be a whole number from 0 to 99, or a table"),
    (
        "timeout = 5\n\n[retries]\nmax_attempts = 0",
        "function.toml:4: retries.max_attempts is 0: it must be a whole number of attempts in all, "
        "from 1 to 100",
    ),
    (
        "memory = 64\nretries = { max_attempts = 101 }",
        "function.toml:2: retries.max_attempts is 101: it must be a whole number of attempts in all, "
        "from 1 to 100",
    ),
    (
        "retries.max_attempts = 3\nretries.initial_delay = -1",
        "function.toml:2: retries.initial_delay is -1: it must be a number of seconds, from 0 to 86400",
    ),
    (
        "[retries]\nmax_delay = nan",
        "function.toml:2: retries.max_delay is null: it must be a number of seconds, from 0 to 604800",
    ),
    (
        '[env]\nmax_delay = "x"\n[retries]\nmax_delay = "5m"',
        'function.toml:4: retries.max_delay is "5m": it must be a number of seconds, from 0 to 604800',
    ),
    (
        '[retries]\nretry_on = ["Timeout"]',
        'function.toml:2: retries.retry_on is ["Timeout"]: it must be a list of failures, of Function.Error, '
        "Function.Timeout, Function.OutOfMemory, Function.ExitCode, Function.BadResult",
    ),
    (
        '[retries]\nnever_on = ["Sandbox.Lost"]',
        'function.toml:2: retries.never_on is ["Sandbox.Lost"]: it must be a list of failures, of '
        "Function.Error, Function.Timeout, Function.OutOfMemory, Function.ExitCode, Function.BadResult",
    ),
    (
        "[retries]\n\nmax_atempts = 3",
        "function.toml:3: unknown key retries.max_atempts: did you mean retries.max_attempts?",
    ),
    (
        "[retries]\ncolour = 3",
        "function.toml:2: unknown key retries.colour: known are: max_attempts, initial_delay, max_delay, "
        "retry_on, never_on",
    ),
    ("redeliver = 0", "function.toml:1: redeliver is 0: it must be true or false"),
    (
        "concurrency = 0",
        "function.toml:1: concurrency is 0: it must be a whole number of tasks at once, at least 1",
    ),
    (
        "concurrency = 1.5",
        "function.toml:1: concurrency is 1.5: it must be a whole number of tasks at once, at least 1",
    ),
    ('contract = "go"', 'function.toml:1: contract is "go": it must be "python" or "unix"'),
    ('contract = "unix"', 'function.toml:1: contract = "unix" needs a Dockerfile'),
    (
        "[env]\nSIZE = 320",
        'function.toml:1: env is {"SIZE":320}: it must be a table of texts, each named like a variable',
    ),
    (
        '[env]\n"A-B" = "x"',
        'function.toml:1: env is {"A-B":"x"}: it must be a table of texts, each named like a variable',
    ),
    ('[env]\nMAYFLY_X = "x"', "function.toml:2: MAYFLY_X: names that start with MAYFLY_ are Mayfly's own"),
    ('[env]\nA = "\\u0000"', "function.toml:2: env.A holds a NUL character"),
    (
        'secrets = "KEY"',
        'function.toml:1: secrets is "KEY": it must be a list of names, each like a variable\'s',
    ),
    (
        'secrets = ["a b"]',
        'function.toml:1: secrets is ["a b"]: it must be a list of names, each like a variable\'s',
    ),
    (
        'callback_url = "example.com"',
        "function.toml:1: callback_url must be an absolute URL in ASCII, https://host[:port][/path][?query], "
        "without a user name, a fragment or blanks",
    ),
    (
        "callback_url = 5",
        "function.toml:1: callback_url is 5: it must be an absolute URL of at most 2048 characters",
    ),
    ('secrets = ["A", "A"]', "function.toml:1: A is in secrets twice"),
    ('secrets = ["A"]\n[env]\nA = "x"', "function.toml:1: A is in both env and secrets"),
    ("description = ''\ntimout = 5", "function.toml:2: unknown key timout: did you mean timeout?"),
    (
        "colour = 5",
        "function.toml:1: unknown key colour: known are: description, handler, timeout, memory, cpu, pids, "
        "open_files, tmp, isolation, warm_pool, network, runtime, queue, retries, redeliver, concurrency, "
        "contract, env, secrets, schema, callback_url",
    ),
    ("timeout = 1\ntimeout = 2", "function.toml:2: not TOML: Cannot overwrite a value"),
    ("timeout =", "function.toml:1: not TOML: Invalid value"),
    (
        "schema = 5",
        "function.toml:1: schema is 5: it must be a table that holds a JSON Schema, or the name of a "
        "file that does",
    ),
    ('schema = "s.json"', 'function.toml:1: schema = "s.json": there is no such file'),
    ('schema = "../s.json"', 'function.toml:1: schema = "../s.json" leads out of the folder'),
    (
        '[schema]\ntype = "strnig"',
        'function.toml:1: schema.type is no JSON Schema: "strnig" is not valid under any of the schemas '
        "listed in the 'anyOf' keyword",
    ),
]


@pytest.mark.parametrize(("manifest", "message"), MANIFEST, ids=[case[0] for case in MANIFEST])
def test_a_manifest_that_is_wrong_is_refused_with_its_line(
    tmp_path: Path, manifest: str, message: str
) -> None:
    with pytest.raises(FunctionError) as caught:
        read(tmp_path, {"handler.py": HANDLER, "function.toml": manifest})
    assert str(caught.value) == message


FILES: list[tuple[dict[str, str | bytes], str]] = [
    ({}, "resize has neither handler.py nor Dockerfile: add one"),
    ({"function.toml": ""}, "resize has neither handler.py nor Dockerfile: add one"),
    ({"handler.py/x": ""}, "handler.py: is not a file"),
    ({"handler.py": HANDLER, "Dockerfile/x": ""}, "Dockerfile: is not a file"),
    ({"handler.py": HANDLER, "function.toml": b"a = 1\nb = \xff"}, "function.toml:2: not UTF-8"),
    ({"handler.py": b"# one\n# \xe9\n"}, "handler.py:2: not UTF-8"),
    ({"handler.py": HANDLER, "json.py": ""}, "json.py: hides Python's own module json: give it another name"),
    (
        {"handler.py": HANDLER, "email/__init__.py": ""},
        "email/__init__.py: hides Python's own module email: give it another name",
    ),
    (
        {"handler.py": HANDLER, "function.toml": 'schema = "s.json"', "s.json": '{\n "type": }'},
        "s.json:2: not JSON: invalid character",
    ),
    (
        {"handler.py": HANDLER, "function.toml": 'schema = "s.json"', "s.json": "[1]"},
        "s.json: a JSON Schema is an object",
    ),
    (
        {"handler.py": HANDLER, "requirements.txt": "# own\n-e .\n"},
        "requirements.txt:2: an editable install stays on this machine: name the package or its wheel",
    ),
    (
        {"handler.py": '# /// script\n# dependencies = ["idna"]\n# ///\n', "requirements.txt": "idna\n"},
        "handler.py:1: requirements.txt and this block both name packages: keep one",
    ),
    (
        {"handler.py": "import os\n# /// script\n# dependencies = [\n# ///\n"},
        "handler.py:3: the `# /// script` block is not TOML: Invalid value",
    ),
    (
        {"handler.py": "# /// script\n# dependencies = 5\n# ///\n"},
        "handler.py:1: the `# /// script` block: Expected `array`, got `int` - at `$.dependencies`",
    ),
    (
        {"handler.py": 2 * "# /// script\n# dependencies = []\n# ///\n"},
        "handler.py:4: a second `# /// script` block: PEP 723 allows one",
    ),
]


@pytest.mark.parametrize(("files", "message"), FILES, ids=[case[1] for case in FILES])
def test_a_folder_that_is_wrong_is_refused_with_its_file(
    tmp_path: Path, files: dict[str, str | bytes], message: str
) -> None:
    with pytest.raises(FunctionError) as caught:
        read(tmp_path, files)
    assert str(caught.value) == message


@pytest.mark.parametrize("name", ["Resize", "1st", "a" * 64, "zwei wörter", "a.b"])
def test_a_name_that_no_topic_or_image_could_have_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(FunctionError, match=f'a function cannot be named "{name}": lower-case letters'):
        read(tmp_path, {"handler.py": HANDLER}, name)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FunctionError, match="nowhere is no folder"):
        read_folder(tmp_path / "nowhere")


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "resize", {"handler.py": HANDLER})
    (folder / "shared.py").symlink_to("../shared.py")
    with pytest.raises(FunctionError) as caught:
        read_folder(folder)
    assert str(caught.value) == "shared.py: is a link that leads out of the folder: copy what it points to"


def test_a_pipe_in_the_folder_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "resize", {"handler.py": HANDLER})
    os.mkfifo(folder / "pipe")
    with pytest.raises(FunctionError) as caught:
        read_folder(folder)
    assert str(caught.value) == "pipe: is neither a file nor a folder: take it out"


def test_one_file_is_enough(tmp_path: Path) -> None:
    folder = read(tmp_path, {"handler.py": HANDLER})
    assert (folder.name, folder.contract, names(folder)) == ("resize", "python", ["handler.py"])
    assert folder.limits.timeout_seconds == 60
    assert folder.requirements is None


def test_a_dockerfile_means_the_unix_contract_unless_the_manifest_says_python(tmp_path: Path) -> None:
    assert read(tmp_path, {"Dockerfile": "FROM scratch"}, "a").contract == "unix"
    for line in ('isolation = "fork"', 'isolation = "warm"', "warm_pool = 2"):
        with pytest.raises(FunctionError, match=f"function.toml:2: {line} is for Python functions"):
            read(tmp_path, {"Dockerfile": "FROM scratch", "function.toml": f"timeout = 5\n{line}"}, "a")
    far = {"Dockerfile": "FROM scratch", "function.toml": 'network = "egress"\nruntime = "ecs"'}
    with pytest.raises(FunctionError, match=r'function\.toml:2: runtime = "ecs" is for Python functions'):
        read(tmp_path, dict(far), "c")
    unarmed = {"Dockerfile": "FROM scratch", "function.toml": 'isolation = "container"\nwarm_pool = 0'}
    assert read(tmp_path, unarmed, "a").manifest.warm_pool == 0
    files = {"Dockerfile": "FROM mayfly/python", "function.toml": 'contract = "python"'}
    assert read(tmp_path, dict(files), "b").contract == "python"


def test_the_image_gets_no_secret_no_history_and_nothing_that_only_describes(tmp_path: Path) -> None:
    extra = (
        ".env", ".env.local", ".git/config", "function.toml", "examples/a.json", "tests/test_a.py", "a.pyc",
        "lib/__pycache__/a.pyc", ".venv/x", ".dockerignore", "lib/.env",
    )  # fmt: skip
    wanted = {"handler.py": HANDLER, "lib/__init__.py": "", "lib/tests/data.txt": ""}
    folder = read(tmp_path, {**wanted, **dict.fromkeys(extra, "")})
    assert names(folder) == ["handler.py", "lib/__init__.py", "lib/tests/data.txt"]


def test_dockerignore_leaves_more_out(tmp_path: Path) -> None:
    ignore = "# data\n*.csv\nbig\n!keep.csv\nDockerfile\n"
    files = dict.fromkeys(("a.csv", "keep.csv", "big/one", "Dockerfile"), "")
    assert names(read(tmp_path, {**files, ".dockerignore": ignore})) == ["Dockerfile", "keep.csv"]


def test_the_digest_follows_what_is_in_the_image_and_nothing_else(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"handler.py": HANDLER, "run.sh": "true"}
    first = read(tmp_path, files).digest
    os.utime(tmp_path / "resize/handler.py", (0, 0))
    same = read(tmp_path, {"function.toml": "timeout = 5", ".env": "A=1", "examples/a.json": "{}"}).digest
    (tmp_path / "resize/run.sh").chmod(0o755)
    runnable = read(tmp_path, {}).digest
    changed = read(tmp_path, {"handler.py": HANDLER + "\n"}).digest
    assert first == same
    assert len({first, runnable, changed}) == 3


def test_a_schema_may_be_in_the_manifest_or_in_a_file(tmp_path: Path) -> None:
    inline = {"handler.py": HANDLER, "function.toml": '[schema]\ntype = "object"\nrequired = ["width"]'}
    beside = {
        "handler.py": HANDLER,
        "function.toml": 'schema = "in.json"',
        "in.json": '{"type": "object", "required": ["width"]}',
    }
    expected = {"type": "object", "required": ["width"]}
    assert read(tmp_path, dict(inline), "a").schema == expected
    assert read(tmp_path, dict(beside), "b").schema == expected


@pytest.mark.parametrize(
    ("manifest", "policy"),
    [
        ("", RetryPolicy()),
        ("retries = 0", RetryPolicy(max_attempts=1)),
        ("retries = 2", RetryPolicy(max_attempts=3)),
        ("retries = 99", RetryPolicy(max_attempts=100)),
        ("[retries]\nmax_attempts = 5", RetryPolicy(max_attempts=5)),
        (
            "[retries]\nmax_attempts = 5\ninitial_delay = 0\nmax_delay = 60.5\n"
            'retry_on = ["Function.Timeout", "Function.Error"]\nnever_on = ["Function.OutOfMemory"]',
            RetryPolicy(
                5, 0, 60.5, (FailureType.TIMEOUT, FailureType.ERROR), (FailureType.OUT_OF_MEMORY,)
            ),
        ),
    ],
)  # fmt: skip
def test_retries_are_a_number_or_a_whole_policy(tmp_path: Path, manifest: str, policy: RetryPolicy) -> None:
    read_in = read(tmp_path, {"handler.py": HANDLER, "function.toml": manifest}).manifest
    assert read_in.policy == policy


def test_tasks_are_redelivered_and_unlimited_unless_the_manifest_says_otherwise(tmp_path: Path) -> None:
    unsaid = read(tmp_path, {"handler.py": HANDLER}, "a").manifest
    assert (unsaid.redeliver, unsaid.concurrency) == (True, None)
    assert unsaid.callback_url is None
    said = {"handler.py": HANDLER, "function.toml": "redeliver = false\nconcurrency = 3"}
    manifest = read(tmp_path, dict(said), "b").manifest
    assert (manifest.redeliver, manifest.concurrency) == (False, 3)


def test_packages_may_be_named_in_the_handler(tmp_path: Path) -> None:
    block = '# /// script\n# requires-python = ">=3.11"\n# dependencies = [\n#   "idna>=3",\n# ]\n# ///\n'
    requirements = read(tmp_path, {"handler.py": "'''Doc.'''\n" + block + HANDLER}).requirements
    assert requirements is not None
    assert (requirements.lines, requirements.requires_python, requirements.line) == (
        ("idna>=3",),
        ">=3.11",
        2,
    )


def test_requirements_of_comments_alone_are_none(tmp_path: Path) -> None:
    assert read(tmp_path, {"handler.py": HANDLER, "requirements.txt": "# none\n\n"}).requirements is None


@pytest.mark.parametrize(
    ("specifier", "holds"),
    [
        (None, True), (">=3.11", True), (">=3.12", False), (">=3.11,<4", True), ("<3.11", False),
        ("~=3.10", True),
        ("~=3.11.2", True), ("==3.11.*", True), ("==3.12", False), ("!=3.11.4", True), (">3.10", True),
        (">=3.11.4", True), ("<3.11.9", True), (">=3", True), ("<=3.10", False), ("whatever", False),
    ],
)  # fmt: skip
def test_requires_python_is_compared_by_minor_version(specifier: str | None, holds: bool) -> None:
    assert allows(specifier, "3.11") is holds


LAMBDA = "def lambda_handler(event, context):\n    return event\n"


@pytest.mark.parametrize(
    ("handler", "module"),
    [
        ("lambda_function.lambda_handler", "lambda_function.py"),
        ("app/main.run", "app/main.py"),
        ("app.main.run", "app/main.py"),
        ("handler.main", "handler.py"),
    ],
)
def test_the_manifest_may_name_another_handler(tmp_path: Path, handler: str, module: str) -> None:
    folder = read(tmp_path, {module: LAMBDA, "function.toml": f'handler = "{handler}"'})
    assert (folder.contract, folder.manifest.module) == ("python", module)
    assert folder.manifest.entry == handler.replace("/", ".")


@pytest.mark.parametrize(
    ("files", "handler", "message"),
    [
        (
            {},
            "lambda_function.lambda_handler",
            'handler = "lambda_function.lambda_handler": there is no file',
        ),
        ({"handler.py": LAMBDA}, "lambda_handler", "handler is"),
        ({"handler.py": LAMBDA}, "../up.handler", "handler is"),
        ({"Dockerfile": "FROM mayfly/base"}, "a.b", "handler is for Python functions"),
    ],
)
def test_a_handler_that_cannot_be_is_refused(
    tmp_path: Path, files: dict[str, str | bytes], handler: str, message: str
) -> None:
    with pytest.raises(FunctionError) as caught:
        read(tmp_path, {**files, "function.toml": f'\nhandler = "{handler}"'})
    assert message in str(caught.value)
    assert (caught.value.file, caught.value.line) == ("function.toml", 2)


def test_packages_may_be_named_in_the_handlers_own_module(tmp_path: Path) -> None:
    block = '# /// script\n# dependencies = ["httpx"]\n# ///\n'
    files: dict[str, str | bytes] = {
        "lambda_function.py": block + LAMBDA,
        "function.toml": 'handler = "lambda_function.lambda_handler"',
    }
    requirements = read(tmp_path, files).requirements
    assert requirements is not None
    assert (requirements.lines, requirements.file) == (("httpx",), "lambda_function.py")
