"""What runs here: `/api/v1/status` (contract 12)."""

from __future__ import annotations

from aiohttp import web

from proxy.domain.access import Action
from proxy.domain.moments import iso
from proxy.web.calls import Call, answer


async def status(call: Call) -> web.Response:
    """Version, configuration in force, workers and database; for owners of the instance."""
    instance = call.instance
    call.permit(Action.ADMINISTER, instance.snapshot.tree.root)
    await instance.registry.read(lambda connection: connection.exec_driver_sql("SELECT 1").scalar())
    snapshot = instance.snapshot
    return answer(
        {
            "version": instance.version,
            "started_at": iso(instance.started_at),
            "config": {
                "file": snapshot.file,
                "digest": snapshot.digest,
                "loaded_at": iso(instance.started_at),
            },
            "workers": 1,
            "database": instance.registry.engine,
        }
    )
