"""The register of traps says the truth: what it names is there and is run, and no attack is missing from it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.protocol.traps import TRAPS, Trap, table

TESTS = Path(__file__).resolve().parents[1]
NOT_RUN = {"skip", "xfail"}

ATTACKS = re.findall(
    r"T-\w+",
    """
T-NAME1 T-NAME2 T-NAME3 T-NAME4 T-CONF1 T-CONF2 T-CONF3 T-CONF4 T-CONF5 T-CONF6 T-CONF7 T-CONF8 T-CONF9
T-UP1 T-UP2 T-UP3 T-UP4 T-UP5 T-UP6 T-UP7 T-UP8 T-ARCH T-BOMB T-SSRF T-SSRF2 T-PATH T-HDR
T-POIS1 T-POIS2 T-POIS3 T-POIS4 T-TOK1 T-TOK2 T-TOK3 T-TOK4 T-TOK5 T-XSS T-HOMO T-DOS T-YANK T-REPLAY
""",
)
"""Every row of the table of attacks (protocol 7)."""
CLIENTS_ALONE = {"2.1-extra-index"}
"""What only a client can show, which is run with many others and not each time."""


@cache
def marks_by_test(path: Path) -> dict[str, set[str]]:
    """The tests of a module, those of its classes too, with the marks that they bear, by decorator or inherited."""
    found: dict[str, set[str]] = {}

    def gather(body: list[ast.stmt], inherited: set[str]) -> None:
        inherited = inherited.union(*(_marks(one) for one in body if _is_pytestmark(one)))
        for node in body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                marks = inherited.union(*map(_marks, node.decorator_list))
                if isinstance(node, ast.ClassDef):
                    gather(node.body, marks)
                elif node.name.startswith("test_"):
                    found[node.name] = found.get(node.name, set()) | marks

    gather(ast.parse(path.read_text(encoding="utf-8")).body, set())
    return found


def _is_pytestmark(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"


def _marks(node: ast.AST) -> set[str]:
    """The marks that an expression names: `pytest.mark.x`, `pytest.mark.x(…)`, or a list of such."""
    return set(re.findall(r"\bmark\.(\w+)", ast.unparse(node)))


def ids_in(name: str) -> Iterator[str]:
    """The attacks whose ids a test's name carries: `test_T_NAME2_T_NAME3_…`."""
    for found in re.findall(r"(?<=_)T_[A-Z]+[0-9]*(?=_)", name):
        yield found.replace("_", "-")


def test_every_attack_stands_in_the_register_and_every_trap_once() -> None:
    ids = [trap.id for trap in TRAPS]
    assert len(set(ids)) == len(ids)
    assert [each for each in ids if each.startswith("T-")] == ATTACKS


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.id)
def test_the_tests_of_a_trap_exist_and_are_run(trap: Trap) -> None:
    assert trap.tests or trap.not_yet, "nothing shows it, and nothing says why"
    assert len(set(trap.tests)) == len(trap.tests)
    for test in trap.tests:
        path, _, name = test.partition("::")
        marks = marks_by_test(TESTS / path).get(name)
        assert marks is not None, f"there is no {test}"
        assert not marks & NOT_RUN, f"{test} is not run"
    if trap.tests and trap.id not in CLIENTS_ALONE:
        assert not all(test.startswith("clients/matrix/") for test in trap.tests), "it is shown too seldom"


def test_what_tests_carry_in_their_names_is_an_attack_of_the_register() -> None:
    known = {*ATTACKS, "T-TOK"}
    for path in TESTS.rglob("test_*.py"):
        for name in marks_by_test(path):
            assert set(ids_in(name)) <= known, f"{path.name}::{name}"


def test_the_register_is_a_table_for_people() -> None:
    lines = list(table())
    assert len(lines) == len(TRAPS) + 2
    assert {line.count(" | ") for line in lines[2:]} == {3}
    assert all(trap.holds.endswith(".") and len(trap.holds) < 130 for trap in TRAPS)
