"""The sockets that a server listens at: opened once, before any worker serves.

Several workers share a TCP port by sockets of their own at one address (SO_REUSEPORT): the system hands each new
connection to one of them, evenly. A unix socket there is only once; all workers inherit it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Sequence

from proxy.errors import StorageError

_PROBE = 1.0
"""Seconds in which a living server answers at its unix socket."""
_ELSEWHERE = "choose another with --listen"
_HINTS = {
    errno.EADDRINUSE: f"stop what listens there, or {_ELSEWHERE}",
    errno.EADDRNOTAVAIL: f"this machine has no such address; {_ELSEWHERE}",
    errno.EACCES: f"ports below 1024 need a privilege (CAP_NET_BIND_SERVICE); {_ELSEWHERE}",
}
"""What to do about the commonest reasons why a port cannot be opened."""
_UNUSED = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})
"""A name may have addresses of a family that this machine does not use; one that can be had is enough."""


def open_sockets(listen: str, *, shared: bool) -> list[socket.socket]:
    """Open the sockets of an address, one for each of a name's addresses: bound, not yet listening.

    Args:
        listen: `host:port`, where port 0 takes a free one, or `unix:/path`.
        shared: `twin` is to make others at the same address.

    Raises:
        StorageError: it cannot be had; says why.
    """
    if listen.startswith("unix:"):
        return [_unix(listen)]
    host, _, port = listen.rpartition(":")
    try:
        found = socket.getaddrinfo(
            host.strip("[]") or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except UnicodeError as error:
        raise StorageError(f"cannot listen on {listen}: no host's name", hint=_ELSEWHERE) from error
    except OSError as error:
        raise _not_listening(listen, error) from error
    opened: list[socket.socket] = []
    refused: OSError | None = None
    for family, _, _, _, address in dict.fromkeys(found):
        # The port that the first was given is that of all.
        wanted = (address[0], opened[0].getsockname()[1] if opened else address[1], *address[2:])
        try:
            opened.append(_tcp(family, wanted, shared=shared))
        except OSError as error:
            if error.errno not in _UNUSED:
                _close(opened)
                raise _not_listening(listen, error) from error
            refused = error
    if not opened:
        assert refused is not None, listen  # noqa: S101 - a name that is found has addresses
        raise _not_listening(listen, refused) from refused
    return opened


def twin(one: socket.socket) -> socket.socket:
    """Another socket at the address of a shared one, for another worker.

    Raises:
        StorageError: the system has no more.
    """
    try:
        if one.family == socket.AF_UNIX:
            return one.dup()
        return _bound(one.family, one.getsockname(), shared=True)
    except OSError as error:
        raise _not_listening(str(one.getsockname()), error) from error


def shown_address(sockets: Sequence[socket.socket], *, tls: bool) -> str:
    """The address as people write it."""
    address = sockets[0].getsockname()
    if sockets[0].family == socket.AF_UNIX:
        return f"unix:{address}"
    host = f"[{address[0]}]" if ":" in str(address[0]) else address[0]
    return f"{'https' if tls else 'http'}://{host}:{address[1]}"


def close_sockets(sockets: Sequence[socket.socket]) -> None:
    """Close what `open_sockets` opened; the file of a unix socket goes, if it is still the one that was made."""
    for one in sockets:
        if one.family == socket.AF_UNIX:
            with contextlib.suppress(OSError):
                os.unlink(one.getsockname())  # noqa: PTH108 - a path as the operator wrote it
    _close(sockets)


def _close(sockets: Sequence[socket.socket]) -> None:
    for one in sockets:
        one.close()


def _tcp(family: int, address: tuple[object, ...], *, shared: bool) -> socket.socket:
    if shared and address[1]:
        # Sockets that share a port hinder nobody who would share it too, such as the workers of another server.
        # One that would not tells whether anybody listens there.
        _bound(family, address, shared=False).close()
    return _bound(family, address, shared=shared)


def _bound(family: int, address: tuple[object, ...], *, shared: bool) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # A name or an empty host has an address of its own in IPv4.
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
    except BaseException:
        made.close()
        raise
    return made


def _unix(listen: str) -> socket.socket:
    path = listen.removeprefix("unix:")
    _refuse_taken_socket(path)
    made = socket.socket(socket.AF_UNIX)
    try:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.stat(path).st_mode):  # noqa: PTH116 - a path as the operator wrote it
                os.unlink(path)  # noqa: PTH108 - the same
        made.bind(path)
    except OSError as error:
        made.close()
        raise StorageError(
            f"cannot listen on {listen}: {error.strerror or error}",
            hint=f"check the directory and its permissions, or {_ELSEWHERE}",
        ) from error
    return made


def _refuse_taken_socket(path: str) -> None:
    """See that nobody listens at `path`: the socket of a killed server is replaced, never that of a living one.

    The lock on the data directory does not tell; the socket may belong to a server of another one.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_PROBE)
        try:
            probe.connect(path)
        except (BlockingIOError, TimeoutError):
            pass  # somebody is there, and busy
        except OSError:
            return
    raise StorageError(f"cannot listen on unix:{path}: a running server listens there", hint=_ELSEWHERE)


def _not_listening(listen: str, error: OSError) -> StorageError:
    """What a port that could not be opened is told as."""
    number = error.errno or 0
    # Errors of name resolution have numbers of their own, and their words.
    why = os.strerror(number).lower() if number in _HINTS else error.strerror or str(error)
    return StorageError(f"cannot listen on {listen}: {why}", hint=_HINTS.get(number, _ELSEWHERE))
