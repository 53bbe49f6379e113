from __future__ import annotations

import hashlib
import os
import re
import traceback
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.config.load import MAX_BYTES, Loaded, load, load_bytes, shipped_defaults
from proxy.config.nodes import MAX_DEPTH
from proxy.config.values import Entry
from proxy.domain.snapshot import SHIPPED
from proxy.errors import ConfigError


def loaded(text: str, **environ: str) -> Loaded:
    return load_bytes(text.encode(), "pypi-overlay.yaml", environ)


def problems(text: str | bytes, **environ: str) -> list[str]:
    content = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(ConfigError) as caught:
        load_bytes(content, "f", environ)
    return [str(problem) for problem in caught.value.problems]


# Reading the file


def test_without_a_file_the_shipped_defaults_hold() -> None:
    nothing = load(None, {})
    assert nothing.file is None
    assert nothing.digest == hashlib.sha256(shipped_defaults()).hexdigest()
    assert nothing.config.server.listen == "127.0.0.1:8080"


def test_a_file_is_known_by_its_name_and_digest(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"log: {level: debug}\n")
    result = load(str(path), {})
    assert result.file == str(path)
    assert result.digest == hashlib.sha256(b"log: {level: debug}\n").hexdigest()
    assert result.config.log.level == "debug"


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: there is no such file; .*--config"):
        load(str(tmp_path / "nowhere.yaml"), {})


def test_a_directory_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a file, got a directory"):
        load(str(tmp_path), {})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_told_as_such(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("")
    path.chmod(0)
    with pytest.raises(ConfigError, match="may not be read"):
        load(str(path), {})


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000])
def test_an_impossible_path_is_a_config_error(path: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(path, {})


def test_a_huge_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(ConfigError, match="expected at most 16MiB"):
        load(str(path), {})


def test_text_that_is_not_utf_8_is_told_with_its_line() -> None:
    assert problems(b"log: {}\nusers: {}\n# \xe4\n") == [
        "f:3: expected UTF-8; save the file in that encoding"
    ]


def test_a_byte_order_mark_is_no_hindrance() -> None:
    assert load_bytes(b"\xef\xbb\xbflog: {level: error}", "f", {}).config.log.level == "error"


# YAML


@pytest.mark.parametrize("text", ["", "\n# nothing\n", "---\n", "---\n...\n", "null", "~"])
def test_an_empty_file_is_the_defaults(text: str) -> None:
    assert loaded(text).config == load(None, {}).config


@pytest.mark.parametrize(
    ("text", "got"), [("- a", "a list"), ("a", "a single value"), ("3", "a single value")]
)
def test_the_top_is_a_mapping(text: str, got: str) -> None:
    assert problems(text) == [f"f:1: expected a mapping of keys such as server and groups, got {got}"]


@pytest.mark.parametrize("text", ["log: {\n", "log: [}\n", "a:\n\tb: c\n", "log:\n  level: 'x\n"])
def test_broken_yaml_is_one_problem_with_a_line(text: str) -> None:
    (problem,) = problems(text)
    assert problem.startswith(("f:1: not valid YAML: ", "f:2: not valid YAML: ", "f:3: not valid YAML: "))


def test_broken_yaml_names_the_line_that_breaks_it() -> None:
    assert problems("log: {}\nusers: {}\nserver: a: b\n")[0].startswith("f:3: not valid YAML")


def test_a_tab_is_told_as_one() -> None:
    assert problems("server:\n\tlisten: x\n") == ["f:2: not valid YAML: a tab; indent with spaces"]


def test_a_control_character_is_told_with_its_line() -> None:
    assert problems("log: {}\nusers: {a\x01: {}}\n") == [
        "f:2: not valid YAML: a control character that YAML does not allow"
    ]


def test_a_key_that_stands_twice_is_told_with_both_lines() -> None:
    text = "cache:\n  fresh_for: 1m\n  not_found_for: 1m\n  fresh_for: 2m\ncache: {}\n"
    assert problems(text) == [
        "f:4: cache.fresh_for: stands twice, first in line 2",
        "f:5: cache: stands twice, first in line 1",
    ]


@pytest.mark.parametrize("key", ["on", "42", "3.10", "null", "2026-05-01", "~"])
def test_keys_are_strings(key: str) -> None:
    assert problems(f"groups:\n  {key}: {{}}\n") == [
        f"f:2: groups: expected a key that is a string, got '{key}': put it in quotes"
    ]


def test_a_key_in_quotes_is_a_string() -> None:
    assert "on" in loaded("groups: {'on': {}}").config.groups


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("users: &u {a: {}}\ngroups: *u\n", "f:2: groups: aliases are not supported"),
        ("users:\n  <<: {a: {}}\n", "f:2: users: merge keys (<<) are not supported"),
        ("users: !!python/object:os.system {}\n", "f:1: users: YAML tags are not supported"),
        ("log: {level: !secret x}\n", "f:1: log.level: YAML tags are not supported"),
        ("users:\n  ? [a]\n  : {}\n", "f:2: users: expected a key that is a string"),
        ("log: {}\n---\nlog: {}\n", "f:2: a second document begins here"),
    ],
)
def test_what_is_not_supported_of_yaml_is_refused(text: str, told: str) -> None:
    assert any(problem.startswith(told) for problem in problems(text))


