"""What webhooks are signed with, as dispatchers open it: once, off the loop, and only where it belongs."""

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import msgspec
import pytest

from dispatcher.webhook_secrets import WebhookSecrets
from mayfly.errors import SecretsUnavailable
from mayfly.identity.book import Book
from mayfly.identity.vault import Context, LocalKeys, Sealed, Unopened, Vault
from mayfly.webhooks.sealing import sealed
from mayfly.webhooks.signing import OVERLAP_MS, WebhookSecret, new_secret, rotated

NOW = 1_795_521_600_000
OLD, NEW = new_secret(), new_secret()


class Counting(Vault):
    """Notes what it opened and on which thread, and can be away, or made to wait."""

    def __init__(self, number: int = 0) -> None:
        super().__init__(LocalKeys(bytes([number]) * 32))
        self.away = False
        self.gate = threading.Event()
        self.gate.set()
        self.opened: list[Context] = []
        self.threads: set[int] = set()

    def open(self, context: Context, sealed: Sealed) -> str:
        self.opened.append(context)
        self.threads.add(threading.get_ident())
        assert self.gate.wait(30)
        if self.away:
            raise SecretsUnavailable("KMS does not answer")
        return super().open(context, sealed)


@dataclass
class World:
    vault: Counting = field(default_factory=Counting)
    book: Book = field(default_factory=Book)
    now: int = NOW

    def put(self, record: WebhookSecret, tenant: str = "acme") -> None:
        self.book.take(f"webhook/{tenant}", msgspec.json.encode(record))

    def secrets(self, vault: Vault | None) -> WebhookSecrets:
        return WebhookSecrets(self.book, vault, now=lambda: self.now)


def record(*secrets: str, vault: Vault | None = None) -> WebhookSecret:
    made: WebhookSecret | None = None
    for secret in secrets:
        made = rotated(secret, made, NOW, "key:1")
        made = made if vault is None else sealed(vault, "acme", made)
    assert made is not None
    return made


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    world.vault.gate.set()


async def test_a_tenant_without_a_secret_has_none(world: World) -> None:
    assert await world.secrets(world.vault).of("acme") == []


async def test_a_record_in_clear_is_read_with_a_key_and_without(world: World) -> None:
    world.put(record(OLD, NEW))
    for vault in (world.vault, None):
        assert await world.secrets(vault).of("acme") == [NEW, OLD]


async def test_one_that_is_encrypted_is_opened_once_and_not_on_the_loop(world: World) -> None:
    world.put(record(OLD, NEW, vault=world.vault))
    secrets = world.secrets(world.vault)
    for _ in range(3):
        assert await secrets.of("acme") == [NEW, OLD]
    assert len(world.vault.opened) == 2
    assert threading.get_ident() not in world.vault.threads
    world.now += OVERLAP_MS
    assert await secrets.of("acme") == [NEW], "the one before signs for a day"


async def test_a_new_record_counts_at_once(world: World) -> None:
    secrets = world.secrets(world.vault)
    world.put(record(OLD, vault=world.vault))
    assert await secrets.of("acme") == [OLD]
    world.put(record(OLD, NEW, vault=world.vault))
    assert await secrets.of("acme") == [NEW, OLD]
    world.book.take("webhook/acme", None)
    assert await secrets.of("acme") == []


async def test_all_that_wait_for_it_ask_once_and_one_that_is_given_up_takes_nothing_from_them(
    world: World,
) -> None:
    world.vault.gate.clear()
    world.put(record(NEW, vault=world.vault))
    secrets = world.secrets(world.vault)
    first, *others = [asyncio.create_task(secrets.of("acme")) for _ in range(5)]
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    world.vault.gate.set()
    assert await asyncio.gather(*others) == [[NEW]] * 4
    assert first.cancelled()
    assert len(world.vault.opened) == 1


async def test_while_kms_is_away_it_is_asked_again_each_time(world: World) -> None:
    world.put(record(NEW, vault=world.vault))
    secrets = world.secrets(world.vault)
    world.vault.away = True
    with pytest.raises(SecretsUnavailable):
        await secrets.of("acme")
    world.vault.away = False
    assert await secrets.of("acme") == [NEW]


async def test_without_the_key_it_is_said_what_to_set(world: World) -> None:
    world.put(record(NEW, vault=world.vault))
    for vault in (None, Counting(1)):
        with pytest.raises(Unopened, match="MAYFLY_SECRETS_KEY") as raised:
            await world.secrets(vault).of("acme")
        assert NEW not in str(raised.value)


async def test_one_of_before_that_no_key_opens_keeps_the_new_one_from_nothing(world: World) -> None:
    before = record(OLD, vault=Counting(1))
    world.put(sealed(world.vault, "acme", rotated(NEW, before, NOW, "key:1")))
    assert await world.secrets(world.vault).of("acme") == [NEW]


async def test_another_tenants_record_signs_nothing(world: World) -> None:
    world.put(record(NEW, vault=world.vault), tenant="zeta")
    with pytest.raises(Unopened):
        await world.secrets(world.vault).of("zeta")
