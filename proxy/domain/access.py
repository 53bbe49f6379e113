"""Who asks, and what they may do: callers, roles, scopes, rights, and the *sight* that answers depend on.

`decide` never sees a caller, only a `Sight`: the namespaces the caller may read, ask and publish to, and
whether there are credentials at all. So who asks changes an answer in no other way (contract 5).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from proxy.domain.namespaces import Jobs, Kind, Namespace, NamespacePath, Tree, Visibility, is_within, lineage
from proxy.domain.roles import Role
from proxy.domain.trust import Identity


class CallerKind(StrEnum):
    """What kind of credential a caller came with."""

    ANONYMOUS = "anonymous"
    USER = "user"
    DEPLOY = "deploy"
    JOB = "job"
    OWNER = "owner"


class Scope(StrEnum):
    """What a token is for. Personal: `api`, `read_api`; deploy: the two of the package registry."""

    API = "api"
    READ_API = "read_api"
    READ_PACKAGES = "read_package_registry"
    WRITE_PACKAGES = "write_package_registry"


class Action(StrEnum):
    """What somebody may want to do in a namespace."""

    READ = "read"
    PUBLISH = "publish"
    DELETE = "delete"
    YANK = "yank"
    SET_STATUS = "set the status of packages"
    MAKE_TOKENS = "make tokens"
    LIST_CLAIMS = "list claims"
    RELEASE_CLAIMS = "release claims"
    ADMINISTER = "administer"


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who asks.

    Attributes:
        name: the user, or the user name of a deploy or job token; empty for anonymous callers.
        token: number of the token; None for anonymous callers and for the local operator.
        homes: where a deploy or job token acts: one namespace, or of a job every project that trusts it.
        identity: whom an issuer vouched for, of a job that came with an identity token or was minted a token for it.
    """

    kind: CallerKind
    name: str = ""
    token: int | None = None
    scopes: frozenset[Scope] = frozenset()
    homes: tuple[NamespacePath, ...] = ()
    expires: datetime | None = None
    identity: Identity | None = None

    @property
    def label(self) -> str:
        """How logs, the audit and explain name the caller; never a secret."""
        return f"{self.kind}:{self.name}" if self.name else str(self.kind)


ANONYMOUS = Caller(CallerKind.ANONYMOUS)
OPERATOR = Caller(CallerKind.OWNER, "operator")
"""Whoever runs a command on the machine: may do everything, as the owner token."""
STARTING = Caller(CallerKind.OWNER, "start")
"""Who does what the start of a server does."""


@dataclass(frozen=True, slots=True)
class Sight:
    """All that an answer may depend on of a caller.

    Attributes:
        readable: namespaces the caller may read by visibility, role or token.
        askable: `readable` and everything above it: whose index may be asked.
        publishes: projects the caller may publish to, and whose packages are not switched off.
    """

    readable: frozenset[NamespacePath]
    askable: frozenset[NamespacePath]
    publishes: frozenset[NamespacePath]
    anonymous: bool


_ROLE_FOR = {
    Action.READ: Role.REPORTER,
    Action.PUBLISH: Role.DEVELOPER,
    Action.DELETE: Role.MAINTAINER,
    Action.YANK: Role.MAINTAINER,
    Action.SET_STATUS: Role.MAINTAINER,
    Action.MAKE_TOKENS: Role.MAINTAINER,
    Action.LIST_CLAIMS: Role.MAINTAINER,
    Action.RELEASE_CLAIMS: Role.OWNER,
    Action.ADMINISTER: Role.OWNER,
}


def role_of(caller: Caller, namespace: Namespace) -> Role | None:
    """The caller's role at `namespace`; deploy and job tokens count as developers where they reach."""
    match caller.kind:
        case CallerKind.OWNER:
            return Role.OWNER
        case CallerKind.USER:
            return namespace.roles.get(caller.name)
        case CallerKind.DEPLOY | CallerKind.JOB:
            reaches = any(is_within(namespace.path, home) for home in caller.homes)
            return Role.DEVELOPER if reaches else None
        case CallerKind.ANONYMOUS:
            return None


def _scopes_allow(caller: Caller, action: Action) -> bool:
    """Whether the token's scopes leave room for `action`, whatever its role."""
    match caller.kind:
        case CallerKind.OWNER:
            return True
        case CallerKind.USER:
            return Scope.API in caller.scopes or (action is Action.READ and Scope.READ_API in caller.scopes)
        case CallerKind.DEPLOY:
            wanted = {Action.READ: Scope.READ_PACKAGES, Action.PUBLISH: Scope.WRITE_PACKAGES}.get(action)
            return wanted is not None and wanted in caller.scopes
        case CallerKind.JOB:
            return action in (Action.READ, Action.PUBLISH)
        case CallerKind.ANONYMOUS:
            return action is Action.READ


def may(caller: Caller, action: Action, namespace: Namespace, tree: Tree) -> bool:
    """Whether `caller` may do `action` at `namespace` itself (contract 5).

    Reading needs a role, a token that reaches there, or a visibility that admits the caller; everything else
    a role of its own. `internal` admits any valid credential.
    """
    if not _scopes_allow(caller, action):
        # A token without reading rights still sees what everybody sees.
        return action is Action.READ and namespace.visibility is Visibility.PUBLIC
    role = role_of(caller, namespace)
    if role is not None and role >= _ROLE_FOR[action]:
        return True
    if action is not Action.READ:
        return False
    if caller.kind is CallerKind.JOB and _jobs_reach(caller, namespace, tree):
        return True
    if namespace.visibility is Visibility.PUBLIC:
        return True
    return namespace.visibility is Visibility.INTERNAL and caller.kind is not CallerKind.ANONYMOUS


def _jobs_reach(caller: Caller, namespace: Namespace, tree: Tree) -> bool:
    """Whether `namespace` is a project that lets the job tokens of its tenant read (contract 3, `jobs`)."""
    if namespace.kind is not Kind.PROJECT or namespace.jobs is not Jobs.TENANT:
        return False
    return any(tree.owner(home) == tree.owner(namespace.path) for home in caller.homes)


def sight(caller: Caller, tree: Tree) -> Sight:
    """Everything `caller` may read, ask and publish to. Costs one pass over the tree: keep the result."""
    readable: set[NamespacePath] = set()
    askable: set[NamespacePath] = set()
    publishes: set[NamespacePath] = set()
    for namespace in tree:
        if may(caller, Action.READ, namespace, tree):
            readable.add(namespace.path)
            askable.update(lineage(namespace.path))
        is_open = namespace.kind is Kind.PROJECT and namespace.packages
        if is_open and may(caller, Action.PUBLISH, namespace, tree):
            publishes.add(namespace.path)
    return Sight(
        frozenset(readable), frozenset(askable), frozenset(publishes), caller.kind is CallerKind.ANONYMOUS
    )
