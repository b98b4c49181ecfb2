"""The operations on users, for the OpenAPI document."""

from gateway.operations import _BODY, Json, _body, _json, _operation, _path, _problems, _read


def paths() -> Json:
    body = (*_BODY, "log_unavailable", "catalog_unavailable")
    name = _path("name", "The user's name.")
    return {
        "/users": {
            "get": _read("identity", "listUsers", "Users, by name", "UserList", "catalog_unavailable"),
            "post": _operation("identity", "createUser", "Make a user, who can log in")
            | {
                "requestBody": _body("UserRequest", required=True),
                "responses": {"201": _json("The user", "User"), **_problems("user_exists", *body)},
            },
        },
        "/users/{name}": {
            "delete": _operation("identity", "disableUser", "Disable a user: its tokens are refused as well")
            | {
                "parameters": [name],
                "responses": {
                    "200": _json("Disabled", "User"),
                    **_problems("unknown_user", "log_unavailable", "catalog_unavailable"),
                },
            },
        },
        "/users/{name}/password": {
            "put": _operation("identity", "setPassword", "Give a user another password")
            | {
                "parameters": [name],
                "requestBody": _body("PasswordRequest", required=True),
                "responses": {"200": _json("The user", "User"), **_problems("unknown_user", *body)},
            },
        },
    }
