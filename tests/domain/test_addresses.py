"""Addresses: every spelling of contract 2, both directions, and the attacks of T-PATH and T-NAME."""

from __future__ import annotations

import string
from datetime import UTC, datetime
from urllib.parse import quote, urljoin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.domain.addresses import (
    MAX_DEPTH,
    Address,
    Api,
    Base,
    Explain,
    File,
    GitlabPackages,
    Health,
    Home,
    JsonDocument,
    LegacyUpload,
    Metrics,
    Misdated,
    NameList,
    OidcAudience,
    OidcMint,
    OwnPage,
    Place,
    ProjectPage,
    Ready,
    Redirect,
    Unknown,
    View,
    file_href,
    name_href,
    page_redirect,
    parse,
    place_named,
    short_base,
    split_target,
)
from proxy.domain.moments import iso
from proxy.domain.names import Name, parse_name
from proxy.domain.namespaces import RESERVED_SEGMENTS, ROOT, Kind, Namespace, NamespacePath, Tree, Visibility
from proxy.domain.policy import OwnPolicy, root_policy
from proxy.errors import InvalidName

SHA = "0123456789abcdef" * 4
WHEEL = "widgets-1.0-py3-none-any.whl"


def _namespace(path: str, kind: Kind, number: int | None = None, *aliases: str) -> Namespace:
    return Namespace(
        NamespacePath(path),
        kind,
        root_policy(OwnPolicy()),
        Visibility.PRIVATE,
        number,
        aliases=tuple(map(NamespacePath, aliases)),
    )


TREE = Tree(
    [
        _namespace("", Kind.GROUP),
        _namespace("default", Kind.PROJECT),
        _namespace("acme", Kind.GROUP, 1, "former"),
        _namespace("acme/widgets", Kind.PROJECT, 42),
        _namespace("acme/platform", Kind.GROUP, 2),
        _namespace("acme/platform/Core.Kit_2", Kind.PROJECT, 1),
    ],
    {},
)


def place(path: str) -> Place:
    return Place(NamespacePath(path), TREE.get(path))


def at(target: str) -> Address:
    return parse(target, TREE)


NOWHERE = Place(ROOT, None)
ROOT_PLACE = place("")
WIDGETS = place("acme/widgets")
ACME = place("acme")

BASES = [
    ("", ""),
    ("/default", "default"),
    ("/acme", "acme"),
    ("/acme/widgets", "acme/widgets"),
    ("/acme/platform/Core.Kit_2", "acme/platform/Core.Kit_2"),
    ("/%61cme/widget%73", "acme/widgets"),
    ("/api/v4/projects/42/packages/pypi", "acme/widgets"),
    ("/api/v4/projects/0042/packages/pypi", "acme/widgets"),
    ("/api/v4/projects/%34%32/packages/pypi", "acme/widgets"),
    ("/api/v4/projects/1/packages/pypi", "acme/platform/Core.Kit_2"),
    ("/api/v4/projects/acme%2Fwidgets/packages/pypi", "acme/widgets"),
    ("/api/v4/projects/acme%2fwidgets/packages/pypi", "acme/widgets"),
    ("/api/v4/projects/acme%2Fplatform%2FCore.Kit_2/packages/pypi", "acme/platform/Core.Kit_2"),
    ("/api/v4/projects/default/packages/pypi", "default"),
    ("/api/v4/groups/1/-/packages/pypi", "acme"),
    ("/api/v4/groups/acme%2Fplatform/-/packages/pypi", "acme/platform"),
]


