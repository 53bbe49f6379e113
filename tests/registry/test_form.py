"""The form of an upload: what is gathered, what is refused, what is kept (protocol 3.1, T-UP4, T-UP6)."""

from __future__ import annotations

import hashlib
import re
from contextlib import nullcontext
from typing import Any

import pytest

from proxy.domain.filenames import Kind, parse_distribution
from proxy.errors import (
    DigestMismatch,
    InvalidFilename,
    InvalidForm,
    InvalidVersion,
    NoLongerOffered,
)
from proxy.registry import form as module
from proxy.registry.form import (
    MAX_PARTS,
    MAX_TEXT,
    SINGLE,
    Fields,
    Form,
    check_digests,
    check_filename,
    check_local_version,
    read_form,
)

GOOD = {
    ":action": "file_upload",
    "protocol_version": "1",
    "name": "gears",
    "version": "1.0",
    "filetype": "bdist_wheel",
}


def fields(*more: tuple[str, str], **changed: str | None) -> Fields:
    """The fields of `GOOD`, changed, and more of them."""
    gathered = Fields()
    for name, value in [*{**GOOD, **changed}.items(), *more]:
        if value is not None:
            gathered.count(name)
            gathered.add(name, value.encode())
    return gathered


def read(*more: tuple[str, str], **changed: str | None) -> Form:
    return read_form(fields(*more, **changed), action=None, max_description=4000)


def test_a_form_is_read_as_twine_sends_it() -> None:
    form = read(name="Gears_Of.War", version="v1.0.0", filetype="sdist")
    assert (form.name, form.display_name) == ("gears-of-war", "Gears_Of.War")
    assert (str(form.version), form.version_text) == ("1.0.0", "v1.0.0")
    assert form.kind is Kind.SDIST


@pytest.mark.parametrize("name", sorted(SINGLE))
@pytest.mark.parametrize("values", [("x", "x"), ("", "x"), ("UNKNOWN", "")])
def test_a_single_field_may_not_stand_twice(name: str, values: tuple[str, str]) -> None:
    gathered = Fields()
    gathered.count(name)
    gathered.add(name, values[0].encode())
    with pytest.raises(InvalidForm, match="twice"):
        gathered.count(name)


def test_list_fields_may_stand_often() -> None:
    form = read(("classifiers", "A"), ("classifiers", "B"), ("project_urls", "x, y"))
    assert form.kept["classifiers"] == ["A", "B"]
    assert form.kept["project_urls"] == ["x, y"]


def test_a_form_has_no_more_than_so_many_parts() -> None:
    gathered = Fields()
    for _ in range(MAX_PARTS):
        gathered.count("classifiers")
    with pytest.raises(InvalidForm, match=str(MAX_PARTS)):
        gathered.count("classifiers")


def test_the_text_of_all_fields_together_is_bounded() -> None:
    gathered = Fields()
    piece = b"x" * (1 << 20)
    for _ in range(MAX_TEXT >> 20):
        gathered.add("classifiers", piece)
    with pytest.raises(InvalidForm, match="16 MiB"):
        gathered.add("classifiers", b"x")


def test_text_must_be_utf8() -> None:
    with pytest.raises(InvalidForm, match="'summary' is not UTF-8"):
        Fields().add("summary", b"\xff\xfe")


@pytest.mark.parametrize("absent", ["", "  ", "UNKNOWN", " UNKNOWN\n"])
def test_unknown_and_empty_values_count_as_absent(absent: str) -> None:
    form = read(("classifiers", absent), summary=absent, sha256_digest=absent)
    assert "summary" not in form.kept
    assert "classifiers" not in form.kept
    assert not form.digests
    with pytest.raises(InvalidForm, match="lacks name"):
        read(name=absent)


