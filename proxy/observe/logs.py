"""Structured logs: one record a line, as text for people or JSON for machines, without secrets.

A logger is made once by whoever assembles the program and handed down; nothing here is global, but the
bridge from the standard library's `logging`, which is global by nature and can be taken down again.

Three promises to keep when changing this module:

- A record is one line. Whatever a caller, an upstream or a file name puts into a value is escaped; only a
  trace takes further lines, each indented, so that no line of it can pass for a record.
- Every text passes `redaction.redact`, traces and nested values included.
- Logging never fails its caller: a closed or full sink, a value without text form, wrong bytes cost the
  record, not the request.

The lines of requests are as many as the requests, so they have a way of their own (`AccessLog`): what is the same
for each time an answer is given is rendered once, and lines are written many at a time. They are the very lines that
a logger would write.

Events are constant sentences (`page served`); what varies goes into key and value.
"""

from __future__ import annotations

import json
import logging
import math
import re
import secrets
import select
import threading
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, Self, TextIO, TypeAlias, cast

import structlog

from proxy.observe.redaction import REDACTED, is_secret_key, redact

_LEVELS: Mapping[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_COLOURS: Mapping[str, str] = {"debug": "\x1b[2m", "warning": "\x1b[33m", "error": "\x1b[31m"}
_PLAIN = "\x1b[0m"
_DEEPEST = 6
"""Nested containers beyond this depth are written as text."""

_NAMED_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_BARE = re.compile(r'[^ "=\\]+')
_HEAD = ("time", "level", "event")
_TRACE = "exception"
_WHOLE = select.PIPE_BUF
"""Bytes that a pipe takes in one piece, so that no line of another process gets into the middle of one of ours."""
_CLIENTS_KNOWN = 1000
"""Rendered addresses of clients that are kept; then it begins anew."""

Told: TypeAlias = tuple[str, str]
"""What is the same in all lines of one answer to one caller, rendered: before how long it took, and behind whom."""

AccessEntry: TypeAlias = tuple[Told, str, float, float, str]
"""One answer given: what is told of it, the request's id (16 hexadecimal digits), when it left in seconds since the
epoch, the seconds that it took, and the client's address."""


class Logger(Protocol):
    """What the rest of the program sees of a logger.

    Values may be anything; keys are names of Python other than `time` and `level`.
    """

    def bind(self, **values: object) -> Self:
        """Return a logger that puts `values` into each of its records."""

    def debug(self, event: str, **values: object) -> None:
        """Tell what only somebody looking for a fault wants to know."""

    def info(self, event: str, **values: object) -> None:
        """Tell what happened in the ordinary course."""

    def warning(self, event: str, **values: object) -> None:
        """Tell what an operator should look at some time."""

    def error(self, event: str, **values: object) -> None:
        """Tell what an operator should look at now."""

    def exception(self, event: str, **values: object) -> None:
        """Tell of the exception being handled, as an error with its trace."""

    def access_log(self) -> AccessLog:
        """Return what writes the lines of requests, with the values bound to this logger in each."""


def make_logger(
    format: str,  # noqa: A002 - the configuration's word
    level: str,
    stream: TextIO,
    *,
    clock: Callable[[], datetime] | None = None,
) -> Logger:
    """Make a logger of its own, independent of any other and of structlog's global configuration.

    Args:
        format: `text` or `json`.
        level: the least level written: `debug`, `info`, `warning` or `error`.
        stream: where lines go, each by one write and flushed. Text is coloured if it is a terminal.
        clock: tells the time of a record, aware; the system's clock unless given.

    Raises:
        ValueError: another format or level; the configuration's schema admits no other.
    """
    if format not in {"text", "json"}:
        raise ValueError(f"there is no log format {format!a}")
    if level not in _LEVELS:
        raise ValueError(f"there is no log level {level!a}")
    now = clock or _utc_now
    is_json = format == "json"
    render = _as_json if is_json else _coloured_text if _is_terminal(stream) else _plain_text
    filtering = structlog.make_filtering_bound_logger(_LEVELS[level])

    def stamp(_logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["time"] = now()
        event["level"] = method
        return event

    return cast(
        "Logger",  # structlog types its loggers as Any; the Protocol names the part in use
        structlog.wrap_logger(
            _Sink(stream, is_json=is_json, tells_requests=_LEVELS[level] <= logging.INFO),
            processors=[stamp, structlog.processors.format_exc_info, _made_safe, render],
            wrapper_class=type("_Filtering", (_WithAccessLog, filtering), {}),
            context_class=dict,
            cache_logger_on_first_use=True,
        ).bind(),
    )


def new_request_id() -> str:
    """Return 16 random hexadecimal digits, which name one request in answer, log and audit."""
    return secrets.token_hex(8)


def bridge_standard_logging(logger: Logger) -> Callable[[], None]:
    """Send warnings and worse of libraries that use the standard `logging` through `logger`.

    The record's event is the library's name for its logger (`asyncio`), its text stands under `message`.

    Returns:
        A function that takes the bridge down. Until then every logger of the process, except those that do
        not propagate, goes through `logger`.
    """
    bridge = _Bridge(logger)
    root = logging.getLogger()
    root.addHandler(bridge)
    return lambda: root.removeHandler(bridge)


class _Bridge(logging.Handler):
    """Hands records of the standard library's loggers on."""

    def __init__(self, logger: Logger) -> None:
        super().__init__(level=logging.WARNING)
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - arguments that do not fit the library's own format
            message = str(record.msg)
        values: dict[str, Any] = {"message": message}
        if record.exc_info:
            values["exc_info"] = record.exc_info
        tell = self._logger.error if record.levelno >= logging.ERROR else self._logger.warning
        tell(record.name, **values)


class _Sink:
    """Writes finished lines; the innermost part of a structlog logger."""

    def __init__(self, stream: TextIO, *, is_json: bool, tells_requests: bool) -> None:
        self.is_json = is_json
        self.tells_requests = tells_requests
        self._stream = stream
        self._lock = threading.Lock()

    def _write(self, line: str) -> None:
        self.write_all([line + "\n"])

    debug = info = warning = error = exception = _write

    def write_all(self, lines: Iterable[str]) -> None:
        """Write lines, each with its end, in as few pieces as reach a pipe whole."""
        piece: list[str] = []
        size = 0
        for line in lines:
            length = len(line) if line.isascii() else len(line.encode("utf-8", "backslashreplace"))
            if size + length > _WHOLE and piece:
                self._pass_on(piece)
                piece, size = [], 0
            piece.append(line)
            size += length
        if piece:
            self._pass_on(piece)

    def _pass_on(self, lines: list[str]) -> None:
        with self._lock:
            try:
                try:
                    self._stream.write("".join(lines))
                except UnicodeEncodeError:
                    for line in lines:
                        self._stream.write(line.encode("ascii", "backslashreplace").decode("ascii"))
                self._stream.flush()
            except (OSError, ValueError):
                # A reader that went away, a full disk, a closed stream: there is nobody left to tell.
                return


class AccessLog:
    """The lines of requests (`request`, at level `info`), two microseconds each. For one thread at a time.

    `is_enabled` is whether they are written at all; where it is not, nothing need be rendered.
    """

    def __init__(self, sink: _Sink, bound: Mapping[str, object]) -> None:
        """For `Logger.access_log` alone. `bound`: values that stand first in each line."""
        self.is_enabled = sink.tells_requests
        self._sink = sink
        self._is_json = sink.is_json
        bound_pairs = "".join(self._pair(key, value) for key, value in bound.items())
        event = '","level":"info","event":"request"' if self._is_json else " info request"
        self._head = f"{event}{bound_pairs}" + (',"request_id":"' if self._is_json else " request_id=")
        self._clients: dict[str, str] = {}
        self._second = -1
        self._shown_second = ""

    def tell(
        self,
        *,
        method: str,
        path: str,
        status: int,
        sent: int,
        caller: str,
        token: int | None,
        decision: str | None,
        rule: str | None,
        failure: str | None,
        warned: Sequence[str],
        agent: str,
    ) -> Told:
        """Render what is told of an answer each time it is given. None is left out, secrets are hidden.

        Args:
            sent: bytes of the body.
            token: the number of the caller's token.
            warned: rules that would have refused it, were they enforced; none is left out as well.
        """
        before = {"method": method, "path": path, "status": status, "bytes": sent}
        behind = {
            "caller": caller,
            "token": token,
            "decision": decision,
            "rule": rule,
            "failure": failure,
            "warned": ", ".join(warned) or None,
            "agent": agent,
        }
        quote, end = ('"', "}\n") if self._is_json else ("", "\n")
        return (
            quote + "".join(self._pair(*pair) for pair in before.items()) + self._key("ms"),
            "".join(self._pair(*pair) for pair in behind.items() if pair[1] is not None) + end,
        )

    def write(self, entries: Iterable[AccessEntry]) -> None:
        """Write a line for each; raises nothing."""
        if self.is_enabled:
            self._sink.write_all(map(self._line, entries))

    def _line(self, entry: AccessEntry) -> str:
        (before, behind), request_id, moment, seconds, client = entry
        shown_client = self._clients.get(client)
        if shown_client is None:
            if len(self._clients) >= _CLIENTS_KNOWN:
                self._clients.clear()
            shown_client = self._clients[client] = self._pair("client", client)
        second = int(moment)
        # As datetime reckons, which rounds to microseconds; its text then cuts them off.
        micros = round((moment - second) * 1e6)
        if micros == 1_000_000:
            second, micros = second + 1, 0
        if second != self._second:
            self._second = second
            shown = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.")
            self._shown_second = f'{{"time":"{shown}' if self._is_json else shown
        milliseconds = round(seconds * 1000, 1)
        return (
            f"{self._shown_second}{micros // 1000:03d}Z{self._head}{request_id}"
            f"{before}{milliseconds}{shown_client}{behind}"
        )

    def _key(self, key: str) -> str:
        return f",{json.dumps(key)}:" if self._is_json else f" {_bare_or_quoted(key)}="

    def _pair(self, key: str, value: object) -> str:
        safe = _safe(key, value, 0)
        return self._key(redact(key)) + (_compact_json(safe) if self._is_json else _in_text(safe))


class _WithAccessLog:
    """What a logger of structlog's is given besides; the two attributes are what structlog documents for that."""

    _logger: _Sink
    _context: Mapping[str, object]

    def access_log(self) -> AccessLog:
        return AccessLog(self._logger, self._context)


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except (AttributeError, ValueError):
        return False


def _iso(moment: datetime) -> str:
    if moment.tzinfo is None:
        return moment.isoformat(timespec="milliseconds")
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _made_safe(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Reduce a record to what JSON knows, without secrets; time, level and event come first."""
    head = {key: _safe(key, event.pop(key, None), 0) for key in _HEAD}
    return head | {redact(key): _safe(key, value, 0) for key, value in event.items()}


def _safe(key: str, value: object, depth: int) -> object:
    if value is None or isinstance(value, bool):
        return value
    if type(value) is int:
        return value
    if key and is_secret_key(key):
        return REDACTED
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if isinstance(value, datetime):
        return _iso(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes | bytearray):
        return redact(bytes(value).decode("utf-8", "backslashreplace"))
    if depth < _DEEPEST and isinstance(value, Mapping):
        items = ((_text_of(inner), item) for inner, item in value.items())
        return {redact(inner): _safe(inner, item, depth + 1) for inner, item in items}
    if depth < _DEEPEST and isinstance(value, list | tuple | set | frozenset):
        return [_safe("", item, depth + 1) for item in _pairs_hidden(value)]
    return redact(_text_of(value))


def _pairs_hidden(values: Iterable[object]) -> Iterable[object]:
    """Headers travel as pairs of name and value: the value of a secret name is hidden."""
    found = list(values)
    if len(found) == 2 and isinstance(found[0], str | bytes):
        name = found[0] if isinstance(found[0], str) else found[0].decode("latin-1")
        if is_secret_key(name):
            return [found[0], REDACTED]
    return found


def _text_of(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - whatever a foreign __str__ raises, the record must not be lost
        return f"<{type(value).__name__} without text form>"


def _as_json(_logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
    # ASCII alone: no terminal, editor or collector can take anything inside for the end of the line.
    return _compact_json(dict(event))


def _compact_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))


def _plain_text(_logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
    return _line(event, coloured=False)


def _coloured_text(_logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
    return _line(event, coloured=True)


def _line(event: MutableMapping[str, Any], *, coloured: bool) -> str:
    level = str(event["level"])
    if coloured and level in _COLOURS:
        level = f"{_COLOURS[level]}{level}{_PLAIN}"
    parts = [str(event["time"]), level, _escaped(str(event["event"]))]
    parts.extend(
        f"{_bare_or_quoted(key)}={_in_text(value)}"
        for key, value in event.items()
        if key not in _HEAD and key != _TRACE
    )
    trace = event.get(_TRACE)
    if not isinstance(trace, str):
        return " ".join(parts)
    return "\n    ".join([" ".join(parts), *(_escaped(line) for line in trace.split("\n"))])


def _in_text(value: object) -> str:
    if isinstance(value, str):
        return _bare_or_quoted(value)
    return _compact_json(value)


def _bare_or_quoted(text: str) -> str:
    if text.isprintable() and _BARE.fullmatch(text):
        return text
    return '"' + _escaped(text).replace('"', '\\"') + '"'


def _escaped(text: str) -> str:
    """Return `text` with everything unprintable as an escape: controls, line ends, overrides of direction."""
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(
        _NAMED_ESCAPES.get(sign) or (sign if sign.isprintable() else _numbered_escape(ord(sign)))
        for sign in text
    )


def _numbered_escape(code: int) -> str:
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
