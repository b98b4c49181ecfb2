"""Data in transit: what each client is told, from the environment, and that none is made without it."""

import base64
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import botocore.credentials
import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from mayfly.adapters import kafka_iam
from mayfly.adapters.kafka import client_config
from mayfly.adapters.redis import ReadModel
from mayfly.adapters.s3 import Blobs
from mayfly.errors import SettingsError
from mayfly.settings import Settings

ROOT = Path(__file__).parents[2]
SECRET = "a pass/word: with @ll that is #special"


@pytest.fixture
def ca_file(tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    path.write_text("-----BEGIN CERTIFICATE-----\n")
    return path


def kafka(**settings: Any) -> dict[str, Any]:
    """What is told beyond what every client is told."""
    config = client_config(Settings(**settings))
    return {name: value for name, value in config.items() if name not in client_config(Settings())}


def test_without_a_setting_nothing_is_said_of_security() -> None:
    assert kafka() == {}


def test_tls_alone_is_said_with_the_ca(ca_file: Path) -> None:
    assert kafka(kafka_security="SSL") == {"security.protocol": "SSL"}
    told = kafka(kafka_security="SSL", kafka_ca_file=ca_file)
    assert told == {"security.protocol": "SSL", "ssl.ca.location": str(ca_file)}


@pytest.mark.parametrize("security", ["SASL_SSL", "SASL_PLAINTEXT"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_a_user_and_a_password_are_said(security: str, mechanism: str) -> None:
    told = kafka(
        kafka_security=security, kafka_sasl_mechanism=mechanism, kafka_user="ana", kafka_password=SECRET
    )
    assert told == {
        "security.protocol": security,
        "sasl.mechanism": mechanism,
        "sasl.username": "ana",
        "sasl.password": SECRET,
    }


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"kafka_security": "SASL_SSL"}, "MAYFLY_KAFKA_SASL_MECHANISM is not set"),
        ({"kafka_sasl_mechanism": "PLAIN"}, "MAYFLY_KAFKA_SECURITY is PLAINTEXT"),
        (
            {"kafka_security": "SASL_SSL", "kafka_sasl_mechanism": "PLAIN", "kafka_password": SECRET},
            "needs MAYFLY_KAFKA_USER and MAYFLY_KAFKA_PASSWORD",
        ),
        (
            {"kafka_security": "SASL_SSL", "kafka_sasl_mechanism": "PLAIN", "kafka_user": "ana"},
            "needs MAYFLY_KAFKA_USER and MAYFLY_KAFKA_PASSWORD",
        ),
        ({"kafka_security": "TLS"}, "MAYFLY_KAFKA_SECURITY"),
        ({"kafka_ca_file": __file__}, "MAYFLY_KAFKA_CA_FILE is for"),
        ({"kafka_ca_file": "/nowhere", "kafka_security": "SSL"}, "MAYFLY_KAFKA_CA_FILE"),
        ({"redis": f"redis://:{SECRET}@h:1/0", "redis_ca_file": __file__}, "MAYFLY_REDIS_CA_FILE is for"),
        ({"s3_endpoint": "http://h", "s3_ca_file": __file__}, "MAYFLY_S3_CA_FILE is for"),
        ({"heartbeat_key": "too short"}, "MAYFLY_HEARTBEAT_KEY: it has at least 32 bytes"),
    ],
)
def test_what_does_not_fit_together_is_named_and_no_secret_with_it(
    settings: dict[str, Any], says: str
) -> None:
    with pytest.raises(SettingsError, match=says) as raised:
        Settings(**settings)
    assert SECRET not in repr(raised.value)
    assert SECRET not in repr(raised.value.__cause__)


def test_every_client_of_kafkas_is_told_where_it_is_in_one_place() -> None:
    sources = [
        path for package in ("mayfly", "gateway", "dispatcher") for path in (ROOT / package).rglob("*.py")
    ]
    naming = [path.name for path in sources if "bootstrap.servers" in path.read_text()]
    assert naming == ["kafka.py"]
    clients = [path for path in sources if "confluent_kafka" in path.read_text()]
    # The dispatcher's consumer is given what its composition root has from there, and offsets are asked of a
    # client that is given.
    given = {path.name for path in clients if "client_config(" not in path.read_text()}
    assert given == {"consumer.py", "kafka_offsets.py"}