@pytest.mark.parametrize(("base", "path"), BASES)
class TestEverySpellingOfABase:
    def test_the_list_of_names(self, base: str, path: str) -> None:
        assert at(f"{base}/simple/") == NameList(place(path))
        assert at(f"{base}/simple/?format=x") == NameList(place(path))

    def test_the_list_of_names_without_slash_is_redirected(self, base: str, path: str) -> None:
        assert at(f"{base}/simple") == Redirect(place(path), "simple/")
        assert urljoin(f"http://h/prefix{base}/simple", "simple/") == f"http://h/prefix{base}/simple/"

    def test_a_project_page(self, base: str, path: str) -> None:
        assert at(f"{base}/simple/Foo.Bar/") == ProjectPage(place(path), "Foo.Bar", slash=True)
        assert at(f"{base}/simple/Foo.Bar") == ProjectPage(place(path), "Foo.Bar", slash=False)

    def test_a_file_and_what_lies_beside_it(self, base: str, path: str) -> None:
        target = f"{base}/files/{SHA}/{WHEEL}"
        assert at(target) == File(place(path), SHA, WHEEL)
        assert at(target + "?x=1#sha256=0") == File(place(path), SHA, WHEEL)
        assert at(target + ".metadata") == File(place(path), SHA, WHEEL, ".metadata")
        assert at(target + ".provenance") == File(place(path), SHA, WHEEL, ".provenance")

    def test_the_base_itself_with_and_without_slash(self, base: str, path: str) -> None:
        expected = Base(place(path)) if base else Home()
        assert at(f"{base}/") == expected
        if base:
            assert at(base) == expected

    @pytest.mark.parametrize("word", ["+simple", "%2Bsimple", "%2bsimple"])
    def test_the_page_of_a_project_s_own_files(self, base: str, path: str, word: str) -> None:
        assert at(f"{base}/{word}/Foo.Bar/") == OwnPage(place(path), "Foo.Bar", slash=True)
        assert at(f"{base}/{word}/Foo.Bar") == OwnPage(place(path), "Foo.Bar", slash=False)

    def test_json_documents(self, base: str, path: str) -> None:
        assert at(f"{base}/pypi/Foo.Bar/json") == JsonDocument(place(path), "Foo.Bar", None, 2)
        assert at(f"{base}/pypi/foo/1%2B2/json?x") == JsonDocument(place(path), "foo", "1+2", 3)
        assert at(f"{base}/foo.bar/json") == JsonDocument(place(path), "foo.bar", None, 1)
        for document in ("/pypi/foo/json", "/pypi/foo/1.0/json", "/foo/json"):
            target = f"{base}{document}/"
            address = at(target)
            assert isinstance(address, Redirect)
            assert address.place == place(path)
            assert urljoin(f"http://h{target}", address.location) == f"http://h{base}{document}"

    @pytest.mark.parametrize(
        ("word", "as_of"),
        [
            ("+2026-05-01", datetime(2026, 5, 1, tzinfo=UTC)),
            ("%2B2026-05-01", datetime(2026, 5, 1, tzinfo=UTC)),
            ("+2024-02-29T08:30:59Z", datetime(2024, 2, 29, 8, 30, 59, tzinfo=UTC)),
            ("%2b2024-02-29T08%3A30%3A59Z", datetime(2024, 2, 29, 8, 30, 59, tzinfo=UTC)),
            ("+9999-12-31", datetime(9999, 12, 31, tzinfo=UTC)),
        ],
    )
    def test_the_index_as_of_an_instant(self, base: str, path: str, word: str, as_of: datetime) -> None:
        view = f"{base}/{word}"
        assert at(view) == at(f"{view}/") == View(place(path))
        assert at(f"{view}/simple/?format=x") == NameList(place(path), as_of)
        assert at(f"{view}/simple") == Redirect(place(path), "simple/")
        assert at(f"{view}/simple/Foo.Bar/") == ProjectPage(place(path), "Foo.Bar", slash=True, as_of=as_of)
        assert at(f"{view}/simple/Foo.Bar") == ProjectPage(place(path), "Foo.Bar", slash=False, as_of=as_of)
        # A project may be called like the word that documents end in.
        assert at(f"{view}/simple/json") == ProjectPage(place(path), "json", slash=False, as_of=as_of)
        for suffix in ("", ".metadata", ".provenance"):
            address = at(f"{view}/files/{SHA}/{WHEEL}{suffix}")
            assert address == File(place(path), SHA, WHEEL, suffix, as_of)

    def test_nothing_but_pages_and_files_has_dates(self, base: str, path: str) -> None:
        for rest in (
            "/pypi/foo/json",
            "/pypi/foo/1.0/json",
            "/foo/json",
            "/json",
            "/+simple/foo/",
            "/+2026-05-02/simple/foo/",
            "/simple/foo/bar/",
            "/simple//",
            f"/files/{SHA}/",
            "/api/v1/explain",
            "//",
        ):
            assert at(f"{base}/+2026-05-01{rest}") == Unknown(place(path)), rest

    @pytest.mark.parametrize(
        "text",
        [
            *("2026-13-01", "2026-02-29", "0000-01-01", "2026-5-1", "20260501", "1", "2026-05-01 "),
            *("2026-05-01T24:00:00Z", "2026-05-01T08:00:60Z", "2026-05-01T08:00:00.5Z", "2026-05-01T08:00Z"),
            *("2026-05-01T08:00:00", "2026-05-01t08:00:00z", "2026-05-01T08:00:00+02:00"),
        ],
    )
    def test_what_looks_like_an_instant_and_is_none(self, base: str, path: str, text: str) -> None:
        for below in ("", "/", "/simple/foo/", f"/files/{SHA}/{WHEEL}", "/pypi/foo/json"):
            assert at(f"{base}/+{quote(text)}{below}") == Misdated(place(path), text), below

    def test_what_is_no_address_is_unknown_in_its_place(self, base: str, path: str) -> None:
        for rest in (
            "/simple/foo/bar",
            "/simple/foo/bar/",
            "/simple//",
            "/simple//foo/",
            "/simple/foo//",
            "/files/",
            f"/files/{SHA}",
            f"/files/{SHA}/",
            f"/files/{SHA}/{WHEEL}/",
            "/+simple/",
            "/+simple//",
            "/+simple/foo/bar/",
            "/pypi/",
            "/pypi/foo",
            "/pypi/foo/1.0/json/x",
            "/pypi/foo/1.0/2.0/json",
            "/+x/simple/foo/",
            "/-/foo",
            "//",
            "//simple/",
        ):
            assert at(base + rest) == Unknown(place(path)), rest


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/", Home()),
        ("/?utm=1", Home()),
        ("/healthz", Health()),
        ("/readyz?verbose", Ready()),
        ("/metrics", Metrics()),
        ("/api/v1/explain?index=/&name=flask", Explain()),
        ("/legacy", LegacyUpload()),
        ("/legacy/", LegacyUpload()),
    ],
)
def test_the_instance_s_own_addresses(target: str, expected: Address) -> None:
    assert at(target) == expected