def test_a_nul_does_not_reach_the_database() -> None:
    assert read(summary="a\x00b").kept["summary"] == "a\\x00b"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({":action": None}, "unknown :action"),
        ({":action": "remove_pkg"}, "unknown :action 'remove_pkg'"),
        ({"protocol_version": "2"}, "protocol_version"),
        ({"name": None}, "lacks name"),
        ({"version": None}, "lacks version"),
        ({"name": None, "version": None}, "lacks name and version"),
        ({"name": "-gears"}, "not a valid project name"),
        ({"name": "gears\n"}, "not a valid project name"),
        ({"name": "\u212aivy"}, "not a valid project name"),
        ({"filetype": None}, "filetype ''"),
        ({"filetype": "bdist_egg"}, "filetype 'bdist_egg'"),
        ({"md5_digest": "0" * 31}, "md5_digest is not 32 hex"),
        ({"sha256_digest": "g" * 64}, "sha256_digest is not 64 hex"),
        ({"blake2_256_digest": "0" * 65}, "blake2_256_digest is not 64 hex"),
        ({"sha256_digest": "\u0661" * 64}, "sha256_digest"),
    ],
)
def test_a_form_that_makes_no_sense_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidForm, match=message):
        read(**changed)


@pytest.mark.parametrize("version", ["1.0.x", "1 0", "latest", "1.0\n", "po\u017ft1", "1.0/../2", "1" * 300])
def test_a_version_that_is_none_is_refused_and_quoted(version: str) -> None:
    with pytest.raises(InvalidVersion) as caught:
        read(version=version)
    assert ascii(version[:80]) in caught.value.message


def test_what_the_refusal_quotes_is_cut_and_in_one_line_of_ascii() -> None:
    with pytest.raises(InvalidForm) as caught:
        read(**{":action": "\r\nX: y\u2028" + "z" * 5000})
    assert len(str(caught.value)) < 200
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()


def test_the_action_may_stand_in_the_query() -> None:
    assert read_form(fields(**{":action": None}), action="file_upload", max_description=1).name == "gears"
    with pytest.raises(InvalidForm):
        read_form(fields(**{":action": "remove_pkg"}), action="file_upload", max_description=1)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("submit", "no longer registered"),
        ("submit_pkg_info", "no longer registered"),
        ("doc_upload", "documentation is not hosted"),
    ],
)
@pytest.mark.parametrize("in_query", [False, True])
def test_what_indexes_used_to_do_is_no_longer_offered(action: str, message: str, in_query: bool) -> None:
    """Also without anything else of a form, as old clients register a project."""
    gathered = fields(**dict.fromkeys(GOOD))
    if not in_query:
        gathered.add(":action", action.encode())
    with pytest.raises(NoLongerOffered, match=message) as caught:
        read_form(gathered, action=action if in_query else None, max_description=1)
    assert "was ever registered" not in str(caught.value)


@pytest.mark.parametrize(
    ("filetype", "pyversion", "fits"),
    [
        ("sdist", "source", True),
        ("sdist", "", True),
        ("sdist", None, True),
        ("sdist", "py3", False),
        ("bdist_wheel", "py3", True),
        ("bdist_wheel", "source", True),
        ("bdist_wheel", None, True),
    ],
)
def test_the_pyversion_of_an_sdist_is_source_or_absent(
    filetype: str, pyversion: str | None, fits: bool
) -> None:
    """flit leaves it out for sdists; of wheels the filename tells more."""
    with nullcontext() if fits else pytest.raises(InvalidForm, match="pyversion 'py3'"):
        read(filetype=filetype, pyversion=pyversion)


@pytest.mark.parametrize("version", ["1.0+acme.1", "1.0-1+a", "1!2.0.dev3+x"])
def test_a_local_version_is_refused_and_quoted_where_the_policy_says_so(version: str) -> None:
    form = read(version=version)
    check_local_version(form, "accept")
    with pytest.raises(InvalidVersion, match=re.escape(f"'{version}' is a local version")):
        check_local_version(form, "reject")


def test_a_version_without_local_part_passes_either_way() -> None:
    for rule in ("accept", "reject"):
        check_local_version(read(version="1.0rc1.post2"), rule)


