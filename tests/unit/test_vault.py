"""Secrets at rest: what was sealed is opened by its own name and tenant, under its own key, and not else."""

import base64

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mayfly.adapters.kms import vault_of
from mayfly.errors import SettingsError
from mayfly.identity.vault import Context, LocalKeys, Sealed, Unopened, Vault, key_id, new_key, parse_key
from mayfly.settings import Settings

KEYS = [bytes([number]) * 32 for number in range(3)]
NAMES = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
CONTEXTS = st.builds(Context, NAMES, NAMES)
VALUES = st.text(st.characters(exclude_categories=("Cs",)), max_size=200)


def vault(current: int = 0, *old: int) -> Vault:
    return Vault(LocalKeys(KEYS[current], [KEYS[number] for number in old]))


@given(CONTEXTS, VALUES)
def test_what_was_sealed_is_opened_also_after_it_was_stored(context: Context, value: str) -> None:
    sealed = vault().seal(context, value, at=5, by="user:ana")
    stored = msgspec.json.encode(sealed)
    assert vault().open(context, msgspec.json.decode(stored, type=Sealed)) == value
    assert (sealed.updated_at, sealed.updated_by, sealed.key_id) == (5, "user:ana", key_id(KEYS[0]))
    if len(value) >= 8:
        assert value.encode() not in sealed.ciphertext


@given(CONTEXTS, CONTEXTS, VALUES)
def test_a_record_in_another_ones_place_opens_nothing(own: Context, other: Context, value: str) -> None:
    assume(own != other)
    sealed = vault().seal(own, value, at=0, by="")
    with pytest.raises(Unopened, match="another secret's"):
        vault().open(other, sealed)


@given(VALUES, st.sampled_from(["ciphertext", "nonce", "data_key"]), st.data())
def test_a_record_of_which_a_bit_was_changed_opens_nothing(
    value: str, part: str, data: st.DataObject
) -> None:
    context = Context("default", "TOKEN")
    sealed = vault().seal(context, value, at=0, by="")
    changed = bytearray(getattr(sealed, part))
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(Unopened):
        vault().open(context, msgspec.structs.replace(sealed, **{part: bytes(changed)}))


@given(VALUES, st.sampled_from(["ciphertext", "nonce", "data_key"]), st.integers(0, 40))
def test_a_record_that_was_cut_opens_nothing(value: str, part: str, length: int) -> None:
    context = Context("default", "TOKEN")
    sealed = vault().seal(context, value, at=0, by="")
    assume(length < len(getattr(sealed, part)))
    cut = msgspec.structs.replace(sealed, **{part: getattr(sealed, part)[:length]})
    with pytest.raises(Unopened):
        vault().open(context, cut)


def test_data_keys_of_two_secrets_cannot_change_places() -> None:
    one, other = Context("default", "A"), Context("default", "B")
    sealed, foreign = (vault().seal(context, "value", at=0, by="") for context in (one, other))
    mixed = msgspec.structs.replace(sealed, data_key=foreign.data_key)
    with pytest.raises(Unopened):
        vault().open(one, mixed)


def test_the_same_value_is_another_ciphertext_each_time() -> None:
    context = Context("default", "A")
    sealed = [vault().seal(context, "value", at=0, by="") for _ in range(2)]
    assert sealed[0].ciphertext != sealed[1].ciphertext
    assert sealed[0].data_key != sealed[1].data_key


def test_an_old_key_opens_until_all_is_encrypted_under_the_new_one() -> None:
    context = Context("acme", "TOKEN")
    sealed = vault(0).seal(context, "value", at=7, by="user:ana")
    between = vault(1, 0)
    assert between.open(context, sealed) == "value"
    assert not between.is_current(sealed)
    fresh = between.rotated(context, sealed)
    assert between.is_current(fresh)
    assert (fresh.updated_at, fresh.updated_by) == (7, "user:ana")
    assert vault(1).open(context, fresh) == "value"
    with pytest.raises(Unopened, match="MAYFLY_SECRETS_KEYS_OLD"):
        vault(1).open(context, sealed)


def test_a_keys_id_says_nothing_of_it() -> None:
    key = parse_key(new_key())
    assert len(key_id(key)) == 16
    assert key_id(key) not in key.hex()
    assert len({key_id(one) for one in KEYS}) == 3


@pytest.mark.parametrize("text", ["", "hunter2", base64.b64encode(b"x" * 31).decode(), "é" * 44])
def test_what_is_no_key_is_refused_with_what_to_do(text: str) -> None:
    with pytest.raises(ValueError, match="mayfly secrets generate-key"):
        parse_key(text)


def test_the_settings_make_the_vault() -> None:
    keys = [base64.b64encode(key).decode() for key in KEYS]
    context = Context("default", "A")
    assert vault_of(Settings()) is None
    made = vault_of(Settings(secrets_key=keys[1], secrets_keys_old=f"{keys[0]}, {keys[2]},"))
    assert made is not None
    for number in range(3):
        assert made.open(context, vault(number).seal(context, "v", at=0, by="")) == "v"
    assert made.is_current(made.seal(context, "v", at=0, by=""))


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"secrets_key": "short"}, "MAYFLY_SECRETS_KEY: "),
        ({"secrets_key": new_key(), "secrets_keys_old": "short"}, "MAYFLY_SECRETS_KEYS_OLD: "),
        ({"secrets_keys_old": new_key()}, "MAYFLY_SECRETS_KEY is not"),
    ],
)
def test_a_setting_that_is_wrong_is_named(given: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        vault_of(Settings(**given))  # type: ignore[arg-type]