@pytest.mark.parametrize(
    "target",
    [
        "/healthz/",
        "/HEALTHZ/simple/%",
        "/legacy/x",
        "/api",
        "/api/",
        "/api/v1/a%5Cb",
        "/api/v1/a%00b",
        "/api/v1/acme%2F..%2Fx",
        "/_/oidc",
        "/_/oidc/audience/",
        "/_/oidc/mint-token/x",
        "/api/v4",
        "/api/v4/projects",
        "/api/v4/users/42/packages/pypi/simple/",
        "/api/v5/projects/42/packages/pypi/simple/",
        "/favicon.ico",
        "/metrics/",
        "/ui/packages",
        "/files",
        "/integrity/foo",
    ],
)
def test_other_paths_of_the_instance_are_unknown_in_the_first_place_that_fits(target: str) -> None:
    address = at(target)
    assert isinstance(address, Unknown)
    assert address.place == (place("HEALTHZ") if "HEALTHZ" in target else ROOT_PLACE)


def test_the_api_is_split_once_and_a_namespace_in_it_may_hold_slashes() -> None:
    assert at("/api/v1/tokens") == Api(("tokens",))
    assert at("/api/v1/packages/acme%2Fwidgets/foo/1.0?x=1") == Api(
        ("packages", "acme/widgets", "foo", "1.0")
    )
    assert at("/api/v1/claims/%2F/foo") == Api(("claims", "/", "foo"))
    assert at("/api/v1/a%252Fb") == Api(("a%2Fb",))
    assert at("/api/v1/explain/") == Api(("explain", ""))


