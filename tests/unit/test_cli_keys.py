"""Keys, users, logging in, and profiles, by the command."""

import json
import re
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from scripted import TASK_ID, Mayfly, ScriptedGateway, command

from mayfly.cli import password
from mayfly.cli.folders import HOME
from mayfly.identity.keys import KEY, new_credential

MADE = str(new_credential())
STORED: dict[str, Any] = {
    "id": "0123456789abcdef",
    "name": "mailer",
    "tenant": "acme",
    "scopes": ["read", "submit"],
    "createdAt": "2026-11-24T12:00:00.123Z",
    "createdBy": "key:1",
}
ANA: dict[str, Any] = {"name": "ana", "tenant": "acme", "scopes": ["read"], "createdBy": "key:1"}
TOKEN = {"token": "a.b.c", "tokenType": "Bearer", "expiresInSeconds": 3600}


@pytest.fixture
def gateway() -> Iterator[ScriptedGateway]:
    with ScriptedGateway() as script:
        yield script


@pytest.fixture
def mayfly(gateway: ScriptedGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mayfly:
    return command(gateway, tmp_path, monkeypatch)


def authorization(gateway: ScriptedGateway) -> list[str | None]:
    return [request.headers.get("authorization") for request in gateway.requests]


# --- keys


def test_a_key_is_generated_without_a_gateway(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    first, second = mayfly("keys", "generate"), json.loads(mayfly("keys", "generate", "--json").stdout)
    assert KEY.fullmatch(first.stdout.strip())
    assert KEY.fullmatch(second["key"])
    assert first.stdout.strip() != second["key"]
    assert gateway.requests == []


def test_a_key_is_made_and_stands_alone_on_stdout(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.answer("POST /keys", {**STORED, "key": MADE}, 201)
    before = datetime.now(UTC)
    options = ("--scope", "read", "--scope", "submit", "--name", "mailer", "--expires", "30d")
    done = mayfly("keys", "create", *options, "--tenant", "acme")
    assert (done.exit_code, done.stdout) == (0, f"{MADE}\n")
    assert MADE not in done.stderr
    body = gateway.requests[0].json
    ends = datetime.fromisoformat(body.pop("expiresAt"))
    assert before + timedelta(days=30) <= ends <= datetime.now(UTC) + timedelta(days=30)
    assert body == {"scopes": ["read", "submit"], "name": "mailer", "tenant": "acme"}


def test_a_key_without_a_scope_is_not_asked_for(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    done = mayfly("keys", "create", "--name", "mailer")
    assert done.exit_code == 2
    assert "--scope" in done.stderr
    assert gateway.requests == []


def test_keys_are_listed(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    times = dict.fromkeys(("revokedAt", "lastUsedAt"), "2026-11-24T12:00:00.123Z")
    revoked = {**STORED, **times}
    gateway.answer("GET /keys", {"keys": [STORED, revoked]})
    done = mayfly("keys", "ls")
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == ["KEY", "0123456789abcdef", "0123456789abcdef"]
    assert [row[-1] for row in rows] == ["GOOD UNTIL", "", "revoked"]
    assert [bool(row[-2]) for row in rows] == [True, False, True]
    assert json.loads(mayfly("keys", "ls", "--json").stdout)["keys"][0]["id"] == "0123456789abcdef"


@pytest.mark.parametrize("given", ["0123456789abcdef", "mf_0123456789abcdef"])
def test_a_key_is_revoked(gateway: ScriptedGateway, mayfly: Mayfly, given: str) -> None:
    gateway.answer("DELETE /keys/0123456789abcdef", STORED)
    done = mayfly("keys", "revoke", given)
    assert (done.exit_code, done.stderr) == (0, "key 0123456789abcdef is revoked\n")


def test_a_whole_key_is_revoked_without_its_secret_in_the_path(
    gateway: ScriptedGateway, mayfly: Mayfly
) -> None:
    gateway.answer(f"DELETE /keys/{MADE[3:19]}", STORED)
    assert mayfly("keys", "revoke", MADE).exit_code == 0
    assert gateway.requests[0].path == f"/keys/{MADE[3:19]}"


# --- users


def test_a_user_is_made_with_a_password_from_stdin(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.answer("POST /users", ANA, 201)
    done = mayfly("users", "create", "ana", "--scope", "read", input="correct horse battery\r\nmore\n")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == "user ana of acme, who may read\n"
    expected = {"name": "ana", "password": "correct horse battery", "scopes": ["read"]}
    assert gateway.requests[0].json == expected


def test_without_a_password_nothing_is_asked(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    for args in (("users", "create", "ana", "--scope", "read"), ("users", "passwd", "ana")):
        done = mayfly(*args, input="")
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr == "error: stdin has no password\non a terminal it is asked for\n"
    assert gateway.requests == []


def test_on_a_terminal_a_new_password_is_asked_for_twice_and_not_shown(
    gateway: ScriptedGateway, mayfly: Mayfly, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.answer("PUT /users/ana/password", ANA)
    answers = iter(["correct horse battery", "correct horse battery", "one", "another"])
    asked: list[str] = []

    def getpass(prompt: str, stream: Any) -> str:
        asked.append(prompt)
        return next(answers)

    class Terminal:
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("getpass.getpass", getpass)
    monkeypatch.setattr(password, "sys", type("sys", (), {"stdin": Terminal(), "stderr": None}))
    assert mayfly("users", "passwd", "ana").exit_code == 0
    assert asked == ["new password of ana: ", "new password of ana, again: "]
    refused = mayfly("users", "passwd", "ana")
    assert (refused.exit_code, refused.stderr) == (1, "error: they are not the same; nothing was done\n")
    assert len(gateway.requests) == 1


def test_users_are_listed_and_disabled(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.answer("GET /users", {"users": [ANA]})
    gateway.answer("DELETE /users/ana", {**ANA, "disabledAt": "2026-11-24T12:00:00.123Z"})
    assert mayfly("users", "ls").stdout.splitlines()[1].startswith("ana\tacme\tread\t")
    done = mayfly("users", "disable", "ana")
    assert done.stderr == "user ana is disabled, and its tokens are refused\n"


# --- profiles, and logging in


def logged_in(gateway: ScriptedGateway, mayfly: Mayfly, *before: str) -> Any:
    gateway.answer("POST /login", TOKEN)
    return mayfly(*before, "login", gateway.url, "--username", "ana", input="secret\n")


def test_logging_in_keeps_the_token_in_the_profile_and_later_commands_send_it(
    gateway: ScriptedGateway, mayfly: Mayfly, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = logged_in(gateway, mayfly)
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr.startswith(f"logged in at {gateway.url} as ana until ")
    assert "a.b.c" not in done.stderr
    assert gateway.requests[0].json == {"username": "ana", "password": "secret"}
    path = tmp_path / "config.toml"
    assert path.stat().st_mode & 0o077 == 0
    assert tomllib.loads(path.read_text()) == {
        "profiles": {"default": {"url": gateway.url, "username": "ana", "token": "a.b.c"}}
    }
    monkeypatch.delenv("MAYFLY_URL")
    gateway.answer("GET /keys", {"keys": []})
    assert mayfly("keys", "ls").exit_code == 0
    assert authorization(gateway) == [None, "Bearer a.b.c"]
    # The second time the profile knows where and who.
    assert mayfly("login", input="secret\n").exit_code == 0
    assert mayfly("logout").exit_code == 0
    assert tomllib.loads(path.read_text())["profiles"]["default"] == {"url": gateway.url, "username": "ana"}
    mayfly("keys", "ls")
    assert authorization(gateway)[-1] is None
    again = mayfly("logout")
    assert (again.exit_code, again.stderr) == (1, "error: nobody is logged in with the profile default\n")


def test_a_profile_is_named_before_the_command(
    gateway: ScriptedGateway, mayfly: Mayfly, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert logged_in(gateway, mayfly, "--profile", "prod").exit_code == 0
    monkeypatch.setenv("MAYFLY_URL", "http://127.0.0.1:1")
    gateway.answer("GET /keys", {"keys": []})
    assert mayfly("--profile", "prod", "keys", "ls").exit_code == 0
    assert authorization(gateway)[-1] == "Bearer a.b.c"
    gone = mayfly("--profile", "staging", "keys", "ls")
    assert gone.exit_code == 1
    assert "there is no profile 'staging'" in gone.stderr
    # It is not remembered from one command to the next.
    assert mayfly("status").exit_code == 3


def test_a_wrong_password_is_said_and_nothing_is_kept(
    gateway: ScriptedGateway, mayfly: Mayfly, tmp_path: Path
) -> None:
    gateway.refuse("POST /login", 401, "wrong_password", "The name or the password is wrong.")
    done = mayfly("login", gateway.url, "--username", "ana", input="wrong\n")
    assert (done.exit_code, done.stderr) == (1, "error: refused: The name or the password is wrong.\n")
    assert not (tmp_path / "config.toml").exists()


def test_a_profile_with_a_key_for_another_gateway_is_not_given_a_token(
    gateway: ScriptedGateway, mayfly: Mayfly, tmp_path: Path
) -> None:
    path = tmp_path / "config.toml"
    text = f'[profiles.default]\nurl = "https://a.example"\napi_key = "{MADE}"\n'
    path.write_text(text)
    path.chmod(0o600)
    done = logged_in(gateway, mayfly)
    assert done.exit_code == 2
    assert "the profile default has a key for https://a.example" in done.stderr
    assert path.read_text() == text
    assert gateway.requests == []


def test_who_logs_in_has_to_be_said(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    done = mayfly("login", gateway.url, input="secret\n")
    assert (done.exit_code, done.stderr) == (2, "error: it is not said who logs in\n--username NAME\n")


def test_a_password_cannot_be_an_argument(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    for args in (("login", gateway.url), ("users", "create", "ana"), ("users", "passwd", "ana")):
        assert mayfly(*args, "--password", "secret").exit_code == 2
        assert "password" not in re.sub(r"(?s)^.*Options:", "", mayfly(*args[:2], "--help").stdout).lower()
    assert gateway.requests == []


# --- the stack of this folder


def test_the_stack_of_this_folder_is_asked_with_its_own_admin_key(
    gateway: ScriptedGateway, mayfly: Mayfly, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MAYFLY_URL")
    home = tmp_path / HOME
    home.mkdir()
    (home / "stack.json").write_text(json.dumps({"gateway": gateway.url, "parts": []}))
    (home / "environment").write_text(f"MAYFLY_ADMIN_KEY={MADE}\nMAYFLY_AUTH=true\n")
    gateway.answer("GET /keys", {"keys": []})
    assert mayfly("keys", "ls").exit_code == 0
    monkeypatch.setenv("MAYFLY_API_KEY", "mine")
    assert mayfly("keys", "ls").exit_code == 0
    monkeypatch.setenv("MAYFLY_URL", gateway.url)
    monkeypatch.delenv("MAYFLY_API_KEY")
    assert mayfly("keys", "ls").exit_code == 0
    assert authorization(gateway) == [f"Bearer {MADE}", "Bearer mine", None]


def test_the_status_is_shown_without_the_dispatchers_to_who_may_not_see_them(
    gateway: ScriptedGateway, mayfly: Mayfly
) -> None:
    gateway.answer("GET /readyz", {"status": "ready", "parts": {"log": "ready"}})
    gateway.refuse("GET /workers", 403, "forbidden", "This is for admins of the default tenant.")
    done = mayfly("status", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["workers"] == []
    assert done.stderr == "the dispatchers are not shown: This is for admins of the default tenant.\n"


# --- refusals


@pytest.mark.parametrize(
    ("status", "code", "detail", "headers", "exit_code", "said"),
    [
        (
            401,
            "unauthenticated",
            "The key is not known.",
            {},
            1,
            "not let in: The key is not known. Set MAYFLY_API_KEY to a key, or `mayfly login`.",
        ),
        (
            403,
            "forbidden",
            "This needs the scope admin; the credential has read.",
            {},
            1,
            "not allowed: This needs the scope admin; the credential has read. Use a credential that may: "
            "`mayfly keys create` makes one, by an admin.",
        ),
        (
            429,
            "too_many_requests",
            "The tenant asks too often.",
            {"retry_after": "30"},
            3,
            "too many requests: The tenant asks too often. Repeat it in 30 s.",
        ),
        (
            429,
            "too_many_requests",
            "Try again in 30 s.",
            {"retry_after": "30"},
            3,
            "too many requests: Try again in 30 s.",
        ),
    ],
)
def test_who_is_refused_is_told_in_a_line_what_to_do(
    gateway: ScriptedGateway,
    mayfly: Mayfly,
    status: int,
    code: str,
    detail: str,
    headers: dict[str, str],
    exit_code: int,
    said: str,
) -> None:
    gateway.refuse(f"GET /tasks/{TASK_ID}", status, code, detail, **headers)
    done = mayfly("get", TASK_ID)
    assert (done.exit_code, done.stdout, done.stderr) == (exit_code, "", f"error: {said}\n")


def test_a_key_is_not_sent_over_plain_http_to_another_machine(
    mayfly: Mayfly, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAYFLY_API_KEY", MADE)
    done = mayfly("ls", "--url", "http://mayfly.example")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "MAYFLY_ALLOW_HTTP=true" in done.stderr
    assert MADE not in done.stderr
