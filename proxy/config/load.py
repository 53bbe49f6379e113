"""From the operator's file to a validated `Config`, with every problem at once and each value's line.

The order: YAML with line marks (`config.nodes`), laid over the shipped defaults, `${NAME}` from the
environment in parsed strings (never in the text, so that a value cannot become YAML), the schema
(`config.models`), what can only be seen between keys (`config.checks`). Every step reports what it can and
the next goes on with the rest; a problem at a place where an earlier step found one is left out.

Messages quote what the file says, not what the environment put there, and never a password.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import resources
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from proxy.config import schema
from proxy.config.checks import cross_check
from proxy.config.models import Config
from proxy.config.nodes import Node, Path, Scalar, Sequence, Substituted, Table, dotted, find, read_yaml
from proxy.config.values import EXPECTED, WRONG
from proxy.domain.policy import Origin
from proxy.domain.snapshot import SHIPPED
from proxy.errors import ConfigError, Problem

MAX_BYTES = 16 << 20
"""Largest file that is read. A group with members and policy takes some 200 bytes."""

_REPLACED_WHOLE = frozenset({("users",), ("groups",), ("projects",), ("members",)})
_SECRET_KEYS = frozenset({"password"})
_REFERENCE = re.compile(
    r"\$(?:\$|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^{}]*))?\}|(?P<bad>\{))"
)
_SHAPES = {
    "model_type": "a mapping such as {}",
    "dict_type": "a mapping such as {}",
    "tuple_type": "a list such as [a, b]",
}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that passed, and where each of its values stands.

    Attributes:
        config: the file laid over the shipped defaults.
        file: as the operator named it; None if only the shipped defaults hold.
        digest: hex sha256 of the file's bytes, or of the shipped defaults'.
    """

    config: Config
    file: str | None
    digest: str
    _tree: Table = field(repr=False)

    def origin(self, path: Path) -> Origin:
        """Where the value at `path` stands, such as `("groups", "acme", "policy", "reserve", 0)`.

        A key that no file has leads to the nearest one above it; the origin's own path says which.
        """
        node, known = find(self._tree, path)
        return Origin(node.file, node.line, dotted(known))

    def origins(self, path: Path) -> Iterator[Origin]:
        """Where the items of the list at `path` stand, one after the other; nothing where there is none."""
        node, known = find(self._tree, path)
        if known == path and isinstance(node, Sequence):
            here = dotted(path)
            for position, item in enumerate(node.items):
                yield Origin(item.file, item.line, f"{here}.{position}")


def load(path: str | None, environ: Mapping[str, str]) -> Loaded:
    """Read, complete and check the configuration file at `path`; None means the shipped defaults alone.

    Raises:
        ConfigError: with everything that is wrong, in the order of the file.
    """
    return load_bytes(None if path is None else _read(path), path or "", environ)


def load_bytes(content: bytes | None, file: str, environ: Mapping[str, str]) -> Loaded:
    """As `load`, of a file's bytes; `file` is its name for messages and origins.

    Raises:
        ConfigError: as `load`.
    """
    defaults = shipped_defaults()
    tree, problems = read_yaml(defaults.decode(), SHIPPED)
    if content is not None:
        own, own_problems = read_yaml(_decode(content, file), file)
        tree, problems = _overlay(tree, own), (*problems, *own_problems)
    substitution = _Substitution(environ)
    values = substitution.plain(tree, ())
    found = [*problems, *substitution.problems]
    config, invalid = _validate(values, tree)
    seen = {(problem.file, problem.path) for problem in found}
    for problem in (*invalid, *_between(values, tree)):
        if (problem.file, problem.path) not in seen:
            seen.add((problem.file, problem.path))
            found.append(problem)
    if found or config is None:
        raise ConfigError(sorted(found, key=lambda each: (each.file == SHIPPED, each.line)))
    digest = hashlib.sha256(defaults if content is None else content).hexdigest()
    return Loaded(config, None if content is None else file, digest, tree)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the configuration file (draft 2020-12)."""
    tree, _ = read_yaml(shipped_defaults().decode(), SHIPPED)
    return schema.json_schema(_Substitution({}).plain(tree, ()))


def shipped_defaults() -> bytes:
    """The text of `defaults.yaml`: beside this module when installed, in `config/` in a checkout.

    Raises:
        ConfigError: it is in neither place.
    """
    beside = resources.files("proxy.config") / "defaults.yaml"
    if beside.is_file():
        return beside.read_bytes()
    try:
        return (FilePath(__file__).parents[2] / "config" / "defaults.yaml").read_bytes()
    except OSError:
        problem = Problem(SHIPPED, 0, "", "defaults.yaml is missing from this installation; install it anew")
    raise ConfigError([problem])


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - the path is the operator's own spelling
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        message = "there is no such file; name another with --config or in PYPI_OVERLAY_CONFIG"
    except IsADirectoryError:
        message = "expected a file, got a directory"
    except PermissionError:
        message = "it may not be read by this user; change its owner or mode"
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        message = f"it cannot be read: {getattr(error, 'strerror', None) or error}"
    else:
        if len(content) <= MAX_BYTES:
            return content
        message = f"expected at most {MAX_BYTES >> 20}MiB"
    raise ConfigError([Problem(path, 0, "", message)])


def _decode(content: bytes, file: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
    raise ConfigError([Problem(file, line, "", "expected UTF-8; save the file in that encoding")])


def _overlay(below: Table, above: Table, path: Path = ()) -> Table:
    """`above` laid over `below` key by key; lists and the sections of names replace what lies below whole."""
    entries = dict(below.entries)
    for key, node in above.entries.items():
        beneath = entries.get(key)
        here = (*path, key)
        if isinstance(node, Table) and isinstance(beneath, Table) and here not in _REPLACED_WHOLE:
            entries[key] = _overlay(beneath, node, here)
        else:
            entries[key] = node
    return Table(above.file, above.line, entries)


class _Substitution:
    """Makes plain values of nodes, reading `${NAME}` in strings from an environment."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.problems: list[Problem] = []

    def plain(self, table: Table, path: Path) -> dict[str, Any]:
        """The values of a mapping; what could not be substituted is noted and stays as it is."""
        return {key: self._value(node, (*path, key)) for key, node in table.entries.items()}

    def _value(self, node: Node, path: Path) -> object:
        if isinstance(node, Table):
            return self.plain(node, path)
        if isinstance(node, Sequence):
            return [self._value(item, (*path, position)) for position, item in enumerate(node.items)]
        if isinstance(node.value, str) and "$" in node.value:
            return self._text(node, node.value, path)
        return node.value

    def _text(self, node: Scalar, raw: str, path: Path) -> str:
        wrong: str | None = None
        is_substituted = False

        def replace(match: re.Match[str]) -> str:
            nonlocal wrong, is_substituted
            if match["bad"]:
                wrong = "expected ${NAME} or ${NAME:-default}; write $${ where these characters are meant"
                return ""
            if match["name"] is None:
                return "$"
            is_substituted = True
            value = self._environ.get(match["name"])
            if match["default"] is not None:
                return value or match["default"].replace("$$", "$")
            if value is None:
                wrong = (
                    f"the environment has no {match['name']}; set it, or write ${{{match['name']}:-default}}"
                )
            return value or ""

        text = _REFERENCE.sub(replace, raw)
        if wrong is not None:
            self.problems.append(Problem(node.file, node.line, dotted(path), wrong))
        return Substituted(text) if is_substituted else text


