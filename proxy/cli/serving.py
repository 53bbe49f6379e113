"""`serve` runs the server. Imports nothing heavy: a supervisor stays as small as this."""

from __future__ import annotations

import click

from proxy.cli.options import LISTEN, Invocation, Leaf, config_file, pass_invocation
from proxy.domain.snapshot import MAX_WORKERS
from proxy.server.start import serve as serve_by


@click.command(cls=Leaf)
@click.option(
    "--listen", type=LISTEN, metavar="HOST:PORT", help="In place of server.listen; also unix:/path."
)
@click.option(
    "--workers", type=click.IntRange(1, MAX_WORKERS), metavar="N", help="In place of server.workers."
)
@pass_invocation
def serve(invocation: Invocation, listen: str | None, workers: int | None) -> None:
    """Serve until SIGTERM or SIGINT; requests under way are finished.

    The first start writes an owner token to DATA_DIR/owner-token, or takes the one that stands in
    PYPI_OVERLAY_OWNER_TOKEN. SIGHUP loads the configuration anew, as `pypi-overlay config reload` does.

    \b
    pypi-overlay serve
    pypi-overlay serve --config /etc/pypi-overlay.yaml --listen 0.0.0.0:8080 --workers 4
    pypi-overlay serve --listen unix:/run/pypi-overlay.sock
    """  # noqa: D301
    serve_by(config_file(invocation), listen=listen, workers=workers)
