"""Answers that were begun by a configuration which is replaced before they are made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import event

from tests.support.wheels import make_wheel
from tests.web import forms
from tests.web.stand import Stand, head
from tests.web.wire import basic

ACME: dict[str, Any] = {"visibility": "public", "projects": {"widgets": {}}}
CONFIG: dict[str, Any] = {
    "users": {"alice": {}},
    "policy": {"upstreams": []},
    "upstreams": {"pypi": None},
    "groups": {"acme": {**ACME, "members": {"alice": "maintainer"}}},
}


def test_a_list_of_names_is_never_made_by_the_namespaces_that_the_data_have_left(tmp_path: Path) -> None:
    with Stand(tmp_path, CONFIG) as stand:
        body = forms.upload(*make_wheel("gears", "1.0"))
        headers = {"Authorization": basic(stand.token("alice")[0]), "Content_Length": str(len(body))}
        begun = head("/acme/widgets/", method="POST", **headers, **forms.FORM_TYPE)
        with stand.link() as link:
            assert link.ask(begun + body).status == 201
        moving = [{"umbrella": {**ACME, "aliases": ["acme"]}}]

        def move(*_: object) -> None:
            while moving:
                stand.reload(groups=moving.pop())

        event.listen(stand.instance.registry._reading, "before_cursor_execute", move)
        with stand.link() as link:
            names = link.get("/simple/")
        assert not moving
        assert (names.status, b">gears</a>" in names.body) == (200, True)