def test_a_bomb_of_aliases_is_refused_at_once() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    assert "aliases are not supported" in problems("\n".join(lines))[1]


def test_an_alias_within_itself_is_refused() -> None:
    assert any("aliases are not supported" in problem for problem in problems("users: &a {x: *a}"))


@pytest.mark.parametrize("opening", ["[", "{", "{a: ", "? ", "- "])
def test_deep_nesting_is_refused(opening: str) -> None:
    (problem,) = problems("users: \n  " + opening * 900)
    assert "not valid YAML" in problem or f"nested more than {MAX_DEPTH} levels deep" in problem


def test_groups_may_lie_within_groups_as_deep_as_anyone_needs() -> None:
    text = "".join(f"{'  ' * (2 * depth)}groups:\n{'  ' * (2 * depth + 1)}g{depth}:\n" for depth in range(25))
    group = loaded(text + "  " * 50 + "id: 7\n").config.groups["g0"]
    for depth in range(1, 25):
        group = group.groups[f"g{depth}"]
    assert group.id == 7


def test_strings_with_a_str_tag_are_strings() -> None:
    assert loaded("policy: {deny: [!!str 3.10]}").config.policy.deny == (Entry("3-10", "3-10"),)


def test_a_number_of_many_digits_is_a_problem_not_a_crash() -> None:
    assert "groups.a.id: expected a whole number" in problems(f"groups: {{a: {{id: {'9' * 5000}}}}}")[0]


# Laid over the defaults


def test_a_file_is_laid_over_the_defaults_key_by_key() -> None:
    config = loaded("cache: {fresh_for: 1h}\nupstreams: {pypi: {read_timeout: 9s}}").config
    assert config.cache.fresh_for == timedelta(hours=1)
    assert config.cache.not_found_for == timedelta(seconds=60)
    pypi = config.upstreams["pypi"]
    assert pypi is not None
    assert pypi.read_timeout == timedelta(seconds=9)
    assert pypi.file_hosts == load(None, {}).config.upstreams["pypi"].file_hosts  # type: ignore[union-attr]


def test_lists_replace_lists() -> None:
    assert loaded("policy: {allow: [numpy]}").config.policy.allow == (Entry("numpy", "numpy"),)


def test_projects_and_users_replace_the_shipped_ones_whole() -> None:
    assert list(loaded("projects: {own: {}}").config.projects) == ["own"]
    assert list(loaded("groups: {acme: {}}").config.projects) == ["default"]
    assert loaded("projects: {}").config.projects == {}


def test_further_upstreams_stand_beside_the_shipped_one() -> None:
    assert list(loaded("upstreams: {mirror: {index_url: 'http://m.example'}}").config.upstreams) == [
        "pypi",
        "mirror",
    ]


