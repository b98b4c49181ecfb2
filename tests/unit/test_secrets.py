"""Secrets on their way to a function: found where they are, waited for, and told when they are not there."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from dispatcher import claims
from dispatcher.inputs import Inputs, Refused
from dispatcher.secrets import Secrets
from mayfly.errors import LogUnavailable, SecretsUnavailable
from mayfly.function import Function
from mayfly.identity.book import Book
from mayfly.identity.vault import Context, LocalKeys, Vault
from mayfly.task import DEFAULT_TENANT, Envelope, FailureType

FUNCTION = Function(name="mail", image="i", version="v", secrets=("TOKEN",))


class Stored:
    """The control topic as it was read; `coming` is what its end has besides."""

    def __init__(self) -> None:
        self.vault = Vault(LocalKeys(b"k" * 32))
        self.book = Book()
        self.coming: list[tuple[str, bytes]] = []
        self.failures: list[Exception] = []
        self.looks = 0

    def record(
        self, value: str, tenant: str = DEFAULT_TENANT, vault: Vault | None = None
    ) -> tuple[str, bytes]:
        sealed = (vault or self.vault).seal(Context(tenant, "TOKEN"), value, at=0, by="")
        return f"secret/{tenant}/TOKEN", msgspec.json.encode(sealed)

    def set(self, value: str, tenant: str = DEFAULT_TENANT) -> None:
        self.book.take(*self.record(value, tenant))

    async def reach_end(self) -> None:
        self.looks += 1
        if self.failures:
            raise self.failures.pop()
        while self.coming:
            self.book.take(*self.coming.pop())


@pytest.fixture
def stored() -> Stored:
    return Stored()


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BACKOFF_SECONDS", (0.0,))


def secrets(stored: Stored, **operator: str) -> Secrets:
    return Secrets(operator, stored, stored.vault)


class NoPayloads:
    async def fetch(self, reference: Any) -> bytes:
        raise AssertionError


async def environment(secrets: Secrets, tenant: str = DEFAULT_TENANT, folder: Path | None = None) -> Any:
    inputs = Inputs(NoPayloads(), secrets=secrets, functions_dir=folder)
    return await inputs.of(Envelope("mail", "id", b"1", tenant=tenant), FUNCTION)  # type: ignore[arg-type]


async def test_a_stored_secret_comes_before_the_operators_and_that_before_the_folders(
    stored: Stored, tmp_path: Path
) -> None:
    (tmp_path / "mail").mkdir()
    (tmp_path / "mail/.env").write_text("TOKEN=of the folder\nOTHER=x\n")
    bare = await environment(secrets(stored), folder=tmp_path)
    assert bare.environment == {"TOKEN": "of the folder", "OTHER": "x"}
    assert bare.secrets == ("of the folder",)
    operators = secrets(stored, TOKEN="of the operator")
    assert (await environment(operators, folder=tmp_path)).environment["TOKEN"] == "of the operator"
    stored.set("stored")
    given = await environment(operators, folder=tmp_path)
    assert (given.environment["TOKEN"], given.secrets) == ("stored", ("stored",))
    assert stored.looks == 0


async def test_each_tenant_gets_its_own_and_only_default_the_operators(stored: Stored) -> None:
    stored.set("of acme", "acme")
    both = secrets(stored, TOKEN="of the operator")
    assert (await environment(both, "acme")).environment == {"TOKEN": "of acme"}
    assert (await environment(both)).environment == {"TOKEN": "of the operator"}
    with pytest.raises(Refused, match="mayfly secrets set TOKEN"):
        await environment(both, "other")


async def test_a_secret_that_was_set_a_moment_ago_is_read_before_it_is_missed(stored: Stored) -> None:
    stored.coming.append(stored.record("fresh"))
    stored.failures.append(LogUnavailable("away for a moment"))
    assert (await environment(secrets(stored))).environment == {"TOKEN": "fresh"}
    assert stored.looks == 2


async def test_a_secret_that_is_nowhere_fails_the_task_and_says_what_to_do(stored: Stored) -> None:
    with pytest.raises(Refused, match="MAYFLY_SECRET_TOKEN") as refused:
        await environment(secrets(stored))
    assert refused.value.failure.type is FailureType.ERROR
    with pytest.raises(Refused, match=r"MAYFLY_SECRET_TOKEN; .* no MAYFLY_SECRETS_KEY"):
        await environment(Secrets({}))


async def test_a_secret_is_the_new_one_once_it_was_set_again_and_gone_once_it_is_removed(
    stored: Stored,
) -> None:
    found = secrets(stored)
    for value in ("one", "two"):
        stored.set(value)
        assert (await environment(found)).environment == {"TOKEN": value}
    stored.book.take("secret/default/TOKEN", None)
    with pytest.raises(Refused):
        await environment(found)


async def test_a_secret_is_opened_once_for_all_the_tasks_that_get_it(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored.set("value")
    opened = []
    whole = stored.vault.open
    monkeypatch.setattr(stored.vault, "open", lambda *given: opened.append(given) or whole(*given))
    found = secrets(stored)
    for _ in range(3):
        await environment(found)
    assert len(opened) == 1


async def test_one_that_cannot_be_opened_fails_the_task_and_says_why(stored: Stored) -> None:
    foreign = stored.record("value", vault=Vault(LocalKeys(b"x" * 32)))
    stored.book.take(*foreign)
    with pytest.raises(Refused, match=r"TOKEN cannot be opened: .*MAYFLY_SECRETS_KEYS_OLD"):
        await environment(secrets(stored))


async def test_a_record_that_was_moved_to_another_tenant_is_not_opened(stored: Stored) -> None:
    _, value = stored.record("of acme", "acme")
    stored.book.take("secret/default/TOKEN", value)
    with pytest.raises(Refused, match="another secret's"):
        await environment(secrets(stored))


async def test_while_kms_is_away_the_attempt_waits(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    stored.set("value")
    answers: list[Any] = [SecretsUnavailable("away"), SecretsUnavailable("away"), "value"]

    def opened(*_: Any) -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    monkeypatch.setattr(stored.vault, "open", opened)
    assert (await environment(secrets(stored))).environment == {"TOKEN": "value"}
    assert answers == []


def test_a_record_that_is_none_opens_nothing() -> None:
    book = Book()
    book.take("secret/default/TOKEN", Stored().record("value")[1])
    assert book.secrets.keys() == {"default/TOKEN"}
    book.take("secret/default/TOKEN", b'{"keyId": 1}')
    assert book.secrets == {}
