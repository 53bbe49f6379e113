"""The schema of the configuration: which keys there are, what each takes, what it means.

A new key is added here (type, description, and its default in `config/defaults.yaml`) and nowhere else in
this package; the JSON Schema follows, and a test asks for it in `config/README.md`. A key whose feature does
not exist does not stand here, so that it is refused rather than ignored.

`config.load` lays a file over the shipped defaults before it validates, so the sections of the top level have
no defaults of their own. What can only be seen between keys is in `config.checks`. Values are immutable; the
contained mappings are not to be changed.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, Strict
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from proxy.config.values import (
    BARE,
    WITH_VERSIONS,
    BarePattern,
    ClaimName,
    ClaimText,
    Count,
    Duration,
    Entry,
    ExemptName,
    ExternalUrl,
    FailureRate,
    FileHost,
    Flag,
    Given,
    IndexUrl,
    IssuerName,
    IssuerUrl,
    JobLife,
    Listen,
    Moment,
    NamespacePathText,
    Network,
    NotForwarded,
    Number,
    OptionalClaimName,
    OptionalIndexUrl,
    OptionalMoment,
    OptionalPath,
    OptionalText,
    PositiveCount,
    PositiveDuration,
    PositiveSize,
    ProxyUrl,
    Reason,
    Refused,
    Retries,
    RuleText,
    Secret,
    Segment,
    Size,
    Text,
    UpstreamName,
    UserName,
    Workers,
    parse_bare_pattern,
    parse_rule,
)
from proxy.config.words import (
    AskWord,
    DeleteRole,
    FileType,
    IdenticalUpload,
    JobsWord,
    LocalVersions,
    LogFormat,
    LogLevel,
    MetricsWord,
    PolicyKey,
    PresetWord,
    PublishRole,
    RemovedWord,
    RoleWord,
    SeverityWord,
    ShadowWord,
    VisibilityWord,
    VulnerableWord,
    WarnKey,
    WithheldWord,
    YankedWord,
)
from proxy.domain.trust import USUAL_LIFE

_LAX = Strict(False)  # a tuple field accepts YAML's lists; its entries are still checked by their own kind


class Section(BaseModel):
    """A mapping with fixed keys: unknown ones are refused, and errors do not quote values."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class Tls(Section):
    """Certificate and key with which the server speaks https."""

    certificate: Text = Field(description="PEM file of the certificate chain.")
    key: Text = Field(description="PEM file of its private key.")


class Server(Section):
    """Where the server listens and whom it believes."""

    listen: Listen = Field(description="host:port, or unix:/path. Port 0 takes a free one.")
    workers: Workers = Field(description="Processes that share the port.")
    trusted_proxies: Annotated[tuple[Network, ...], _LAX] = Field(
        description="Addresses and networks whose X-Forwarded-For and X-Forwarded-Proto count."
    )
    tls: Tls | None = Field(description="Certificate and key; null: plain http.")
    external_url: ExternalUrl = Field(
        description="Its own address for clients, needed only where answers hold absolute ones."
    )
    default_project: OptionalPath = Field(
        description="What /legacy/ publishes to; null: the root's project `default`, where there is one."
    )
    watch_config: Flag = Field(description="Whether a changed configuration file is loaded by itself.")
    metrics: MetricsWord = Field(
        description="Who may read /metrics: local (clients on this machine), open (everybody), owner (by token)."
    )


class Log(Section):
    """What is logged, and how."""

    format: LogFormat = Field(description="text for people, json for machines.")
    level: LogLevel = Field(description="The least severity that is logged.")
    requests: OptionalText = Field(
        description="File below the data directory with the requests that `config replay` reads; null: none."
    )


class Storage(Section):
    """Where everything is kept."""

    data_dir: Text = Field(description="Directory of databases, packages and cache, on a local disk.")


class Limits(Section):
    """What a single request may cost."""

    max_file_size: PositiveSize = Field(description="Largest file that may be published.")
    max_description: Count = Field(description="Characters kept of a description; longer ones are cut.")
    max_page_size: PositiveSize = Field(description="Largest upstream page, decoded.")
    upload_idle_timeout: PositiveDuration = Field(
        description="How long an upload may stand still before it is dropped."
    )
    failed_logins: FailureRate = Field(
        description="Wrong credentials from one address, in a time, before more are told to wait."
    )


class Cache(Section):
    """How much is kept of what upstreams answer, and for how long."""

    max_size: Size = Field(description="Room for upstream files; the least recently used go first.")
    fresh_for: Duration = Field(
        description="How long a page is used without asking again; an upstream's shorter max-age counts."
    )
    not_found_for: Duration = Field(description='How long "no such project" is believed.')
    stale_while_revalidate: Duration = Field(
        description="How long beyond that a page is served while it is asked for again."
    )
    stale_if_error: Duration = Field(description="How long a page is served while its upstream fails.")
    client_max_age: Duration = Field(description="How long clients may keep upstream pages without asking.")


