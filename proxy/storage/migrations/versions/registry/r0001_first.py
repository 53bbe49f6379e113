"""Namespaces, packages, releases, files, tokens, audit."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "namespaces",
        sa.Column("id", _ID, nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_namespaces"),
        sa.UniqueConstraint("path", name="uq_namespaces_path"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "packages",
        sa.Column("id", _ID, nullable=False),
        sa.Column("namespace_id", _ID, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("display_name", sa.Text, nullable=False),
        sa.Column("claimed_since", _TIME, nullable=False),
        sa.Column("status", sa.String(16), nullable=False, server_default="active"),
        sa.Column("status_reason", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_packages"),
        sa.ForeignKeyConstraint(["namespace_id"], ["namespaces.id"], name="fk_packages_namespace_id"),
        sa.UniqueConstraint("namespace_id", "name", name="uq_packages_namespace_id_name"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_packages_name", "packages", ["name"])
    op.create_table(
        "releases",
        sa.Column("id", _ID, nullable=False),
        sa.Column("package_id", _ID, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("version_key", sa.Text, nullable=False),
        sa.Column("yanked", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("yanked_reason", sa.Text),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_releases"),
        sa.ForeignKeyConstraint(
            ["package_id"], ["packages.id"], name="fk_releases_package_id", ondelete="CASCADE"
        ),
        sa.UniqueConstraint("package_id", "version_key", name="uq_releases_package_id_version_key"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "files",
        sa.Column("id", _ID, nullable=False),
        sa.Column("release_id", _ID, nullable=False),
        sa.Column("package_id", _ID, nullable=False),
        sa.Column("filename", sa.Text, nullable=False),
        sa.Column("identity", sa.Text, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("blake2b", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("metadata_sha256", sa.String(64)),
        sa.Column("metadata_final", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("requires_python", sa.Text),
        sa.Column("summary", sa.Text),
        sa.Column("fields", sa.JSON, nullable=False),
        sa.Column("uploaded_at", _TIME, nullable=False),
        sa.Column("uploaded_by", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_files"),
        sa.ForeignKeyConstraint(
            ["release_id"], ["releases.id"], name="fk_files_release_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["package_id"], ["packages.id"], name="fk_files_package_id", ondelete="CASCADE"
        ),
        sa.UniqueConstraint("package_id", "identity", name="uq_files_package_id_identity"),
        sa.UniqueConstraint("package_id", "filename", name="uq_files_package_id_filename"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_files_release_id", "files", ["release_id"])
    op.create_index("ix_files_sha256", "files", ["sha256"])
    op.create_index("ix_files_metadata_sha256", "files", ["metadata_sha256"])
    op.create_table(
        "tokens",
        sa.Column("id", _ID, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("user", sa.Text),
        sa.Column("namespace_id", _ID),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("username", sa.Text),
        sa.Column("scopes", sa.JSON, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("expires_at", _TIME),
        sa.Column("last_used_at", _TIME),
        sa.Column("revoked_at", _TIME),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
        sa.ForeignKeyConstraint(["namespace_id"], ["namespaces.id"], name="fk_tokens_namespace_id"),
        sa.UniqueConstraint("hash", name="uq_tokens_hash"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_tokens_namespace_id", "tokens", ["namespace_id"])
    op.create_table(
        "audit",
        sa.Column("id", _ID, nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("who_kind", sa.String(16), nullable=False),
        sa.Column("who_id", sa.BigInteger),
        sa.Column("who_user", sa.Text),
        sa.Column("address", sa.Text),
        sa.Column("namespace", sa.Text),
        sa.Column("name", sa.Text),
        sa.Column("version", sa.Text),
        sa.Column("filename", sa.Text),
        sa.Column("detail", sa.JSON, nullable=False),
        sa.Column("request_id", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_at", "audit", ["at"])
    op.create_index("ix_audit_name", "audit", ["name"])


def downgrade() -> None:
    raise NotImplementedError("schemas only go forward; restore a backup to go back")