# --- MSK


def token(access: str = "AKIDEXAMPLE", session_token: str | None = "temporary") -> tuple[str, float]:
    credentials = botocore.credentials.Credentials(access, "secret", session_token)
    return kafka_iam.token(credentials, "eu-west-1")


def test_the_token_for_msk_is_a_signed_url() -> None:
    text, until = token()
    assert not set("+/=") & set(text)
    url = urlsplit(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode())
    assert (url.scheme, url.netloc, url.path) == ("https", "kafka.eu-west-1.amazonaws.com", "/")
    query = {name: value for name, [value] in parse_qs(url.query).items()}
    date = query["X-Amz-Date"]
    signature = query.pop("X-Amz-Signature")
    assert len(signature) == 64
    assert query == {
        "Action": "kafka-cluster:Connect",
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"AKIDEXAMPLE/{date[:8]}/eu-west-1/kafka-cluster/aws4_request",
        "X-Amz-Date": date,
        "X-Amz-Expires": "900",
        "X-Amz-SignedHeaders": "host",
        "X-Amz-Security-Token": "temporary",
        "User-Agent": "mayfly",
    }
    assert 0 < until - time.time() <= 900
    assert "secret" not in text


def test_credentials_that_are_for_long_have_no_session_token() -> None:
    text, _ = token(session_token=None)
    assert b"Security-Token" not in base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def test_without_credentials_or_a_region_there_is_no_token_and_a_reason() -> None:
    with pytest.raises(SettingsError, match="no AWS credentials"):
        kafka_iam.token(None, "eu-west-1")
    with pytest.raises(SettingsError, match="MAYFLY_KAFKA_REGION"):
        kafka_iam.token(botocore.credentials.Credentials("a", "b"), None)


@pytest.mark.parametrize("kind", [Producer, Consumer, AdminClient])
def test_every_kind_of_client_asks_for_a_token_by_itself(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()

    def tokens(region: str | None) -> kafka_iam.Tokens:
        def give(_: str) -> tuple[str, float]:
            asked.set()
            return token()

        assert region == "eu-west-1"
        return give

    monkeypatch.setattr(kafka_iam, "tokens", tokens)
    settings = Settings(
        kafka="127.0.0.1:1",
        kafka_security="SASL_SSL",
        kafka_sasl_mechanism="OAUTHBEARER",
        kafka_region="eu-west-1",
    )
    client = kind(client_config(settings, **({"group.id": "g"} if kind is Consumer else {})))
    assert asked.wait(60)
    if kind is Consumer:
        client.close()


# --- Redis and S3


@pytest.mark.parametrize("url", [f"redis://:{SECRET}@host/0", "http://host", "nonsense", "redis://h:port/0"])
def test_a_url_that_is_none_of_a_redis_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(SettingsError, match="MAYFLY_REDIS is no URL") as raised:
        ReadModel(Settings(redis=url))
    assert raised.value.__cause__ is None
    assert "pass" not in str(raised.value).replace("password", "")


async def test_a_redis_url_may_name_a_user_and_ask_for_tls(ca_file: Path) -> None:
    model = ReadModel(Settings(redis="rediss://ana:p%2Fw@host:6390/3", redis_ca_file=ca_file))
    told = model._redis.connection_pool.connection_kwargs
    assert {name: told[name] for name in ("username", "password", "host", "port", "db")} == {
        "username": "ana",
        "password": "p/w",
        "host": "host",
        "port": 6390,
        "db": 3,
    }
    assert told["ssl_ca_certs"] == str(ca_file)
    await model.close()


def test_a_ca_file_of_s3s_without_a_certificate_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(SettingsError, match="MAYFLY_S3_CA_FILE"):
        Blobs(Settings(s3_endpoint="https://127.0.0.1:1", s3_ca_file=tmp_path / "ca.pem"))
