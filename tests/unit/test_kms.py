"""Master keys in AWS KMS, as moto has it."""

from collections.abc import Iterator

import boto3
import msgspec
import pytest
from moto import mock_aws

from mayfly.adapters.kms import vault_of
from mayfly.errors import SecretsUnavailable
from mayfly.identity.vault import Context, Unopened, Vault, new_key
from mayfly.settings import Settings

CONTEXT = Context("acme", "TOKEN")


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        yield boto3.client("kms", region_name="us-east-1").create_key()["KeyMetadata"]["Arn"]


def vault(**settings: str) -> Vault:
    made = vault_of(Settings(**settings))  # type: ignore[arg-type]
    assert made is not None
    return made


def test_what_was_sealed_with_a_key_of_kms_is_opened_with_it(key: str) -> None:
    sealed = vault(secrets_kms_key=key).seal(CONTEXT, "value", at=0, by="")
    assert sealed.key_id == key
    assert vault(secrets_kms_key=key).open(CONTEXT, sealed) == "value"
    assert vault(secrets_kms_key=key).is_current(sealed)


def test_an_alias_names_a_key_too(key: str) -> None:
    boto3.client("kms", region_name="us-east-1").create_alias(AliasName="alias/mayfly", TargetKeyId=key)
    named = vault(secrets_kms_key="alias/mayfly")
    assert named.is_current(named.seal(CONTEXT, "value", at=0, by=""))


def test_a_record_in_another_ones_place_opens_nothing(key: str) -> None:
    sealed = vault(secrets_kms_key=key).seal(CONTEXT, "value", at=0, by="")
    with pytest.raises(Unopened):
        vault(secrets_kms_key=key).open(CONTEXT._replace(tenant="other"), sealed)


def test_a_changed_data_key_opens_nothing(key: str) -> None:
    sealed = vault(secrets_kms_key=key).seal(CONTEXT, "value", at=0, by="")
    changed = sealed.data_key[:-1] + bytes([sealed.data_key[-1] ^ 1])
    with pytest.raises(Unopened):
        vault(secrets_kms_key=key).open(CONTEXT, msgspec.structs.replace(sealed, data_key=changed))


def test_what_was_sealed_before_kms_was_there_moves_to_it(key: str) -> None:
    local = new_key()
    sealed = vault(secrets_key=local).seal(CONTEXT, "value", at=0, by="")
    both = vault(secrets_kms_key=key, secrets_keys_old=local)
    assert not both.is_current(sealed)
    fresh = both.rotated(CONTEXT, sealed)
    assert fresh.key_id == key
    assert vault(secrets_kms_key=key).open(CONTEXT, fresh) == "value"


def test_a_key_that_kms_does_not_have_is_said_to_be_unavailable(key: str) -> None:
    with pytest.raises(SecretsUnavailable, match="generate_data_key"):
        vault(secrets_kms_key="alias/nobody").seal(CONTEXT, "value", at=0, by="")
