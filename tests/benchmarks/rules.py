"""A configuration with a hundred thousand rules: how long until the server listens, and what a decision costs."""

from __future__ import annotations

import random
import string
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from proxy.config.compile import compile_snapshot
from proxy.config.load import load
from proxy.domain.access import OPERATOR, sight
from proxy.domain.decide import decide
from proxy.domain.decision import Asked, NameFacts
from proxy.domain.names import parse_name
from tests.benchmarks.cores import SERVER_CORE, pinned
from tests.benchmarks.report import Row
from tests.benchmarks.stage import Stage
from tests.support.server import OverlayServer

RULES = 100_000
GROUPS = 1_000
NAMES = 500
"""So many names are decided in one measurement, half of them such as rules speak of."""
TO_LISTEN = 5.0
"""Seconds."""
A_DECISION = 50.0
"""Microseconds."""


def rules(stage: Stage) -> list[Row]:
    """Half of the rules stand at the root, half in groups; the server also has them all."""
    scale = stage.corpus.sizes.wheels / 20_000
    count, groups = max(100, int(RULES * scale)), max(10, int(GROUPS * scale))
    directory = stage.directory / "rules"
    server = OverlayServer({}, directory)
    storage = server.config_file.read_text(encoding="utf-8")
    server.config_file.write_text(storage + "\n".join(_configuration(count, groups)), encoding="utf-8")
    listening = []
    for _ in range(stage.runs):
        with pinned(SERVER_CORE):
            begun = time.perf_counter()
            server.start()
            listening.append(time.perf_counter() - begun)
        server.stop()
    words = f"{count:,} rules, {groups:,} groups"
    return [
        _row("rules-start", f"{words}: start to listening", "s", listening, TO_LISTEN),
        _row(
            "rules-decide",
            f"{words}: a decision",
            "µs",
            _deciding(server.config_file, stage.runs),
            A_DECISION,
        ),
    ]


def _deciding(file: Path, runs: int) -> list[float]:
    """Microseconds of a decision at a project of the last group, run by run; computing time alone."""
    snapshot = compile_snapshot(load(str(file), {}))
    *_, index = snapshot.tree
    operator = sight(OPERATOR, snapshot.tree)
    chance = random.Random("names")
    names = [parse_name(_word(chance, 2) if number % 2 else f"acme-{number}-x") for number in range(NAMES)]
    facts, now = NameFacts(), datetime.now(UTC)
    found = []
    for _ in range(runs + 1):
        begun = time.process_time()
        for name in names:
            decide(Asked(index, name, operator), facts, snapshot.tree, now)
        found.append((time.process_time() - begun) / NAMES * 1e6)
    return found[1:]  # the first makes what is kept


def _configuration(count: int, groups: int) -> Iterator[str]:
    """The lines of a policy and of groups, with every kind of pattern in equal parts."""
    chance = random.Random("rules")
    at_root = count // 2
    yield "policy:\n  deny:"
    for number in range(at_root):
        yield f"    - '{_pattern(chance, number)}'"
    yield "groups:"
    each = (count - at_root) // groups
    for group in range(groups):
        yield f"  group-{group}:\n    policy:\n      reserve:"
        for number in range(each // 2):
            yield f"        - 'group-{group}-{number}-*'"
        yield "      min_age_exempt:"
        for number in range(each - each // 2):
            yield f"        - {{match: '{_pattern(chance, number)}', reason: known, until: 2099-01-01}}"
        yield "    projects: {project: {}}"


def _pattern(chance: random.Random, number: int) -> str:
    word = _word(chance, 1)
    kinds = (
        _word(chance, 2),
        f"{word}-*",
        f"*-{word}",
        f"{word}-*-{_word(chance, 1)}",
        f"*{word}*",
        f"acme-{number}-*-internal",
        f"{_word(chance, 2)}>={number % 7}.{number % 13},<9",
        f"{_word(chance, 2)}=={number % 17}.*",
    )
    return kinds[number % len(kinds)]


def _word(chance: random.Random, parts: int) -> str:
    made = ("".join(chance.choices(string.ascii_lowercase, k=chance.randint(4, 9))) for _ in range(parts))
    return "-".join(made)


def _row(name: str, workload: str, unit: str, found: list[float], target: float) -> Row:
    ours = median(found)
    return Row(
        name=name,
        workload=workload,
        unit=unit,
        ours=ours,
        measured=ours,
        measured_unit=unit,
        target=target,
        runs=[(one, None) for one in found],
    )