def test_trusted_publishing_and_the_own_page_of_the_default_project() -> None:
    assert at("/_/oidc/audience") == OidcAudience()
    assert at("/_/oidc/mint-token") == OidcMint()
    assert at("/legacy/%2Bsimple/Foo/") == OwnPage(None, "Foo", slash=True)
    assert at("/legacy/+simple/foo") == OwnPage(None, "foo", slash=False)


@pytest.mark.parametrize(
    "target", ["", "*", "simple/", "http://h/simple/", "HTTP://h/", "example.org:443", "?", "#/"]
)
def test_targets_of_other_forms_are_unknown_at_the_root(target: str) -> None:
    assert at(target) == Unknown(ROOT_PLACE)


def test_instance_addresses_are_not_repeated_below_a_namespace() -> None:
    for rest in (
        "healthz",
        "readyz",
        "legacy/",
        "api/v1/explain",
        "api/v4/projects/42/packages/pypi/simple/",
    ):
        assert at(f"/acme/{rest}") == Unknown(ACME)


class TestNamespaces:
    def test_an_unknown_path_keeps_its_form_and_has_no_namespace(self) -> None:
        assert at("/nosuch/deep/simple/foo/") == ProjectPage(
            Place(NamespacePath("nosuch/deep"), None), "foo", slash=True
        )
        assert at("/acme/nosuch") == Base(Place(NamespacePath("acme/nosuch"), None))
        assert at("/api/v4/groups/nosuch/-/packages/pypi/simple/") == NameList(
            Place(NamespacePath("nosuch"), None)
        )

    def test_paths_are_case_sensitive(self) -> None:
        assert at("/Acme/simple/") == NameList(Place(NamespacePath("Acme"), None))

    def test_a_former_path_leads_to_the_namespace(self) -> None:
        assert at("/former/widgets/simple/") == NameList(
            Place(NamespacePath("former/widgets"), TREE.get("acme/widgets"))
        )

    def test_a_number_counts_for_its_kind_alone(self) -> None:
        assert at("/api/v4/projects/2/packages/pypi/simple/") == NameList(NOWHERE)
        assert at("/api/v4/groups/42/-/packages/pypi/simple/") == NameList(NOWHERE)

    def test_a_path_of_the_other_kind_is_no_namespace(self) -> None:
        assert at("/api/v4/projects/acme/packages/pypi/simple/") == NameList(
            Place(NamespacePath("acme"), None)
        )
        assert at("/api/v4/groups/acme%2Fwidgets/-/packages/pypi/simple/") == NameList(
            Place(NamespacePath("acme/widgets"), None)
        )

    @pytest.mark.parametrize("digits", ["0", "7", "9" * 18, "9" * 19, "9" * 8000, "%D9%A4%D9%A2", "%C2%B2"])
    def test_a_number_nobody_has_is_unknown_and_harmless(self, digits: str) -> None:
        assert at(f"/api/v4/projects/{digits}/packages/pypi/simple/") == NameList(NOWHERE)

    @pytest.mark.parametrize(
        ("raw_id", "path"),
        [
            ("", ""),
            ("%2F", ""),
            ("%2Facme", ""),
            ("%00", ""),
            ("%", ""),
            ("%ff", ""),
            ("acme%2F", "acme"),
            ("acme%2F..%2Facme", "acme"),
            ("acme%2Fsimple", "acme"),
            ("acme%252Fwidgets", ""),
            ("acme%2Fwidgets%00", "acme"),
        ],
    )
    def test_a_faulty_id_lies_in_what_is_well_formed_of_it(self, raw_id: str, path: str) -> None:
        address = at(f"/api/v4/projects/{raw_id}/packages/pypi/simple/")
        assert address == NameList(Place(NamespacePath(path), None))

    def test_a_faulty_id_is_not_the_namespace_that_its_beginning_names(self) -> None:
        for raw_id in ("acme%2F", "acme%2F..", "acme%2Fsimple%2Ffoo"):
            assert at(f"/api/v4/groups/{raw_id}/-/packages/pypi/simple/") == NameList(
                Place(NamespacePath("acme"), None)
            )

    def test_other_paths_of_gitlab_s_api_are_unknown_in_their_namespace(self) -> None:
        for rest in ("", "/", "/packages/", "/packages/npm/foo", "/packages/x", "/-/packages/pypi/simple/"):
            assert at(f"/api/v4/projects/42{rest}") == Unknown(WIDGETS, is_api=True), rest
        assert at("/api/v4/groups/acme/packages/pypi/simple/") == Unknown(ACME, is_api=True)

    def test_gitlab_s_packages_api(self) -> None:
        base = "/api/v4/projects/acme%2Fwidgets/packages"
        assert at(base) == GitlabPackages(WIDGETS, Kind.PROJECT)
        assert at(f"{base}?per_page=5") == GitlabPackages(WIDGETS, Kind.PROJECT)
        assert at(f"{base}/7") == GitlabPackages(WIDGETS, Kind.PROJECT, 7)
        assert at(f"{base}/7/package_files") == GitlabPackages(WIDGETS, Kind.PROJECT, 7, has_files=True)
        assert at(f"{base}/7/package_files/9") == GitlabPackages(WIDGETS, Kind.PROJECT, 7, True, 9)
        assert at("/api/v4/groups/1/packages") == GitlabPackages(ACME, Kind.GROUP)
        assert at("/api/v4/groups/1/packages/7") == Unknown(ACME, is_api=True)
        assert at(f"{base}/{'9' * 30}") == Unknown(WIDGETS, is_api=True)

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("/", ROOT_PLACE),
            ("", ROOT_PLACE),
            ("acme/widgets", WIDGETS),
            ("/acme/widgets/", WIDGETS),
            ("former/widgets", Place(NamespacePath("former/widgets"), WIDGETS.namespace)),
            ("42", Place(NamespacePath("42"), None)),
            ("acme//widgets", Place(NamespacePath("acme"), None)),
            ("acme/../acme", Place(NamespacePath("acme"), None)),
        ],
    )
    def test_a_namespace_named_in_a_query_or_a_body(self, text: str, expected: Place) -> None:
        assert place_named(text, TREE) == expected

    @pytest.mark.parametrize("word", sorted(RESERVED_SEGMENTS))
    def test_a_reserved_word_ends_the_path(self, word: str) -> None:
        address = at(f"/acme/{word}/x/y/z")
        assert address == Unknown(ACME)

    def test_a_path_is_not_followed_beyond_its_bound(self) -> None:
        address = at("/" + "a/" * 4000 + "simple/foo/")
        assert isinstance(address, Unknown)
        assert address.place.path.count("/") == MAX_DEPTH - 1

    def test_nor_is_one_in_a_query_or_a_body(self) -> None:
        found = place_named("a/" * 20_000, TREE)
        assert found.namespace is None
        assert found.path.count("/") == MAX_DEPTH - 1

    def test_T_PATH_an_encoded_slash_is_no_slash_outside_an_id(self) -> None:
        assert at("/acme%2Fwidgets/simple/") == Unknown(ROOT_PLACE)
        assert at("/acme%2fsimple%2ffoo/") == Unknown(ROOT_PLACE)
        assert at("/acme/widgets%2Fsimple/foo/") == Unknown(ACME)


