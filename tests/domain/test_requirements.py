from __future__ import annotations

from typing import Any

import pytest
from packaging.specifiers import SpecifierSet

from proxy.domain.names import Name, parse_name
from proxy.domain.pages import FileRecord, Page
from proxy.domain.requirements import (
    LeftOut,
    LockedFile,
    Need,
    Nested,
    choose,
    limited,
    parse_lock,
    parse_requirement,
    parse_requirements,
)
from proxy.errors import InvalidInput

A, B = "a" * 64, "b" * 64

REQUIREMENTS = f"""\
\N{ZERO WIDTH NO-BREAK SPACE}# what the shop needs
--index-url https://alice:secret@index.example/simple/
--pre
-r base.txt
--constraint="more limits.txt"
Django[argon2]>=4.2,<6 ; python_version < "3.14"  # the rest stays
requests==2.32.3 \\
    --hash=sha256:{A} \\
    --hash=sha256:{B.upper()}
zope.interface
# a comment \\
-e ./local
./wheels/local-1.0-py3-none-any.whl
git+https://alice:secret@git.example/x.git@main#egg=x
gadgets @ https://alice:secret@files.example/gadgets-1.0.tar.gz
"""


def test_a_requirements_file_is_read_as_pip_reads_it() -> None:
    found = parse_requirements(REQUIREMENTS)
    assert found.needs.needs == (
        Need(Name("django"), SpecifierSet(">=4.2,<6")),
        Need(Name("requests"), SpecifierSet("==2.32.3"), digests=frozenset({A, B})),
        Need(Name("zope-interface"), SpecifierSet()),
    )
    assert found.nested == (Nested("base.txt", False), Nested("more limits.txt", True))


