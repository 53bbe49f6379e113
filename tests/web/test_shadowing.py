"""First publications beside what upstreams have, names that look like others, and protected names (contract 6)."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from proxy.domain.admit import UNCHECKED
from proxy.domain.names import Name
from proxy.domain.namespaces import NamespacePath
from proxy.index import shadowing
from proxy.index.shadowing import Shadowing
from tests.registry import making
from tests.support.server import base_config
from tests.support.upstream import FakeUpstream
from tests.support.waiting import wait_until
from tests.support.wheels import make_wheel
from tests.web import forms
from tests.web.stand import Stand
from tests.web.wire import Answer, Wire

NAMES = ("requests", "reqvests", "ti-ps", "unlisted")
"""What the upstream has; `unlisted` came after its list was kept."""

CONFIG: dict[str, Any] = {
    "users": {"dan": {}, "mary": {}, "olga": {}},
    "groups": {
        "acme": {
            "members": {"mary": "maintainer", "olga": "owner"},
            "policy": {"protect": [{"name": "kept*", "publish": "maintainer", "delete": "owner"}]},
            "projects": {
                "tools": {"id": 1, "members": {"dan": "developer"}},
                "gear": {},
            },
            "groups": {
                "both": {
                    "policy": {"upstreams": ["pypi", "second"]},
                    "projects": {"p": {"members": {"dan": "developer"}}},
                },
                "late": {"policy": {"ask": "known", "upstreams": ["second"]}, "projects": {"p": {}}},
                "vault": {
                    "policy": {"forward": False},
                    "projects": {"p": {"members": {"dan": "developer"}}},
                },
                "known": {
                    "policy": {"ask": "known"},
                    "projects": {"p": {"members": {"dan": "developer"}}},
                },
            },
        },
    },
}


@dataclass
class Place:
    """A server with two upstreams, of which the first one's list of names is kept."""

    stand: Stand
    upstream: FakeUpstream
    second: FakeUpstream
    tokens: dict[str, str]

    def __post_init__(self) -> None:
        self.wire = Wire("http://{}:{}".format(*self.stand.address))
        self._numbers = count(1)

    def name(self) -> str:
        """A name that no other test has, and that looks like none."""
        return f"thing{'x' * next(self._numbers)}"

    def upload(
        self, name: str, who: str = "dan", project: str = "acme/tools", version: str = "1.0"
    ) -> Answer:
        body = forms.upload(*make_wheel(name, version))
        return self.wire.send(
            "POST", f"/{project}/", token=self.tokens[who], headers=forms.FORM_TYPE, body=body
        )

    def delete(self, target: str, who: str) -> Answer:
        return self.wire.send("DELETE", target, token=self.tokens[who])

    def who_has(self, name: str, project: str = "acme/both/p") -> str | None:
        """What an upload to a project is told of upstreams."""
        instance = self.stand.instance
        asks = Shadowing(instance.snapshot.tree, instance.pages, instance.known_names)
        found = instance.snapshot.tree.find(project)
        return self.stand.do(lambda: asks.who_has(Name(name), found)).upstream


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with FakeUpstream() as upstream, FakeUpstream() as second:
        for name in NAMES[:-1]:
            upstream.add_project(name)
        settings = base_config(upstream)["upstreams"]
        settings["second"] = base_config(second)["upstreams"]["pypi"]
        config = CONFIG | {"upstreams": settings}
        with Stand(tmp_path_factory.mktemp("stand"), config) as stand:
            stand.do(lambda: stand.instance.known_names.refresh(["pypi"]))
            upstream.add_project(NAMES[-1])
            yield Place(stand, upstream, second, {user: stand.token(user)[0] for user in config["users"]})


@pytest.fixture(autouse=True)
def _well_behaved(place: Place) -> Iterator[None]:
    """Nothing was asked, and nobody is in trouble, when a test begins."""
    place.upstream.reset_requests()
    place.second.reset_requests()
    yield
    place.upstream.clear_faults()
    place.second.clear_faults()


# Who has a name


def test_the_first_upstream_that_has_a_name_is_told_and_the_next_is_not_asked(place: Place) -> None:
    assert place.who_has("requests") == "pypi"
    assert len(place.upstream.asked_for("requests")) == 1
    assert place.second.requests() == []


def test_the_next_is_asked_where_one_has_no_such_project_or_gives_no_answer(place: Place) -> None:
    names = [place.name(), place.name()]
    for name in names:
        place.second.add_project(name)
    place.upstream.fault(f"/simple/{names[1]}/", status=503)
    assert [place.who_has(name) for name in names] == ["second", "second"]


def test_nobody_has_it_only_where_all_say_so(place: Place) -> None:
    free, doubtful = place.name(), place.name()
    place.upstream.fault(f"/simple/{doubtful}/", status=500)
    assert place.who_has(free) is None
    assert place.who_has(doubtful) == "unchecked"


