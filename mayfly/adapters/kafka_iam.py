"""Who we are to Amazon MSK, by IAM: a token that is a signed URL, in base64url without padding.

As AWS's own signer makes it (https://github.com/aws/aws-msk-iam-sasl-signer-python): SASL's OAUTHBEARER with
the presigned `kafka-cluster:Connect` of the cluster's region.
"""

import base64
import logging
import time
from collections.abc import Callable
from typing import Any, Final

from mayfly.errors import SettingsError

log = logging.getLogger(__name__)

TOKEN_SECONDS: Final = 900
"""How long a token is good for: the longest that the brokers take. librdkafka asks for the next in time."""

Tokens = Callable[[str], tuple[str, float]]
"""Called by librdkafka, on a thread of its own: the token, and until when it is good, seconds since 1970."""


def tokens(region: str | None) -> Tokens:
    """By the credentials that boto3 finds: of the environment, a profile, a pod, the machine's role."""
    session: Any = None

    def give(_configuration: str) -> tuple[str, float]:
        # Asked for rarely, and only on AWS: to import it takes longer than to import all of ours.
        import boto3

        nonlocal session
        try:
            session = session or boto3.session.Session()
            return token(session.get_credentials(), region or session.region_name)
        except Exception as error:
            # librdkafka says only that there is no token, and asks again in ten seconds.
            log.warning("no token for Kafka", extra={"reason": str(error)})
            raise

    return give


def token(credentials: Any, region: str | None) -> tuple[str, float]:
    """Raises `SettingsError` where something to sign with is missing, and what botocore raises."""
    from botocore.auth import SigV4QueryAuth
    from botocore.awsrequest import AWSRequest

    if credentials is None:
        raise SettingsError("boto3 finds no AWS credentials")
    if not region:
        raise SettingsError("boto3 finds no AWS region: set MAYFLY_KAFKA_REGION")
    until = int(time.time()) + TOKEN_SECONDS
    request = AWSRequest(
        method="GET",
        url=f"https://kafka.{region}.amazonaws.com/",
        params={"Action": "kafka-cluster:Connect"},
    )
    # Frozen: others may have them refreshed meanwhile.
    frozen = credentials.get_frozen_credentials()
    SigV4QueryAuth(frozen, "kafka-cluster", region, expires=TOKEN_SECONDS).add_auth(request)
    url = f"{request.url}&User-Agent=mayfly"
    return base64.urlsafe_b64encode(url.encode()).decode().rstrip("="), float(until)