class TestHostileSegments:
    FAULTY = (
        "..%2f..%2fetc%2fpasswd",
        "..",
        ".",
        "%2e%2e",
        "%2E",
        "a%00",
        "a%0a",
        "a%0d%0aX:%20y",
        "a%7f",
        "a%C2%85b",
        "a%5cb",
        "a\\b",
        "a%2Fb",
        "a%",
        "a%2",
        "a%zz",
        "%ff",
        "%C3",
        "%ED%A0%80",
        "\udcff",
        "\xe9",
        "é",
        "a b",
        "a\tb",
        "a\x00",
        "a\n",
    )

    @pytest.mark.parametrize("segment", FAULTY)
    def test_T_PATH_as_a_name(self, segment: str) -> None:
        assert at(f"/acme/simple/{segment}/") == Unknown(ACME)
        assert at(f"/acme/simple/{segment}") == Unknown(ACME)

    @pytest.mark.parametrize("segment", FAULTY)
    def test_T_PATH_as_a_namespace(self, segment: str) -> None:
        assert at(f"/acme/{segment}/simple/foo/") == Unknown(ACME)
        assert at(f"/{segment}/simple/foo/") == Unknown(ROOT_PLACE)

    @pytest.mark.parametrize(
        "segment", [*FAULTY, "-rf.whl", ".whl", ".metadata", ".provenance", "%E2%84%AAivy.whl", ""]
    )
    def test_T_PATH_as_a_filename(self, segment: str) -> None:
        assert at(f"/acme/files/{SHA}/{segment}") == Unknown(ACME)
        assert at(f"/acme/files/{SHA}/{segment}.metadata") == Unknown(ACME)

    @pytest.mark.parametrize(
        "key", ["", SHA[:-1], SHA + "0", SHA.upper(), SHA + "%0A", "url-", "URL-" + SHA, "sha-" + SHA, ".."]
    )
    def test_a_key_is_a_digest_or_nothing(self, key: str) -> None:
        assert at(f"/acme/files/{key}/{WHEEL}") == Unknown(ACME)

    def test_nothing_is_decoded_twice(self) -> None:
        assert at("/simple/%252e%252e/") == ProjectPage(ROOT_PLACE, "%2e%2e", slash=True)
        assert at(f"/files/{SHA}/a%252Fb.whl") == Unknown(ROOT_PLACE)

    def test_T_NAME3_a_kelvin_sign_arrives_whole_and_is_no_name(self) -> None:
        address = at("/simple/%E2%84%AAivy/")
        assert address == ProjectPage(ROOT_PLACE, "\u212aivy", slash=True)
        with pytest.raises(InvalidName):
            parse_name(address.raw_name)

    def test_plus_in_a_filename_comes_in_two_spellings(self) -> None:
        expected = File(ROOT_PLACE, "url-" + SHA, "foo-1.0+cu118-py3-none-any.whl")
        for spelling in (
            "foo-1.0+cu118-py3-none-any.whl",
            "foo-1.0%2Bcu118-py3-none-any.whl",
            "foo%2d1.0%2bcu118-py3-none-any.whl",
        ):
            assert at(f"/files/url-{SHA}/{spelling}") == expected


