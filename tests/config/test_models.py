from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from ipaddress import ip_network
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet
from pydantic import TypeAdapter, ValidationError

from proxy.config import models, values, words
from proxy.config.models import Config, Group, Policy, Project, Section, Tls, Upstream
from proxy.config.nodes import Substituted
from proxy.domain.policy import POLICY_KEYS


def accepted(kind: Any, raw: object) -> object:
    return TypeAdapter(kind).validate_python(raw)


def refused(kind: Any, raw: object) -> str:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(kind).validate_python(raw)
    return caught.value.errors()[0]["msg"]


@pytest.mark.parametrize(
    ("raw", "size"),
    [
        (0, 0),
        (1234, 1234),
        ("1234", 1234),
        ("64KiB", 65536),
        ("100MiB", 100 << 20),
        ("5GiB", 5 << 30),
        (Substituted("5GiB"), 5 << 30),
        (Substituted("17"), 17),
    ],
)
def test_a_size_is_bytes_or_has_a_unit(raw: object, size: int) -> None:
    assert accepted(values.Size, raw) == size


@pytest.mark.parametrize(
    "raw",
    ["soon", "5GB", "5 GiB", "-1", -1, 1.5, True, None, "", "1e9", "٣GiB", "9" * 40, "999999999999GiB", []],
)
def test_anything_else_is_not_a_size(raw: object) -> None:
    assert refused(values.Size, raw) == "expected a size such as 5GiB"


def test_a_limit_of_zero_bytes_is_refused() -> None:
    assert refused(values.PositiveSize, "0KiB") == "expected a size above 0 such as 100MiB"


@pytest.mark.parametrize(
    ("raw", "duration"),
    [
        ("0s", timedelta(0)),
        ("90s", timedelta(seconds=90)),
        ("10m", timedelta(minutes=10)),
        ("36h", timedelta(hours=36)),
        ("3d", timedelta(days=3)),
    ],
)
def test_a_duration_has_a_unit(raw: str, duration: timedelta) -> None:
    assert accepted(values.Duration, raw) == duration


@pytest.mark.parametrize("raw", ["soon", "3", 3, 0, "3w", "1h30m", "-1s", "1.5h", None, True, {}])
def test_anything_else_is_not_a_duration(raw: object) -> None:
    assert refused(values.Duration, raw) == "expected a duration such as 3d"


@pytest.mark.parametrize("raw", ["36501d", "999999999999d"])
def test_a_duration_beyond_a_century_is_refused(raw: str) -> None:
    assert refused(values.Duration, raw) == "expected a duration of at most 36500d"


def test_a_time_out_of_zero_is_refused() -> None:
    assert refused(values.PositiveDuration, "0s") == "expected a duration above 0s such as 30s"


def test_words_and_digits_count_as_values_only_from_the_environment() -> None:
    assert accepted(values.Flag, Substituted("False")) is False
    assert accepted(values.Flag, Substituted("yes")) is True
    assert refused(values.Flag, "true") == "expected true or false"
    assert accepted(values.PositiveCount, Substituted("20")) == 20
    assert refused(values.PositiveCount, "20") == "expected a whole number of at least 1 such as 50"
    assert (
        refused(values.PositiveCount, Substituted("²")) == "expected a whole number of at least 1 such as 50"
    )


@pytest.mark.parametrize(
    ("kind", "least", "most"), [(values.Workers, 1, 64), (values.Retries, 0, 10)], ids=["workers", "retries"]
)
def test_some_numbers_have_an_upper_bound(kind: Any, least: int, most: int) -> None:
    assert accepted(kind, least) == least
    assert accepted(kind, Substituted(str(most))) == most
    for raw in (least - 1, most + 1, "2", None):
        assert refused(kind, raw) == f"expected a whole number from {least} to {most}"


@pytest.mark.parametrize("raw", [True, 1.0, -1, 1 << 63, None])
def test_a_number_is_whole_and_fits_a_database(raw: object) -> None:
    assert refused(values.Count, raw).startswith("expected a whole number")


@pytest.mark.parametrize(
    ("raw", "url"),
    [
        ("https://index.example/simple", "https://index.example/simple/"),
        ("https://index.example/simple/", "https://index.example/simple/"),
        ("http://127.0.0.1:8081", "http://127.0.0.1:8081/"),
        ("http://[::1]:8081/a/b", "http://[::1]:8081/a/b/"),
    ],
)
def test_an_index_address_ends_in_a_slash(raw: str, url: str) -> None:
    assert accepted(values.IndexUrl, raw) == url