class Upstream(Section):
    """An index that requests are forwarded to."""

    index_url: IndexUrl = Field(description="Address of its simple index (PEP 503 or 691).")
    json_url: OptionalIndexUrl = Field(
        default=None,
        description="Base of its JSON API; null: it follows from an index_url that ends in /simple/.",
    )
    file_hosts: Annotated[tuple[FileHost, ...], _LAX] = Field(
        default=(),
        description="host, host:port or *.host that file links may name besides the index's own host.",
    )
    private_network: Flag = Field(
        default=False,
        description="Whether its addresses may lie in loopback, link-local or private networks.",
    )
    username: OptionalText = Field(default=None, description="User name sent to the index.")
    password: Secret = Field(default=None, description="Password sent to the index; best ${NAME}.")
    proxy: ProxyUrl = Field(
        default=None, repr=False, description="Outbound HTTP proxy; the environment's variables are not read."
    )
    ca_file: OptionalText = Field(default=None, description="PEM file of additional certificate authorities.")
    connect_timeout: PositiveDuration = Field(
        default=timedelta(seconds=5), description="How long connecting may take."
    )
    read_timeout: PositiveDuration = Field(
        default=timedelta(seconds=30), description="How long it may send nothing."
    )
    retries: Retries = Field(
        default=2, description="How often a request that failed is sent again before that is the answer."
    )
    max_connections: PositiveCount = Field(default=50, description="Most connections at once.")
    root_list: PositiveDuration = Field(
        default=timedelta(hours=24),
        description="How often the kept copy of its list of names is refreshed, where something needs it.",
    )


class LongPattern(Section):
    """An entry of a list of name patterns with what there is to say of it."""

    match: BarePattern = Field(description="The name pattern.")
    reason: Annotated[Reason | None, Given()] = Field(
        default=None, description="Why, for the people whom it stops."
    )
    until: Annotated[Moment | None, Given()] = Field(
        default=None, description="From this moment on the entry is void; a date means 00:00 UTC."
    )


class LongRule(LongPattern):
    """The same of a list whose patterns may have a version specifier."""

    match: RuleText = Field(description="The name pattern, and optionally a version specifier behind it.")


class _Spelled:
    """Marks an `Entry` that is written as a text, or as a mapping with more to say.

    Args:
        parse: reads the text.
        kind: the mapping, of which `match` is such a text.
        pattern: what the text looks like, for editors.
    """

    def __init__(self, parse: Callable[[object], Entry], kind: type[LongPattern], pattern: str) -> None:
        self._parse = parse
        self._kind = kind
        self._pattern = pattern

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def entry(raw: object, long: core_schema.ValidatorFunctionWrapHandler) -> Entry:
            if not isinstance(raw, dict):
                return self._parse(raw)
            given: LongPattern = long(raw)
            return given.match.extended(given.reason, given.until)

        return core_schema.no_info_wrap_validator_function(entry, handler.generate_schema(self._kind))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"anyOf": [{"type": "string", "pattern": self._pattern}, handler(schema)]}


PatternEntry: TypeAlias = Annotated[Entry, _Spelled(parse_bare_pattern, LongPattern, BARE)]
RuleEntry: TypeAlias = Annotated[Entry, _Spelled(parse_rule, LongRule, WITH_VERSIONS)]


class Exemption(Section):
    """An advisory that is not counted against a package for a time."""

    id: Text = Field(description="Id or alias of the advisory, such as CVE-2026-1234.")
    name: ExemptName = Field(description="The package.")
    until: Moment = Field(description="From this moment on it counts again; a date means 00:00 UTC.")
    reason: Reason = Field(description="Why it is no danger here.")


class Protection(Section):
    """Who may publish and delete some names."""

    name: BarePattern = Field(description="The name pattern.")
    publish: Annotated[PublishRole | None, Given()] = Field(
        default=None, description="Lowest role that may publish; deploy and job tokens count as developer."
    )
    delete: Annotated[DeleteRole | None, Given()] = Field(
        default=None, description="Lowest role that may delete."
    )