def test_what_comes_from_elsewhere_is_left_out_with_a_word_and_without_its_address() -> None:
    left_out = parse_requirements(REQUIREMENTS).needs.left_out
    assert [each.name for each in left_out] == [
        "requirements:12",
        "requirements:13",
        "requirements:14",
        "gadgets",
    ]
    assert "secret" not in str(left_out)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("two words", "shop.txt:2 is no requirement"),
        ("widgets==" + "1" * 2000, "shop.txt:2 is no requirement"),
        ("w\N{KELVIN SIGN}dgets", "shop.txt:2 is no requirement"),
        ("-r", "shop.txt:2 names no file"),
        ("-r 'base", "shop.txt:2 has a quotation without an end"),
    ],
)
def test_a_line_that_is_no_requirement_is_named_and_not_shown(line: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_requirements(f"numpy\n{line}\n", "shop.txt")
    assert caught.value.message == message


@pytest.mark.parametrize(
    "text", ["", "-", "widgets @ https://files.example/w.whl", "widgets=1.0", "../widgets"]
)
def test_a_name_that_is_no_requirement_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_requirement(text)


def test_parentheses_without_end_in_a_marker_harm_nobody() -> None:
    assert parse_requirement("widgets; " + "(" * 100_000).name == "widgets"


def test_constraints_limit_versions_and_add_no_names() -> None:
    limits = [parse_requirement("django<5"), parse_requirement("django!=4.9"), parse_requirement("other==1")]
    needs = limited([parse_requirement("django>=4.2"), parse_requirement("numpy")], limits)
    assert needs == (
        Need(Name("django"), SpecifierSet(">=4.2,<5,!=4.9")),
        Need(Name("numpy"), SpecifierSet()),
    )


UV = f"""\
version = 1
revision = 3
requires-python = ">=3.11"

[[package]]
name = "shop"
version = "1.0"
source = {{ virtual = "." }}

[[package]]
name = "gears"
version = "1.0"
source = {{ git = "https://git.example/gears?rev=main#{A[:40]}" }}

[[package]]
name = "widgets"
version = "1.0+cpu"
source = {{ registry = "https://elsewhere.example/simple" }}
sdist = {{ url = "http://169.254.0.1/x/widgets-1.0%2Bcpu.tar.gz?token=secret", hash = "sha256:{A}", size = 1 }}
wheels = [
    {{ url = "../../files/{B}/widgets-1.0+cpu-py3-none-any.whl#x", hash = "sha256:{B}" }},
    {{ path = "flat/widgets-1.0+cpu-1-py3-none-any.whl" }},
]

[[package]]
name = "bare"
version = "2.0"
source = {{ registry = "https://elsewhere.example/simple" }}
"""

POETRY = f"""\
[[package]]
name = "Widgets"
version = "1.0"
description = ""
files = [{{file = "widgets-1.0.tar.gz", hash = "sha256:{A}"}}, {{file = "widgets-1.0.zip", hash = "md5:{B[:32]}"}}]

[[package]]
name = "gears"
version = "1.0"
files = []

[package.source]
type = "git"
url = "https://git.example/gears"

[metadata]
lock-version = "2.1"
content-hash = "{B}"
"""

POETRY_1_4 = f"""\
[[package]]
name = "widgets"
version = "1.0"

[metadata]
lock-version = "1.1"

[metadata.files]
Widgets = [{{file = "widgets-1.0.tar.gz", hash = "sha256:{A}"}}]
"""

POETRY_1_0 = f"""\
[[package]]
name = "widgets"
version = "1.0"

[metadata]
content-hash = "x"

[metadata.hashes]
widgets = ["{A}"]
"""

PYLOCK = f"""\
lock-version = "1.0"
created-by = "somebody"

[[packages]]
name = "gears"
directory = {{path = "gears"}}

[[packages]]
name = "widgets"
version = "1.0"
index = "https://elsewhere.example/simple"
wheels = [{{name = "widgets-1.0-py3-none-any.whl", url = "http://169.254.0.1/evil", hashes = {{sha256 = "{B}"}}}}]

[packages.sdist]
url = "https://files.example/widgets-1.0.tar.gz"
hashes = {{sha512 = "{A}{A}"}}
"""

PINNED = SpecifierSet("==1.0")


@pytest.mark.parametrize(
    ("text", "needs", "left_out"),
    [
        (
            UV,
            (
                Need(
                    Name("widgets"),
                    SpecifierSet("==1.0+cpu"),
                    (
                        LockedFile("widgets-1.0+cpu-py3-none-any.whl", B),
                        LockedFile("widgets-1.0+cpu-1-py3-none-any.whl", None),
                        LockedFile("widgets-1.0+cpu.tar.gz", A),
                    ),
                ),
                Need(Name("bare"), SpecifierSet("==2.0")),
            ),
            ["shop", "gears"],
        ),
        (
            POETRY,
            (
                Need(
                    Name("widgets"),
                    PINNED,
                    (LockedFile("widgets-1.0.tar.gz", A), LockedFile("widgets-1.0.zip", None)),
                ),
            ),
            ["gears"],
        ),
        (POETRY_1_4, (Need(Name("widgets"), PINNED, (LockedFile("widgets-1.0.tar.gz", A),)),), []),
        (POETRY_1_0, (Need(Name("widgets"), PINNED, digests=frozenset({A})),), []),
        (
            PYLOCK,
            (
                Need(
                    Name("widgets"),
                    PINNED,
                    (LockedFile("widgets-1.0-py3-none-any.whl", B), LockedFile("widgets-1.0.tar.gz", None)),
                ),
            ),
            ["gears"],
        ),
    ],
    ids=["uv", "poetry", "poetry-1.4", "poetry-1.0", "pylock"],
)
def test_of_a_lock_file_names_filenames_and_digests_count(
    text: str, needs: tuple[Need, ...], left_out: list[str]
) -> None:
    found = parse_lock(text)
    assert found.needs == needs
    assert [each.name for each in found.left_out] == left_out


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not toml",
        "[metadata]\nlock_version = '4'\n[[package]]\nname = 'x'",
        "version = 1\npackage = 3",
        "version = 1\n[[package]]\nname = 7\nsource = {registry = 'x'}",
        "version = 1\n[[package]]\nname = '../etc'\nversion = '1'\nsource = {registry = 'x'}",
        "version = 1\n[[package]]\nname = 'x'\nversion = 'one'\nsource = {registry = 'x'}",
        "version = 1\n[[package]]\nname = 'x'\nversion = '1'\nsource = {registry = 'x'}\nsdist = {url = 'http://['}",
        PYLOCK.replace('"1.0"', '"9.0"', 1),
        PYLOCK.replace('"widgets"', '"Widgets"'),
        "x = " + "[" * 100_000,
    ],
)
def test_a_lock_file_that_is_not_in_order_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_lock(text)


