"""Log records: their form, what is hidden in them, and that nobody can forge one."""

from __future__ import annotations

import io
import json
import logging
import re
import select
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from proxy.observe.logs import AccessEntry, Logger, bridge_standard_logging, make_logger, new_request_id

SECRET = "pyo_own_Zm9vYmFy0123456789"
NOW = datetime(2026, 11, 21, 11, 40, tzinfo=UTC)
HEAD = "2026-11-21T11:40:00.000Z "


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


class Pieces(io.StringIO):
    """Keeps each piece that is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[str] = []

    def write(self, text: str) -> int:
        self.written.append(text)
        return super().write(text)


class Awkward:
    def __str__(self) -> str:
        raise RuntimeError("no text")


def logger_on(stream: io.TextIOBase, format: str = "text", level: str = "info") -> Logger:  # noqa: A002 - its name
    return make_logger(format, level, stream, clock=lambda: NOW)  # type: ignore[arg-type]  # TextIO is nominal


def text_of(event: str = "seen", **values: object) -> str:
    stream = io.StringIO()
    logger_on(stream).info(event, **values)
    return stream.getvalue()


def json_of(event: str = "seen", **values: object) -> dict[str, Any]:
    stream = io.StringIO()
    logger_on(stream, "json").info(event, **values)
    found: dict[str, Any] = json.loads(stream.getvalue())
    return found


def test_text_is_time_level_event_and_pairs_on_one_line() -> None:
    line = text_of("page served", name="widgets", status=200, took=0.5, cached=True, rule=None)

    assert line == HEAD + "info page served name=widgets status=200 took=0.5 cached=true rule=null\n"


def test_json_is_one_object_a_line_with_the_same_order() -> None:
    stream = io.StringIO()
    logger = logger_on(stream, "json")
    logger.warning("one", name="wïdgets", files=[1, 2])
    logger.error("two")

    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert list(first.items()) == [
        ("time", "2026-11-21T11:40:00.000Z"),
        ("level", "warning"),
        ("event", "one"),
        ("name", "wïdgets"),
        ("files", [1, 2]),
    ]
    assert (second["level"], second["event"]) == ("error", "two")


def test_times_are_told_in_utc() -> None:
    stream = io.StringIO()
    there = datetime(2026, 11, 21, 13, 40, 0, 123456, timezone(timedelta(hours=2)))
    make_logger("json", "info", stream, clock=lambda: there).info("seen", at=there)

    assert json.loads(stream.getvalue())["time"] == "2026-11-21T11:40:00.123Z"
    assert json.loads(stream.getvalue())["at"] == "2026-11-21T11:40:00.123Z"


def test_without_a_clock_the_time_is_now() -> None:
    stream = io.StringIO()
    before = datetime.now(UTC) - timedelta(seconds=1)
    make_logger("json", "info", stream).info("seen")

    assert before <= datetime.fromisoformat(json.loads(stream.getvalue())["time"]) <= datetime.now(UTC)


def test_what_is_below_the_level_is_not_written() -> None:
    stream = io.StringIO()
    logger = logger_on(stream, level="warning")
    logger.debug("a")
    logger.info("b")
    logger.warning("c")
    logger.error("d")

    assert [line.split()[-1] for line in stream.getvalue().splitlines()] == ["c", "d"]


def test_bound_values_stand_in_every_record_of_that_logger_alone() -> None:
    stream = io.StringIO()
    logger = logger_on(stream)
    logger.bind(request_id="0011").bind(caller="user:alice").info("one")
    logger.info("two")

    assert stream.getvalue() == f"{HEAD}info one request_id=0011 caller=user:alice\n{HEAD}info two\n"


def test_loggers_do_not_share_anything_nor_touch_the_global_configuration() -> None:
    before = structlog.get_config()
    one, two = io.StringIO(), io.StringIO()
    logger_on(one, "json", "error").error("first")
    logger_on(two, "text", "debug").debug("second")

    assert json.loads(one.getvalue())["event"] == "first"
    assert two.getvalue() == HEAD + "debug second\n"
    assert structlog.get_config() == before
    assert not structlog.is_configured()


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("plain", "v=plain"),
        ("", 'v=""'),
        ("two words", 'v="two words"'),
        ('say "hi"', r'v="say \"hi\""'),
        ("a=b", 'v="a=b"'),
        ("back\\slash", r'v="back\\slash"'),
        ("wïdgets", "v=wïdgets"),
        ("line\nfeed\r\t", r'v="line\nfeed\r\t"'),
        ("\x1b[31mred\x07", r'v="\x1b[31mred\x07"'),
        ("\u202eevil\u2028next", r'v="\u202eevil\u2028next"'),
        ("\udcff", r'v="\udcff"'),
        (b"\xffbytes", r'v="\\xffbytes"'),
        (timedelta(seconds=90), "v=90.0"),
        (float("nan"), "v=nan"),
        (["a", 1], 'v=["a",1]'),
        (Awkward(), 'v="<Awkward without text form>"'),
    ],
)
def test_values_are_written_so_that_they_read_as_one(value: object, written: str) -> None:
    assert text_of(v=value) == f"{HEAD}info seen {written}\n"


@given(
    event=st.text(),
    key=st.text(min_size=1),
    value=st.text() | st.lists(st.text()) | st.dictionaries(st.text(), st.text()),
)
def test_nothing_a_value_holds_makes_a_second_line(event: str, key: str, value: object) -> None:
    for form in ("text", "json"):
        stream = io.StringIO()
        logger_on(stream, form).bind(**{key: value}).info(event) if key != "event" else None
        written = stream.getvalue()
        assert len((written + "x").splitlines()) == (2 if written else 1)
        assert all(sign.isprintable() for sign in written.removesuffix("\n"))


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize(
    "values",
    [
        {"path": f"/simple/?token={SECRET}"},
        {"url": "https://alice:hunter2@host/"},
        {"authorization": "hunter2"},
        {"private_token": b"hunter2"},
        {"password": ["hunter2"]},
        {"headers": {"Authorization": "hunter2", "X": [SECRET]}},
        {"headers": [("Authorization", "hunter2"), (b"private-token", b"hunter2")]},
        {"deep": {"a": {"b": {"c": {"d": {"e": {"f": {"g": SECRET}}}}}}}},
        {"error": ValueError(f"could not use {SECRET}")},
        {"keys": {SECRET: 1}},
        {SECRET: 1},
    ],
)
def test_secrets_never_reach_the_log(form: str, values: dict[str, object]) -> None:
    stream = io.StringIO()
    logger_on(stream, form).bind(**values).info(f"event with {SECRET}")

    assert "redacted" in stream.getvalue()
    assert SECRET not in stream.getvalue()
    assert "hunter2" not in stream.getvalue()


def test_the_number_of_a_token_is_no_secret() -> None:
    assert json_of(token=12)["token"] == 12
    assert json_of(token="twelve")["token"] == "[redacted]"


def break_down(error: Exception) -> None:
    raise error


def raise_and_tell(logger: Logger) -> None:
    try:
        break_down(ValueError(f"broken {SECRET}\n2026-11-21T11:40:00.000Z info forged"))
    except ValueError:
        logger.exception("request failed", status=500)


def test_an_exception_brings_its_trace_in_lines_that_are_no_records() -> None:
    stream = io.StringIO()
    raise_and_tell(logger_on(stream))
    first, *rest = stream.getvalue().splitlines()

    assert first == HEAD + "error request failed status=500"
    assert any("raise_and_tell" in line for line in rest)
    assert "    2026-11-21T11:40:00.000Z info forged" in rest
    assert all(line.startswith("    ") for line in rest)
    assert SECRET not in stream.getvalue()


def test_an_exception_in_json_stays_one_line() -> None:
    stream = io.StringIO()
    raise_and_tell(logger_on(stream, "json"))

    (line,) = stream.getvalue().splitlines()
    record = json.loads(line)
    assert record["level"] == "error"
    assert "ValueError: broken pyo_own_[redacted]" in record["exception"]
    assert SECRET not in line


def test_only_a_terminal_gets_colour() -> None:
    terminal, file = Terminal(), io.StringIO()
    logger_on(terminal).error("seen", v="\x1b[2J")
    logger_on(file).error("seen")
    as_json = Terminal()
    logger_on(as_json, "json").error("seen")

    assert terminal.getvalue() == HEAD + '\x1b[31merror\x1b[0m seen v="\\x1b[2J"\n'
    assert "\x1b" not in file.getvalue() + as_json.getvalue()


def test_a_sink_that_fails_does_not_fail_the_caller() -> None:
    closed = io.StringIO()
    logger = logger_on(closed)
    closed.close()

    logger.info("nobody hears")
    logger_on(Broken()).info("nobody hears")


def test_a_sink_that_knows_ascii_alone_gets_escapes() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    logger_on(stream).info("seen", v="wïdgets")

    assert raw.getvalue().decode("ascii") == HEAD + "info seen v=w\\xefdgets\n"


@pytest.mark.parametrize(("form", "level"), [("xml", "info"), ("text", "loud")])
def test_an_unknown_format_or_level_is_a_fault(form: str, level: str) -> None:
    with pytest.raises(ValueError, match="there is no log"):
        make_logger(form, level, io.StringIO())


def test_request_ids_are_sixteen_hexadecimal_digits_and_differ() -> None:
    ids = {new_request_id() for _ in range(100)}

    assert len(ids) == 100
    assert all(re.fullmatch("[0-9a-f]{16}", found) for found in ids)


class TestAccessLog:
    """Lines of requests."""

    ANSWER: dict[str, Any] = {  # noqa: RUF012 - nobody changes it
        "method": "GET",
        "path": "/simple/widgets/",
        "status": 200,
        "sent": 3000,
        "caller": "user:alice",
        "token": 12,
        "decision": "private",
        "rule": None,
        "failure": None,
        "warned": (),
        "agent": "pip/26.0",
    }

    @given(
        texts=st.fixed_dictionaries({key: st.text() for key in ("method", "path", "caller", "agent")}),
        absent=st.fixed_dictionaries(
            {key: st.none() | st.text() for key in ("decision", "rule", "failure")}
            | {"token": st.none() | st.integers()}
        ),
        numbers=st.fixed_dictionaries({"status": st.integers(), "sent": st.integers()}),
        warned=st.lists(st.text(min_size=1)),
        client=st.text(),
        moment=st.floats(0, 4e9),
        seconds=st.floats(0, 1e6),
        bound=st.none() | st.text(),
    )
    def test_a_line_is_the_one_that_a_logger_would_write(
        self,
        texts: dict[str, str],
        absent: dict[str, Any],
        numbers: dict[str, int],
        warned: list[str],
        client: str,
        moment: float,
        seconds: float,
        bound: str | None,
    ) -> None:
        said = texts | absent | numbers
        for form in ("text", "json"):
            by_logger, by_access_log = io.StringIO(), io.StringIO()
            begun = make_logger(form, "info", by_logger, clock=lambda: datetime.fromtimestamp(moment, UTC))
            values = {
                "request_id": "0123456789abcdef",
                "method": said["method"],
                "path": said["path"],
                "status": said["status"],
                "bytes": said["sent"],
                "ms": round(seconds * 1000, 1),
                "client": client,
                **{key: said[key] for key in ("caller", "token", "decision", "rule", "failure")},
                "warned": ", ".join(warned) or None,
                "agent": said["agent"],
            }
            other = {} if bound is None else {"worker": bound}
            begun.bind(**other).info(
                "request", **{key: value for key, value in values.items() if value is not None}
            )
            access = logger_on(by_access_log, form).bind(**other).access_log()
            access.write([(access.tell(**said, warned=warned), "0123456789abcdef", moment, seconds, client)])

            assert by_access_log.getvalue() == by_logger.getvalue()

    def entry(self, logger: Logger, **other: Any) -> AccessEntry:
        told = logger.access_log().tell(**self.ANSWER | other)
        return told, "0123456789abcdef", NOW.timestamp(), 0.0123, "198.51.100.7"

    def test_secrets_in_addresses_are_hidden_there_too(self) -> None:
        stream = io.StringIO()
        logger = logger_on(stream)
        logger.access_log().write([self.entry(logger, path=f"/simple/?token={SECRET}", agent=SECRET)])

        assert stream.getvalue().count("redacted") == 2
        assert SECRET not in stream.getvalue()

    @pytest.mark.parametrize(("level", "lines"), [("debug", 1), ("info", 1), ("warning", 0), ("error", 0)])
    def test_above_their_level_they_are_neither_rendered_nor_written(self, level: str, lines: int) -> None:
        stream = io.StringIO()
        logger = logger_on(stream, level=level)
        logger.access_log().write([self.entry(logger)])

        assert logger.access_log().is_enabled is bool(lines)
        assert len(stream.getvalue().splitlines()) == lines

    def test_many_lines_are_written_in_few_pieces_none_of_which_a_pipe_would_break(self) -> None:
        pieces = Pieces()
        logger = logger_on(pieces)
        entry = self.entry(logger, path="/ü/", agent="ü" * 80)
        logger.access_log().write([entry] * 100)

        sizes = [len(piece.encode()) for piece in pieces.written]
        one = len(pieces.getvalue().splitlines(keepends=True)[0].encode())
        assert pieces.getvalue().count("\n") == 100
        assert all(piece.endswith("\n") for piece in pieces.written)
        assert max(sizes) <= select.PIPE_BUF
        assert min(sizes[:-1]) > select.PIPE_BUF - one

    def test_a_line_longer_than_a_piece_is_written_whole(self) -> None:
        pieces = Pieces()
        logger = logger_on(pieces)
        logger.access_log().write([self.entry(logger), self.entry(logger, path="/" + "x" * select.PIPE_BUF)])

        assert [piece.count("\n") for piece in pieces.written] == [1, 1]

    def test_more_clients_than_are_kept_are_all_told(self) -> None:
        stream = io.StringIO()
        logger = logger_on(stream)
        told, *rest, _ = self.entry(logger)
        logger.access_log().write([(told, *rest, f"10.0.{n // 256}.{n % 256}") for n in range(2100)])  # type: ignore[misc]  # a star hides the length

        assert len(set(re.findall(r" client=(\S+)", stream.getvalue()))) == 2100

    def test_a_sink_that_fails_or_knows_ascii_alone_does_not_fail_the_caller(self) -> None:
        logger = logger_on(Broken())
        logger.access_log().write([self.entry(logger)])
        raw = io.BytesIO()
        logger = logger_on(io.TextIOWrapper(raw, encoding="ascii"))
        logger.access_log().write([self.entry(logger, path="/wïdgets/"), self.entry(logger)])

        assert raw.getvalue().count(b"\n") == 2
        assert b" path=/w\\xefdgets/ " in raw.getvalue()


class TestBridge:
    """Records of libraries."""

    @pytest.fixture
    def stream(self) -> Iterator[io.StringIO]:
        stream = io.StringIO()
        take_down = bridge_standard_logging(logger_on(stream))
        yield stream
        take_down()

    def test_warnings_of_libraries_take_the_same_form(self, stream: io.StringIO) -> None:
        library = logging.getLogger("aiohttp.server")
        library.debug("quiet")
        library.info("quiet")
        library.warning("odd request from %s", "https://a:hunter2@host/\nforged")
        library.critical("worse")

        assert stream.getvalue() == (
            HEAD
            + 'warning aiohttp.server message="odd request from https://[redacted]@host/\\nforged"\n'
            + HEAD
            + "error aiohttp.server message=worse\n"
        )

    def test_their_exceptions_bring_the_trace(self, stream: io.StringIO) -> None:
        try:
            break_down(KeyError(SECRET))
        except KeyError:
            logging.getLogger("asyncio").exception("task failed")

        assert "    KeyError: 'pyo_own_[redacted]'" in stream.getvalue().splitlines()
        assert SECRET not in stream.getvalue()

    def test_a_record_whose_arguments_do_not_fit_is_kept(self) -> None:
        stream = io.StringIO()
        take_down = bridge_standard_logging(logger_on(stream))
        record = logging.makeLogRecord(
            {"name": "alembic", "msg": "%d files", "args": ("many",), "levelno": logging.WARNING}
        )
        # Not by way of the loggers: pytest's own handler refuses such a record.
        logging.getLogger().handlers[-1].handle(record)
        take_down()

        assert stream.getvalue() == HEAD + 'warning alembic message="%d files"\n'

    def test_it_can_be_taken_down(self) -> None:
        stream = io.StringIO()
        before = list(logging.getLogger().handlers)
        bridge_standard_logging(logger_on(stream))()

        logging.getLogger("asyncio").warning("nobody hears")
        assert stream.getvalue() == ""
        assert logging.getLogger().handlers == before
