"""The operations on deployments and traffic, for the OpenAPI document."""

from gateway import operations as op
from mayfly.function import NAME

_WRITING = ("log_unavailable", "catalog_unavailable")


def paths() -> op.Json:
    name = op._path("name", "The function's name.", {"type": "string", "pattern": f"^{NAME.pattern}$"})
    return {
        "/catalog": {
            "get": op._read(
                "functions", "getCatalog", "What is deployed, whole", "CatalogDocument", "catalog_unavailable"
            ),
        },
        "/functions/{name}": {
            "get": op._read(
                "functions", "getFunction", "A function", "FunctionEntry", "unknown_function", *op._CATALOG
            )
            | {"parameters": [op._path("name", "The function's name.")]},
            "put": op._operation("functions", "deployFunction", "Deploy a function whose image is there")
            | {
                "description": (
                    "What differs from the function's newest version is a version of its own; the same again "
                    "changes nothing. Dispatchers have to be able to get the image."
                ),
                "parameters": [name],
                "requestBody": op._body("Deployment", required=True),
                "responses": {
                    "200": op._json("It is deployed", "Deployed"),
                    **op._problems(*op._BODY, *_WRITING),
                },
            },
            "delete": op._operation("functions", "retireFunction", "Take a function away")
            | {
                "description": "It takes no new task; those that wait still run.",
                "parameters": [name],
                "responses": {
                    "200": op._json("It takes no new task", "Traffic"),
                    **op._problems("unknown_function", *_WRITING),
                },
            },
        },
        "/functions/{name}/traffic": {
            "get": op._read(
                "functions",
                "getTraffic",
                "A function's versions, and what each gets",
                "Traffic",
                "unknown_function",
                *op._CATALOG,
            )
            | {"parameters": [op._path("name", "The function's name.")]},
            "put": op._operation("functions", "setTraffic", "Share a function's tasks among its versions")
            | {
                "parameters": [name],
                "requestBody": op._body("Shares", required=True),
                "responses": {
                    "200": op._json("It holds", "Traffic"),
                    **op._problems("unknown_function", *op._BODY, *_WRITING),
                },
            },
        },
    }