class Policy(Section):
    """What a group says of names and files. A key that does not stand here is not among `model_fields_set`."""

    forward: Annotated[Flag | None, Given()] = Field(
        default=None, description="Whether names that are not private may be asked upstream."
    )
    not_forwarded: Annotated[NotForwarded | None, Given()] = Field(
        default=None,
        description="Status of the page of a name that is not forwarded: 404 (uv goes on to its next index) or 451.",
    )
    refused: Annotated[Refused | None, Given()] = Field(
        default=None,
        description="Status of the page of a claimed or denied name: 451 (uv and poetry show why) or 403.",
    )
    upstreams: Annotated[tuple[UpstreamName, ...] | None, Given(), _LAX] = Field(
        default=None, description="Names of upstreams in the order in which they are asked."
    )
    list_upstream: Annotated[Flag | None, Given()] = Field(
        default=None, description="Whether lists of names hold those of the upstreams too."
    )
    ask: Annotated[AskWord | None, Given()] = Field(
        default=None,
        description="Whether an upstream is asked for any name, or only for those on the kept copy of its list.",
    )
    reserve: Annotated[tuple[PatternEntry, ...] | None, Given(), _LAX] = Field(
        default=None, description="Name patterns that are never forwarded, in the whole tenant."
    )
    shadow_upstream: Annotated[ShadowWord | None, Given()] = Field(
        default=None, description="Lowest role that may first publish a name that an upstream has."
    )
    allow: Annotated[tuple[RuleText, ...] | None, Given(), _LAX] = Field(
        default=None,
        description="Names, optionally with versions, that may be forwarded; narrows what stands above.",
    )
    deny: Annotated[tuple[RuleEntry, ...] | None, Given(), _LAX] = Field(
        default=None,
        description="Names, optionally with versions, that are not served from upstream; adds to what stands above.",
    )
    merge: Annotated[tuple[PatternEntry, ...] | None, Given(), _LAX] = Field(
        default=None, description="Names whose private and public files are served together."
    )
    min_age: Annotated[Duration | None, Given()] = Field(
        default=None, description="Younger files of upstreams are withheld."
    )
    min_age_exempt: Annotated[tuple[RuleEntry, ...] | None, Given(), _LAX] = Field(
        default=None, description="Names, optionally with versions, that may be younger."
    )
    min_age_fixes: Annotated[Flag | None, Given()] = Field(
        default=None,
        description="Whether a young version passes that fixes a known vulnerability of the one served instead.",
    )
    uploaded_before: OptionalMoment = Field(
        default=None,
        description="Files of upstreams that are not older than this are withheld; null: none are.",
    )
    file_types: Annotated[tuple[FileType, ...] | None, Given(), _LAX] = Field(
        default=None, description="Which kinds of files are served of upstreams."
    )
    yanked: Annotated[YankedWord | None, Given()] = Field(
        default=None, description="Whether yanked files of upstreams are kept, marked, or hidden."
    )
    withheld: Annotated[WithheldWord | None, Given()] = Field(
        default=None, description="Whether withheld files are listed as yanked with the reason, or hidden."
    )
    removed: Annotated[RemovedWord | None, Given()] = Field(
        default=None,
        description="What becomes of cached files that their upstream removed: held for an owner, or kept.",
    )
    vulnerable: Annotated[VulnerableWord | None, Given()] = Field(
        default=None, description="What is done about versions with known vulnerabilities."
    )
    severity: Annotated[SeverityWord | None, Given()] = Field(
        default=None, description="From which severity on; unrated counts as high."
    )
    vulnerable_exempt: Annotated[tuple[Exemption, ...] | None, Given(), _LAX] = Field(
        default=None, description="Advisories that are not counted for a time."
    )
    warn: Annotated[tuple[WarnKey, ...] | None, Given(), _LAX] = Field(
        default=None,
        description="Keys whose rules serve all the same and record what they would have refused.",
    )
    protect: Annotated[tuple[Protection, ...] | None, Given(), _LAX] = Field(
        default=None, description="Who may publish and delete some names; the strictest match counts."
    )
    identical_upload: Annotated[IdenticalUpload | None, Given()] = Field(
        default=None, description="What is said to a file that is published already with the same bytes."
    )
    local_versions: Annotated[LocalVersions | None, Given()] = Field(
        default=None, description="Whether versions such as 1.0+acme may be published."
    )
    lock: Annotated[tuple[PolicyKey, ...] | None, Given(), _LAX] = Field(
        default=None, description="Keys that nothing below may change or add to."
    )


class Advisories(Section):
    """Known vulnerabilities."""

    osv_dir: OptionalText = Field(
        description="Directory with an OSV database as published: zips of JSON files, or the files; null: none."
    )
    refresh: PositiveDuration = Field(description="How often it is looked at for changes.")


class Audit(Section):
    """How long records are kept."""

    events: PositiveDuration = Field(description="Of changes: uploads, deletions, tokens and the like.")
    downloads: Duration = Field(
        description="Of downloads: who fetched which file, and when; 0s: they are not recorded at all."
    )


