"""One upload from form to commit, and deletion: the order of checks, whole or not at all (contract 6)."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import select

from proxy.archive.sandbox import Sandbox
from proxy.domain.access import Caller, CallerKind, Scope
from proxy.domain.decision import OwnedKind
from proxy.domain.names import Name
from proxy.domain.namespaces import NamespacePath
from proxy.errors import (
    AlreadyExists,
    DigestMismatch,
    InvalidArchive,
    InvalidFilename,
    InvalidForm,
    InvalidVersion,
    NoSuchFile,
    NoSuchName,
    NotPermitted,
    OverlayError,
    StorageError,
    TooLarge,
)
from proxy.index.instance import Instance
from proxy.registry import packages
from proxy.registry.form import MAX_FIELD
from proxy.registry.publish import Published
from proxy.server.assembly import close_instance, open_instance
from proxy.storage.audit import By
from proxy.storage.tables import audit, files
from tests.registry.making import CONFIG, DEFAULT, GLOBEX, NOW, SANDBOX, WIDGETS, Clock, snapshot_of
from tests.support.attestations import SLSA, attest
from tests.support.waiting import wait_until_async
from tests.support.wheels import make_sdist, make_wheel

ALICE = Caller(CallerKind.USER, "alice", token=7, scopes=frozenset({Scope.API}))
BOB = Caller(CallerKind.USER, "bob", token=8, scopes=frozenset({Scope.API}))
OWNER = Caller(CallerKind.OWNER, token=1)
EARLIER = NOW - timedelta(minutes=5)
LIMIT = 100_000

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Part:
    """A part of a body whose bytes come in the given pieces."""

    name: str | None
    pieces: list[bytes] = field(default_factory=list)
    filename: str | None = None
    is_encoded: bool = False

    async def read(self) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""


def body(filename: str, content: bytes, /, *more: Part, **changed: str | None) -> list[Part]:
    """What twine sends: the fields of the filename's own name and version, then the file."""
    stem = filename.removesuffix(".tar.gz").removesuffix(".whl").split("-")
    fields: dict[str, str | None] = {
        ":action": "file_upload",
        "protocol_version": "1",
        "name": stem[0],
        "version": stem[1],
        "filetype": "bdist_wheel" if filename.endswith(".whl") else "sdist",
        "sha256_digest": hashlib.sha256(content).hexdigest(),
        **changed,
    }
    texts = [Part(name, [value.encode()]) for name, value in fields.items() if value is not None]
    pieces = [content[start : start + 60_000] for start in range(0, len(content), 60_000)]
    return [*texts, *more, Part("content", pieces, filename)]


async def stream(parts: Iterable[Part]) -> AsyncIterator[Part]:
    for part in parts:
        yield part