@pytest.mark.parametrize(
    "raw",
    [
        "index.example/simple",
        "ftp://index.example/",
        "file:///srv/index",
        "https://",
        "https:///simple/",
        "https://index.example:port/",
        "https://index.example:99999/",
        "https://index.example:0/",
        "https://[::1/",
        "https://[1:2]/",
        "https://in dex.example/",
        "https://index.example/\n",
        "https://ex\u00e4mple/",
        "https://evil.example\\@index.example/",
        7,
        None,
    ],
)
def test_an_address_that_two_readers_could_read_differently_is_refused(raw: object) -> None:
    assert refused(values.IndexUrl, raw) == "expected an http:// or https:// address"


@pytest.mark.parametrize(
    "raw", ["https://user:geheim@index.example/", "https://geheim@index.example/", "https://@x/"]
)
def test_credentials_do_not_stand_in_an_index_address(raw: str) -> None:
    message = refused(values.IndexUrl, raw)
    assert "username and password" in message
    assert "geheim" not in message


@pytest.mark.parametrize(
    "raw", ["https://index.example/?a", "https://index.example/#a", "https://index.example/?"]
)
def test_an_index_address_has_neither_query_nor_fragment(raw: str) -> None:
    assert refused(values.IndexUrl, raw) == "expected an address without query and fragment"


@pytest.mark.parametrize(
    ("raw", "url"),
    [
        (None, None),
        ("https://pypi.example", "https://pypi.example"),
        ("http://127.0.0.1:8080/", "http://127.0.0.1:8080"),
        ("https://pypi.example/a/b/", "https://pypi.example/a/b"),
    ],
)
def test_the_server_s_own_address_has_no_slash_at_its_end(raw: str | None, url: str | None) -> None:
    assert accepted(values.ExternalUrl, raw) == url


@pytest.mark.parametrize(
    "raw", ["pypi.example", "ftp://pypi.example", "https://pypi.example/?a", "https://x/#"]
)
def test_other_addresses_of_its_own_are_refused(raw: str) -> None:
    assert refused(values.ExternalUrl, raw).startswith("expected the address of this server for its clients")


def test_credentials_do_not_stand_in_the_server_s_own_address() -> None:
    """What else is wrong is told with the value that was given."""
    message = "expected an address without user name and password"
    assert refused(values.ExternalUrl, "https://user:geheim@pypi.example") == message


def test_an_empty_optional_text_means_that_the_key_is_left_out() -> None:
    assert accepted(values.ProxyUrl, Substituted("")) is None
    assert accepted(values.OptionalText, "") is None
    assert accepted(values.Secret, Substituted("")) is None


@pytest.mark.parametrize(
    "raw", ["files.example", "files.example:8443", "*.files.example", "127.0.0.1:8081", "[::1]:8081", "[::1]"]
)
def test_file_hosts_are_hosts_with_a_port_or_a_leading_star(raw: str) -> None:
    assert accepted(values.FileHost, raw) == raw


@pytest.mark.parametrize(
    "raw",
    ["*", "*.", "a.*", "**.x", "https://files.example", "files.example/", "x:0", "x:70000", "*.x:80", "", 7],
)
def test_other_file_hosts_are_refused(raw: object) -> None:
    assert refused(values.FileHost, raw).startswith("expected host, host:port or *.host")


@pytest.mark.parametrize(
    "raw", ["127.0.0.1:8080", "0.0.0.0:0", "[::]:80", "localhost:8080", "unix:/run/x.sock"]
)
def test_listen_is_a_host_with_a_port_or_a_socket(raw: str) -> None:
    assert accepted(values.Listen, raw) == raw


@pytest.mark.parametrize(
    "raw", [8080, "8080", ":8080", "::1:8080", "a:70000", "a:", "unix:", "unix:x", "http://a:1"]
)
def test_other_places_to_listen_are_refused(raw: object) -> None:
    assert refused(values.Listen, raw) == "expected host:port such as 127.0.0.1:8080, or unix:/path"


def test_trusted_proxies_are_networks_without_host_bits() -> None:
    assert accepted(values.Network, "10.0.0.0/8") == ip_network("10.0.0.0/8")
    assert accepted(values.Network, "::1") == ip_network("::1/128")
    for raw in ("10.0.0.1/8", "proxy.example", 10, None):
        assert refused(values.Network, raw).startswith("expected an address or a network without host bits")


