"""The kinds of values that keys of the configuration take: what is accepted, and what is said otherwise.

Each kind is an annotated type for `config.models`, with its JSON Schema beside its parser. A parser never
quotes the value it refuses: it raises what was *expected*, and `config.load`, which knows the file's own text
and which keys are secret, adds what it got. So no secret can reach a message from here. Kinds that are one of some
words are in `config.words`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Annotated, Any, TypeAlias
from urllib.parse import SplitResult, urlsplit

from packaging.specifiers import SpecifierSet
from pydantic import AfterValidator, GetCoreSchemaHandler, PlainValidator, SecretStr, WithJsonSchema
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from proxy.config.nodes import Substituted
from proxy.domain.names import Name, parse_name, parse_pattern
from proxy.domain.namespaces import RESERVED_SEGMENTS, SEGMENT
from proxy.domain.snapshot import HOST, LISTEN_WANTED, MAX_WORKERS, Rate, is_listen_address
from proxy.domain.trust import ANYTHING, LONGEST_LIFE
from proxy.domain.versions import parse_specifier
from proxy.errors import InvalidInput, InvalidName

EXPECTED = "expected"
"""Type of an error whose text says what was expected; what was found is for the caller to add."""

WRONG = "wrong"
"""Type of an error whose text stands alone."""

_SIZE = re.compile(r"([0-9]{1,18})(KiB|MiB|GiB)?\Z", re.ASCII)
_UNITS = {None: 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_MAX_INTEGER = (1 << 63) - 1  # what SQLite and PostgreSQL hold
_DURATION = re.compile(r"([0-9]{1,12})([smhd])\Z", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_MAX_DURATION = timedelta(days=36500)
_RATE = re.compile(r"([0-9]{1,9})/([0-9]{1,12}[smhd])\Z", re.ASCII)
_HOST_ONLY = re.compile(HOST + r"\Z", re.ASCII)
_FILE_HOST = re.compile(rf"(\*\.{HOST}|({HOST}|\[[0-9A-Fa-f:.]+\])(:[0-9]{{1,5}})?)\Z", re.ASCII)
_PRINTABLE = re.compile(r"[!-~]+\Z", re.ASCII)
_UPSTREAM_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z", re.ASCII)
_CLAIM_NAME = re.compile(r"[!-~]{1,255}\Z", re.ASCII)
_USER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,254}\Z", re.ASCII)
_NOT_USERS = frozenset({"anonymous", "__token__"})
_OPERATOR = re.compile(r"[<>=!~]")
_RESTS = {"[": "extras", ";": "environment markers", "@": "an address", "(": "brackets"}
_REST = re.compile(r"[\[;@(]")
_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}:[0-9]{2}Z)?\Z", re.ASCII)
_LONGEST_REASON = 500
_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def expected(what: str) -> PydanticCustomError:
    """The error that says what should have stood there."""
    return PydanticCustomError(EXPECTED, "expected {what}", {"what": what})


def wrong(message: str) -> PydanticCustomError:
    """An error that needs no mention of the value."""
    return PydanticCustomError(WRONG, "{message}", {"message": message})


class Given:
    """Marks a field `X | None = None` in which None means that the key is not in the file.

    An explicit null in the file is refused, and the JSON Schema does not offer it.
    """

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        if schema["type"] != "nullable":
            return schema
        inner: CoreSchema = schema["schema"]
        return inner


def parse_flag(raw: object) -> bool:
    """A truth value; from the environment also in words."""
    if isinstance(raw, bool):
        return raw
    if isinstance(raw, Substituted) and raw.lower() in _BOOLEANS:
        return _BOOLEANS[raw.lower()]
    raise expected("true or false")


def parse_whole(raw: object) -> int | None:
    """A whole number from 0 to 2⁶³-1, from the environment also as digits; None for anything else."""
    if isinstance(raw, Substituted) and re.fullmatch("[0-9]{1,19}", raw, re.ASCII):
        raw = int(raw)
    if isinstance(raw, int) and not isinstance(raw, bool) and 0 <= raw <= _MAX_INTEGER:
        return raw
    return None


def _whole(least: int, example: int) -> Callable[[object], int]:
    def parse(raw: object) -> int:
        number = parse_whole(raw)
        if number is None or number < least:
            raise expected(f"a whole number of at least {least} such as {example}")
        return number

    return parse


def _between(least: int, most: int) -> Callable[[object], int]:
    def parse(raw: object) -> int:
        number = parse_whole(raw)
        if number is None or not least <= number <= most:
            raise expected(f"a whole number from {least} to {most}")
        return number

    return parse


def parse_size(raw: object) -> int:
    """Bytes: a number, or one with KiB, MiB or GiB."""
    match = _SIZE.match(raw) if isinstance(raw, str) else None
    size = int(match[1]) * _UNITS[match[2]] if match else parse_whole(raw)
    if size is None or size > _MAX_INTEGER:
        raise expected("a size such as 5GiB")
    return size


def _some_bytes(raw: object) -> int:
    size = parse_size(raw)
    if size == 0:
        raise expected("a size above 0 such as 100MiB")
    return size


def parse_duration(raw: object) -> timedelta:
    """A number with s, m, h or d; at most 100 years."""
    match = _DURATION.match(raw) if isinstance(raw, str) else None
    if match is None:
        raise expected("a duration such as 3d")
    duration = timedelta(seconds=min(int(match[1]) * _SECONDS[match[2]], 1 << 40))
    if duration > _MAX_DURATION:
        raise expected("a duration of at most 36500d")
    return duration


def _some_time(raw: object) -> timedelta:
    duration = parse_duration(raw)
    if not duration:
        raise expected("a duration above 0s such as 30s")
    return duration


def _rate(raw: object) -> Rate:
    match = _RATE.match(raw) if isinstance(raw, str) else None
    if match is None or not int(match[1]):
        raise expected("a number per time such as 20/1m")
    return Rate(int(match[1]), _some_time(match[2]))


def _job_life(raw: object) -> timedelta:
    life = _some_time(raw)
    if life > LONGEST_LIFE:
        raise expected("a duration of at most 24h, the longest life of a job token")
    return life


def parse_text(raw: object) -> str:
    """A non-empty string of one line."""
    if not isinstance(raw, str):
        raise expected("text in quotes")
    if not raw.strip() or not raw.isprintable():
        raise expected("text of one line")
    return str(raw)


def _optional(parse: Callable[[object], str]) -> Callable[[object], str | None]:
    """As `parse`; null and the empty string are None, so that `${NAME:-}` can leave a key out."""
    return lambda raw: None if raw is None or raw == "" else parse(raw)


def _secret(raw: object) -> SecretStr | None:
    if raw is None or raw == "":
        return None
    if not isinstance(raw, str):
        raise expected("text in quotes")
    # Surrogates stand for bytes of the environment that are not UTF-8; no header could carry them.
    if any(character in "\0\r\n" or "\ud800" <= character <= "\udfff" for character in raw):
        raise expected("text of one line in UTF-8")
    return SecretStr(str(raw))


def check_segment(raw: str) -> str:
    """One segment of a namespace's path (contract 2)."""
    if raw in RESERVED_SEGMENTS:
        raise expected("a name that is not a reserved word, which begins other addresses")
    if SEGMENT.fullmatch(raw) is None:
        raise expected(
            "a name of ASCII letters, digits, '_', '.' and '-' that begins with a letter, digit or '_'"
        )
    return raw


