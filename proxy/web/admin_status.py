"""What runs here, and loading its configuration anew: `/api/v1/status`, `/api/v1/reload` (contract 12)."""

from __future__ import annotations

from dataclasses import asdict

from aiohttp import web

from proxy.domain.access import Action
from proxy.domain.moments import iso
from proxy.index.crew import Asker
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
                "loaded_at": iso(instance.loaded_at),
            },
            "workers": instance.crew.workers,
            "database": instance.registry.engine,
        }
    )


async def reload(call: Call) -> web.Response:
    """POST: load the configuration anew; 200 once every worker has it, 422 with all that is wrong, else."""
    instance = call.instance
    call.permit(Action.ADMINISTER, instance.snapshot.tree.root)
    by = call.by
    done = await instance.crew.reload(Asker(by.who, by.address, by.request_id))
    shape = {
        "ok": not done.errors,
        "errors": [asdict(problem) for problem in done.errors],
        "warnings": [asdict(problem) for problem in done.warnings],
    }
    return answer(shape, status=422 if done.errors else 200)
