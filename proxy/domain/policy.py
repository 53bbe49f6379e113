"""Policy: what a group's configuration says of names, how it is inherited, and where each rule stands.

`OwnPolicy` is what one group's `policy` says, as written; `Policy` is what holds there after inheritance and
locks (contract 3). Both carry the `Origin` of every rule, so that an answer can name the line that decided.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from proxy.domain.names import Name, PatternSet

POLICY_KEYS = (
    *("forward", "upstreams", "list_upstream", "reserve", "allow", "deny"),
    *("identical_upload", "local_versions", "lock"),
)
"""Every key that may stand in a `policy`; all but `lock` may be locked."""


@dataclass(frozen=True, slots=True)
class Origin:
    """A place in the configuration: the file as named by the operator, the line from 1, the dotted path."""

    file: str
    line: int
    path: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: a policy key with the value that applies, and the path it stands at ('' is the root)."""

    key: str
    value: str
    namespace: str
    origin: Origin | None = None

    @property
    def text(self) -> str:
        """`reserve acme-*`, `forward false`: printable ASCII, as in `X-Overlay-Decision` and trails."""
        return f"{self.key} {self.value}"


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Name patterns of one key, each with its rule; finds the first that covers a name."""

    rules: tuple[Rule, ...]
    _patterns: PatternSet

    @classmethod
    def of(cls, rules: tuple[Rule, ...]) -> RuleSet:
        """Compile rules whose values are normalised patterns."""
        return cls(rules, PatternSet.of(rule.value for rule in rules))

    def match(self, name: Name) -> Rule | None:
        """The first rule whose pattern covers `name`."""
        position = self._patterns.match(name)
        return None if position is None else self.rules[position]


EMPTY = RuleSet.of(())


@dataclass(frozen=True, slots=True)
class AllowList:
    """What the `allow` of one group lets through, and where it stands. An empty one lets nothing through."""

    patterns: RuleSet
    namespace: str
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
class OwnPolicy:
    """What one group says itself. None: the key does not stand there."""

    forward: bool | None = None
    upstreams: tuple[str, ...] | None = None
    reserve: tuple[Rule, ...] = ()
    allow: tuple[Rule, ...] | None = None
    deny: tuple[Rule, ...] = ()
    list_upstream: bool | None = None
    identical_upload: str | None = None
    local_versions: str | None = None
    lock: tuple[str, ...] = ()
    origins: Mapping[str, Origin] = field(default_factory=dict)

    def standing(self) -> tuple[str, ...]:
        """The keys that stand here, `lock` aside."""
        return tuple(key for key in POLICY_KEYS if key in self.origins and key != "lock")


@dataclass(frozen=True, slots=True)
class Policy:
    """What holds at a group (and at its projects).

    Attributes:
        forward: whether names that are not private may be asked upstream; `forward_rule` says who decided.
        upstreams: names of the upstreams, in the order in which they are asked.
        allow: one list per level that restricts; a name must be covered by every one.
        deny: what stands here and above.
        list_upstream: whether lists of names hold those of the upstreams too.
        identical_upload: `reject` or `accept` a file that is published already with the same bytes.
        local_versions: `accept` or `reject` versions such as `1.0+acme`.
        locked: key → path of the group that locked it.
    """

    forward: bool
    forward_rule: Rule
    upstreams: tuple[str, ...]
    upstreams_rule: Rule
    allow: tuple[AllowList, ...] = ()
    deny: RuleSet = EMPTY
    list_upstream: bool = False
    identical_upload: str = "reject"
    local_versions: str = "accept"
    locked: Mapping[str, str] = field(default_factory=dict)


def root_policy(own: OwnPolicy) -> Policy:
    """The policy of the root, whose file (or the shipped defaults below it) says every single-valued key."""
    base = Policy(
        forward=True,
        forward_rule=Rule("forward", "true", ""),
        upstreams=(),
        upstreams_rule=Rule("upstreams", "", ""),
    )
    return inherit(base, own, "")


def inherit(above: Policy, own: OwnPolicy, namespace: str) -> Policy:
    """What holds at `namespace`: `above` is the effective policy of its parent, `own` what it says itself.

    Keys locked above are ignored here; `config.checks` reports them, and nothing starts with such a file.
    """
    own_keys = frozenset(own.standing()) - above.locked.keys()
    forward, forward_rule = above.forward, above.forward_rule
    if own.forward is not None and "forward" in own_keys:
        forward = own.forward
        forward_rule = Rule("forward", str(forward).lower(), namespace, own.origins.get("forward"))
    upstreams, upstreams_rule = above.upstreams, above.upstreams_rule
    if own.upstreams is not None and "upstreams" in own_keys:
        upstreams = own.upstreams
        upstreams_rule = Rule("upstreams", ", ".join(upstreams), namespace, own.origins.get("upstreams"))
    allow = above.allow
    if own.allow is not None and "allow" in own_keys and not any(rule.value == "*" for rule in own.allow):
        allow = (*allow, AllowList(RuleSet.of(own.allow), namespace, own.origins.get("allow")))
    deny = above.deny
    if own.deny and "deny" in own_keys:
        deny = RuleSet.of((*deny.rules, *own.deny))
    plain = {
        key: value
        for key in ("list_upstream", "identical_upload", "local_versions")
        if key in own_keys and (value := getattr(own, key)) is not None
    }
    locked = {**above.locked, **{key: namespace for key in own.lock if key not in above.locked}}
    return replace(
        above,
        forward=forward,
        forward_rule=forward_rule,
        upstreams=upstreams,
        upstreams_rule=upstreams_rule,
        allow=allow,
        deny=deny,
        locked=locked,
        **plain,
    )