def test_the_shipped_upstream_goes_with_null() -> None:
    assert loaded("upstreams: {pypi: null}\npolicy: {upstreams: []}").config.upstreams == {"pypi": None}


def test_an_upstream_that_the_shipped_policy_names_does_not_go_alone() -> None:
    assert problems("log: {}\nupstreams:\n  pypi: null\n") == [
        "f:3: upstreams.pypi: the shipped policy.upstreams names it; set policy.upstreams too, for example to []"
    ]


def test_groups_keep_the_order_of_the_file() -> None:
    assert list(loaded("groups: {b: {}, a: {}, c: {}}").config.groups) == ["b", "a", "c"]


# Origins


def test_every_value_knows_its_line() -> None:
    result = loaded(
        "log:\n  level: debug\ngroups:\n  acme:\n    policy:\n      reserve:\n        - a\n        - b-*\n"
    )
    origin = result.origin(("groups", "acme", "policy", "reserve", 1))
    assert (origin.file, origin.line, origin.path) == ("pypi-overlay.yaml", 8, "groups.acme.policy.reserve.1")
    assert result.origin(("groups", "acme", "policy", "reserve")).line == 6
    assert result.origin(("log", "level")).line == 2


def test_a_value_that_no_file_has_leads_to_the_nearest_key_above() -> None:
    origin = loaded("groups:\n  acme:\n    id: 1\n").origin(("groups", "acme", "policy", "forward"))
    assert (origin.line, origin.path) == (2, "groups.acme")


def test_a_default_leads_to_the_shipped_file() -> None:
    origin = loaded("policy:\n  reserve: [x]\n").origin(("policy", "forward"))
    assert origin.file == SHIPPED
    line = shipped_defaults().decode().splitlines()[origin.line - 1]
    assert line.strip().startswith("forward: true")


# The environment


def test_variables_and_their_defaults_are_read() -> None:
    config = loaded(
        'storage: {data_dir: "${HOME}/data"}\nlog: {level: "${LEVEL:-debug}", format: "${FORMAT:-text}"}',
        HOME="/home/x",
        FORMAT="json",
    ).config
    assert (config.storage.data_dir, config.log.level, config.log.format) == ("/home/x/data", "debug", "json")


def test_an_empty_variable_takes_the_default() -> None:
    assert loaded('log: {level: "${LEVEL:-debug}"}', LEVEL="").config.log.level == "debug"


def test_variables_serve_for_numbers_sizes_and_true() -> None:
    config = loaded(
        "limits:\n  max_description: ${A}\n  max_file_size: ${B}MiB\npolicy:\n  forward: ${C}\n",
        A="7",
        B="2",
        C="false",
    ).config
    assert (config.limits.max_description, config.limits.max_file_size) == (7, 2 << 20)
    assert config.policy.forward is False


def test_a_variable_cannot_become_yaml() -> None:
    value = "a: b\n- &x [c] # ${HOME} $$ \u2028"
    config = loaded(
        'upstreams: {m: {index_url: "http://m", username: u, password: "${PW}"}}', PW="a: &x [${Q}] $$"
    )
    password = config.config.upstreams["m"].password  # type: ignore[union-attr]
    assert password is not None
    assert password.get_secret_value() == "a: &x [${Q}] $$"
    assert (
        "storage.data_dir: expected text of one line" in problems('storage: {data_dir: "${X}"}', X=value)[0]
    )


def test_two_dollars_are_one_and_a_lone_one_stays() -> None:
    config = loaded("storage: {data_dir: '/a$$b$c$${X}/${Y:-$$}'}").config
    assert config.storage.data_dir == "/a$b$c${X}/$"


def test_keys_are_not_substituted() -> None:
    assert problems('groups: {"${X}": {}}', X="acme")[0].startswith("f:1: groups.${X}: expected a name")


def test_an_unset_variable_is_one_problem_with_its_place() -> None:
    assert problems("log: {}\ncache:\n  fresh_for: ${NOPE}\n") == [
        "f:3: cache.fresh_for: the environment has no NOPE; set it, or write ${NOPE:-default}"
    ]


