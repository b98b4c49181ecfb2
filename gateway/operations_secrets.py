"""The operations on secrets, for the OpenAPI document."""

from typing import Any

from gateway import operations as op
from gateway.secrets import NAME

_STORING = ("no_secrets_key", "secrets_unavailable", "log_unavailable")


def paths() -> dict[str, Any]:
    name = op._path(
        "name",
        "The secret's name, as function.toml has it.",
        {"type": "string", "pattern": f"^{NAME.pattern}$"},
    )
    text = {"type": "string", "minLength": 1, "pattern": r"^[^\u0000]+$"}
    value = {"required": True, "content": {"application/octet-stream": {"schema": text}}}
    wrong = ("invalid_secret", "too_many_secrets", "body_too_large", "body_too_slow")
    return {
        "/secrets": {
            "get": op._read("secrets", "listSecrets", "Secrets, without their values", "SecretList"),
        },
        "/secrets/{name}": {
            "put": op._operation("secrets", "setSecret", "Set a secret: the body is its value")
            | {
                "parameters": [name],
                "requestBody": value,
                "responses": {"200": op._json("It is set", "Secret"), **op._problems(*wrong, *_STORING)},
            },
            "delete": op._operation("secrets", "removeSecret", "Remove a secret")
            | {
                "parameters": [name],
                "responses": {
                    "200": op._json("It is gone", "Secret"),
                    **op._problems("unknown_secret", "log_unavailable"),
                },
            },
        },
        "/secrets/rotate": {
            "post": op._operation("secrets", "rotateSecrets", "Encrypt secrets anew, under today's key")
            | {"responses": {"200": op._json("What was done", "SecretRotation"), **op._problems(*_STORING)}},
        },
    }