def _validate(values: Mapping[str, Any], tree: Table) -> tuple[Config | None, tuple[Problem, ...]]:
    try:
        return Config.model_validate(values), ()
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
    return None, tuple(_explained(details, tree))


def _explained(details: list[ErrorDetails], tree: Table) -> Iterator[Problem]:
    """The schema's errors in the operator's words, each at its line."""
    described: dict[str, Any] | None = None
    for detail in details:
        path: Path = detail["loc"]
        kind = detail["type"]
        node: Node | None
        if path[-1] == "[key]":  # pydantic's mark of a key that is wrong itself
            path = path[:-1]
            shown = _quoted(str(path[-1]))
        else:
            node, known = find(tree, path)
            shown = _shown(node, path) if known == path else "nothing"
        if kind == EXPECTED:
            message = f"expected {detail['ctx']['what']}, got {shown}"
        elif kind == WRONG:
            message = detail["ctx"]["message"]
        elif kind == "extra_forbidden":
            described = described or json_schema()
            message = _unknown(str(path[-1]), schema.known_keys(described, path[:-1]))
        elif kind == "missing":
            message = f"expected the key {path[-1]}, got nothing"
        elif kind in _SHAPES:
            message = f"expected {_SHAPES[kind]}, got {shown}"
        else:
            message = detail["msg"]
        yield _at(tree, path, message)


def _unknown(key: str, known: tuple[str, ...]) -> str:
    near = get_close_matches(key, known, n=1)
    if near:
        return f"unknown key; did you mean {near[0]}?"
    return f"unknown key; known here: {', '.join(known)}" if known else "unknown key; none is known here"


def _shown(node: Node, path: Path) -> str:
    """What the file says there, fit for a message."""
    if isinstance(node, Table):
        return "a mapping"
    if isinstance(node, Sequence):
        return "a list"
    if node.value is None:
        return node.text or "nothing"
    if path[-1] in _SECRET_KEYS or (path[0] == "upstreams" and "@" in node.text):
        return "something else"  # a password, or an address that may hold one
    if not isinstance(node.value, str):
        return node.text
    if _REFERENCE.search(node.text):
        return f"{_quoted(node.text)} with the environment's value"
    return _quoted(node.text)


def _quoted(text: str) -> str:
    return json.dumps(text if len(text) <= 60 else f"{text[:57]}...", ensure_ascii=False)


def _at(tree: Table, path: Path, message: str) -> Problem:
    node, _ = find(tree, path)
    return Problem(node.file, node.line, dotted(path), message)


def _between(values: Mapping[str, Any], tree: Table) -> Iterator[Problem]:
    for finding in cross_check(values):
        node, _ = find(tree, finding.path)
        got = f", got {_shown(node, finding.path)}" if finding.wants_value else ""
        yield _moved(_at(tree, finding.path, finding.message + got), tree)


def _moved(problem: Problem, tree: Table) -> Problem:
    """A problem with a shipped value, moved to what the operator wrote and thereby made it wrong.

    `upstreams: {pypi: null}` alone leaves the shipped `policy.upstreams: [pypi]` without meaning.
    """
    if problem.file != SHIPPED or not problem.path.startswith("policy.upstreams"):
        return problem
    upstreams, _ = find(tree, ("upstreams", "pypi"))
    message = "the shipped policy.upstreams names it; set policy.upstreams too, for example to []"
    return Problem(upstreams.file, upstreams.line, "upstreams.pypi", message)