def test_an_upstream_that_is_slow_is_waited_for_so_long_and_no_longer(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert timedelta(seconds=3) == shadowing.PATIENCE
    monkeypatch.setattr(shadowing, "PATIENCE", timedelta(seconds=0.2))
    name = place.name()
    place.upstream.fault(f"/simple/{name}/", hold=True)
    assert place.who_has(name) == "unchecked"


def test_where_only_known_names_are_asked_for_the_kept_list_answers_alone(place: Place) -> None:
    assert place.who_has("requests", "acme/known/p") == "pypi"
    assert place.who_has("unlisted", "acme/known/p") is None
    assert place.upload("requests", project="acme/known/p").reason == (
        "requests exists on pypi; a maintainer of acme must publish it first"
    )
    assert place.upstream.requests() == []


def test_T_CONF2_for_a_group_that_forwards_nothing_only_what_is_kept_counts(place: Place) -> None:
    assert place.upload("requests", project="acme/vault/p").reason == (
        "requests exists on pypi; a maintainer of acme must publish it first"
    )
    seen = place.name()
    place.upstream.add_project(seen)
    assert place.who_has(seen, "acme/vault/p") is None
    assert place.upstream.requests() == [], "names of such a group stay in the house"
    assert place.who_has(seen, "acme/both/p") == "pypi"
    assert place.who_has(seen, "acme/vault/p") == "pypi", "its page is kept now"


def test_without_a_kept_list_nothing_is_known_and_nobody_is_asked(place: Place) -> None:
    assert place.who_has(place.name(), "acme/late/p") == UNCHECKED
    assert place.second.requests() == []


# Publications


def test_what_another_project_owns_is_asked_of_no_upstream(place: Place) -> None:
    name = place.name()
    making.publish(place.stand.instance.registry, NamespacePath("acme/gear"), f"{name}-1.0-py3-none-any.whl")
    assert place.upload(name).reason == f"{name} belongs to another project of acme"
    assert place.upload(name, "mary").status == 201
    assert place.upstream.requests() == []


def test_a_name_that_was_taken_while_the_upstream_was_asked_is_judged_anew(place: Place) -> None:
    name = place.name()
    place.upstream.fault(f"/simple/{name}/", hold=True)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(place.upload, name)
        place.upstream.await_requests(f"/simple/{name}/")
        making.publish(
            place.stand.instance.registry, NamespacePath("acme/gear"), f"{name}-1.0-py3-none-any.whl"
        )
        place.upstream.clear_faults()
        assert (waiting.result().status, waiting.result().reason) == (
            403,
            f"{name} belongs to another project of acme",
        )


def test_of_two_first_publications_at_once_the_later_is_no_first_one(place: Place) -> None:
    name = place.name()
    place.upstream.fault(f"/simple/{name}/", hold=True)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(place.upload, name, version=version) for version in ("1.0", "1.1")]
        place.upstream.await_requests(f"/simple/{name}/")
        wait_until(lambda: _uploads_waiting(place) == 2, what="both uploads to wait")
        place.upstream.clear_faults()
        assert [each.result().status for each in both] == [201, 201]
    assert len(place.upstream.asked_for(name)) == 1


def _uploads_waiting(place: Place) -> int:
    """How many uploads have their bytes on disk and are not decided."""
    return len(list(Path(place.stand.instance.layout.incoming).iterdir()))


# Look-alikes


def test_T_HOMO_a_first_publication_is_warned_of_public_names_that_look_alike(place: Place) -> None:
    answer = place.upload("requ3sts")
    assert (answer.status, answer.json["warnings"]) == (201, [])
    answer = place.upload("tlps")
    assert (answer.status, answer.json["warnings"]) == (201, ["tlps looks like ti-ps, which pypi has"])
    assert place.upload("tlps", version="1.1").json["warnings"] == [], "only the first is warned of"


def test_T_HOMO_names_of_the_tenant_are_warned_of_where_the_caller_may_read_them(place: Place) -> None:
    name = f"{place.name()}l"
    making.publish(place.stand.instance.registry, NamespacePath("acme/gear"), f"{name}-1.0-py3-none-any.whl")
    alike = name[:-1] + "1"
    assert place.upload(alike).json["warnings"] == [], "dan cannot read acme/gear"
    assert place.upload(name[:-1] + "i", "mary").json["warnings"] == [
        f"{name[:-1]}i looks like {alike}, which acme/tools publishes",
        f"{name[:-1]}i looks like {name}, which acme/gear publishes",
    ]


def test_T_HOMO_nobody_is_asked_for_a_look_alike(place: Place) -> None:
    name = place.name() + "0"
    assert place.upload(name).status == 201
    asked = {request.path for request in place.upstream.requests()}
    assert asked == {f"/simple/{name}/"}


# Protected names


def test_a_protected_name_is_published_and_deleted_by_those_roles_alone(place: Place) -> None:
    refused = place.upload("kept-1")
    assert (refused.status, refused.reason) == (
        403,
        "kept-1 is protected by acme (kept*); only a maintainer of acme/tools may publish it",
    )
    assert place.upload("kept-1", "mary").status == 201
    assert place.upload("kept-1", "mary", version="1.1").status == 201
    packages = place.wire.get("/api/v4/projects/1/packages?package_name=kept-1", token=place.tokens["mary"])
    number = packages.json[0]["id"]
    for target in ("/api/v1/packages/acme%2Ftools/kept-1", f"/api/v4/projects/1/packages/{number}"):
        refused = place.delete(target, "mary")
        assert refused.status == 403
        assert "only an owner of acme/tools may delete it" in refused.text
    for target in (f"/api/v4/projects/1/packages/{number}", "/api/v1/packages/acme%2Ftools/kept-1"):
        assert place.delete(target, "olga").status == 204


def test_protection_does_not_keep_maintainers_from_yanking(place: Place) -> None:
    assert place.upload("kept-2", "mary").status == 201
    target = "/api/v1/packages/acme%2Ftools/kept-2/1.0/yank"
    assert place.wire.send("PUT", target, token=place.tokens["mary"]).status == 204
