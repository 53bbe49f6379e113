"""YAML text as a tree in which every value knows its file and line.

Owns what is YAML: syntax, resolution of plain scalars (YAML 1.1, as PyYAML has it), keys that stand twice,
and what is refused of the language (aliases, merge keys, tags, several documents). It knows no key of the
configuration. The tree is built from parser events rather than by PyYAML's composer: the composer recurses
without bound, keeps the last of two equal keys, and expands aliases.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import yaml

from proxy.errors import Problem

Path: TypeAlias = tuple[str | int, ...]
"""Keys and list positions from the top of the file down."""

MAX_DEPTH = 64
"""Levels of nesting. Groups take two levels each; this bounds every recursion over the tree."""

_STRING_TAGS = frozenset({None, "!", "tag:yaml.org,2002:str"})
_RESOLVED_TAGS = frozenset(
    f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "timestamp")
)


@dataclass(frozen=True, slots=True)
class Scalar:
    """A single value. `text` is what the file says, before substitution; it may be a secret."""

    file: str
    line: int
    value: object
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list."""

    file: str
    line: int
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A mapping, in the order of the file. The line of an entry's node is that of its key."""

    file: str
    line: int
    entries: Mapping[str, Node]


Node: TypeAlias = Scalar | Sequence | Table


class Substituted(str):
    """A string that came, wholly or in part, from the environment: it may stand for a number or true/false."""

    __slots__ = ()


def dotted(path: Path) -> str:
    """`groups.acme.policy.deny.0`: a path as people are shown it."""
    return ".".join(str(part) for part in path)


def find(root: Node, path: Path) -> tuple[Node, Path]:
    """The node at the longest prefix of `path` that exists, and that prefix."""
    node = root
    for depth, part in enumerate(path):
        if isinstance(node, Table) and isinstance(part, str) and part in node.entries:
            node = node.entries[part]
        elif isinstance(node, Sequence) and isinstance(part, int) and 0 <= part < len(node.items):
            node = node.items[part]
        else:
            return node, path[:depth]
    return node, path


def read_yaml(text: str, file: str) -> tuple[Table, tuple[Problem, ...]]:
    """Read one YAML document whose top is a mapping; an empty document is an empty mapping.

    Args:
        text: the document.
        file: its name, for problems and nodes.

    Returns:
        What could be read, and every problem. After a syntax error the tree is empty.
    """
    reader = _Reader(text, file)
    try:
        top = reader.document()
    except yaml.YAMLError as error:
        return Table(file, 1, {}), (_syntax_problem(error, text, file),)
    except _TooDeepError as error:
        message = f"nested more than {MAX_DEPTH} levels deep"
        return Table(file, 1, {}), (Problem(file, error.line, "", message),)
    return top, tuple(reader.problems)


def _syntax_problem(error: yaml.YAMLError, text: str, file: str) -> Problem:
    """Say where the syntax broke. The text itself is not quoted: it may be a secret."""
    line, what = 1, "it cannot be read"
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        what = error.problem or what
        # The parser says no more of a tab than of any other character that is out of place.
        lines = text.splitlines()
        if mark is not None and mark.line < len(lines) and lines[mark.line].startswith("\t", mark.column):
            what = "a tab; indent with spaces"
    elif isinstance(error, yaml.reader.ReaderError):
        line = text.encode()[: error.position].count(b"\n") + 1
        what = "a control character that YAML does not allow"
    return Problem(file, line, "", f"not valid YAML: {what}")


class _TooDeepError(Exception):
    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line