@pytest.mark.parametrize("raw", ["simple", "api", "_", "favicon.ico", "integrity"])
def test_reserved_words_are_no_segments(raw: str) -> None:
    told = "expected a name that is not a reserved word, which begins other addresses"
    assert refused(values.Segment, raw) == told
    assert refused(values.NamespacePathText, f"acme/{raw}") == told


@pytest.mark.parametrize("raw", ["", "-", "-a", ".a", "a b", "a\n", "\u00e4", "a/b", "+2026-05-01", "a+b"])
def test_segments_outside_the_grammar_are_refused(raw: str) -> None:
    assert refused(values.Segment, raw)


@pytest.mark.parametrize("raw", ["a", "A.b-c_d", "_x", "0a", "Simple"])
def test_segments_of_the_grammar_pass(raw: str) -> None:
    assert accepted(values.Segment, raw) == raw


@pytest.mark.parametrize("raw", ["/acme", "acme/", "acme//x", "", "42/x", None, 42])
def test_a_path_has_no_outer_slash_and_no_number_on_top(raw: object) -> None:
    assert refused(values.NamespacePathText, raw)


@pytest.mark.parametrize(
    ("raw", "pattern"),
    [("Acme.*", "acme-*"), ("*", "*"), ("Zope.Interface", "zope-interface"), ("3.10", "3-10")],
)
@pytest.mark.parametrize("kind", [values.BarePattern, values.RuleText, models.PatternEntry, models.RuleEntry])
def test_patterns_are_normalised_as_names_are(kind: Any, raw: str, pattern: str) -> None:
    assert accepted(kind, raw) == values.Entry(pattern, pattern)


@pytest.mark.parametrize(
    ("raw", "text", "pattern"),
    [
        ("Django>=4.2,<6", "django>=4.2,<6", "django"),
        ("django >= 4.2, < 6", "django>=4.2,<6", "django"),
        ("acme-*~=1.4", "acme-*~=1.4", "acme-*"),
        ("*==0.0.*", "*==0.0.*", "*"),
        ("a==1.0+local", "a==1.0+local", "a"),
        ("a === 1.0-weird", "a===1.0-weird", "a"),
        ("a!=1!2.0", "a!=1!2.0", "a"),
    ],
)
@pytest.mark.parametrize("kind", [values.RuleText, models.RuleEntry])
def test_the_versions_that_an_entry_speaks_of_stand_behind_its_pattern(
    kind: Any, raw: str, text: str, pattern: str
) -> None:
    versions = SpecifierSet(text.removeprefix(pattern))
    assert accepted(kind, raw) == values.Entry(text, pattern, versions)


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (3.10, "in quotes"),
        (True, "in quotes"),
        (None, "in quotes"),
        (date(2026, 5, 1), "in quotes"),
        ("a/b", "expected a name pattern such as acme-*"),
        ("-a", "expected a name pattern such as acme-*"),
        ("", "expected a name pattern such as acme-*"),
        ("a b", "expected a name pattern such as acme-*"),
        ("a[b]", "without extras"),
        ("a; python_version < '3'", "without environment markers"),
        ("a @ https://a.example/a.whl", "without an address"),
    ],
)
@pytest.mark.parametrize("kind", [values.BarePattern, values.RuleText, models.PatternEntry, models.RuleEntry])
def test_what_is_not_a_pattern_is_refused_with_what_would_be(kind: Any, raw: object, told: str) -> None:
    assert told in refused(kind, raw)


@pytest.mark.parametrize("raw", ["django>=4.2", "django ~= 4", "==1.0", "*<2"])
@pytest.mark.parametrize("kind", [values.BarePattern, models.PatternEntry])
def test_a_specifier_is_refused_where_an_entry_speaks_of_whole_names(kind: Any, raw: str) -> None:
    assert "without a version specifier" in refused(kind, raw)


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ("==1.0", "a name or * before the version specifier"),
        (" >=1.0", "a name or * before the version specifier"),
        ("a=1.0", "a version specifier such as >=4.2,<6 after the name"),
        ("a>=1.0,", "a version specifier such as >=4.2,<6 after the name"),
        ("a>=1.0,,<2", "a version specifier such as >=4.2,<6 after the name"),
        ("a>=1.0 <2", "a version specifier such as >=4.2,<6 after the name"),
        ("a>=latest", "a version specifier such as >=4.2,<6 after the name"),
        ("a>=1.0+local", "a version specifier such as >=4.2,<6 after the name"),
        ("a==1.\u0660", "a version specifier such as >=4.2,<6 after the name"),
        ("a===1\x7f", "a version specifier such as >=4.2,<6 after the name"),
        ("a (>=1.0)", "without brackets"),
    ],
)
@pytest.mark.parametrize("kind", [values.RuleText, models.RuleEntry])
def test_a_specifier_that_two_readers_could_read_differently_is_refused(
    kind: Any, raw: str, told: str
) -> None:
    assert told in refused(kind, raw)


