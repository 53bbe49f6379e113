"""From a loaded configuration to the `Snapshot` in force: paths, effective rights, inherited policy, origins.

What `config.load` let pass holds together (`config.checks`), so nothing can be wrong any more here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from pydantic import SecretStr

from proxy.config import models
from proxy.config.load import Loaded
from proxy.config.values import Entry
from proxy.domain.namespaces import ROOT, Jobs, Kind, Namespace, NamespacePath, Tree, Visibility, tenant_of
from proxy.domain.policy import SINGLE, Exemption, OwnPolicy, Protection, Rule, inherit, root_policy
from proxy.domain.roles import Role
from proxy.domain.snapshot import (
    AdvisorySettings,
    AuditSettings,
    CacheSettings,
    Limits,
    LogSettings,
    OidcSettings,
    ServerSettings,
    Snapshot,
    TlsSettings,
    UpstreamSettings,
)
from proxy.domain.trust import REPOSITORY_CLAIMS, IssuerSettings, Preset, TrustRule

Keys = tuple[str | int, ...]


def compile_snapshot(loaded: Loaded) -> Snapshot:
    """Compile what `load` returned. Raises nothing."""
    config = loaded.config
    tree = _Compiler(loaded).tree()
    return Snapshot(
        tree=tree,
        upstreams={
            name: _upstream(name, upstream)
            for name, upstream in config.upstreams.items()
            if upstream is not None
        },
        users=frozenset(config.users),
        data_dir=config.storage.data_dir,
        server=ServerSettings(
            listen=config.server.listen,
            workers=config.server.workers,
            trusted_proxies=config.server.trusted_proxies,
            tls=None
            if config.server.tls is None
            else TlsSettings(config.server.tls.certificate, config.server.tls.key),
            default_project=_default_project(config.server.default_project, tree),
            external_url=config.server.external_url,
            watch_config=config.server.watch_config,
            metrics=config.server.metrics,
        ),
        log=LogSettings(**dict(config.log)),
        limits=Limits(**dict(config.limits)),
        cache=CacheSettings(**dict(config.cache)),
        advisories=AdvisorySettings(**dict(config.advisories)),
        audit=AuditSettings(**dict(config.audit)),
        oidc=OidcSettings(
            config.oidc.audience,
            {name: _issuer(name, issuer) for name, issuer in config.oidc.issuers.items()},
        ),
        file=loaded.file,
        digest=loaded.digest,
    )


def _issuer(name: str, given: models.Issuer) -> IssuerSettings:
    preset = Preset(given.preset)
    own = () if given.repository_claim is None else (given.repository_claim,)
    return IssuerSettings(name, given.issuer, preset, REPOSITORY_CLAIMS[preset] or own)


def _upstream(name: str, given: models.Upstream) -> UpstreamSettings:
    values = dict(given)
    password = values.pop("password")
    if given.json_url is None:
        values["json_url"] = _json_url(given.index_url)
    return UpstreamSettings(
        name=name,
        password=password.get_secret_value() if isinstance(password, SecretStr) else password,
        **values,
    )


def _json_url(index_url: str) -> str | None:
    """Where the JSON API is of an index like PyPI's; None for others."""
    before, simple, rest = index_url.rpartition("/simple/")
    return f"{before}/pypi/" if simple and not rest else None


