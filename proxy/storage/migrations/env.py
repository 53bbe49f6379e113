"""What Alembic runs to apply revisions, on the connection and in the transaction that `upgrade` hands over."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