def test_a_long_entry_says_why_and_until_when() -> None:
    moment = datetime(2026, 5, 1, tzinfo=UTC)
    long = {"until": date(2026, 5, 1), "reason": "it breaks", "match": "A.b<2"}
    assert accepted(models.RuleEntry, long) == values.Entry(
        "a-b<2", "a-b", SpecifierSet("<2"), "it breaks", moment
    )
    assert accepted(models.PatternEntry, {"match": "a"}) == values.Entry("a", "a")


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"match": "a", "since": date(2026, 5, 1)},
        {"match": "a", "until": None},
        {"match": "a", "reason": ""},
        {"match": "a", "reason": "x" * 501},
        {"match": {"match": "a"}},
        {"match": "a<2"},
    ],
)
def test_other_long_entries_are_refused(raw: dict[str, object]) -> None:
    assert refused(models.PatternEntry, raw)


@pytest.mark.parametrize(
    ("raw", "moment"),
    [
        (date(2026, 5, 1), datetime(2026, 5, 1, tzinfo=UTC)),
        ("2026-05-01", datetime(2026, 5, 1, tzinfo=UTC)),
        (Substituted("2026-05-01"), datetime(2026, 5, 1, tzinfo=UTC)),
        ("2026-05-01T08:00:00Z", datetime(2026, 5, 1, 8, tzinfo=UTC)),
        (datetime(2026, 5, 1, 10, tzinfo=timezone(timedelta(hours=2))), datetime(2026, 5, 1, 8, tzinfo=UTC)),
    ],
)
def test_a_date_is_its_first_moment_in_utc(raw: object, moment: datetime) -> None:
    found = accepted(values.Moment, raw)
    assert found == moment
    assert isinstance(found, datetime)
    assert found.tzinfo is UTC


@pytest.mark.parametrize(
    "raw",
    [
        *("soon", "2026-5-1", "2026-02-30", "20260501", "2026-05-01T08:00:00", "2026-05-01 08:00:00Z"),
        *("2026-05-01T08:00Z", "\u0662026-05-01", 2026, None, True, [], "2026-05-01\n"),
        datetime(2026, 5, 1, 8),  # noqa: DTZ001 - what YAML makes of a moment without a zone
        datetime(2026, 5, 1, 8, 0, 0, 1, tzinfo=UTC),
    ],
)
def test_anything_else_is_not_a_date(raw: object) -> None:
    told = "expected a date such as 2026-05-01, or a moment such as 2026-05-01T08:00:00Z"
    assert refused(values.Moment, raw) == told


def test_a_moment_beyond_the_years_of_the_calendar_is_refused() -> None:
    raw = datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-2)))
    assert refused(values.Moment, raw) == "expected a date between the years 1 and 9999"


def test_no_vulnerability_counts_where_the_word_is_off_which_yaml_reads_as_false() -> None:
    assert accepted(words.VulnerableWord, False) == accepted(words.VulnerableWord, "off") == "off"
    for raw in (True, None, 0, "on", "Deny"):
        assert refused(words.VulnerableWord, raw) == "expected off, warn or deny"


@pytest.mark.parametrize(
    ("kind", "numbers", "told"),
    [(values.NotForwarded, (404, 451), "404 or 451"), (values.Refused, (451, 403), "451 or 403")],
    ids=["not_forwarded", "refused"],
)
def test_statuses_of_refusals_are_those_that_clients_understand(
    kind: Any, numbers: tuple[int, int], told: str
) -> None:
    for number in numbers:
        assert accepted(kind, number) == number
        assert accepted(kind, Substituted(str(number))) == number
    for raw in (200, 500, "451", None, 451.0):
        assert refused(kind, raw) == f"expected {told}"


@pytest.mark.parametrize(
    ("kind", "raw"),
    [
        (models.Exemption, {"id": "CVE-1", "name": "a", "until": date(2026, 5, 1)}),
        (models.Exemption, {"id": "CVE-1", "name": "a", "reason": "x"}),
        (models.Exemption, {"id": "CVE-1", "name": "a*", "until": date(2026, 5, 1), "reason": "x"}),
        (models.Exemption, {"id": "", "name": "a", "until": date(2026, 5, 1), "reason": "x"}),
        (models.Protection, {"name": "a<2", "publish": "owner"}),
        (models.Protection, {"name": "a", "publish": "reporter"}),
        (models.Protection, {"name": "a", "delete": "developer"}),
        (models.Protection, {"publish": "owner"}),
    ],
)
def test_exemptions_and_protections_are_complete_and_mean_something(kind: Any, raw: dict[str, Any]) -> None:
    assert refused(kind, raw)


