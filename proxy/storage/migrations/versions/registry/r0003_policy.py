"""First sights of files without upload time; held files; names of upstreams that meet claims; shadowed names."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.add_column("packages", sa.Column("shadows", sa.Text))
    op.create_index("ix_files_package_id_uploaded_at", "files", ["package_id", "uploaded_at"])
    op.create_table(
        "first_sights",
        sa.Column("upstream", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("seen", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("upstream", "name", name="pk_first_sights"),
    )
    op.create_table(
        "held_files",
        sa.Column("id", _id, nullable=False),
        sa.Column("upstream", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("filename", sa.Text, nullable=False),
        sa.Column("version", sa.Text),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("why", sa.String(16), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("record", sa.LargeBinary, nullable=False),
        sa.Column("released_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name="pk_held_files"),
        sa.UniqueConstraint(
            "upstream", "name", "filename", "sha256", name="uq_held_files_upstream_name_filename_sha256"
        ),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_held_files_name", "held_files", ["name"])
    op.create_index("ix_held_files_sha256", "held_files", ["sha256"])
    op.create_table(
        "confusions",
        sa.Column("id", _id, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("claim", sa.Text, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("upstream", sa.Text, nullable=False),
        sa.Column("match", sa.String(16), nullable=False),
        sa.Column("first_seen", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_confusions"),
        sa.UniqueConstraint(
            *("tenant", "claim", "kind", "upstream", "name", "match"),
            name="uq_confusions_tenant_claim_kind_upstream_name_match",
        ),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    raise NotImplementedError("schemas only go forward; restore a backup to go back")