@pytest.mark.parametrize("text", ["${", "${1A}", "${A-b}", "${A:-${B}}", "${}", "${A B}"])
def test_a_malformed_reference_is_refused(text: str) -> None:
    (problem,) = problems(f"storage: {{data_dir: '{text}'}}", A="", B="")
    assert problem.startswith("f:1: storage.data_dir: expected ${NAME} or ${NAME:-default}")


# Problems


def test_everything_wrong_is_told_at_once_in_the_order_of_the_file() -> None:
    text = """\
cache: {fresh_for: soon}
log: {level: loud, level: info}
server:
  listen: ${NOPE}
  node: 4
users: {alice: {}}
groups:
  acme:
    members: {bob: owner}
    policy:
      max_age: 3d
      deny: [3.10]
    projects: {x: {id: 1}, X: {id: "1"}}
"""
    assert [problem.partition(": ")[0] + " " + problem.split(": ")[1] for problem in problems(text)] == [
        "f:1 cache.fresh_for",
        "f:2 log.level",
        "f:4 server.listen",
        "f:5 server.node",
        "f:9 groups.acme.members.bob",
        "f:11 groups.acme.policy.max_age",
        "f:12 groups.acme.policy.deny.0",
        "f:13 groups.acme.projects.X.id",
        "f:13 groups.acme.projects.X",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("cache: {fresh_for: soon}", 'f:1: cache.fresh_for: expected a duration such as 3d, got "soon"'),
        ("cache: {fresh_for: 3}", "f:1: cache.fresh_for: expected a duration such as 3d, got 3"),
        ("policy: {forward: 'true'}", 'f:1: policy.forward: expected true or false, got "true"'),
        ("policy: {forward: }", "f:1: policy.forward: expected true or false, got nothing"),
        ("policy: {forward: null}", "f:1: policy.forward: expected true or false, got null"),
        (
            "policy: {deny: [3.10]}",
            "f:1: policy.deny.0: expected a name pattern in quotes such as 'acme-*' or 'django>=4.2,<6', got 3.10",
        ),
        ("policy: {deny: x}", 'f:1: policy.deny: expected a list such as [a, b], got "x"'),
        ("server: null", "f:1: server: expected a mapping such as {}, got null"),
        ("users: {alice: }", "f:1: users.alice: expected a mapping such as {}, got nothing"),
        ("users: [alice]", "f:1: users: expected a mapping such as {}, got a list"),
        (
            "users: {a: {}}\nmembers: {a: king}",
            'f:2: members.a: expected reporter, developer, maintainer or owner, got "king"',
        ),
        ("upstreams: {m: {}}", "f:1: upstreams.m.index_url: expected the key index_url, got nothing"),
        ("log: {levle: info}", "f:1: log.levle: unknown key; did you mean level?"),
        ("log: {q: info}", "f:1: log.q: unknown key; known here: format, level"),
        ("users: {alice: {mail: x}}", "f:1: users.alice.mail: unknown key; none is known here"),
        (
            "groups: {a: {groups: {b: {polcy: {}}}}}",
            "f:1: groups.a.groups.b.polcy: unknown key; did you mean policy?",
        ),
        (
            "server: {tls: {cert: x, key: y}}",
            "f:1: server.tls.cert: unknown key; known here: certificate, key",
        ),
        (
            "groups: {simple: {}}",
            "f:1: groups.simple: expected a name that is not a reserved word, which begins other addresses, got",
        ),
        (
            "policy: {upstreams: [pypi, pypi]}",
            'f:1: policy.upstreams.1: expected every upstream once, got "pypi"',
        ),
        (
            "groups: {a: {id: 7}, b: {id: 7}}",
            "f:1: groups.b.id: expected another number than that of groups.a, got 7",
        ),
        ("colours: {}", "f:1: colours: unknown key; known here: server, log, storage, limits, cache"),
    ],
)
def test_problems_say_what_was_expected_and_what_was_found(text: str, problem: str) -> None:
    assert any(told.startswith(problem) for told in problems(text))