class _Reader:
    """Builds the tree from the parser's events and collects what is refused on the way."""

    def __init__(self, text: str, file: str) -> None:
        # PyYAML without libyaml has no C loader; its own is slower and says the same.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        self._events: Iterator[yaml.Event] = yaml.parse(text, Loader=loader)
        self._file = file
        self._resolver = yaml.resolver.Resolver()
        self._constructor = yaml.constructor.SafeConstructor()
        self.problems: list[Problem] = []

    def document(self) -> Table:
        top: Node | None = None
        begun = False
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if begun:
                    self._refuse(event, (), "a second document begins here; expected one")
                    break
                begun = True
                top = self._node(next(self._events), (), None)
        if isinstance(top, Table):
            return top
        if top is not None and not (isinstance(top, Scalar) and top.value is None):
            kind = "a list" if isinstance(top, Sequence) else "a single value"
            self._refuse_at(top.line, (), f"expected a mapping of keys such as server and groups, got {kind}")
        return Table(self._file, 1, {})

    def _node(self, event: yaml.Event, path: Path, line: int | None) -> Node | None:
        """Read the node that `event` begins; None, with its problem noted, if it cannot be used.

        `line` is that of its key, where it has one.
        """
        line = line or _line(event)
        if len(path) > MAX_DEPTH:
            raise _TooDeepError(line)
        if isinstance(event, yaml.AliasEvent):
            self._refuse(
                event,
                path,
                "aliases are not supported; write the value out, and patterns that begin with * in quotes",
            )
            return None
        node: Node | None = None
        is_tagged = False
        if isinstance(event, yaml.ScalarEvent):
            node = Scalar(self._file, line, self._value(event), event.value)
            is_tagged = event.tag not in _STRING_TAGS
        elif isinstance(event, yaml.MappingStartEvent):
            node = Table(self._file, line, self._entries(path))
            is_tagged = event.tag is not None
        elif isinstance(event, yaml.SequenceStartEvent):
            node = Sequence(self._file, line, self._items(path))
            is_tagged = event.tag is not None
        if is_tagged:
            self._refuse(event, path, "YAML tags are not supported; leave it out")
            return None
        return node

    def _items(self, path: Path) -> tuple[Node, ...]:
        items: list[Node] = []
        position = 0
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            item = self._node(event, (*path, position), None)
            if item is not None:
                items.append(item)
            position += 1
        return tuple(items)

    def _entries(self, path: Path) -> Mapping[str, Node]:
        entries: dict[str, Node] = {}
        first_lines: dict[str, int] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._key(event, path)
            below = path if key is None else (*path, key)
            # A value below a key that was refused is read all the same, so that its problems show too.
            value = self._node(next(self._events), below, _line(event))
            if key is None:
                continue
            if key in first_lines:
                self._refuse(event, below, f"stands twice, first in line {first_lines[key]}")
                continue
            first_lines[key] = _line(event)
            if value is not None:
                entries[key] = value
        return entries

    def _key(self, event: yaml.Event, path: Path) -> str | None:
        if not isinstance(event, yaml.ScalarEvent):
            self._node(event, (*path, "?"), None)  # one level deeper, or keys within keys would have no bound
            self._refuse(event, path, "expected a key that is a string")
            return None
        if event.tag not in _STRING_TAGS:
            self._refuse(event, path, "YAML tags are not supported; leave it out")
            return None
        if event.implicit[0] and event.value == "<<":
            self._refuse(event, path, "merge keys (<<) are not supported; write the keys out")
            return None
        value = self._value(event)
        if not isinstance(value, str):
            shown = f"{event.value[:60]!a}" if event.value else "nothing"
            self._refuse(event, path, f"expected a key that is a string, got {shown}: put it in quotes")
            return None
        return value

    def _value(self, event: yaml.ScalarEvent) -> object:
        """What a scalar stands for: None, a bool, a number, a date, or its text."""
        if event.tag is not None or not event.implicit[0]:
            return event.value
        tag = self._resolver.resolve(yaml.ScalarNode, event.value, (True, False))  # type: ignore[no-untyped-call]  # the stubs leave it out
        if tag not in _RESOLVED_TAGS:
            return event.value
        try:
            value: object = self._constructor.construct_object(yaml.ScalarNode(tag, event.value))
        except (ValueError, OverflowError):  # 2026-13-45, or a number of more digits than int() takes
            return event.value
        return value

    def _refuse(self, event: yaml.Event, path: Path, message: str) -> None:
        self._refuse_at(_line(event), path, message)

    def _refuse_at(self, line: int, path: Path, message: str) -> None:
        self.problems.append(Problem(self._file, line, dotted(path), message))


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark is not None else 1