class Issuer(Section):
    """Somebody who signs identity tokens of CI jobs (OpenID Connect)."""

    issuer: IssuerUrl = Field(
        description="Its address, exactly as in the claim iss; https, or http at a literal loopback address."
    )
    preset: PresetWord = Field(default="none", description="Which claims its tokens have.")
    repository_claim: OptionalClaimName = Field(
        default=None, description="With the preset none: the claim that names a job's repository."
    )


class Oidc(Section):
    """Whose identity tokens are taken."""

    audience: Text = Field(description="What must stand in the claim aud.")
    issuers: dict[IssuerName, Issuer] = Field(description="Issuers of identity tokens, by names of your own.")


class Trust(Section):
    """What a project accepts of an issuer: jobs of which all these claims are true."""

    issuer: IssuerName = Field(description="Its name below oidc.issuers.")
    claims: dict[ClaimName, ClaimText] = Field(
        description="Claim: its text, all of it or, with * at its end, how it begins. One names the repository."
    )
    expires: JobLife = Field(default=USUAL_LIFE, description="How long a token minted by this rule lives.")


class User(Section):
    """A person or machine that tokens can be made for."""


class Project(Section):
    """What packages are published to."""

    id: Annotated[Number, Given()] = Field(
        default=None, description="Number for GitLab's addresses, unique among projects."
    )
    visibility: Annotated[VisibilityWord | None, Given()] = Field(
        default=None, description="Who may read without a role; unless given, as its group."
    )
    members: dict[UserName, RoleWord] = Field(default_factory=dict, description="User: role.")
    packages: Annotated[Flag | None, Given()] = Field(
        default=None,
        description="false: every package address at and below answers 404; the names stay claimed.",
    )
    jobs: Annotated[JobsWord | None, Given()] = Field(
        default=None, description="Whose job tokens may read here: those of the tenant, or only its own."
    )
    trust: Annotated[tuple[Trust, ...], _LAX] = Field(
        default=(), description="Identities of other issuers that may act as jobs of this project."
    )
    aliases: Annotated[tuple[NamespacePathText, ...], _LAX] = Field(
        default=(), description="Former paths; addresses below them stay valid."
    )


class Group(Section):
    """Holds groups and projects, and carries policy."""

    id: Annotated[Number, Given()] = Field(
        default=None, description="Number for GitLab's addresses, unique among groups."
    )
    visibility: VisibilityWord = Field(
        default="private", description="Who may read without a role; the narrowest at and above counts."
    )
    members: dict[UserName, RoleWord] = Field(
        default_factory=dict, description="User: role, here and everywhere below."
    )
    policy: Policy = Field(default_factory=Policy, description="What holds for names, here and below.")
    packages: Annotated[Flag | None, Given()] = Field(
        default=None,
        description="false: every package address at and below answers 404; the names stay claimed.",
    )
    jobs: Annotated[JobsWord | None, Given()] = Field(
        default=None, description="Whose job tokens may read here: those of the tenant, or only its own."
    )
    at_root: Annotated[Flag | None, Given()] = Field(
        default=None,
        description="false: the root neither shows nor counts this tenant's names; top-level groups only.",
    )
    aliases: Annotated[tuple[NamespacePathText, ...], _LAX] = Field(
        default=(), description="Former paths; addresses below them stay valid."
    )
    projects: dict[Segment, Project] = Field(default_factory=dict, description="Projects of this group.")
    groups: dict[Segment, Group] = Field(default_factory=dict, description="Groups below this one.")


class Config(Section):
    """A whole configuration, complete: the operator's file laid over the shipped defaults."""

    server: Server = Field(description="Where the server listens and whom it believes.")
    log: Log = Field(description="What is logged, and how.")
    storage: Storage = Field(description="Where everything is kept.")
    limits: Limits = Field(description="What a single request may cost.")
    cache: Cache = Field(description="How much is kept of what upstreams answer, and for how long.")
    upstreams: dict[UpstreamName, Upstream | None] = Field(
        description="Indexes that requests are forwarded to; null removes one of the shipped ones."
    )
    visibility: VisibilityWord = Field(description="Who may read the root without a role.")
    advisories: Advisories = Field(description="Where known vulnerabilities are read from.")
    audit: Audit = Field(description="How long records are kept.")
    oidc: Oidc = Field(description="Whose identity tokens are taken.")
    members: dict[UserName, RoleWord] = Field(
        default_factory=dict, description="User: role at the root, and so everywhere."
    )
    policy: Policy = Field(description="The root's policy; every group inherits it.")
    users: dict[UserName, User] = Field(description="Who tokens can be made for.")
    projects: dict[Segment, Project] = Field(
        default_factory=dict, description="Projects directly below the root: the instance's own."
    )
    groups: dict[Segment, Group] = Field(default_factory=dict, description="Top-level groups: the tenants.")