class TestRedirects:
    @pytest.mark.parametrize(
        ("path", "location"),
        [
            ("/acme/simple/foo-bar/", None),
            ("/acme/simple/foo%2Dbar/", None),
            ("/acme/simple/foo-bar", "/acme/simple/foo-bar/"),
            ("/acme/simple/Foo.Bar", "/acme/simple/foo-bar/"),
            ("/acme/simple/Foo.Bar/", "/acme/simple/foo-bar/"),
            ("/simple/FOO__bar/", "/simple/foo-bar/"),
        ],
    )
    def test_a_page_is_one_hop_away_behind_any_prefix(self, path: str, location: str | None) -> None:
        address = at(path)
        assert isinstance(address, ProjectPage)
        name = parse_name(address.raw_name)
        relative = page_redirect(address.raw_name, address.slash, name, "")
        if location is None:
            assert relative is None
        else:
            assert relative is not None
            assert urljoin(f"https://h/prefix{path}", relative) == f"https://h/prefix{location}"

    def test_the_query_is_kept_as_sent(self) -> None:
        assert page_redirect("foo", False, Name("foo"), "format=a%2Fb+c") == "foo/?format=a%2Fb+c"
        assert page_redirect("Foo", True, Name("foo"), "a=1?2") == "../foo/?a=1?2"
        assert at("/acme/simple?a=/..//b") == Redirect(ACME, "simple/?a=/..//b")

    @pytest.mark.parametrize("query", ["a\r\nSet-Cookie: b", "a b", "é", "\udcff", "\x7f"])
    def test_T_HDR_a_query_that_may_not_stand_in_a_header_is_dropped(self, query: str) -> None:
        assert page_redirect("foo", False, Name("foo"), query) == "foo/"
        assert at(f"/simple?{query}") == Redirect(ROOT_PLACE, "simple/")