@pytest.mark.parametrize("raw", ["anonymous", "__token__", "a:b", "a b", "", "-a", "\u00e4", 7])
def test_names_that_no_user_can_have(raw: object) -> None:
    assert refused(values.UserName, raw)


@pytest.mark.parametrize("raw", ["PyPI", "../x", "a/b", ".", "", "a" * 65, 7])
def test_an_upstream_is_named_as_a_directory_can_be(raw: object) -> None:
    assert refused(values.UpstreamName, raw).startswith("expected the name of an upstream")


def test_a_key_that_is_not_given_is_none_and_null_is_refused() -> None:
    assert Policy().forward is None
    assert Policy().deny is None
    for key in set(POLICY_KEYS) - {"uploaded_before"}:
        with pytest.raises(ValidationError):
            Policy.model_validate({key: None})
    for kind in (Project, Group):
        for key in ("id", "visibility"):
            with pytest.raises(ValidationError):
                kind.model_validate({key: None})


def test_null_takes_back_an_end_of_time_and_is_not_the_same_as_no_key() -> None:
    assert Policy.model_validate({"uploaded_before": None}).model_fields_set == {"uploaded_before"}
    assert Policy().model_fields_set == set()


def test_policy_has_the_keys_that_the_domain_knows() -> None:
    assert tuple(Policy.model_fields) == POLICY_KEYS
    assert set(words.LOCKABLE) == set(POLICY_KEYS) - {"lock"}


def test_groups_are_private_and_projects_as_wide_as_their_group() -> None:
    assert Group().visibility == "private"
    assert Project().visibility is None


def test_lock_takes_policy_keys_alone() -> None:
    assert Policy.model_validate({"lock": ["forward", "deny"]}).lock == ("forward", "deny")
    for key in ("lock", "min-age", "*"):
        told = refused(words.PolicyKey, key)
        assert told.startswith("expected forward, not_forwarded, ")
        assert told.endswith(" or local_versions")


def test_warn_takes_the_keys_that_can_be_tried_out() -> None:
    assert Policy.model_validate({"warn": ["deny", "min_age"]}).warn == ("deny", "min_age")
    for key in ("forward", "vulnerable", "lock", "min_age_exempt"):
        told = "expected allow, deny, min_age, uploaded_before or file_types"
        assert refused(words.WarnKey, key) == told


def test_a_list_is_not_made_of_a_string() -> None:
    with pytest.raises(ValidationError):
        Policy.model_validate({"deny": "abc"})


def test_a_tls_section_needs_both_keys() -> None:
    with pytest.raises(ValidationError):
        Tls.model_validate({"certificate": "chain.pem"})


def test_secrets_stay_out_of_texts_of_the_model() -> None:
    upstream = Upstream.model_validate(
        {
            "index_url": "https://x/",
            "username": "u",
            "password": "geheim",
            "proxy": "http://u:geheim@proxy:3128",
        }
    )
    assert upstream.password is not None
    assert upstream.password.get_secret_value() == "geheim"
    assert upstream.proxy == "http://u:geheim@proxy:3128"
    assert "geheim" not in repr(upstream)
    assert "geheim" not in str(upstream)


@pytest.mark.parametrize("raw", ["a\nb", "a\rb", "a\0b", "a\udcff", 7, ["a"]])
def test_a_password_is_text_that_a_header_can_carry(raw: object) -> None:
    assert refused(values.Secret, raw).startswith("expected text")


def test_an_error_of_the_schema_does_not_quote_what_it_refuses() -> None:
    with pytest.raises(ValidationError) as caught:
        Upstream.model_validate({"index_url": "https://x/", "password": 12345678, "ca_file": ["geheim"]})
    assert "12345678" not in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_values_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Project().id = 3


def test_every_key_has_a_description() -> None:
    sections: list[type[Section]] = [*Section.__subclasses__(), models.LongRule]
    assert Config in sections
    missing = [
        f"{section.__name__}.{name}"
        for section in sections
        for name, key in section.model_fields.items()
        if not key.description
    ]
    assert missing == []