class _Compiler:
    """Walks the groups from the root down; gathers namespaces and reserves."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self._reserves: dict[NamespacePath, list[Rule]] = {}

    def tree(self) -> Tree:
        config = self._loaded.config
        own = self._own_policy(config.policy, (), ROOT)
        self._reserve(ROOT, own)
        policy = root_policy(own)
        root = Namespace(
            path=ROOT,
            kind=Kind.GROUP,
            policy=policy,
            visibility=_visibility(config.visibility),
            roles=_roles({}, config.members),
        )
        namespaces = [root, *self._below(root, config.projects, config.groups, ())]
        return Tree(namespaces, {owner: tuple(rules) for owner, rules in self._reserves.items()})

    def _below(
        self,
        above: Namespace,
        projects: Mapping[str, models.Project],
        groups: Mapping[str, models.Group],
        keys: Keys,
    ) -> Iterator[Namespace]:
        for segment, project in projects.items():
            own = None if project.visibility is None else _visibility(project.visibility)
            yield Namespace(
                path=_join(above.path, segment),
                kind=Kind.PROJECT,
                policy=above.policy,
                visibility=above.visibility if own is None else min(own, above.visibility),
                packages=above.packages and project.packages is not False,
                jobs=above.jobs if project.jobs is None else Jobs(project.jobs),
                trust=tuple(TrustRule(rule.issuer, rule.claims, rule.expires) for rule in project.trust),
                number=project.id,
                roles=_roles(above.roles, project.members),
                aliases=tuple(NamespacePath(alias) for alias in project.aliases),
            )
        for segment, group in groups.items():
            path = _join(above.path, segment)
            at = (*keys, "groups", segment)
            own_policy = self._own_policy(group.policy, at, path)
            self._reserve(path, own_policy)
            namespace = Namespace(
                path=path,
                kind=Kind.GROUP,
                policy=inherit(above.policy, own_policy, path),
                visibility=min(_visibility(group.visibility), above.visibility),
                packages=above.packages and group.packages is not False,
                jobs=above.jobs if group.jobs is None else Jobs(group.jobs),
                number=group.id,
                roles=_roles(above.roles, group.members),
                aliases=tuple(NamespacePath(alias) for alias in group.aliases),
                at_root=group.at_root is not False,
            )
            yield namespace
            yield from self._below(namespace, group.projects, group.groups, at)

    def _own_policy(self, given: models.Policy, keys: Keys, path: NamespacePath) -> OwnPolicy:
        here = (*keys, "policy")

        def rules(key: str, entries: Iterable[Entry] | None) -> tuple[Rule, ...]:
            return tuple(
                Rule(
                    key,
                    entry.text,
                    path,
                    origin,
                    pattern=entry.pattern,
                    specifier=entry.specifier,
                    reason=entry.reason,
                    until=entry.until,
                )
                for entry, origin in zip(entries or (), self._loaded.origins((*here, key)), strict=True)
            )

        protected = given.protect or ()
        return OwnPolicy(
            **{key: getattr(given, key) for key in SINGLE if key != "file_types"},
            reserve=rules("reserve", given.reserve),
            deny=rules("deny", given.deny),
            merge=rules("merge", given.merge),
            min_age_exempt=rules("min_age_exempt", given.min_age_exempt),
            allow=None if given.allow is None else rules("allow", given.allow),
            file_types=None if given.file_types is None else frozenset(given.file_types),
            vulnerable_exempt=tuple(
                Exemption(one.id, one.name, one.until, one.reason, path, origin)
                for one, origin in zip(
                    given.vulnerable_exempt or (),
                    self._loaded.origins((*here, "vulnerable_exempt")),
                    strict=True,
                )
            ),
            protect=tuple(
                Protection(rule, _role(one.publish), _role(one.delete))
                for one, rule in zip(
                    protected, rules("protect", [one.name for one in protected]), strict=True
                )
            ),
            warn=given.warn or (),
            lock=given.lock or (),
            origins={key: self._loaded.origin((*here, key)) for key in given.model_fields_set},
        )

    def _reserve(self, path: NamespacePath, own: OwnPolicy) -> None:
        self._reserves.setdefault(tenant_of(path), []).extend(own.reserve)


def _default_project(wanted: str | None, tree: Tree) -> NamespacePath | None:
    """What `/legacy/` publishes to: as configured, else the root's project `default`, where there is one."""
    found = tree.get("default" if wanted is None else wanted)
    return found.path if found is not None and found.kind is Kind.PROJECT else None


def _join(above: NamespacePath, segment: str) -> NamespacePath:
    return NamespacePath(f"{above}/{segment}" if above else segment)


def _visibility(word: str) -> Visibility:
    return Visibility[word.upper()]


def _role(word: str | None) -> Role | None:
    return None if word is None else Role[word.upper()]


def _roles(above: Mapping[str, Role], members: Mapping[str, str]) -> Mapping[str, Role]:
    """Roles given above hold below; the highest counts."""
    roles = dict(above)
    for user, word in members.items():
        role = Role[word.upper()]
        roles[user] = max(role, roles.get(user, role))
    return roles