Publish = Callable[..., Coroutine[Any, Any, Published]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    """Give the processes that read archives: starting them takes longer than most tests here."""
    shared = Sandbox()
    yield shared
    await shared.close()


@pytest_asyncio.fixture(loop_scope="module")
async def instance(tmp_path: Path, clock: Clock, sandbox: Sandbox) -> AsyncIterator[Instance]:
    policy = {"reserve": ["globex-*"], "identical_upload": "accept", "local_versions": "reject"}
    globex = {"policy": policy, **CONFIG["groups"]["globex"]}
    config = {
        **CONFIG,
        "policy": {"forward": False},  # what upstreams have is a matter of test_shadowing
        "limits": {"max_file_size": LIMIT, "max_description": 10},
        "groups": {**CONFIG["groups"], "globex": globex},
    }
    opened = open_instance(snapshot_of(config, tmp_path / "data"), now=clock)
    opened.publisher._sandbox = sandbox
    yield opened
    await close_instance(opened)


@pytest.fixture
def publish(instance: Instance) -> Publish:
    """Publish parts, by default as alice in acme/widgets; who sends them began a while ago."""

    async def act(
        parts: Iterable[Part] | AsyncIterator[Part],
        project: NamespacePath = WIDGETS,
        caller: Caller = ALICE,
        **options: Any,
    ) -> Published:
        coming = parts if isinstance(parts, AsyncIterator) else stream(parts)
        target = instance.snapshot.tree.find(project)
        by = By(caller, EARLIER, "192.0.2.1", "request-1")
        return await instance.publisher.receive(coming, project=target, by=by, **options)

    return act


def rows(instance: Instance, table: Any = files) -> list[Any]:
    return instance.registry.read_now(lambda c: list(c.execute(select(table)).all()))


def objects(instance: Instance) -> set[str]:
    return {path.name for path in Path(instance.layout.objects).glob("*/*")}


def leftovers(instance: Instance) -> list[Path]:
    return list(Path(instance.layout.incoming).iterdir())


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def test_an_upload_is_published_with_what_the_file_says(
    instance: Instance, publish: Publish, clock: Clock
) -> None:
    filename, content = make_wheel("gears", "1.0", requires_python=">=3.11")
    published = await publish(body(filename, content, name="Gears", summary="short", requires_python=">=2.0"))
    assert published == Published("gears", "1.0", filename, sha256(content), "acme/widgets")
    [row] = rows(instance)
    assert (row.filename, row.sha256, row.size) == (filename, sha256(content), len(content))
    assert row.blake2b == hashlib.blake2b(content, digest_size=32).hexdigest()
    assert row.requires_python == ">=3.11"
    assert (row.uploaded_at, row.uploaded_by) == (NOW, {"kind": "user", "id": 7, "user": "alice"})
    assert row.fields == {"summary": "short"}
    with instance.objects.open(sha256(content)) as stored:
        assert stored.read() == content
    with instance.objects.open(row.metadata_sha256) as metadata:
        assert metadata.read().startswith(b"Metadata-Version: 2.2\nName: gears\n")
    assert not leftovers(instance)
    [event] = rows(instance, audit)
    assert (event.action, event.at, event.who_kind, event.who_id) == ("file.upload", NOW, "user", 7)
    assert (event.address, event.request_id) == ("192.0.2.1", "request-1")
    assert (event.namespace, event.name, event.version, event.filename) == (WIDGETS, "gears", "1.0", filename)
    assert event.detail == {"sha256": sha256(content), "size": len(content), "first": True}


async def test_an_sdist_is_published(instance: Instance, publish: Publish) -> None:
    filename, content = make_sdist("gears", "1.0")
    assert (await publish(body(filename, content))).filename == filename
    assert rows(instance)[0].metadata_final


async def test_the_file_may_come_before_the_fields(instance: Instance, publish: Publish) -> None:
    await publish(reversed(body(*make_wheel("gears", "1.0"))))
    assert len(rows(instance)) == 1


async def test_the_action_may_stand_in_the_query(instance: Instance, publish: Publish) -> None:
    filename, content = make_wheel("gears", "1.0")
    parts = body(filename, content, **{":action": None})
    await publish(parts, action="file_upload")
    assert len(rows(instance)) == 1


async def test_a_signature_is_read_over(instance: Instance, publish: Publish) -> None:
    signature = Part("gpg_signature", [b"x" * 100] * 3, "gears.asc")
    await publish(body(*make_wheel("gears", "1.0"), signature))
    assert not signature.pieces
    assert len(rows(instance)) == 1


async def test_a_description_is_cut_at_the_limit(instance: Instance, publish: Publish) -> None:
    await publish(body(*make_wheel("gears", "1.0"), description="é" * 30))
    assert rows(instance)[0].fields == {"description": "é" * 10}


async def test_a_description_over_a_mebibyte_is_cut_even_within_a_character(
    instance: Instance, publish: Publish
) -> None:
    text = "x" + "é" * MAX_FIELD
    pieces = [text.encode()[start : start + 65_536] for start in range(0, 2 * MAX_FIELD, 65_536)]
    await publish(body(*make_wheel("gears", "1.0"), Part("description", pieces)))
    assert rows(instance)[0].fields == {"description": "x" + "é" * 9}
    assert not pieces


REFUSED_PARTS = [
    ([Part("summary", [b"x" * (MAX_FIELD + 1)])], "'summary' is over 1 MiB"),
    ([Part(None, [b"x"])], "no name"),
    ([Part("summary", [b"x"], is_encoded=True)], "'summary' is encoded"),
    ([Part("summary", [b"x"], filename="x.txt")], "'summary' must be text"),
    ([Part("name", [b"gears"])], "'name' stands twice"),
    ([Part("content", [b"x"], "gears-1.0-py3-none-any.whl")], "must have one file"),
    ([Part("content", [b"x"])], "must have one file"),
    ([Part("classifiers", [b"x"]) for _ in range(2000)], "more than 2000 fields"),
]


@pytest.mark.parametrize(("more", "message"), REFUSED_PARTS, ids=[text for _, text in REFUSED_PARTS])
async def test_a_malformed_form_leaves_nothing(
    instance: Instance, publish: Publish, more: list[Part], message: str
) -> None:
    fresh = [Part(part.name, list(part.pieces), part.filename, part.is_encoded) for part in more]
    with pytest.raises(InvalidForm, match=message):
        await publish(body(*make_wheel("gears", "1.0"), *fresh))
    assert not rows(instance)
    assert not leftovers(instance)
    assert not objects(instance)


async def test_a_form_without_file_is_refused(publish: Publish) -> None:
    parts = body(*make_wheel("gears", "1.0"))[:-1]
    with pytest.raises(InvalidForm, match="has no file"):
        await publish(parts)


@pytest.mark.parametrize("over", [0, 1])
async def test_a_file_may_be_as_large_as_the_limit_and_no_larger(publish: Publish, over: int) -> None:
    size = LIMIT - len(make_wheel("gears", "1.0", size=50_000)[1]) + 50_000 + over
    filename, content = make_wheel("gears", "1.0", size=size)
    assert len(content) == LIMIT + over
    if over:
        with pytest.raises(TooLarge, match=str(LIMIT)):
            await publish(body(filename, content))
    else:
        assert (await publish(body(filename, content))).filename == filename


async def test_reading_stops_as_soon_as_the_file_is_too_large(instance: Instance, publish: Publish) -> None:
    pieces = [b"x" * 50_000] * 100
    with pytest.raises(TooLarge):
        await publish([Part("content", pieces, "gears-1.0-py3-none-any.whl")])
    assert len(pieces) >= 97
    assert not leftovers(instance)


DEFECTS: dict[str, tuple[type[OverlayError], dict[str, Any]]] = {
    "size": (TooLarge, {"size": LIMIT}),
    "form": (InvalidForm, {"changed": {"filetype": "bdist_egg"}}),
    "version": (InvalidVersion, {"changed": {"version": "latest"}}),
    "filename": (InvalidFilename, {"changed": {"name": "cogs"}}),
    "digest": (DigestMismatch, {"changed": {"sha256_digest": "0" * 64}}),
    "archive": (InvalidArchive, {"metadata_name": "nuts"}),
    "attestations": (InvalidForm, {"changed": {"attestations": "[]"}}),
    "ownership": (NotPermitted, {"caller": BOB}),
    "duplicate": (AlreadyExists, {"published": True}),
}
"""What can be wrong with an upload, in the order in which the contract has it checked."""


def spoiled(*kinds: str) -> tuple[list[Part], Caller]:
    """An upload to acme/sandbox with all of these defects at once; the form's own come in their order."""
    about: dict[str, Any] = {}
    changed: dict[str, str] = {}
    for kind in kinds:
        settings = DEFECTS[kind][1]
        changed |= settings.get("changed", {})
        about |= {key: settings[key] for key in ("size", "metadata_name") if key in settings}
    # Form and version are judged by one function: the filetype is looked at last there.
    if {"form", "version"} <= set(kinds):
        changed |= {"filetype": "bdist_wheel", ":action": "nonsense"}
    filename, content = make_wheel("gears", "1.0", **about)
    return body(filename, content, **changed), BOB if "ownership" in kinds else ALICE


@pytest.mark.parametrize(("first", "second"), list(combinations(DEFECTS, 2)))
async def test_of_two_defects_the_one_that_is_checked_first_is_told(
    instance: Instance, publish: Publish, first: str, second: str
) -> None:
    if "ownership" in {first, second}:
        await publish(body(*make_wheel("gears", "0.1")), WIDGETS)
    if "duplicate" in {first, second}:
        await publish(body(*make_wheel("gears", "1.0")), SANDBOX)
    before = rows(instance), objects(instance)
    parts, caller = spoiled(first, second)
    with pytest.raises(DEFECTS[first][0]):
        await publish(parts, SANDBOX, caller)
    assert (rows(instance), objects(instance)) == before
    assert not leftovers(instance)


@pytest.mark.parametrize("only", DEFECTS)
async def test_each_defect_alone_is_refused(instance: Instance, publish: Publish, only: str) -> None:
    if only == "ownership":
        await publish(body(*make_wheel("gears", "0.1")), WIDGETS)
    if only == "duplicate":
        await publish(body(*make_wheel("gears", "1.0")), SANDBOX)
    parts, caller = spoiled(only)
    with pytest.raises(DEFECTS[only][0]):
        await publish(parts, SANDBOX, caller)
    assert not leftovers(instance)


async def test_the_archives_own_version_counts(publish: Publish) -> None:
    filename, content = make_wheel("gears", "1.0", metadata_version_field="1.1")
    with pytest.raises(InvalidArchive, match=r"says gears 1\.1 but the filename says gears 1\.0"):
        await publish(body(filename, content))


async def test_other_spellings_of_name_and_version_are_one(publish: Publish) -> None:
    filename, content = make_wheel("Gears.Of_War", "1.0", metadata_version_field="v1.0.0")
    published = await publish(body(filename, content, name="gears-of--war", version="1"))
    assert published.name == "gears-of-war"


@pytest.mark.parametrize(
    ("owned", "tombstone", "project", "caller", "refusal"),
    [
        (WIDGETS, False, SANDBOX, BOB, "belongs to another project of acme"),
        (WIDGETS, True, SANDBOX, BOB, "belongs to another project of acme"),
        (WIDGETS, False, SANDBOX, ALICE, None),
        (WIDGETS, True, SANDBOX, ALICE, None),
        (SANDBOX, False, SANDBOX, BOB, None),
        (GLOBEX, False, SANDBOX, BOB, None),
        (DEFAULT, False, SANDBOX, BOB, "belongs to the instance"),
        (DEFAULT, True, SANDBOX, BOB, "belongs to the instance"),
        (DEFAULT, False, SANDBOX, OWNER, None),
        (None, False, SANDBOX, BOB, None),
    ],
)
async def test_a_name_that_somebody_owns_takes_the_right_to_publish_there(
    publish: Publish,
    instance: Instance,
    owned: NamespacePath | None,
    tombstone: bool,
    project: NamespacePath,
    caller: Caller,
    refusal: str | None,
) -> None:
    tree = instance.snapshot.tree
    if owned is not None:
        await publish(body(*make_wheel("gears", "0.1")), owned, OWNER)
    if tombstone and owned is not None:
        await instance.publisher.delete(tree.find(owned), Name("gears"), by=By(OWNER, EARLIER))
    upload = publish(body(*make_wheel("gears", "1.0")), project, caller)
    if refusal is None:
        assert (await upload).project == project
    else:
        with pytest.raises(NotPermitted, match=refusal):
            await upload


async def test_a_name_that_another_tenant_reserves_is_refused(publish: Publish) -> None:
    for caller in (ALICE, OWNER):
        with pytest.raises(NotPermitted, match="reserved by another group"):
            await publish(body(*make_wheel("globex-gears", "1.0")), WIDGETS, caller)
    published = await publish(body(*make_wheel("globex-gears", "1.0")), GLOBEX, OWNER)
    assert published.name == "globex-gears"


async def test_ownership_is_judged_by_what_is_so_at_the_commit(instance: Instance, publish: Publish) -> None:
    """The name is free when the upload begins, and taken by another project before it ends."""
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def slowly() -> AsyncIterator[Part]:
        for part in body(*make_wheel("gears", "1.0")):
            yield part
        arrived.set()
        await go_on.wait()

    slow = asyncio.create_task(publish(slowly(), SANDBOX, BOB))
    await arrived.wait()
    await publish(body(*make_wheel("gears", "2.0")), WIDGETS)
    go_on.set()
    with pytest.raises(NotPermitted):
        await slow
    assert [row.filename for row in rows(instance)] == [make_wheel("gears", "2.0")[0]]
    assert not leftovers(instance)


async def test_of_two_racing_uploads_of_one_filename_one_is_published(
    instance: Instance, publish: Publish
) -> None:
    contents = [make_wheel("gears", "1.0", description=str(number)) for number in range(8)]
    outcomes = await asyncio.gather(*(publish(body(*each)) for each in contents), return_exceptions=True)
    [won] = [outcome for outcome in outcomes if isinstance(outcome, Published)]
    assert sum(isinstance(outcome, AlreadyExists) for outcome in outcomes) == len(contents) - 1
    [row] = rows(instance)
    assert row.sha256 == won.sha256
    assert objects(instance) >= {row.sha256, row.metadata_sha256}
    assert not {sha256(content) for _, content in contents} - {won.sha256} & objects(instance)
    assert not leftovers(instance)


async def test_of_two_racing_first_publications_in_a_tenant_only_one_owns_the_name(
    instance: Instance, publish: Publish
) -> None:
    """bob may publish in sandbox alone, and the deploy token in platform/core alone."""
    core = NamespacePath("acme/platform/core")
    deploy = Caller(CallerKind.DEPLOY, "ci", 9, frozenset({Scope.WRITE_PACKAGES}), (core,))
    for number in range(10):
        outcomes = await asyncio.gather(
            publish(body(*make_wheel(f"gears{number}", "1.0")), SANDBOX, BOB),
            publish(body(*make_wheel(f"gears{number}", "1.0")), core, deploy),
            return_exceptions=True,
        )
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NotPermitted", "Published"]
    assert len(rows(instance)) == 10


async def test_what_cannot_be_stored_is_not_published(instance: Instance, publish: Publish) -> None:
    """Keeping the bytes is the last step of the transaction: it fails after the rows were written."""
    filename, content = make_wheel("gears", "1.0")
    in_the_way = Path(instance.layout.object(sha256(content))).parent
    in_the_way.write_bytes(b"a file where a directory should be")
    with pytest.raises(StorageError):
        await publish(body(filename, content))
    assert not rows(instance)
    assert not rows(instance, audit)
    found = instance.registry.read_now(lambda c: packages.facts(c, Name("gears")))
    assert not found.owned
    assert not leftovers(instance)
    in_the_way.unlink()
    await publish(body(filename, content))
    assert len(rows(instance)) == 1


async def test_an_upload_that_breaks_off_leaves_nothing(instance: Instance, publish: Publish) -> None:
    class Broken(Part):
        async def read(self) -> bytes:
            if not self.pieces:
                raise ConnectionResetError
            return self.pieces.pop(0)

    with pytest.raises(ConnectionResetError):
        await publish([Broken("content", [b"x" * 1000], "gears-1.0-py3-none-any.whl")])
    assert not leftovers(instance)


# `identical_upload` and `local_versions` are those of globex's policy


async def test_the_same_bytes_again_change_nothing_where_the_policy_accepts_them(
    instance: Instance, publish: Publish, clock: Clock
) -> None:
    filename, content = make_wheel("gears", "1.0")
    first = await publish(body(filename, content), GLOBEX, OWNER)
    before = rows(instance), rows(instance, audit), objects(instance)
    clock.advance(hours=1)
    again = await publish(body(filename, content, summary="another"), GLOBEX, OWNER)
    assert (first.is_new, again.is_new) == (True, False)
    assert again == replace(first, is_new=False, warnings=again.warnings)
    assert again.warnings == ("these bytes are published; nothing was changed",)
    assert (rows(instance), rows(instance, audit), objects(instance)) == before
    assert not leftovers(instance)


async def test_the_same_bytes_under_another_spelling_are_the_file_that_is_there(publish: Publish) -> None:
    filename, content = make_wheel("gears", "1.0")
    first = await publish(body(filename, content), GLOBEX, OWNER)
    again = await publish(body("gears-1-py3-none-any.whl", content), GLOBEX, OWNER)
    assert again == replace(first, is_new=False, warnings=again.warnings)
    assert again.warnings == (f"these bytes are published as {filename}; nothing was changed",)


@pytest.mark.parametrize("spelled", ["gears-1.0-py3-none-any.whl", "gears-1-py3-none-any.whl"])
async def test_other_bytes_are_refused_whatever_the_policy(
    instance: Instance, publish: Publish, spelled: str
) -> None:
    await publish(body(*make_wheel("gears", "1.0")), GLOBEX, OWNER)
    before = rows(instance), objects(instance)
    other = make_wheel("gears", "1.0", description="other bytes")[1]
    with pytest.raises(AlreadyExists, match="File already exists: "):
        await publish(body(spelled, other), GLOBEX, OWNER)
    assert (rows(instance), objects(instance)) == before


async def test_the_same_bytes_in_another_project_are_a_file_of_their_own(publish: Publish) -> None:
    filename, content = make_wheel("gears", "1.0")
    assert (await publish(body(filename, content), WIDGETS)).is_new
    assert (await publish(body(filename, content), GLOBEX, OWNER)).is_new


async def test_the_same_bytes_are_refused_to_who_may_not_publish_the_name(publish: Publish) -> None:
    filename, content = make_wheel("gears", "1.0")
    await publish(body(filename, content), GLOBEX, OWNER)
    await publish(body(*make_wheel("gears", "2.0")), DEFAULT, OWNER)
    deploy = Caller(CallerKind.DEPLOY, "ci", 9, frozenset({Scope.WRITE_PACKAGES}), (GLOBEX,))
    with pytest.raises(NotPermitted):
        await publish(body(filename, content), GLOBEX, deploy)


async def test_of_racing_uploads_of_the_same_bytes_one_is_new(instance: Instance, publish: Publish) -> None:
    filename, content = make_wheel("gears", "1.0")
    outcomes = await asyncio.gather(*(publish(body(filename, content), GLOBEX, OWNER) for _ in range(8)))
    assert sorted(outcome.is_new for outcome in outcomes) == [False] * 7 + [True]
    assert len(rows(instance)) == 1
    assert not leftovers(instance)


async def test_a_local_version_is_refused_where_the_policy_says_so(
    instance: Instance, publish: Publish
) -> None:
    filename, content = make_wheel("gears", "1.0+acme")
    with pytest.raises(InvalidVersion, match=r"'1\.0\+acme' is a local version"):
        await publish(body(filename, content), GLOBEX, OWNER)
    assert not rows(instance)
    assert (await publish(body(filename, content), WIDGETS)).version == "1.0+acme"


# Attestations


async def test_attestations_are_stored_as_the_files_provenance(instance: Instance, publish: Publish) -> None:
    """In the field that uv sends behind the file."""
    filename, content = make_wheel("gears", "1.0+acme")
    given = [attest(filename, content), attest(filename, content, SLSA)]
    await publish([*body(filename, content), Part("attestations", [json.dumps(given).encode()])])
    [row] = rows(instance)
    with instance.objects.open(row.provenance_sha256) as stored:
        provenance = json.load(stored)
    assert provenance["attestation_bundles"] == [
        {"publisher": {"kind": "pypi-overlay", "user": "alice"}, "attestations": given}
    ]
    found = instance.registry.read_now(
        lambda c: packages.find_file(c, [WIDGETS], Name("gears"), filename, sha256(content))
    )
    assert isinstance(found, packages.StoredFile)
    assert found.provenance_sha256 == row.provenance_sha256
    shown = filename.replace("+", "%2B")
    assert found.record.provenance == f"/acme/widgets/files/{sha256(content)}/{shown}.provenance"


async def test_a_file_without_attestations_has_no_provenance(instance: Instance, publish: Publish) -> None:
    await publish(body(*make_wheel("gears", "1.0"), attestations=""))
    page = instance.registry.read_now(lambda c: packages.page(c, [WIDGETS], Name("gears"))).page
    assert [file.provenance for file in page.files] == [None]
    assert rows(instance)[0].provenance_sha256 is None


async def test_an_attestation_of_another_file_is_refused_and_nothing_is_stored(
    instance: Instance, publish: Publish
) -> None:
    filename, content = make_wheel("gears", "1.0")
    other = json.dumps([attest(filename, b"other bytes")])
    with pytest.raises(InvalidForm, match="another sha256"):
        await publish(body(filename, content, attestations=other))
    assert not rows(instance)
    assert not objects(instance)
    assert not leftovers(instance)


async def test_attestations_that_come_with_bytes_published_before_are_not_stored(
    instance: Instance, publish: Publish
) -> None:
    filename, content = make_wheel("gears", "1.0")
    await publish(body(filename, content), GLOBEX, OWNER)
    before = objects(instance)
    later = json.dumps([attest(filename, content)])
    again = await publish(body(filename, content, attestations=later), GLOBEX, OWNER)
    assert "attestations were not stored" in again.warnings[1]
    assert objects(instance) == before
    assert rows(instance)[0].provenance_sha256 is None


async def test_a_provenance_goes_with_the_last_file_that_has_it(instance: Instance, publish: Publish) -> None:
    filename, content = make_wheel("gears", "1.0")
    attested = json.dumps([attest(filename, content)])
    for project in (WIDGETS, GLOBEX):
        await publish(body(filename, content, attestations=attested), project, OWNER)
    digests = {row.provenance_sha256 for row in rows(instance)}
    assert len(digests) == 1
    await delete(instance, WIDGETS, "gears")
    assert digests <= objects(instance)
    await delete(instance, GLOBEX, "gears")
    assert not objects(instance)


# Deletion


async def delete(instance: Instance, project: NamespacePath, *what: str) -> packages.Removed:
    target = instance.snapshot.tree.find(project)
    name, *rest = what
    by = By(ALICE, instance.now(), "192.0.2.1", "request-2")
    return await instance.publisher.delete(target, Name(name), *rest, by=by)


async def test_deletion_removes_the_bytes_and_is_audited(
    instance: Instance, publish: Publish, clock: Clock
) -> None:
    filename, content = make_wheel("gears", "1.0")
    await publish(body(filename, content))
    assert sha256(content) in objects(instance)
    clock.advance(hours=1)
    removed = await delete(instance, WIDGETS, "gears")
    assert removed.tombstone
    assert not objects(instance)
    event = rows(instance, audit)[-1]
    assert (event.action, event.at, event.who_user) == ("file.delete", clock.at, "alice")
    assert (event.namespace, event.name, event.request_id) == (WIDGETS, "gears", "request-2")
    assert event.detail == {"files": [filename], "tombstone": True}


async def test_deletion_takes_versions_in_any_spelling(instance: Instance, publish: Publish) -> None:
    for version in ("1.0", "2.0"):
        await publish(body(*make_wheel("gears", version)))
    assert (await delete(instance, WIDGETS, "gears", "v1.0.0")).filenames == (make_wheel("gears", "1.0")[0],)
    with pytest.raises(InvalidVersion):
        await delete(instance, WIDGETS, "gears", "latest")
    with pytest.raises(NoSuchFile):
        await delete(instance, WIDGETS, "gears", "2.0", "gears-2.0.tar.gz")
    with pytest.raises(NoSuchName):
        await delete(instance, WIDGETS, "cogs")
    assert [row.filename for row in rows(instance)] == [make_wheel("gears", "2.0")[0]]
    assert [event.action for event in rows(instance, audit)].count("file.delete") == 1


async def test_bytes_stay_as_long_as_another_file_needs_them(instance: Instance, publish: Publish) -> None:
    filename, content = make_wheel("gears", "1.0")
    await publish(body(filename, content), WIDGETS)
    await publish(body(filename, content), GLOBEX, OWNER)
    await publish(body(*make_sdist("gears", "1.0")), WIDGETS)
    await delete(instance, WIDGETS, "gears", "1.0", filename)
    row = next(row for row in rows(instance) if row.filename == filename)
    assert {row.sha256, row.metadata_sha256} <= objects(instance)
    with instance.objects.open(sha256(content)) as kept:
        assert kept.read() == content
    await delete(instance, GLOBEX, "gears")
    assert sha256(content) not in objects(instance)
    # The sdist says of itself what the wheel said, so the metadata are its own too.
    assert row.metadata_sha256 in objects(instance)
    await delete(instance, WIDGETS, "gears")
    assert not objects(instance)


async def test_bytes_that_are_published_anew_between_deletion_and_sweep_stay(
    instance: Instance, publish: Publish
) -> None:
    """In the writer's queue: the deletion of the rows, an upload of the same bytes, then the sweep of objects."""
    filename, content = make_wheel("gears", "1.0")
    await publish(body(filename, content), WIDGETS)
    queue = instance.registry._writer._work_queue
    go_on = threading.Event()
    holding = asyncio.create_task(instance.registry.change(lambda _: go_on.wait(10)))
    deleting = asyncio.create_task(delete(instance, WIDGETS, "gears"))
    await wait_until_async(lambda: queue.qsize() == 1, what="the deletion to stand in the queue")
    uploading = asyncio.create_task(publish(body(filename, content), GLOBEX, OWNER))
    await wait_until_async(lambda: queue.qsize() == 2, what="the upload to stand behind it")
    go_on.set()
    await asyncio.gather(holding, deleting, uploading)
    with instance.objects.open(sha256(content)) as kept:
        assert kept.read() == content
    await delete(instance, GLOBEX, "gears")
    assert not objects(instance)


async def test_a_deleted_filename_may_be_published_again_with_other_bytes(
    instance: Instance, publish: Publish
) -> None:
    await publish(body(*make_wheel("gears", "1.0", description="first")))
    await delete(instance, WIDGETS, "gears")
    filename, content = make_wheel("gears", "1.0", description="second")
    await publish(body(filename, content))
    assert [row.sha256 for row in rows(instance)] == [sha256(content)]
    found = instance.registry.read_now(lambda c: packages.facts(c, Name("gears")))
    assert [owned.kind for owned in found.owned] == [OwnedKind.FILES]
    events = rows(instance, audit)
    assert [event.detail.get("first") for event in events if event.action == "file.upload"] == [True, False]
