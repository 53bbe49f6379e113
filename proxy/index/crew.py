"""Those who serve together, as one of them sees them. Imports nothing heavy: a supervisor knows them too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from proxy.domain.access import OPERATOR, Caller
from proxy.errors import Problem, StoreUnavailable


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks for a new configuration, for the audit; the attributes are those of `storage.audit.By`."""

    who: Caller
    address: str | None = None
    request_id: str | None = None


COMMAND = Asker(OPERATOR)
"""A command on the machine."""


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What came of loading the configuration anew.

    Attributes:
        errors: why the one before stays in force; none: the new one is, in every worker.
        warnings: what it says that takes effect at the next start only.
    """

    errors: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()


class Crew(Protocol):
    """The processes that serve together, as one of them sees them.

    Attributes:
        workers: how many there are to be.
        is_complete: whether all of them serve.
    """

    @property
    def workers(self) -> int: ...
    @property
    def is_complete(self) -> bool: ...

    async def reload(self, asker: Asker) -> Reloaded:
        """Load the configuration anew, in all of them.

        Raises:
            StoreUnavailable: nobody here can.
        """


class Alone:
    """The crew of a process that does not serve: a command."""

    workers = 1
    is_complete = True

    async def reload(self, asker: Asker) -> Reloaded:  # noqa: ARG002
        """Refuse: there is no server to be told."""
        raise StoreUnavailable("no server runs here")
