"""What the cache holds: files, addresses without sha256, negative answers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "files",
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("last_used", _TIME, nullable=False),
        sa.Column("stored_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_files"),
    )
    op.create_index("ix_files_last_used", "files", ["last_used"])
    op.create_table(
        "urls",
        sa.Column("url_key", sa.String(68), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("url_key", name="pk_urls"),
    )
    op.create_index("ix_urls_sha256", "urls", ["sha256"])
    op.create_table(
        "negatives",
        sa.Column("upstream", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("until", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("upstream", "name", name="pk_negatives"),
    )
    op.create_index("ix_negatives_until", "negatives", ["until"])


def downgrade() -> None:
    raise NotImplementedError("schemas only go forward; restore a backup to go back")
