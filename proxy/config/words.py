"""The kinds of values that are one of some words: closed sets, which their `Literal` names once.

As `config.values`, whose kinds are all others, it has the annotated types for `config.models`. What the words of a
policy are is for `domain.policy` to say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, PlainValidator, WithJsonSchema
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from proxy.config.values import expected, substitutable
from proxy.domain import filenames, policy
from proxy.domain.policy import POLICY_KEYS, WARNABLE
from proxy.domain.trust import Preset


def _choice(*words: str) -> Callable[[object], str]:
    listed = " or ".join((", ".join(words[:-1]), words[-1]))

    def parse(raw: object) -> str:
        if not isinstance(raw, str) or raw not in words:
            raise expected(listed)
        return str(raw)

    return parse


class OneOf:
    """Marks a `Literal` as a kind: its words are accepted, from the environment too, and nothing else."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        words = get_args(source)
        return core_schema.no_info_before_validator_function(_choice(*words), handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return substitutable(enum=handler(schema)["enum"])


def _vulnerable(raw: object) -> str:
    # YAML reads the word `off` as false.
    return "off" if raw is False else _choice(*get_args(policy.Vulnerable))(raw)


LOCKABLE = tuple(key for key in POLICY_KEYS if key != "lock")
PRESETS = tuple(str(preset) for preset in Preset)

MetricsWord: TypeAlias = Annotated[Literal["local", "open", "owner"], OneOf()]
LogFormat: TypeAlias = Annotated[Literal["text", "json"], OneOf()]
LogLevel: TypeAlias = Annotated[Literal["debug", "info", "warning", "error"], OneOf()]
VisibilityWord: TypeAlias = Annotated[Literal["private", "internal", "public"], OneOf()]
RoleWord: TypeAlias = Annotated[Literal["reporter", "developer", "maintainer", "owner"], OneOf()]
PublishRole: TypeAlias = Annotated[Literal["developer", "maintainer", "owner"], OneOf()]
DeleteRole: TypeAlias = Annotated[Literal["maintainer", "owner"], OneOf()]
PresetWord: TypeAlias = Annotated[Literal["gitlab", "github", "none"], OneOf()]
JobsWord: TypeAlias = Annotated[Literal["tenant", "self"], OneOf()]
IdenticalUpload: TypeAlias = Annotated[Literal["reject", "accept"], OneOf()]
LocalVersions: TypeAlias = Annotated[policy.Consent, OneOf()]
AskWord: TypeAlias = Annotated[policy.Ask, OneOf()]
YankedWord: TypeAlias = Annotated[policy.Yanked, OneOf()]
WithheldWord: TypeAlias = Annotated[policy.Marking, OneOf()]
RemovedWord: TypeAlias = Annotated[policy.Removed, OneOf()]
ShadowWord: TypeAlias = Annotated[policy.Shadowing, OneOf()]
SeverityWord: TypeAlias = Annotated[policy.Rating, OneOf()]
FileType: TypeAlias = Annotated[filenames.FileType, OneOf()]
VulnerableWord: TypeAlias = Annotated[
    policy.Vulnerable,
    PlainValidator(_vulnerable),
    WithJsonSchema(substitutable(enum=["off", False, "warn", "deny"])),
]
WarnKey: TypeAlias = Annotated[
    str, PlainValidator(_choice(*WARNABLE)), WithJsonSchema({"enum": list(WARNABLE)})
]
PolicyKey: TypeAlias = Annotated[
    str, PlainValidator(_choice(*LOCKABLE)), WithJsonSchema({"enum": list(LOCKABLE)})
]