class TestLinks:
    def test_a_base_of_each_namespace(self) -> None:
        assert [short_base(namespace) for namespace in TREE][:4] == ["", "/default", "/acme", "/acme/widgets"]

    def test_a_target_splits_into_path_and_query(self) -> None:
        assert split_target("/a?b?c#d") == ("/a", "b?c")
        assert split_target("/a#b?c") == ("/a", "")
        assert split_target("") == ("", "")

    def test_everything_unusual_in_a_filename_is_escaped(self) -> None:
        assert file_href(SHA, "a_b-1.0+x!~.whl") == f"../../files/{SHA}/a_b-1.0%2Bx%21~.whl"
        assert file_href(SHA, '"><x?#/..') == f"../../files/{SHA}/%22%3E%3Cx%3F%23%2F.."

    @pytest.mark.parametrize(("base", "path"), BASES)
    @given(
        raw_name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}[A-Za-z0-9]", fullmatch=True),
        filename=st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._+!~@-]{0,60}\.whl", fullmatch=True),
        digest=st.text("0123456789abcdef", min_size=64, max_size=64),
        prefix=st.sampled_from(["", "url-"]),
        as_of=st.none()
        | st.datetimes(timezones=st.just(UTC)).map(lambda moment: moment.replace(microsecond=0)),
        plus=st.sampled_from(["+", "%2B", "%2b"]),
    )
    def test_what_is_built_parses_back_in_every_spelling_and_within_its_view(
        self,
        base: str,
        path: str,
        raw_name: str,
        filename: str,
        digest: str,
        prefix: str,
        as_of: datetime | None,
        plus: str,
    ) -> None:
        name = parse_name(raw_name)
        view = "" if as_of is None else f"/{plus}{iso(as_of)}"
        page = urljoin(f"{base}{view}/simple/", name_href(name))
        assert at(page) == ProjectPage(place(path), name, slash=True, as_of=as_of)
        link = urljoin(page, file_href(prefix + digest, filename))
        assert at(link) == File(place(path), prefix + digest, filename, as_of=as_of)
        assert at(link + ".metadata") == File(place(path), prefix + digest, filename, ".metadata", as_of)


class TestAnything:
    @given(st.text())
    def test_any_text_is_some_address(self, text: str) -> None:
        at(text)
        at("/" + text)
        at(f"/acme/{text}")
        at(f"/api/v4/projects/{text}/packages/pypi/simple/")

    @given(st.binary())
    def test_any_bytes_are_some_address_in_both_ways_of_decoding(self, raw: bytes) -> None:
        for text in (raw.decode("latin-1"), raw.decode("utf-8", "surrogateescape")):
            at("/" + text)
            at("/acme/" + text)
            at(f"/files/{SHA}/" + text)

    @given(
        st.lists(
            st.sampled_from(
                [
                    "acme",
                    "widgets",
                    "simple",
                    "files",
                    "api",
                    "v4",
                    "projects",
                    "groups",
                    "packages",
                    "pypi",
                    "-",
                    "42",
                    "..",
                    "%2F",
                    "%2e",
                    "",
                    "+x",
                    "+2026-05-01",
                    "+2026-05",
                    SHA,
                    WHEEL,
                    "foo",
                    "legacy",
                    "acme%2Fwidgets",
                    "\xe9",
                    "%00",
                ]
            ),
            max_size=9,
        )
    )
    def test_a_path_through_known_words_never_leaves_the_namespace_it_names(self, words: list[str]) -> None:
        """Whatever follows `/acme/widgets`, the address lies there or below, and not in a public place above."""
        address = at("/acme/widgets/" + "/".join(words))
        assert isinstance(
            address, Base | View | Misdated | NameList | ProjectPage | File | Redirect | Unknown
        )
        assert address.place.path.startswith("acme/widgets")

    @given(st.text(string.printable + "éK\u212a\u017f\x85\u2028", min_size=1))
    def test_T_NAME4_the_name_of_a_page_is_what_was_sent_and_only_parse_name_makes_it_one(
        self, raw: str
    ) -> None:
        try:
            name = parse_name(raw)
        except InvalidName:
            name = None
        address = at(f"/simple/{quote(raw, safe='')}/")
        if name is None:
            assert isinstance(address, Unknown) or (
                isinstance(address, ProjectPage) and address.raw_name == raw
            )
        else:
            assert address == ProjectPage(ROOT_PLACE, raw, slash=True)
