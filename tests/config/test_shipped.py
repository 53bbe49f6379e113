from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from proxy.config.compile import compile_snapshot
from proxy.config.load import json_schema, load, load_bytes, shipped_defaults
from proxy.config.models import Upstream
from proxy.config.values import Entry
from proxy.domain.policy import POLICY_KEYS, SINGLE, Policy
from proxy.domain.snapshot import (
    AdvisorySettings,
    AuditSettings,
    CacheSettings,
    Limits,
    LogSettings,
    ServerSettings,
)

CONFIG = Path(__file__).parents[2] / "config"


def test_the_defaults_of_the_checkout_are_those_that_hold() -> None:
    assert shipped_defaults() == (CONFIG / "defaults.yaml").read_bytes()


def test_the_defaults_are_those_of_the_contract() -> None:
    config = load(None, {}).config
    assert (config.server.listen, config.server.tls, config.server.trusted_proxies) == (
        "127.0.0.1:8080",
        None,
        (),
    )
    assert (config.log.format, config.log.level) == ("text", "info")
    assert config.storage.data_dir == "./pypi-overlay-data"
    assert config.limits.max_file_size == 5 * 1024**3
    assert config.limits.max_description == 4000
    assert config.limits.max_page_size == 100 * 1024**2
    assert config.limits.upload_idle_timeout == timedelta(seconds=60)
    assert config.cache.max_size == 50 * 1024**3
    assert config.cache.stale_if_error == timedelta(days=30)
    assert config.log.requests is None
    assert config.advisories.osv_dir is None
    assert config.advisories.refresh == timedelta(hours=1)
    assert (config.audit.events, config.audit.downloads) == (timedelta(days=400), timedelta(days=90))
    star = Entry("*", "*")
    assert dict(config.policy) == {
        "forward": True,
        "not_forwarded": 404,
        "refused": 451,
        "upstreams": ("pypi",),
        "list_upstream": False,
        "ask": "any",
        "reserve": (),
        "shadow_upstream": "maintainer",
        "allow": (star,),
        "deny": (),
        "merge": (),
        "min_age": timedelta(0),
        "min_age_exempt": (),
        "min_age_fixes": True,
        "uploaded_before": None,
        "file_types": ("wheel", "sdist"),
        "yanked": "keep",
        "withheld": "mark",
        "removed": "hold",
        "vulnerable": "off",
        "severity": "high",
        "vulnerable_exempt": (),
        "warn": (),
        "protect": (),
        "identical_upload": "reject",
        "local_versions": "accept",
        "lock": (),
    }
    assert config.policy.model_fields_set == set(POLICY_KEYS)


def test_the_policy_of_the_defaults_is_the_one_that_holds_where_nothing_is_said() -> None:
    shipped = compile_snapshot(load(None, {})).tree.root.policy
    plain = Policy(upstreams=("pypi",))
    for key in SINGLE:
        assert getattr(shipped, key) == getattr(plain, key), key
    assert not [key for key in ("allow", "warn", "locked") if getattr(shipped, key)]
    assert not [*shipped.deny, *shipped.merge, *shipped.min_age_exempt, *shipped.protect]


def test_without_a_file_the_root_is_readable_by_anyone_and_has_one_project() -> None:
    config = load(None, {}).config
    assert config.visibility == "public"
    assert list(config.projects) == ["default"]
    assert config.projects["default"].visibility is None
    assert not config.groups
    assert not config.users
    assert not config.members


def test_the_shipped_upstream_is_complete_and_has_the_defaults_of_any_other() -> None:
    pypi = load(None, {}).config.upstreams["pypi"]
    assert pypi is not None
    assert pypi.model_fields_set == set(Upstream.model_fields)
    assert pypi.file_hosts
    other = Upstream.model_validate({"index_url": pypi.index_url, "file_hosts": pypi.file_hosts})
    assert other == pypi


def test_the_compiled_settings_have_the_same_defaults() -> None:
    config = load(None, {}).config
    for section, settings in (
        (config.server, ServerSettings()),
        (config.log, LogSettings()),
        (config.limits, Limits()),
        (config.cache, CacheSettings()),
        (config.advisories, AdvisorySettings()),
        (config.audit, AuditSettings()),
    ):
        for key in type(section).model_fields:
            assert getattr(settings, key) == getattr(section, key), key


def test_the_example_loads_in_an_empty_environment() -> None:
    config = load(str(CONFIG / "example.yaml"), {}).config
    assert config.groups["acme"].groups["vault"].policy.forward is False
    assert config.upstreams["mirror"] is not None


@pytest.mark.parametrize("file", [None, str(CONFIG / "example.yaml")])
def test_what_is_shipped_can_come_into_force(file: str | None) -> None:
    assert compile_snapshot(load(file, {})).server.default_project in {"default", "acme/platform/widgets"}


def test_the_example_takes_its_secrets_from_the_environment() -> None:
    mirror = load(str(CONFIG / "example.yaml"), {"MIRROR_PASSWORD": "geheim"}).config.upstreams["mirror"]
    assert mirror is not None
    assert mirror.password is not None
    assert mirror.password.get_secret_value() == "geheim"


def test_the_checked_in_schema_is_the_generated_one() -> None:
    checked_in = (CONFIG / "schema.json").read_text()
    assert json.loads(checked_in) == json_schema(), (
        "write it anew: pypi-overlay config schema > config/schema.json"
    )


def test_the_schema_refuses_unknown_keys_and_requires_few() -> None:
    schema = json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["title"]
    assert "required" not in schema
    required = {
        "Tls": ["certificate", "key"],
        "LongPattern": ["match"],
        "LongRule": ["match"],
        "Exemption": ["id", "name", "until", "reason"],
        "Protection": ["name"],
    }
    for name, definition in schema["$defs"].items():
        assert definition["additionalProperties"] is False, name
        assert definition.get("required") == required.get(name), name


def _keys(schema: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for section, definition in (("", schema), *schema["$defs"].items()):
        for key in definition.get("properties", {}):
            yield section, key


@pytest.mark.parametrize(("section", "key"), sorted(_keys(json_schema())))
def test_every_key_stands_in_the_reference(section: str, key: str) -> None:
    reference = (CONFIG / "README.md").read_text()
    prefix = {"Tls": "server.tls."}.get(section, f"{section.lower()}.")
    in_sections = section in {
        "Server",
        "Tls",
        "Log",
        "Storage",
        "Limits",
        "Cache",
        "Oidc",
        "Advisories",
        "Audit",
    }
    assert f"`{prefix if in_sections else ''}{key}`" in reference


def test_the_defaults_in_the_reference_are_the_shipped_ones() -> None:
    reference = (CONFIG / "README.md").read_text()
    shown = re.findall(r"^\| `([a-z_]+)\.([a-z_]+)` \| [^|]* \| `([^`]+)` \|", reference, re.MULTILINE)
    schema = json_schema()
    assert len(shown) >= 15
    for section, key, default in shown:
        assert str(schema["$defs"][section.title()]["properties"][key]["default"]) == default, (
            f"{section}.{key}"
        )


def test_the_first_lines_that_the_reference_shows_as_an_error_are_real() -> None:
    text = "\n" * 29 + "cache:\n  fresh_for: soon\n"
    with pytest.raises(Exception, match="soon") as caught:
        load_bytes(text.encode(), "pypi-overlay.yaml", {})
    assert str(caught.value) in (CONFIG / "README.md").read_text()
