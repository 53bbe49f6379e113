"""The JSON Schema of the configuration file, for editors; `config/schema.json` is its checked-in text.

It describes what an operator writes, which the models do not quite: there every key may be left out, since
the file is laid over the shipped defaults, and those defaults are worth showing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.config.models import Config

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_DEFAULTED = ("server", "log", "storage", "limits", "cache", "advisories", "audit", "oidc")
_REQUIRED = {
    "Tls": ["certificate", "key"],
    "LongPattern": ["match"],
    "LongRule": ["match"],
    "Exemption": ["id", "name", "until", "reason"],
    "Protection": ["name"],
}
"""Sections of which some keys have to stand there, and which; of all others every key may be left out."""


def json_schema(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The schema as JSON values.

    Args:
        defaults: the shipped defaults as plain values, from which each key's `default` is taken.
    """
    generated = Config.model_json_schema()
    definitions: dict[str, Any] = generated["$defs"]
    for schema in (generated, *definitions.values()):
        _relax(schema)
    for section in _DEFAULTED:
        _show_defaults(definitions[section.title()], defaults[section])
    _show_defaults(generated, {"visibility": defaults["visibility"]})
    settings = defaults["upstreams"]["pypi"]
    own = {key: value for key, value in settings.items() if key not in {"index_url", "file_hosts"}}
    _show_defaults(definitions["Upstream"], own)
    for section, keys in _REQUIRED.items():
        definitions[section]["required"] = keys
    top = {key: value for key, value in generated.items() if key not in {"$defs", "description"}}
    return {
        "$schema": DIALECT,
        "title": "pypi-overlay configuration",
        "description": "Laid over the shipped defaults. ${NAME} and ${NAME:-default} read the environment.",
        **top,
        "$defs": definitions,
    }


def known_keys(schema: Mapping[str, Any], path: tuple[str | int, ...]) -> tuple[str, ...]:
    """The keys that may stand in the section at `path`; none where it takes names of the operator's choice."""
    place: Mapping[str, Any] = schema
    for part in path:
        place = _below(schema, place, part)
    return tuple(_resolved(schema, place).get("properties", ()))


def _below(schema: Mapping[str, Any], place: Mapping[str, Any], part: str | int) -> Mapping[str, Any]:
    section = _resolved(schema, place)
    if isinstance(part, int):
        items: Mapping[str, Any] = section.get("items", {})
        return items
    properties: Mapping[str, Any] = section.get("properties", {})
    named: Mapping[str, Any] = section.get("patternProperties", {})
    found: Mapping[str, Any] = properties.get(str(part)) or next(iter(named.values()), {})
    return found


def _resolved(schema: Mapping[str, Any], place: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follow a reference, also one that stands beside null."""
    for option in (place, *place.get("anyOf", ())):
        if "$ref" in option:
            definition: Mapping[str, Any] = schema["$defs"][option["$ref"].rpartition("/")[2]]
            return definition
    return place


def _relax(schema: dict[str, Any]) -> None:
    """Nothing is required, null is no default, titles that repeat the key go, other keys than named are refused."""
    schema.pop("required", None)
    schema.pop("title", None)
    for key in schema.get("properties", {}).values():
        key.pop("title", None)
        if key.get("default") is None:
            key.pop("default", None)
        if "patternProperties" in key:
            key["additionalProperties"] = False


def _show_defaults(section: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        section["properties"][key]["default"] = value
