"""Whom a project trusts: identities that other issuers vouch for, and the rules that accept them (contract 5).

An issuer signs statements about a CI job, its *claims*. A rule of a project names claims and the text each must
have. Whether a signature is good is judged in `identity.oidc`; here everything is a plain value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

ANYTHING = "*"
"""At the end of a rule's value: whatever follows."""

_LONGEST_NAME = 255
USUAL_LIFE = timedelta(minutes=15)
LONGEST_LIFE = timedelta(hours=24)
"""Of every job token, however it was made."""


class Preset(StrEnum):
    """Issuers whose claims are known."""

    GITLAB = "gitlab"
    GITHUB = "github"
    NONE = "none"


REPOSITORY_CLAIMS: Mapping[Preset, tuple[str, ...]] = {
    Preset.GITLAB: ("project_path", "project_id"),
    Preset.GITHUB: ("repository", "repository_id"),
    Preset.NONE: (),
}
"""The claims that say which repository a job belongs to; the first is what people call it."""

_PUBLISHER_CLAIMS: Mapping[Preset, tuple[str, ...]] = {
    Preset.GITLAB: ("ci_config_ref_uri", "environment", "ref", "sha"),
    Preset.GITHUB: ("workflow_ref", "environment", "ref", "sha"),
    Preset.NONE: (),
}
_KINDS = {Preset.GITLAB: "GitLab", Preset.GITHUB: "GitHub"}


@dataclass(frozen=True, slots=True)
class TrustRule:
    """What a project accepts of an issuer.

    Attributes:
        issuer: its name in the configuration.
        claims: claim → its text, or how it begins where that ends in `*`.
        expires: how long a token minted by this rule lives.
    """

    issuer: str
    claims: Mapping[str, str]
    expires: timedelta = USUAL_LIFE

    def accepts(self, identity: Identity) -> bool:
        """Whether `identity` is of this issuer and has every claim that is named here, with that text."""
        return identity.issuer == self.issuer and all(
            _is_like(identity.claims.get(claim), wanted) for claim, wanted in self.claims.items()
        )


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody whom an issuer vouches for.

    Attributes:
        issuer: its name in the configuration.
        kind: how provenance names the kind of publisher (PEP 740): `GitLab`, `GitHub`, else the issuer's name.
        repository: the repository of the job; empty where its claim is missing.
        claims: claim → text, of those that rules or provenance may ask for.
    """

    issuer: str
    kind: str
    repository: str
    claims: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        """How logs, the audit and lists of tokens name it: `gitlab:acme/widgets`."""
        name = f"{self.issuer}:{self.repository}"
        return "".join(sign if sign.isprintable() else "?" for sign in name[:_LONGEST_NAME])


@dataclass(frozen=True, slots=True)
class IssuerSettings:
    """An issuer of identity tokens.

    Attributes:
        name: its key in the configuration.
        issuer: its address, exactly as it stands in the claim `iss`.
        repository_claims: the claims that say which repository a job belongs to.
    """

    name: str
    issuer: str
    preset: Preset
    repository_claims: tuple[str, ...]

    def identity(self, claims: Mapping[str, object], asked_for: Iterable[str]) -> Identity:
        """The identity behind claims of this issuer.

        Args:
            claims: as signed, or as kept of an earlier identity.
            asked_for: the claims that rules name; of the others only those that say who it is are kept.
        """
        kept = {"sub", *self.repository_claims, *_PUBLISHER_CLAIMS[self.preset], *asked_for}
        texts = {name: text for name in sorted(kept) if (text := text_of(claims.get(name))) is not None}
        repository = next((texts[name] for name in self.repository_claims if name in texts), "")
        return Identity(self.name, _KINDS.get(self.preset, self.name), repository, texts)


def text_of(value: object) -> str | None:
    """A claim's value as rules compare it: text, a whole number or a truth value; None for anything else."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | str():
            return str(value)
        case _:
            return None


def _is_like(value: str | None, wanted: str) -> bool:
    if value is None:
        return False
    return value.startswith(wanted[:-1]) if wanted.endswith(ANYTHING) else value == wanted
