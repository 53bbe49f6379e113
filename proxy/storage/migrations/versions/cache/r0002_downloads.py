"""Who fetched what."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "download_batches",
        sa.Column("id", _id, nullable=False),
        sa.Column("begins", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ends", sa.DateTime(timezone=True), nullable=False),
        sa.Column("downloads", sa.Integer, nullable=False),
        sa.Column("names", sa.LargeBinary, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_download_batches"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_download_batches_ends", "download_batches", ["ends"])


def downgrade() -> None:
    raise NotImplementedError("schemas only go forward; restore a backup to go back")
