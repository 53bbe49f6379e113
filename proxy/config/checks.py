"""What can only be seen between keys: siblings, numbers, members, upstreams, policies, former paths, trust.

It reads the same plain values that `config.models` validates, before or beside that, and takes nothing for
granted: whatever has not the expected shape is passed over, since the schema reports it. So both kinds of
problem are reported together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from proxy.config.nodes import Path, dotted
from proxy.config.values import parse_whole
from proxy.config.words import PRESETS
from proxy.domain.policy import WARNABLE
from proxy.domain.trust import ANYTHING, REPOSITORY_CLAIMS, Preset


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong between keys, and where.

    `message` holds keys of the file but none of its values, which may come from the environment; where
    `wants_value`, the reader of the file adds what stands there: `, got …`.
    """

    path: Path
    message: str
    wants_value: bool = False


@dataclass(frozen=True, slots=True)
class _Place:
    """A namespace as the file has it: its keys from the top, its own path, what stands in it."""

    keys: Path
    path: str
    kind: str
    body: Mapping[str, object]


def cross_check(config: Mapping[str, object]) -> Iterator[Finding]:
    """Everything wrong between keys of `config`, a file laid over the defaults, in no particular order."""
    places = tuple(_namespaces((), "", config))
    yield from _siblings((), config)
    for place in places:
        if place.kind == "group":
            yield from _siblings(place.keys, place.body)
    yield from _top_level(config)
    yield from _numbers(places)
    yield from _members(places, config)
    yield from _policy_upstreams(places, config)
    yield from _locked_keys(places, config)
    yield from _policies(places, config)
    yield from _at_root(places)
    yield from _credentials(config)
    yield from _issuers(config)
    yield from _trust(places, config)
    yield from _aliases(places)
    yield from _default_project(places, config)


