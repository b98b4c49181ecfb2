"""What a delivery is signed with: by Standard Webhooks, so that its libraries check it."""

import base64
import hashlib
import hmac

from mayfly.webhooks.signing import (
    MOST_FORMER,
    OVERLAP_MS,
    FormerSecret,
    WebhookSecret,
    new_secret,
    rotated,
    signatures,
)

NOW = 1_795_521_600_000


def test_a_signature_is_that_of_the_specification() -> None:
    """The example of https://github.com/standard-webhooks/standard-webhooks."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b'{"test": 2432232314}'
    told = signatures([secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert told == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_every_secret_has_a_signature() -> None:
    secrets = [new_secret(), new_secret()]
    told = signatures(secrets, "msg_1", 17, b"{}").split(" ")
    for secret, signature in zip(secrets, told, strict=True):
        key = base64.b64decode(secret.removeprefix("whsec_"))
        assert len(key) == 32
        digest = hmac.new(key, b"msg_1.17.{}", hashlib.sha256).digest()
        assert signature == "v1," + base64.b64encode(digest).decode()


def test_a_secret_that_was_replaced_signs_for_a_day_beside_the_new_one() -> None:
    first = rotated(new_secret(), None, NOW, "key:1")
    second = rotated(new_secret(), first, NOW + 5, "key:1")
    assert first.current(NOW) == [first.secret]
    assert second.secret != first.secret
    assert second.current(NOW + 5) == [second.secret, first.secret]
    assert second.current(NOW + 4 + OVERLAP_MS) == [second.secret, first.secret]
    assert second.current(NOW + 5 + OVERLAP_MS) == [second.secret]


def test_those_replaced_within_a_day_all_sign_up_to_a_few() -> None:
    secret, made = rotated(new_secret(), None, NOW, ""), []
    for number in range(MOST_FORMER + 2):
        made.append(secret.secret)
        secret = rotated(new_secret(), secret, NOW + number, "")
    assert secret.current(NOW + 10) == [secret.secret, *reversed(made)][: MOST_FORMER + 1]
    later = rotated(new_secret(), secret, NOW + 2 * OVERLAP_MS, "")
    assert [one.secret for one in later.former] == [secret.secret]


def test_a_secret_is_not_shown_by_accident() -> None:
    secret = WebhookSecret("whsec_AAAA", 0, former=(FormerSecret("whsec_BBBB", 1),))
    assert "whsec_" not in repr(secret)
