"""AWS KMS: master keys that never leave it. `vault_of` makes the vault that the settings ask for."""

import threading
from collections.abc import Mapping
from typing import Any, Final

from mayfly.errors import SecretsUnavailable, SettingsError
from mayfly.identity.vault import Context, DataKey, LocalKeys, MasterKey, Sealed, Unopened, Vault, parse_key
from mayfly.settings import Settings

_ARN: Final = "arn:"
_REFUSED: Final = frozenset({"InvalidCiphertextException", "IncorrectKeyException"})


class KmsKeys:
    """Data keys of a KMS key, which is named by its id, its ARN or an alias.

    Credentials and the endpoint are what the AWS SDKs find; the region is the ARN's, if there is one.
    """

    def __init__(self, key: str, region: str) -> None:
        self._key = key
        self._region = key.split(":")[3] if key.startswith(_ARN) and key.count(":") >= 5 else region
        self._client: Any = None
        self._making = threading.Lock()
        self._current: str | None = None

    def make(self, context: Context) -> DataKey:
        answer = self._ask(
            "generate_data_key", KeyId=self._key, KeySpec="AES_256", EncryptionContext=_bound(context)
        )
        self._current = answer["KeyId"]
        return DataKey(answer["Plaintext"], answer["KeyId"], answer["CiphertextBlob"])

    def unwrap(self, sealed: Sealed, context: Context) -> bytes | None:
        if not sealed.key_id.startswith(_ARN):
            return None
        answer = self._ask(
            "decrypt",
            KeyId=sealed.key_id,
            CiphertextBlob=sealed.data_key,
            EncryptionContext=_bound(context),
        )
        key: bytes = answer["Plaintext"]
        return key

    def is_current(self, key_id: str) -> bool:
        if self._current is None:
            # An alias, or an id: which ARN that is, only KMS knows.
            self._current = self._ask("describe_key", KeyId=self._key)["KeyMetadata"]["Arn"]
        return key_id == self._current

    def _ask(self, call: str, **arguments: Any) -> Mapping[str, Any]:
        """Raises `Unopened`, and `SecretsUnavailable`."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer: Mapping[str, Any] = getattr(self._connected(), call)(**arguments)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in _REFUSED:
                raise Unopened("its record was changed, or is another secret's: set it again") from None
            raise SecretsUnavailable(f"KMS refused {call}: {error}") from error
        except BotoCoreError as error:
            raise SecretsUnavailable(f"KMS does not answer: {error}") from error
        return answer

    def _connected(self) -> Any:
        # boto3 takes longer to import than all of a service's own code, and a session is not for two threads.
        with self._making:
            if self._client is None:
                import boto3
                from botocore.config import Config

                config = Config(connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 2})
                self._client = boto3.client("kms", region_name=self._region, config=config)
            return self._client


def _bound(context: Context) -> dict[str, str]:
    return {"mayfly:tenant": context.tenant, "mayfly:secret": context.name}


def vault_of(settings: Settings) -> Vault | None:
    """None where no key is set. Raises `SettingsError`."""
    keys: list[MasterKey] = []
    if settings.secrets_kms_key:
        keys.append(KmsKeys(settings.secrets_kms_key, settings.s3_region))
    given = settings.secrets_keys_old.get_secret_value() if settings.secrets_keys_old else ""
    old = [_parsed("MAYFLY_SECRETS_KEYS_OLD", text) for text in given.split(",") if text.strip()]
    if settings.secrets_key is not None:
        current = _parsed("MAYFLY_SECRETS_KEY", settings.secrets_key.get_secret_value())
        keys.append(LocalKeys(current, old))
    elif old and keys:
        # What was encrypted before KMS was: still to be opened.
        keys.append(LocalKeys(old[0], old))
    elif old:
        raise SettingsError("MAYFLY_SECRETS_KEYS_OLD is set and MAYFLY_SECRETS_KEY is not")
    return Vault(*keys) if keys else None


def _parsed(setting: str, text: str) -> bytes:
    try:
        return parse_key(text)
    except ValueError as error:
        raise SettingsError(f"{setting}: {error}") from None