def test_attestations_are_handed_on_as_they_are() -> None:
    assert read(attestations=" [1] ").attestations == " [1] "
    assert read(attestations="").attestations is None
    assert read().attestations is None


def test_fields_that_clients_send_under_other_names_are_ignored() -> None:
    """pdm sends `provides_extras`, uv `import_names`; and whatever a later metadata version brings."""
    form = read(("provides_extras", "x"), ("import_names", "y"), ("import_names", "z"), ("news", "w"))
    assert form.kept == {}


def test_protocol_version_may_be_left_out() -> None:
    assert read(protocol_version=None).name == "gears"


def test_the_description_is_cut_and_not_refused() -> None:
    kept = read_form(fields(description="é" * 50), action=None, max_description=20).kept
    assert kept["description"] == "é" * 20
    whole = read_form(fields(description="é" * 20), action=None, max_description=20).kept
    assert whole["description"] == "é" * 20


def test_other_kept_fields_are_cut_too() -> None:
    most = module._MAX_KEPT
    form = read(("classifiers", "c" * (most + 1)), summary="s" * (most + 1))
    assert form.kept["summary"] == "s" * most
    assert form.kept["classifiers"] == ["c" * most]


def test_a_list_is_kept_up_to_a_number_of_items() -> None:
    many = [("classifiers", str(number)) for number in range(module._MAX_KEPT_ITEMS + 5)]
    kept = read(*many).kept["classifiers"]
    assert kept == [str(number) for number in range(module._MAX_KEPT_ITEMS)]


def test_what_is_no_known_field_is_not_kept() -> None:
    form = read(("evil", "x"), comment="a comment", md5_digest="0" * 32, requires_python=">=3")
    assert form.kept == {}


def test_digests_are_kept_in_lower_case_for_comparison() -> None:
    assert read(sha256_digest=" " + "AB" * 32 + "\n").digests == {"sha256_digest": "ab" * 32}


@pytest.mark.parametrize(
    ("filename", "kind", "message"),
    [
        ("cogs-1.0-py3-none-any.whl", "bdist_wheel", "belongs to cogs, not to gears"),
        ("gears-1.1-py3-none-any.whl", "bdist_wheel", "says version 1.1, the form 1.0"),
        ("gears-1.0.tar.gz", "bdist_wheel", "is no wheel"),
        ("gears-1.0-py3-none-any.whl", "sdist", "is no sdist"),
        ("gears-1.0+local-py3-none-any.whl", "bdist_wheel", "says version 1.0.local|1.0\\+local"),
    ],
)
def test_a_filename_must_belong_to_the_form(filename: str, kind: str, message: str) -> None:
    form = read(filetype=kind)
    with pytest.raises(InvalidFilename, match=message):
        check_filename(form, parse_distribution(filename))


@pytest.mark.parametrize("filename", ["Gears-1.0-py3-none-any.whl", "gears-1-py3-none-any.whl"])
def test_other_spellings_of_name_and_version_belong_to_it(filename: str) -> None:
    check_filename(read(), parse_distribution(filename))


CONTENT = b"content"
ACTUAL = {
    "md5_digest": hashlib.md5(CONTENT).hexdigest(),
    "sha256_digest": hashlib.sha256(CONTENT).hexdigest(),
    "blake2_256_digest": hashlib.blake2b(CONTENT, digest_size=32).hexdigest(),
}


@pytest.mark.parametrize("wrong", sorted(ACTUAL))
def test_every_digest_that_is_given_must_be_right(wrong: str) -> None:
    check_digests(read(**ACTUAL), ACTUAL)
    check_digests(read(), ACTUAL)
    flipped = ACTUAL[wrong].translate(str.maketrans("0123456789abcdef", "123456789abcdef0"))
    with pytest.raises(DigestMismatch, match=wrong):
        check_digests(read(**{**ACTUAL, wrong: flipped}), ACTUAL)