def _table(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> tuple[object, ...]:
    return tuple(value) if isinstance(value, list | tuple) else ()


def _namespaces(keys: Path, path: str, body: Mapping[str, object]) -> Iterator[_Place]:
    """Groups and projects below `body`, itself aside; parents before children."""
    for section, kind in (("projects", "project"), ("groups", "group")):
        for segment, below in _table(body.get(section)).items():
            place = _Place(
                (*keys, section, segment), f"{path}/{segment}" if path else segment, kind, _table(below)
            )
            yield place
            if kind == "group":
                yield from _namespaces(place.keys, place.path, place.body)


def _siblings(keys: Path, body: Mapping[str, object]) -> Iterator[Finding]:
    seen: dict[str, Path] = {}
    for section in ("groups", "projects"):
        for segment in _table(body.get(section)):
            here = (*keys, section, segment)
            first = seen.setdefault(segment.lower(), here)
            if first is here:
                continue
            same = "has the same name as" if first[-1] == segment else "differs only in case from"
            yield Finding(here, f"{same} {dotted(first)}; groups and projects side by side must differ")


def _top_level(config: Mapping[str, object]) -> Iterator[Finding]:
    for section in ("groups", "projects"):
        for segment in _table(config.get(section)):
            if segment.isascii() and segment.isdigit():
                yield Finding(
                    (section, segment),
                    "expected a name with a letter, got digits only: that is a number's place",
                )


def _numbers(places: tuple[_Place, ...]) -> Iterator[Finding]:
    seen: dict[tuple[str, int], _Place] = {}
    for place in places:
        number = parse_whole(place.body.get("id"))
        if number is None:
            continue
        first = seen.setdefault((place.kind, number), place)
        if first is not place:
            yield Finding(
                (*place.keys, "id"),
                f"expected another number than that of {dotted(first.keys)}",
                wants_value=True,
            )


def _members(places: tuple[_Place, ...], config: Mapping[str, object]) -> Iterator[Finding]:
    users = _table(config.get("users"))
    for keys, body in (((), config), *((place.keys, place.body) for place in places)):
        for user in _table(body.get("members")):
            if user not in users:
                yield Finding(
                    (*keys, "members", user), f"expected a user, but {user} does not stand under users"
                )


def _policy_upstreams(places: tuple[_Place, ...], config: Mapping[str, object]) -> Iterator[Finding]:
    upstreams = _table(config.get("upstreams"))
    known = [name for name, settings in upstreams.items() if settings is not None]
    choice = f"one of {', '.join(known)}" if known else "nothing, since there are no upstreams"
    for keys, body in (
        ((), config),
        *((place.keys, place.body) for place in places if place.kind == "group"),
    ):
        named = _list(_table(body.get("policy")).get("upstreams"))
        for position, name in enumerate(named):
            if not isinstance(name, str):
                continue
            here = (*keys, "policy", "upstreams", position)
            if name not in known:
                yield Finding(here, f"expected {choice}", wants_value=True)
            elif name in named[:position]:
                yield Finding(here, "expected every upstream once", wants_value=True)


def _locked_keys(places: tuple[_Place, ...], config: Mapping[str, object]) -> Iterator[Finding]:
    """Keys of policies that stand below a group that locked them; the topmost such group is told (contract 3)."""
    root = _Place((), "", "group", config)
    locks = {
        group.keys: (group.path or "the root", _list(_table(group.body.get("policy")).get("lock")))
        for group in (root, *places)
        if group.kind == "group"
    }
    for place in places:
        # Each group takes two keys of the path from the top.
        above = [locks[place.keys[:depth]] for depth in range(0, len(place.keys), 2)]
        policy = _table(place.body.get("policy"))
        for key in policy:
            holder = next((path for path, locked in above if key in locked), None)
            if key != "lock" and holder is not None:
                message = f"{key} is locked by {holder}: it cannot be set or added to at {place.path}"
                yield Finding((*place.keys, "policy", key), message)
        for position, named in enumerate(_list(policy.get("warn"))):
            holder = next((path for path, locked in above if named in locked), None)
            if named in WARNABLE and holder is not None:
                message = f"{named} is locked by {holder}: it cannot be reduced to a warning at {place.path}"
                yield Finding((*place.keys, "policy", "warn", position), message)


def _policies(places: tuple[_Place, ...], config: Mapping[str, object]) -> Iterator[Finding]:
    """What is wrong within a policy, or between one and the top level."""
    has_advisories = bool(_table(config.get("advisories")).get("osv_dir"))
    groups = ((place.keys, place.body) for place in places if place.kind == "group")
    for keys, body in (((), config), *groups):
        policy = _table(body.get("policy"))
        here = (*keys, "policy")
        if policy.get("vulnerable") in ("warn", "deny") and not has_advisories:
            message = "expected advisories.osv_dir to name a directory of advisories, or off here"
            yield Finding((*here, "vulnerable"), message, wants_value=True)
        if isinstance(policy.get("file_types"), list) and not policy["file_types"]:
            message = (
                "expected at least one of wheel, sdist and other; forward: false serves no files of upstreams"
            )
            yield Finding((*here, "file_types"), message)
        for position, entry in enumerate(_list(policy.get("protect"))):
            if isinstance(entry, Mapping) and "name" in entry and not entry.keys() & {"publish", "delete"}:
                yield Finding(
                    (*here, "protect", position), "expected publish or delete beside name, got neither"
                )


def _at_root(places: tuple[_Place, ...]) -> Iterator[Finding]:
    for place in places:
        if place.kind == "group" and "at_root" in place.body and "/" in place.path:
            message = f"at_root is for top-level groups: set it at {place.path.partition('/')[0]}"
            yield Finding((*place.keys, "at_root"), message)


def _credentials(config: Mapping[str, object]) -> Iterator[Finding]:
    for name, settings in _table(config.get("upstreams")).items():
        body = _table(settings)
        if body.get("password") and not body.get("username"):
            yield Finding(("upstreams", name, "password"), "expected username beside it, got none")


def _issuers(config: Mapping[str, object]) -> Iterator[Finding]:
    issuers = _table(_table(config.get("oidc")).get("issuers"))
    if issuers and find_spec("joserfc") is None:
        message = "identity tokens need the extra oidc: install pypi-overlay[oidc]"
        yield Finding(("oidc", "issuers"), message)
    seen: dict[object, str] = {}
    for name, settings in issuers.items():
        here = ("oidc", "issuers", name)
        body = _table(settings)
        address = body.get("issuer")
        if isinstance(address, str) and seen.setdefault(address, name) != name:
            yield Finding((*here, "issuer"), f"expected another address than that of {seen[address]}")
        preset = body.get("preset", "none")
        if preset == "none" and not body.get("repository_claim"):
            yield Finding(here, "expected repository_claim, which the preset none needs, got nothing")
        elif preset in PRESETS and preset != "none" and body.get("repository_claim"):
            message = f"expected the preset none beside it; {preset} knows the claim itself"
            yield Finding((*here, "repository_claim"), message)


def _trust(places: tuple[_Place, ...], config: Mapping[str, object]) -> Iterator[Finding]:
    issuers = _table(_table(config.get("oidc")).get("issuers"))
    choice = f"one of {', '.join(issuers)}" if issuers else "nothing, since oidc.issuers has none"
    for place in places:
        for position, rule in enumerate(_list(place.body.get("trust"))):
            named = _table(rule).get("issuer")
            claims = _table(rule).get("claims")
            here = (*place.keys, "trust", position)
            if not isinstance(named, str):
                continue
            if named not in issuers:
                yield Finding((*here, "issuer"), f"expected {choice}", wants_value=True)
                continue
            needed = _repository_claims(_table(issuers[named]))
            # A bare * is no name: whoever has an account at the issuer would come in by it.
            if (
                needed
                and isinstance(claims, Mapping)
                and all(claims.get(c, ANYTHING) == ANYTHING for c in needed)
            ):
                message = f"expected {' or '.join(needed)} among the claims, which names the repository"
                yield Finding((*here, "claims"), message)


def _repository_claims(issuer: Mapping[str, object]) -> tuple[str, ...]:
    """The claims of an issuer that name a repository; none where its section is not in order."""
    preset = issuer.get("preset", "none")
    if preset not in PRESETS:
        return ()
    own = issuer.get("repository_claim")
    return REPOSITORY_CLAIMS[Preset(preset)] or ((own,) if isinstance(own, str) and own else ())


def _aliases(places: tuple[_Place, ...]) -> Iterator[Finding]:
    standing = {place.path: place for place in places}
    taken: dict[str, _Place] = {}
    for place in places:
        for position, alias in enumerate(_list(place.body.get("aliases"))):
            if not isinstance(alias, str):
                continue
            here = (*place.keys, "aliases", position)
            if alias in standing:
                message = f"expected a former path, not that of {dotted(standing[alias].keys)}"
                yield Finding(here, message, wants_value=True)
            elif alias in taken:
                message = f"expected another path than {dotted(taken[alias].keys)} had"
                yield Finding(here, message, wants_value=True)
            taken.setdefault(alias, place)


def _default_project(places: tuple[_Place, ...], config: Mapping[str, object]) -> Iterator[Finding]:
    named = _table(config.get("server")).get("default_project")
    if not isinstance(named, str) or not named:
        return
    if all(place.path != named or place.kind != "project" for place in places):
        message = "expected the path of a project that stands below projects"
        yield Finding(("server", "default_project"), message, wants_value=True)
