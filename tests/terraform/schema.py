"""The AWS provider's schema, recovered from a package that says the same in another form.

The provider itself cannot be had from a package registry. Its schema can: cdktf's TypeScript bindings (npm,
MPL-2.0) are generated from it, and each file carries that TypeScript in its source map. What is made of it
has the shape of `terraform providers schema -json`.
"""

import base64
import json
import re
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

Schema = dict[str, Any]
"""A block: `attributes` by name, and, where there are any, `block_types` by name."""

CLASS: Final = re.compile(r"^export class (\w+) extends cdktf\.(\w+) \{(.*?)^\}", re.DOTALL | re.MULTILINE)
ATTRIBUTE: Final = re.compile(
    r"^  // (\w+) - computed: (\w+), optional: (\w+), required: (\w+)\n"
    r"(.*?)(?=^  // \w+ - computed:|^  // =====|\Z)",
    re.DOTALL | re.MULTILINE,
)
NESTED: Final = re.compile(r'= new (cdktf\.)?(\w+)\(this, "\w+"(?:, (true|false))?\)')
GETTER: Final = re.compile(r"get(String|Number|Boolean|Any)(Map)?Attribute\(")
NOT_A_BLOCK: Final = re.compile(r"(\w+): cdktf\.listMapper\(\w+ToTerraform, false\)")
"""An attribute that is a list of objects, set by `=`, and not a block."""
TYPE: Final = re.compile(r'tfResourceType = "(\w+)"')
SOURCE_MAP: Final = re.compile(r"sourceMappingURL=data:application/json;base64,(\S+)")

PRIMITIVE: Final = {"String": "string", "Number": "number", "Boolean": "bool", "Any": "string"}
SENSITIVE: Final = frozenset({"random_password", "secret_string", "auth_token", "passwords"})

PROVIDER: Final[Schema] = {
    "attributes": {
        "region": {"type": "string", "optional": True},
        "profile": {"type": "string", "optional": True},
        "allowed_account_ids": {"type": ["set", "string"], "optional": True},
    },
    "block_types": {
        "default_tags": {
            "nesting_mode": "list",
            "max_items": 1,
            "block": {"attributes": {"tags": {"type": ["map", "string"], "optional": True}}},
        }
    },
}
"""What a configuration may say of the provider itself: the bindings have it in a form of its own, and an
account is configured by the environment."""


def recover(package: Path, wanted: Iterable[str]) -> Schema:
    """The schemas of some resources (`aws_s3_bucket`) and data sources (`data.aws_region`), from the package.

    Raises `LookupError` for what the package does not have.
    """
    folders = {_folder(name): name for name in wanted}
    found: Schema = {"provider": {"version": 0, "block": PROVIDER}, "resources": {}, "data_sources": {}}
    with tarfile.open(package) as archive:
        for member in archive:
            parts = member.name.split("/")
            if parts[-1] != "index.js" or parts[-2] not in folders:
                continue
            file = archive.extractfile(member)
            assert file is not None
            name = folders.pop(parts[-2])
            kind = "data_sources" if name.startswith("data.") else "resources"
            found[kind][name.removeprefix("data.")] = {"version": 0, "block": _parse(file.read().decode())}
            if not folders:
                return found
    if folders:
        raise LookupError(f"the provider has no {', '.join(sorted(folders.values()))}")
    return found


def _folder(name: str) -> str:
    """`data.aws_caller_identity` is in `data-aws-caller-identity`, `aws_s3_bucket` in `s3-bucket`."""
    bare = name.removeprefix("data.aws_")
    return (name.removeprefix("aws_") if bare == name else f"data-aws-{bare}").replace("_", "-")


def _parse(javascript: str) -> Schema:
    source_map = SOURCE_MAP.search(javascript)
    assert source_map is not None
    typescript: str = json.loads(base64.b64decode(source_map[1]))["sourcesContent"][0]
    return _Bindings(typescript).block()


class _Bindings:
    """The TypeScript of one resource or data source."""

    def __init__(self, typescript: str) -> None:
        self._classes = {found[1]: (found[2], found[3]) for found in CLASS.finditer(typescript)}
        self._not_blocks = set(NOT_A_BLOCK.findall(typescript))

    def block(self) -> Schema:
        top = next(
            name
            for name, (base, _) in self._classes.items()
            if base in ("TerraformResource", "TerraformDataSource")
        )
        return self._of(top)

    def _of(self, name: str) -> Schema:
        attributes: dict[str, Any] = {}
        blocks: dict[str, Any] = {}
        for attribute, *flags, body in ATTRIBUTE.findall(self._classes[name][1]):
            computed, optional, required = (flag == "true" for flag in flags)
            nested = NESTED.search(body)
            if nested and not nested[1] and (optional or required) and not self._is_list(attribute, nested):
                blocks[attribute] = self._nested_block(attribute, nested, required)
                continue
            kind = self._nested_type(nested) if nested else _getter_type(body)
            given = {"computed": computed, "optional": optional, "required": required}
            given["sensitive"] = attribute in SENSITIVE
            attributes[attribute] = {"type": kind, **{flag: True for flag, is_set in given.items() if is_set}}
        return {"attributes": attributes, **({"block_types": blocks} if blocks else {})}

    def _is_list(self, attribute: str, nested: re.Match[str]) -> bool:
        return attribute in self._not_blocks and not nested[2].endswith("OutputReference")

    def _nested_block(self, attribute: str, nested: re.Match[str], required: bool) -> Schema:
        is_one = nested[2].endswith("OutputReference")
        mode = "single" if attribute == "timeouts" else "set" if nested[3] == "true" else "list"
        block: Schema = {"nesting_mode": mode, "block": self._inner(nested[2])}
        if required:
            block["min_items"] = 1
        if is_one and mode != "single":
            block["max_items"] = 1
        return block

    def _nested_type(self, nested: re.Match[str]) -> Any:
        collection = "set" if nested[3] == "true" else "list"
        if nested[1]:
            # cdktf.StringMap, cdktf.StringMapList, ...
            of = ["map", PRIMITIVE.get(nested[2].split("Map")[0], "string")]
            return [collection, of] if nested[2].endswith("List") else of
        return [collection, _object(self._inner(nested[2]))]

    def _inner(self, name: str) -> Schema:
        reference = (
            name if name.endswith("OutputReference") else name.removesuffix("List") + "OutputReference"
        )
        return self._of(reference) if reference in self._classes else {"attributes": {}}


def _getter_type(body: str) -> Any:
    expression = re.search(r"return ([^;]*);", body)
    text = expression[1] if expression else ""
    if simple := GETTER.search(text):
        return ["map", PRIMITIVE[simple[1]]] if simple[2] else PRIMITIVE[simple[1]]
    collection = "set" if "Fn.tolist(" in text else "list"
    if "getNumberListAttribute(" in text:
        return [collection, "number"]
    return [collection, "string"] if "getListAttribute(" in text else "string"


def _object(block: Schema) -> Any:
    fields = {name: attribute["type"] for name, attribute in block["attributes"].items()}
    for name, nested in block.get("block_types", {}).items():
        fields[name] = [nested["nesting_mode"], _object(nested["block"])]
    return ["object", fields]
