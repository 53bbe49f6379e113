"""The tables of both databases, as SQLAlchemy Core: what `registry.sqlite` and `cache.sqlite` hold.

A change here needs a revision below `migrations/versions`; a test compares the two. Types and constraints
are those that SQLite and PostgreSQL share. Who may write what: `registry` packages, releases, files and
namespaces; `identity` tokens; `storage.audit` the audit; `cache` the second database.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
)

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}
"""Names of constraints, so that a migration can alter them on every engine."""


class UtcTime(TypeDecorator[datetime]):
    """An instant: aware in Python, UTC in the database. A naive datetime is refused, never guessed at."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a time without zone cannot be stored: {value.isoformat()}")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        # SQLite keeps no zone; what was stored is UTC.
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


_Id = BigInteger().with_variant(Integer, "sqlite")
_Digest = String(64)
_Json = JSON(none_as_null=True)

registry_metadata = MetaData(naming_convention=NAMING)
cache_metadata = MetaData(naming_convention=NAMING)

# `sqlite_autoincrement` everywhere: numbers that people and addresses have seen are never given out again.

namespaces = Table(
    "namespaces",
    registry_metadata,
    Column("id", _Id, primary_key=True),
    Column("path", Text, nullable=False, unique=True),  # compared exactly; '' is the root
    Column("kind", String(16), nullable=False),  # group | project
    Column("created_at", UtcTime, nullable=False),
    sqlite_autoincrement=True,
)
"""The groups and projects that hold something. The configuration file says which exist and what they allow."""

packages = Table(
    "packages",
    registry_metadata,
    Column("id", _Id, primary_key=True),
    Column("namespace_id", _Id, ForeignKey("namespaces.id"), nullable=False),
    Column("name", Text, nullable=False, index=True),  # normalised
    Column("display_name", Text, nullable=False),  # as first published
    Column("claimed_since", UtcTime, nullable=False),
    Column("status", String(16), nullable=False, server_default="active"),  # PEP 792
    Column("status_reason", Text),
    Column(
        "shadows", Text
    ),  # the upstream that had the name when it was first published; "unchecked"; null: none
    UniqueConstraint("namespace_id", "name"),
    sqlite_autoincrement=True,
)
"""One name in one project. A row without files is a tombstone: the name stays claimed."""

releases = Table(
    "releases",
    registry_metadata,
    Column("id", _Id, primary_key=True),
    Column("package_id", _Id, ForeignKey("packages.id", ondelete="CASCADE"), nullable=False),
    Column("version", Text, nullable=False),  # as first published
    Column("version_key", Text, nullable=False),  # equal for equal versions (PEP 440)
    Column("yanked", Boolean, nullable=False, server_default=false()),
    Column("yanked_reason", Text),
    Column("created_at", UtcTime, nullable=False),
    UniqueConstraint("package_id", "version_key"),
    sqlite_autoincrement=True,
)

