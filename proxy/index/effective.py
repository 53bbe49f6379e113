"""The policy in force at a namespace as data: each value, where it stands, and who locked it (contract 12, `policy`).

What the keys mean and how they are inherited is said elsewhere (`domain.policy`); here it is only shown, to the
commands and the administration API alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from proxy.domain.access import Sight
from proxy.domain.moments import iso
from proxy.domain.namespaces import ROOT, Namespace, Tree
from proxy.domain.policy import POLICY_KEYS, SINGLE, Exemption, Origin, Protection, Rule, text_of


def effective_policy(tree: Tree, namespace: Namespace, sight: Sight | None = None) -> dict[str, object]:
    """Everything that holds at `namespace`, in the shape `policy` of contract 12.

    Keys that are lists have `entries` too: of each its text, its author's reason, its end and its origin. Of
    `reserve` these are all that count at this index: those of its tenant and of the instance; at the root those of
    every tenant whose names count there. An `allow` that is empty stands as an entry without text.

    Args:
        sight: leaves out what stands at namespaces that it may not ask; None: the operator's, which sees all.
    """
    policy = namespace.policy
    values: dict[str, object] = {}
    for key in POLICY_KEYS:
        holder = policy.locked.get(key)
        locked_by = None if holder is None else holder or "/"
        if key in SINGLE:
            origin = _origin(policy.rule(key).origin)
            values[key] = {"value": _plain(getattr(policy, key)), "origin": origin, "locked_by": locked_by}
            continue
        rules = [
            rule for rule in _rules(key, tree, namespace) if sight is None or rule.namespace in sight.askable
        ]
        values[key] = {
            "value": [rule.value for rule in rules],
            "origin": _origin(rules[-1].origin) if rules else None,
            "locked_by": locked_by,
            "entries": [_entry(rule) for rule in rules],
        }
    return {"namespace": namespace.title, "values": values}


def _rules(key: str, tree: Tree, namespace: Namespace) -> Iterator[Rule]:
    """The entries of a list key that hold at a namespace, the topmost first."""
    policy = namespace.policy
    match key:
        case "reserve":
            yield from _reserves(tree, namespace)
        case "allow":
            if not policy.allow:
                yield policy.rule("allow")
            for level in policy.allow:
                yield from level.patterns or (Rule("allow", "", level.namespace, level.origin),)
        case "vulnerable_exempt":
            yield from map(_of_exemption, policy.vulnerable_exempt)
        case "protect":
            yield from map(_of_protection, policy.protect)
        case "warn" | "lock":
            yield from (rule for rule in policy.words if rule.key == key)
        case _:
            yield from getattr(policy, key)


def _reserves(tree: Tree, namespace: Namespace) -> Iterator[Rule]:
    owner = tree.owner(namespace.path)
    for at, rule in tree.all_reserves():
        if tree.counts_at_root(at) if namespace.is_root else at in (owner, ROOT):
            yield rule


def _of_exemption(one: Exemption) -> Rule:
    return Rule(
        "vulnerable_exempt",
        f"{one.advisory} {one.name}",
        one.namespace,
        one.origin,
        reason=one.reason,
        until=one.until,
    )


def _of_protection(one: Protection) -> Rule:
    acts = (("publish", one.publish), ("delete", one.delete))
    roles = ", ".join(f"{act} {role.name.lower()}" for act, role in acts if role is not None)
    return replace(one.rule, value=f"{one.rule.value}: {roles}")


def _entry(rule: Rule) -> dict[str, object]:
    return {
        "value": rule.value,
        "reason": rule.reason,
        "until": iso(rule.until),
        "origin": _origin(rule.origin),
    }


def _origin(origin: Origin | None) -> dict[str, object] | None:
    return None if origin is None else origin.shape


def _plain(value: object) -> object:
    """A value as JSON has it, and as it is written in the configuration."""
    match value:
        case frozenset():
            return sorted(value)
        case tuple():
            return list(value)
        case bool() | int() | None:
            return value
    return text_of(value)