def test_more_names_than_anybody_needs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.domain.requirements.MAX_NEEDS", 2)
    assert len(parse_requirements("a\nb\n").needs.needs) == 2
    with pytest.raises(InvalidInput, match="more than 2 names"):
        parse_requirements("a\nb\nc\n")
    monkeypatch.setattr("proxy.domain.requirements.MAX_FILES", 2)
    with pytest.raises(InvalidInput, match="more than 2 files"):
        parse_lock(UV)


def page(*files: FileRecord) -> Page:
    return Page(parse_name("widgets"), files)


def record(version: str, suffix: str = ".tar.gz", **said: Any) -> FileRecord:
    return FileRecord(f"widgets-{version}{suffix}", **{"version": version, **said})


RELEASES = page(
    record("1.0", sha256=A),
    record("1.0", "-py3-none-any.whl", sha256=B),
    record("1.9"),
    record("1.10", yanked="broken"),
    record("2.0rc1"),
    record("nightly"),
)


@pytest.mark.parametrize(
    ("requirement", "filenames"),
    [
        ("widgets", ["widgets-1.9.tar.gz"]),
        ("widgets<1.9", ["widgets-1.0.tar.gz", "widgets-1.0-py3-none-any.whl"]),
        ("widgets>=1.10", ["widgets-2.0rc1.tar.gz"]),  # nothing else will do
        ("widgets>=2.0rc1", ["widgets-2.0rc1.tar.gz"]),
        ("widgets==1.10", ["widgets-1.10.tar.gz"]),
        ("widgets==1.*,>1.9", []),
        ("widgets>9", []),
    ],
)
def test_of_a_requirement_the_newest_version_that_meets_it_is_chosen(
    requirement: str, filenames: list[str]
) -> None:
    chosen = choose(parse_requirement(requirement), RELEASES)
    assert [pick.record.filename for pick in chosen.picks] == filenames


def test_hashes_leave_out_the_other_files_of_the_version() -> None:
    (need,) = parse_requirements(f"widgets==1.0 --hash=sha256:{B}").needs.needs
    assert [pick.record.filename for pick in choose(need, RELEASES).picks] == ["widgets-1.0-py3-none-any.whl"]


def test_a_locked_file_is_the_one_with_its_name_and_its_digest() -> None:
    wanted = (
        LockedFile("widgets-1.0.tar.gz", B),  # another one
        LockedFile("widgets-1.0-py3-none-any.whl", B),
        LockedFile("widgets-1.9.tar.gz", A),  # the page has no digest
        LockedFile("widgets-1.10.tar.gz", None),
        LockedFile("gadgets-1.0.tar.gz", None),
    )
    chosen = choose(Need(Name("widgets"), SpecifierSet(), wanted), RELEASES)
    found = ["widgets-1.0-py3-none-any.whl", "widgets-1.9.tar.gz", "widgets-1.10.tar.gz"]
    assert [pick.record.filename for pick in chosen.picks] == found
    assert [pick.digests for pick in chosen.picks] == [{B}, {A}, set()]
    assert chosen.missing == (wanted[0], wanted[4])


def test_what_is_left_out_says_where_it_comes_from() -> None:
    assert parse_lock(UV).left_out == (
        LeftOut("shop", "comes from a directory, not from an index"),
        LeftOut("gears", "comes from a repository, not from an index"),
    )