def _namespace_path(raw: object) -> str:
    if not isinstance(raw, str) or not raw or raw[0] == "/" or raw[-1] == "/":
        raise expected("a path such as acme/widgets")
    for depth, segment in enumerate(raw.split("/")):
        check_segment(segment)
        if not depth and segment.isdigit():
            raise expected("a path whose first part is not digits only, which is a number's place")
    return str(raw)


def _upstream_name(raw: object) -> str:
    # It names a directory, also where file names ignore case.
    if not isinstance(raw, str) or _UPSTREAM_NAME.match(raw) is None:
        raise expected("the name of an upstream: lower-case letters, digits, '.', '_' and '-', such as pypi")
    return str(raw)


def _user_name(raw: object) -> str:
    if isinstance(raw, str) and raw in _NOT_USERS:
        raise expected("a name other than anonymous and __token__, which have meanings of their own")
    if not isinstance(raw, str) or _USER_NAME.match(raw) is None:
        raise expected("the name of a user: ASCII letters, digits, '_', '.', '@', '+' and '-', such as alice")
    return str(raw)


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a list of patterns: what it covers, and what its author says of it.

    Attributes:
        text: the normalised pattern, and the specifier as given, without blanks.
        pattern: normalised.
        specifier: the versions it speaks of; None: all.
        reason, until: of a long entry; None: not given.
    """

    text: str
    pattern: str
    specifier: SpecifierSet | None = None
    reason: str | None = None
    until: datetime | None = None

    def extended(self, reason: str | None, until: datetime | None) -> Entry:
        """The same with what a long entry says besides."""
        return replace(self, reason=reason, until=until)


def _parse_pattern(text: str) -> str:
    try:
        return parse_pattern(text)
    except InvalidName:
        raise expected("a name pattern such as acme-*") from None


def parse_bare_pattern(raw: object) -> Entry:
    """A pattern over names, in a list whose entries speak of whole names."""
    if not isinstance(raw, str):
        raise expected("a name pattern in quotes such as 'acme-*'")
    _refuse_rest(raw)
    if _OPERATOR.search(raw):
        raise expected("a name pattern such as acme-* without a version specifier: it stands for whole names")
    pattern = _parse_pattern(str(raw))
    return Entry(pattern, pattern)


def parse_rule(raw: object) -> Entry:
    """A pattern over names, and after it optionally the versions that it speaks of (PEP 440)."""
    if not isinstance(raw, str):
        raise expected("a name pattern in quotes such as 'acme-*' or 'django>=4.2,<6'")
    _refuse_rest(raw)
    operator = _OPERATOR.search(raw)
    if operator is None:
        pattern = _parse_pattern(str(raw))
        return Entry(pattern, pattern)
    name, versions = raw[: operator.start()].rstrip(" "), raw[operator.start() :]
    if not name:
        raise expected("a name or * before the version specifier, such as requests==1.0")
    pattern = _parse_pattern(name)
    try:
        specifier = parse_specifier(versions)
    except InvalidInput:
        specifier = None
    # The library passes over empty clauses, which may have been meant to say something.
    if specifier is None or not versions.isprintable() or not all(map(str.strip, versions.split(","))):
        raise expected("a version specifier such as >=4.2,<6 after the name")
    return Entry(pattern + "".join(versions.split()), pattern, specifier)


def _refuse_rest(raw: str) -> None:
    """Refuse what a requirement may have and an entry may not: it would promise what no rule looks at."""
    found = _REST.search(raw)
    if found is not None:
        raise expected(f"a name pattern without {_RESTS[found[0]]}")


def _exempt_name(raw: object) -> Name:
    if isinstance(raw, str):
        try:
            return parse_name(raw)
        except InvalidName:
            pass
    raise expected("the name of a package in quotes such as 'requests'")


def _reason(raw: object) -> str:
    reason = parse_text(raw)
    if len(reason) > _LONGEST_REASON:
        raise expected(f"a reason of at most {_LONGEST_REASON} characters")
    return reason


def parse_moment(raw: object) -> datetime:
    """A date, which means its first moment in UTC, or a moment in UTC; in quotes or as YAML reads it."""
    moment: datetime | None = None
    if isinstance(raw, datetime):
        moment = raw
    elif isinstance(raw, date):
        moment = datetime(raw.year, raw.month, raw.day, tzinfo=UTC)
    elif isinstance(raw, str) and _MOMENT.match(raw):
        try:
            moment = datetime.fromisoformat(raw)
        except ValueError:
            moment = None
        else:
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    # Without a zone two people would read two moments.
    if moment is None or moment.tzinfo is None or moment.microsecond:
        raise expected("a date such as 2026-05-01, or a moment such as 2026-05-01T08:00:00Z")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise expected("a date between the years 1 and 9999") from None


def _optional_moment(raw: object) -> datetime | None:
    return None if raw is None or raw == "" else parse_moment(raw)


def _number_of(*numbers: int) -> Callable[[object], int]:
    listed = " or ".join(map(str, numbers))

    def parse(raw: object) -> int:
        number = parse_whole(raw)
        if number not in numbers:
            raise expected(listed)
        return number

    return parse


def _split_url(raw: object, what: str, schemes: tuple[str, ...]) -> SplitResult:
    """Take an address apart, refusing what a strict reader and a lenient one would read differently."""
    if not isinstance(raw, str) or _PRINTABLE.match(raw) is None or "\\" in raw:
        raise expected(what)
    try:
        parts = urlsplit(raw)
        host, port = parts.hostname or "", parts.port
        if ":" in host:
            IPv6Address(host)
    except ValueError:  # an unclosed bracket, a port that is no number, an address of nine groups
        raise expected(what) from None
    if parts.scheme not in schemes or port == 0 or not (":" in host or _HOST_ONLY.match(host)):
        raise expected(what)
    return parts


def _index_url(raw: object) -> str:
    parts = _split_url(raw, "an http:// or https:// address", ("http", "https"))
    if parts.username is not None or parts.password is not None:
        raise wrong("expected an address without user name and password; set username and password beside it")
    if parts.query or parts.fragment or str(raw)[-1] in "?#":
        raise expected("an address without query and fragment")
    return parts.geturl() if parts.path.endswith("/") else parts.geturl() + "/"


def _external_url(raw: object) -> str:
    what = "the address of this server for its clients, such as https://pypi.example.org"
    parts = _split_url(raw, what, ("http", "https"))
    if parts.username is not None:
        raise wrong("expected an address without user name and password")
    if parts.query or parts.fragment or str(raw)[-1] in "?#":
        raise expected(what)
    return parts.geturl().rstrip("/")


def _proxy_url(raw: object) -> str:
    parts = _split_url(raw, "an http:// address of a proxy", ("http",))
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise expected("an address without path, query and fragment such as http://proxy.example:3128")
    return parts.geturl()


def _issuer_url(raw: object) -> str:
    what = "the https:// address of an issuer, exactly as it stands in the claim iss of its tokens"
    if isinstance(raw, str) and "@" in raw:
        raise wrong("expected an address without user name and password")
    parts = _split_url(raw, what, ("http", "https"))
    if parts.query or parts.fragment or str(raw)[-1] in "?#":
        raise expected("an address without query and fragment")
    if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
        raise expected("an https:// address; http:// is for literal loopback addresses such as 127.0.0.1")
    return str(raw)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _issuer_name(raw: object) -> str:
    if not isinstance(raw, str) or _UPSTREAM_NAME.match(raw) is None:
        raise expected("the name of an issuer: lower-case letters, digits, '.', '_' and '-', such as gitlab")
    return str(raw)


def _claim_name(raw: object) -> str:
    if not isinstance(raw, str) or _CLAIM_NAME.match(raw) is None:
        raise expected("the name of a claim such as project_path")
    return str(raw)


def _claim_text(raw: object) -> str:
    if not isinstance(raw, str):
        raise expected('text in quotes such as "true"')
    text = parse_text(raw)
    if ANYTHING in text[:-1]:
        raise expected("text in which * stands at the end, if anywhere")
    return text


def _file_host(raw: object) -> str:
    match = _FILE_HOST.match(raw) if isinstance(raw, str) else None
    if match is None or (match.group(5) and not 0 < int(match.group(5)[1:]) < 1 << 16):
        raise expected("host, host:port or *.host such as files.example.org")
    return match[0].lower()


def _listen(raw: object) -> str:
    if not isinstance(raw, str) or not is_listen_address(raw):
        raise expected(LISTEN_WANTED)
    return str(raw)


def _network(raw: object) -> IPv4Network | IPv6Network:
    if isinstance(raw, str):
        try:
            return ip_network(str(raw))
        except ValueError:
            pass
    raise expected("an address or a network without host bits such as 10.0.0.0/8")


def substitutable(**facts: object) -> JsonSchemaValue:
    """The JSON Schema of a value that may also come from the environment, in which `${` stands somewhere."""
    return {"anyOf": [facts, {"type": "string", "pattern": r"\$\{"}]}


def _schema(**facts: object) -> WithJsonSchema:
    return WithJsonSchema(substitutable(**facts))


_TEXT = WithJsonSchema({"type": "string", "minLength": 1})
_OPTIONAL_TEXT = WithJsonSchema({"type": ["string", "null"]})
_SIZES = _schema(type=["string", "integer"], pattern=r"^[0-9]+(KiB|MiB|GiB)?$", minimum=0)
_DURATIONS = _schema(type="string", pattern=r"^[0-9]+[smhd]$")
_PATHS = WithJsonSchema({"type": "string", "pattern": "^[A-Za-z0-9_][A-Za-z0-9_./-]*$"})
_DATES = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}:[0-9]{2}Z)?$"
BARE = r"^[A-Za-z0-9*._-]+$|\$\{"
"""What a pattern over names looks like, for editors."""
WITH_VERSIONS = r"^[A-Za-z0-9*._-]+ *([<>=!~].*)?$|\$\{"
"""What a pattern with an optional specifier looks like, for editors."""
_NAMES = WithJsonSchema({"type": "string", "pattern": "^[A-Za-z0-9_][A-Za-z0-9_.@+-]*$"})

Flag: TypeAlias = Annotated[bool, PlainValidator(parse_flag), _schema(type="boolean")]
Size: TypeAlias = Annotated[int, PlainValidator(parse_size), _SIZES]
PositiveSize: TypeAlias = Annotated[int, PlainValidator(_some_bytes), _SIZES]
Duration: TypeAlias = Annotated[timedelta, PlainValidator(parse_duration), _DURATIONS]
PositiveDuration: TypeAlias = Annotated[timedelta, PlainValidator(_some_time), _DURATIONS]
JobLife: TypeAlias = Annotated[timedelta, PlainValidator(_job_life), _DURATIONS]
FailureRate: TypeAlias = Annotated[
    Rate, PlainValidator(_rate), _schema(type="string", pattern="^[0-9]+/[0-9]+[smhd]$")
]
Count: TypeAlias = Annotated[int, PlainValidator(_whole(0, 4000)), _schema(type="integer", minimum=0)]
PositiveCount: TypeAlias = Annotated[int, PlainValidator(_whole(1, 50)), _schema(type="integer", minimum=1)]
Workers: TypeAlias = Annotated[
    int, PlainValidator(_between(1, MAX_WORKERS)), _schema(type="integer", minimum=1, maximum=MAX_WORKERS)
]
Retries: TypeAlias = Annotated[
    int, PlainValidator(_between(0, 10)), _schema(type="integer", minimum=0, maximum=10)
]
Number: TypeAlias = Annotated[
    int | None, PlainValidator(_whole(1, 42)), _schema(type="integer", minimum=1, maximum=_MAX_INTEGER)
]
Text: TypeAlias = Annotated[str, PlainValidator(parse_text), _TEXT]
OptionalText: TypeAlias = Annotated[str | None, PlainValidator(_optional(parse_text)), _OPTIONAL_TEXT]
Secret: TypeAlias = Annotated[SecretStr | None, PlainValidator(_secret), _OPTIONAL_TEXT]
Listen: TypeAlias = Annotated[str, PlainValidator(_listen), WithJsonSchema({"type": "string"})]
Network: TypeAlias = Annotated[
    IPv4Network | IPv6Network, PlainValidator(_network), WithJsonSchema({"type": "string"})
]
NamespacePathText: TypeAlias = Annotated[str, PlainValidator(_namespace_path), _PATHS]
OptionalPath: TypeAlias = Annotated[
    str | None,
    PlainValidator(_optional(_namespace_path)),
    WithJsonSchema({"type": ["string", "null"], "pattern": "^[A-Za-z0-9_][A-Za-z0-9_./-]*$"}),
]
Segment: TypeAlias = Annotated[
    str,
    AfterValidator(check_segment),
    WithJsonSchema({"type": "string", "pattern": "^[A-Za-z0-9_][A-Za-z0-9_.-]*$"}),
]
UpstreamName: TypeAlias = Annotated[
    str,
    PlainValidator(_upstream_name),
    WithJsonSchema({"type": "string", "pattern": "^[a-z0-9][a-z0-9._-]*$"}),
]
UserName: TypeAlias = Annotated[str, PlainValidator(_user_name), _NAMES]
BarePattern: TypeAlias = Annotated[
    Entry, PlainValidator(parse_bare_pattern), WithJsonSchema({"type": "string", "pattern": BARE})
]
RuleText: TypeAlias = Annotated[
    Entry, PlainValidator(parse_rule), WithJsonSchema({"type": "string", "pattern": WITH_VERSIONS})
]
ExemptName: TypeAlias = Annotated[
    Name,
    PlainValidator(_exempt_name),
    WithJsonSchema({"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$"}),
]
Reason: TypeAlias = Annotated[
    str,
    PlainValidator(_reason),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": _LONGEST_REASON}),
]
Moment: TypeAlias = Annotated[datetime, PlainValidator(parse_moment), _schema(type="string", pattern=_DATES)]
OptionalMoment: TypeAlias = Annotated[
    datetime | None,
    PlainValidator(_optional_moment),
    _schema(type=["string", "null"], pattern=_DATES),
]
IndexUrl: TypeAlias = Annotated[str, PlainValidator(_index_url), _schema(type="string", pattern="^https?://")]
OptionalIndexUrl: TypeAlias = Annotated[
    str | None,
    PlainValidator(_optional(_index_url)),
    _schema(type=["string", "null"], pattern="^https?://"),
]
ExternalUrl: TypeAlias = Annotated[
    str | None,
    PlainValidator(_optional(_external_url)),
    _schema(type=["string", "null"], pattern="^https?://"),
]
ProxyUrl: TypeAlias = Annotated[
    str | None,
    PlainValidator(_optional(_proxy_url)),
    _schema(type=["string", "null"], pattern="^http://"),
]
FileHost: TypeAlias = Annotated[str, PlainValidator(_file_host), WithJsonSchema({"type": "string"})]
IssuerUrl: TypeAlias = Annotated[
    str, PlainValidator(_issuer_url), _schema(type="string", pattern="^https?://")
]
IssuerName: TypeAlias = Annotated[
    str,
    PlainValidator(_issuer_name),
    WithJsonSchema({"type": "string", "pattern": "^[a-z0-9][a-z0-9._-]*$"}),
]
ClaimName: TypeAlias = Annotated[
    str, PlainValidator(_claim_name), WithJsonSchema({"type": "string", "pattern": "^[!-~]+$"})
]
OptionalClaimName: TypeAlias = Annotated[str | None, PlainValidator(_optional(_claim_name)), _OPTIONAL_TEXT]
ClaimText: TypeAlias = Annotated[
    str, PlainValidator(_claim_text), WithJsonSchema({"type": "string", "minLength": 1})
]
NotForwarded: TypeAlias = Annotated[int, PlainValidator(_number_of(404, 451)), _schema(enum=[404, 451])]
Refused: TypeAlias = Annotated[int, PlainValidator(_number_of(451, 403)), _schema(enum=[451, 403])]