@pytest.mark.parametrize(
    "key",
    [
        "storage: {lease: 3s}",
        "projects: {a: {at_root: false}}",
        "policy: {at_root: false}",
    ],
)
def test_keys_without_a_feature_are_unknown(key: str) -> None:
    assert "unknown key" in problems(key)[0]


_SECRET = 48151623


@pytest.mark.parametrize(
    "text",
    [
        "upstreams: {m: {index_url: 'http://m', password: 48151623}}",
        "upstreams: {m: {index_url: 'http://m', password: \"${PW}\"}}",
        "upstreams: {m: {index_url: 'http://m', password: [48151623]}}",
        "upstreams: {m: {index_url: 'http://m', password: {48151623x: 1}}}",
        "upstreams: {m: {index_url: 'http://m', passwort: 48151623}}",
        "upstreams: {m: {index_url: 'http://m', password: !48151623 x}}",
        "upstreams: {m: {index_url: 'http://m', password: *48151623 }}",
        "upstreams: {m: {index_url: 'http://u:48151623@m'}}",
        "upstreams: {m: {index_url: 'u:48151623@m'}}",
        "upstreams: {m: {index_url: 'http://m', proxy: 'u:48151623@p'}}",
        "upstreams: {m: {index_url: 'http://m', proxy: 'http://u:48151623@p/x'}}",
        "upstreams: {m: {index_url: 'http://m', username: u, password: \"4\\n${PW}\"}}",
        'log: {level: "${PW}"}',
        'limits: {max_file_size: "${PW}MB"}',
        'policy: {deny: ["${PW}!"]}',
        'policy: {upstreams: ["${PW}"]}',
        'server: {default_project: "${PW}"}',
        'server: {default_project: "api/${PW}"}',
        'groups: {a: {aliases: ["${PW}", "${PW}"]}}',
        'groups: {a: {id: "${PW}"}, b: {id: "${PW}"}}',
    ],
)
def test_no_problem_tells_a_secret(text: str) -> None:
    environ = {"PW": str(_SECRET)}
    with pytest.raises(ConfigError) as caught:
        load_bytes(text.encode(), "f", environ)
    assert caught.value.problems
    assert str(_SECRET) not in "".join(traceback.format_exception(caught.value))
    assert str(_SECRET) not in repr(caught.value.problems)


def test_nothing_loaded_shows_a_password() -> None:
    text = (
        "upstreams: {m: {index_url: 'http://m', username: u, password: 'geheim', proxy: 'http://u:geheim@p'}}"
    )
    assert "geheim" not in repr(loaded(text))


# Any text at all

_WORDS = """server log storage limits cache upstreams visibility members policy users groups projects id aliases
forward lock pypi index_url password tls null true 3 3.10 0x1F 1:30 2026-13-45 .inf soon 3d 5GiB ${X} ${ $$ '' " '
a A acme [] {} [ ] { } : - , & * ! | > % @ # ? << &a *a !!int !!str --- ... \t"""
_LIKE_YAML = st.lists(
    st.sampled_from(re.split("[ \n]", _WORDS))
    | st.sampled_from([" ", "\n", "\n  ", "\n    ", ": ", ":\n  ", ", "]),
    max_size=60,
).map("".join)


def _messages(content: bytes) -> list[str]:
    try:
        load_bytes(content, "f", {"X": "x"})
    except ConfigError as error:
        return [problem.message for problem in error.problems] or [""]
    return []


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200) | _LIKE_YAML)
@example("groups: {a: {id: 1_000, visibility: 0o7}}")
@example("? {? {? a}}")
@example("a: !!int x")
@example("log: {level: =}")
def test_no_text_raises_anything_but_a_config_error(text: str) -> None:
    assert all(_messages(text.encode()))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=100))
@example(b"\xff\xfe\x00")
@example(b"%YAML 3.0\n---\n")
def test_no_bytes_raise_anything_but_a_config_error(content: bytes) -> None:
    assert all(_messages(content))
