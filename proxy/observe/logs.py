"""Structured logs: one record a line, as text for people or JSON for machines, without secrets.

A logger is made once by whoever assembles the program and handed down; nothing here is global, but the
bridge from the standard library's `logging`, which is global by nature and can be taken down again.

Three promises to keep when changing this module:

- A record is one line. Whatever a caller, an upstream or a file name puts into a value is escaped; only a
  trace takes further lines, each indented, so that no line of it can pass for a record.
- Every text passes `redaction.redact`, traces and nested values included.
- Logging never fails its caller: a closed or full sink, a value without text form, wrong bytes cost the
  record, not the request.

Events are constant sentences (`page served`); what varies goes into key and value.
"""

from __future__ import annotations

import json
import logging
import math
import re
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, Self, TextIO, cast

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
    render = _as_json if format == "json" else _coloured_text if _is_terminal(stream) else _plain_text

    def stamp(_logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["time"] = now()
        event["level"] = method
        return event

    return cast(
        "Logger",  # structlog types its loggers as Any; the Protocol names the part in use
        structlog.wrap_logger(
            _Sink(stream),
            processors=[stamp, structlog.processors.format_exc_info, _made_safe, render],
            wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
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

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def _write(self, line: str) -> None:
        with self._lock:
            try:
                try:
                    self._stream.write(line + "\n")
                except UnicodeEncodeError:
                    self._stream.write(line.encode("ascii", "backslashreplace").decode("ascii") + "\n")
                self._stream.flush()
            except (OSError, ValueError):
                # A reader that went away, a full disk, a closed stream: there is nobody left to tell.
                return

    debug = info = warning = error = exception = _write


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
    return json.dumps(dict(event), ensure_ascii=True, separators=(",", ":"))


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
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))


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
