"""Attestations of files; tokens minted for identities of other issuers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("files", sa.Column("provenance_sha256", sa.String(64)))
    op.create_index("ix_files_provenance_sha256", "files", ["provenance_sha256"])
    op.add_column("tokens", sa.Column("identity", sa.JSON))
    op.create_table(
        "used_identities",
        sa.Column("issuer", sa.Text, nullable=False),
        sa.Column("jti", sa.Text, nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("issuer", "jti", name="pk_used_identities"),
    )
    op.create_index("ix_used_identities_expires_at", "used_identities", ["expires_at"])


def downgrade() -> None:
    raise NotImplementedError("schemas only go forward; restore a backup to go back")