files = Table(
    "files",
    registry_metadata,
    Column("id", _Id, primary_key=True),
    Column("release_id", _Id, ForeignKey("releases.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("package_id", _Id, ForeignKey("packages.id", ondelete="CASCADE"), nullable=False),
    Column("filename", Text, nullable=False),
    Column("identity", Text, nullable=False),  # equal for filenames that mean the same file
    Column("kind", String(16), nullable=False),
    Column("sha256", _Digest, nullable=False, index=True),  # names the bytes in the object store
    Column("blake2b", _Digest, nullable=False),  # BLAKE2b-256
    Column("size", BigInteger, nullable=False),
    Column("metadata_sha256", _Digest, index=True),  # METADATA or PKG-INFO, also in the object store
    Column("metadata_final", Boolean, nullable=False, server_default=false()),  # may be served as .metadata
    Column("provenance_sha256", _Digest, index=True),  # its attestations (PEP 740), also in the object store
    Column("requires_python", Text),
    Column("summary", Text),
    Column("fields", _Json, nullable=False),  # of the upload form, bounded; the description cut
    Column("uploaded_at", UtcTime, nullable=False),
    Column("uploaded_by", _Json, nullable=False),  # {"kind", "id", "user"}
    UniqueConstraint("package_id", "identity"),
    UniqueConstraint("package_id", "filename"),
    Index(None, "package_id", "uploaded_at"),  # the oldest file of a package is looked up with every decision
    sqlite_autoincrement=True,
)

tokens = Table(
    "tokens",
    registry_metadata,
    Column("id", _Id, primary_key=True),
    Column("kind", String(16), nullable=False),  # personal | deploy | job | owner
    Column("hash", _Digest, nullable=False, unique=True),  # sha256 of the secret, hex
    Column("user", Text),  # personal
    Column("namespace_id", _Id, ForeignKey("namespaces.id"), index=True),  # deploy, job
    Column("name", Text, nullable=False),
    Column("username", Text),  # deploy
    Column("scopes", _Json, nullable=False),  # a list
    Column("identity", _Json),  # of a token minted for an OIDC identity: {"issuer", "claims"}
    Column("created_at", UtcTime, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("expires_at", UtcTime),
    Column("last_used_at", UtcTime),
    Column("revoked_at", UtcTime),
    sqlite_autoincrement=True,
)

used_identities = Table(
    "used_identities",
    registry_metadata,
    Column("issuer", Text, nullable=False),
    Column("jti", Text, nullable=False),
    Column("expires_at", UtcTime, nullable=False, index=True),
    PrimaryKeyConstraint("issuer", "jti"),
)
"""The identity tokens that a token was minted for: each may be used once. Rows may go when they have expired."""

audit = Table(
    "audit",
    registry_metadata,
    Column("id", _Id, primary_key=True),
    Column("at", UtcTime, nullable=False, index=True),
    Column("action", Text, nullable=False),
    Column("who_kind", String(16), nullable=False),
    Column("who_id", BigInteger),  # the token
    Column("who_user", Text),
    Column("address", Text),  # of the network
    Column("namespace", Text),
    Column("name", Text, index=True),
    Column("version", Text),
    Column("filename", Text),
    Column("detail", _Json, nullable=False),
    Column("request_id", Text),
    sqlite_autoincrement=True,
)
"""Who changed what. Only appended to; it outlives what it speaks of, so it has no foreign keys."""

first_sights = Table(
    "first_sights",
    registry_metadata,
    Column("upstream", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("seen", LargeBinary, nullable=False),  # msgpack, by `cache.sightings`
    PrimaryKeyConstraint("upstream", "name"),
)
"""When files without upload time were first seen on an upstream's pages: they are as old as that (contract 4.7)."""

held_files = Table(
    "held_files",
    registry_metadata,
    Column("id", _Id, primary_key=True),
    Column("upstream", Text, nullable=False),
    Column("name", Text, nullable=False, index=True),
    Column("filename", Text, nullable=False),
    Column("version", Text),
    Column("sha256", _Digest, nullable=False, index=True),  # names the bytes in the cache
    Column("why", String(16), nullable=False),  # removed | quarantined
    Column("since", UtcTime, nullable=False),
    Column("record", LargeBinary, nullable=False),  # msgpack of what the page last said of it
    Column("released_at", UtcTime),
    UniqueConstraint("upstream", "name", "filename", "sha256"),
    sqlite_autoincrement=True,
)
"""Files that their upstream no longer offers and that the cache has (contract 4.7, `removed`)."""

confusions = Table(
    "confusions",
    registry_metadata,
    Column("id", _Id, primary_key=True),
    Column("tenant", Text, nullable=False),  # '' is the instance
    Column("name", Text, nullable=False),  # what an upstream has
    Column("claim", Text, nullable=False),  # the claimed name or reserved pattern that it meets
    Column("kind", String(16), nullable=False),  # package | tombstone | reserve
    Column("upstream", Text, nullable=False),
    Column("match", String(16), nullable=False),  # same | look-alike
    Column("first_seen", UtcTime, nullable=False),
    UniqueConstraint("tenant", "claim", "kind", "upstream", "name", "match"),
    sqlite_autoincrement=True,
)
"""Names of upstreams that meet a claim, since when; what meets none any more goes (`index.radar`)."""

cached_files = Table(
    "files",
    cache_metadata,
    Column("key", _Digest, primary_key=True),  # sha256 of the content
    Column("size", BigInteger, nullable=False),
    Column("last_used", UtcTime, nullable=False, index=True),
    Column("stored_at", UtcTime, nullable=False),
)
"""The upstream files that lie on disk; those least recently used go first."""

cached_urls = Table(
    "urls",
    cache_metadata,
    Column("url_key", String(68), primary_key=True),  # domain.pages.url_key
    Column("sha256", _Digest, nullable=False, index=True),
)
"""The content behind upstream addresses whose page names no sha256."""

negatives = Table(
    "negatives",
    cache_metadata,
    Column("upstream", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("until", UtcTime, nullable=False),
    PrimaryKeyConstraint("upstream", "name"),
    Index(None, "until"),
)
"""Names that an upstream, told with its address, validly said it does not have; until when that may be believed."""

download_batches = Table(
    "download_batches",
    cache_metadata,
    Column("id", _Id, primary_key=True),
    Column("begins", UtcTime, nullable=False),
    Column("ends", UtcTime, nullable=False, index=True),
    Column("downloads", Integer, nullable=False),
    Column("names", LargeBinary, nullable=False),  # a hash of each name in it, by `storage.downloads`
    Column("content", LargeBinary, nullable=False),  # compressed, by `storage.downloads`
    sqlite_autoincrement=True,
)
"""Who fetched what: some seconds of downloads a row, in the order in which they left."""
