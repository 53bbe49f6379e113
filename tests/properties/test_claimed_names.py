"""A claimed name never reaches an upstream, whatever the configuration, the caller, the address or its spelling.

Real instances answer over HTTP and forward to a real upstream, which has a higher version of every name there
is and keeps a record. Who owns a name is worked out by `World.is_claimed`, which knows nothing of `decide`.
"""

from __future__ import annotations

import asyncio
import base64
import io
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote, unquote, urljoin

import aiohttp
import pytest
from aiohttp import web
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from yarl import URL

from proxy.domain.access import Caller, CallerKind
from proxy.domain.names import Name
from proxy.domain.namespaces import Kind, Namespace, NamespacePath
from proxy.identity import tokens
from proxy.index.instance import Instance, Running
from proxy.observe.logs import make_logger
from proxy.registry import namespaces, packages
from proxy.server.assembly import close_instance, open_instance
from proxy.storage.database import Change
from proxy.web.app import build
from proxy.web.front import Fronts
from tests.fake_upstream.app import FakeUpstream
from tests.properties.strategies import NAMES, World, claims, worlds
from tests.registry.making import new_file
from tests.support.trees import FIRST_CLAIM, OWNER, snapshot_of, tree_of

# aiohttp silences this advice about its own dictionaries; here every warning is an error.
pytestmark = pytest.mark.filterwarnings("ignore::aiohttp.web.NotAppKeyWarning")

ASKS = 50
"""Requests of all kinds in each half of an example."""

API = "/api/v1"
EXPLAIN = f"{API}/explain"

_TOKEN_KINDS = {
    CallerKind.USER: tokens.TokenKind.PERSONAL,
    CallerKind.DEPLOY: tokens.TokenKind.DEPLOY,
    CallerKind.JOB: tokens.TokenKind.JOB,
    CallerKind.OWNER: tokens.TokenKind.OWNER,
}


# What is asked


def _doubled(name: str) -> str:
    return name.replace("-", "-._")


SPELLINGS: Mapping[str, Callable[[str], str]] = {
    "normal": str,
    "upper": str.upper,
    "title": str.title,
    "underscores": lambda name: name.replace("-", "_"),
    "dots": lambda name: name.replace("-", "."),
    "runs": _doubled,
    "escaped": lambda name: "".join(f"%{ord(letter):02x}" for letter in name),
    "escaped twice": lambda name: f"%25{ord(name[0]):02x}{name[1:]}",
    "escaped dash": lambda name: name.replace("-", "%2D"),
    "edged": lambda name: f"{name}.",
    "spaced": lambda name: f"%20{name}%20",
    "line end": lambda name: f"{name}%0a",
    "look-alikes": lambda name: quote(name.replace("k", "\u212a").replace("s", "\u017f")),
    "full width": lambda name: quote("".join(chr(ord(c) + 0xFEE0) if c.isalnum() else c for c in name)),
    "slash": lambda name: f"%2f{name}",
    "dot segment": lambda name: f"./{name}",
    "parent segment": lambda name: f"nothing/../{name}",
    "doubled slash": lambda name: f"/{name}",
}


def _short(index: Namespace) -> str:
    return f"/{index.path}" if index.path else ""


def _gitlab(index: Namespace, id_: str) -> str:
    if index.kind is Kind.PROJECT:
        return f"/api/v4/projects/{id_}/packages/pypi"
    return f"/api/v4/groups/{id_}/-/packages/pypi"


BASES: Mapping[str, Callable[[Namespace], str]] = {
    "short": _short,
    "escaped": lambda index: "".join(f"/{_escaped(part)}" for part in index.path.split("/") if part),
    "encoded path": lambda index: _gitlab(index, quote(index.path, safe="")) if index.path else "",
    "encoded in small letters": lambda index: (
        _gitlab(index, index.path.replace("/", "%2f")) if index.path else ""
    ),
    "number": lambda index: _gitlab(index, str(index.number)) if index.number else _short(index),
}


def _escaped(text: str) -> str:
    return "".join(f"%{ord(letter):02X}" for letter in text)


@dataclass(frozen=True)
class Stock:
    """What the upstream has of one name, and what a project of ours would publish under it."""

    wheel: str
    sdist: str
    wheel_digest: str
    sdist_digest: str
    contents: frozenset[bytes]

    @property
    def ours(self) -> str:
        return self.wheel.replace("-99.0-", "-1.0-")


@dataclass(frozen=True)
class Route:
    """One way to ask: `path` makes an address of base, spelled name, and what there is of the name.

    `asks` says that the upstream is asked, where the name is nobody's and spelled as it should be.
    """

    path: Callable[[str, str, Stock], str]
    method: str = "GET"
    headers: Mapping[str, str] | None = None
    asks: bool = True


def _page(base: str, spelled: str, _: Stock) -> str:
    return f"{base}/simple/{spelled}/"


def _wheel(base: str, _: str, stock: Stock) -> str:
    return f"{base}/files/{stock.wheel_digest}/{stock.wheel}"


def _sdist(base: str, _: str, stock: Stock) -> str:
    return f"{base}/files/{stock.sdist_digest}/{stock.sdist}"


def _document(base: str, spelled: str, _: Stock) -> str:
    return f"{base}/pypi/{spelled}/json"


def _namespace(base: str) -> str:
    """A namespace as the administration API takes it, from its short base."""
    return quote(base or "/", safe="").removeprefix("%2F") or "%2F"


def _packages_of_gitlab(base: str) -> str:
    """The address of GitLab's packages API beside one of its own bases."""
    return f"{base.removesuffix('/packages/pypi').removesuffix('/-')}/packages"


JSON = "application/vnd.pypi.simple.v1+json"

ROUTES: Mapping[str, Route] = {
    "page": Route(_page),
    "page as HTML": Route(_page, headers={"Accept": "text/html"}),
    "page as JSON": Route(_page, headers={"Accept": JSON}),
    "page by format": Route(lambda *given: f"{_page(*given)}?format={quote(JSON, safe='')}"),
    "page's head": Route(_page, "HEAD"),
    "page if changed": Route(_page, headers={"If-None-Match": '"x", *'}),
    "page without slash": Route(lambda *given: _page(*given).rstrip("/")),
    "page as of a day": Route(lambda base, spelled, stock: _page(f"{base}/+2026-03-01", spelled, stock)),
    "wheel": Route(_wheel),
    "wheel as of a day": Route(lambda base, spelled, stock: _wheel(f"{base}/+2026-03-01", spelled, stock)),
    "wheel's metadata as of a day": Route(
        lambda base, spelled, stock: f"{_wheel(f'{base}/%2B2026-03-01T00:00:00Z', spelled, stock)}.metadata"
    ),
    "wheel's head": Route(_wheel, "HEAD"),
    "wheel if changed": Route(_wheel, headers={"If-None-Match": '"x"'}),
    "part of a wheel": Route(_wheel, headers={"Range": "bytes=-100"}),
    "wheel's metadata": Route(lambda *given: f"{_wheel(*given)}.metadata"),
    "wheel's metadata's head": Route(lambda *given: f"{_wheel(*given)}.metadata", "HEAD"),
    "wheel's provenance": Route(lambda *given: f"{_wheel(*given)}.provenance"),
    "wheel's provenance's head": Route(lambda *given: f"{_wheel(*given)}.provenance", "HEAD"),
    "wheel by a wrong digest": Route(
        lambda base, _, stock: f"{base}/files/{stock.sdist_digest}/{stock.wheel}"
    ),
    "wheel by a made-up address": Route(
        lambda base, _, stock: f"{base}/files/url-{stock.wheel_digest}/{stock.wheel}"
    ),
    "wheel in capitals": Route(
        lambda base, _, stock: f"{base}/files/{stock.wheel_digest}/{stock.wheel[:2].upper()}{stock.wheel[2:]}"
    ),
    "wheel with an escape": Route(
        lambda base, _, stock: f"{base}/files/{stock.wheel_digest}/%{ord(stock.wheel[0]):x}{stock.wheel[1:]}"
    ),
    "wheel of ours": Route(lambda base, _, stock: f"{base}/files/{stock.wheel_digest}/{stock.ours}"),
    "egg": Route(lambda base, _, stock: f"{base}/files/{stock.sdist_digest}/{stock.sdist[:-7]}-py3.egg"),
    "sdist": Route(_sdist),
    "sdist with dashes": Route(
        lambda base, _, stock: f"{base}/files/{stock.sdist_digest}/{stock.sdist.replace('_', '-')}"
    ),
    "sdist with dots": Route(
        lambda base, _, stock: f"{base}/files/{stock.sdist_digest}/{stock.sdist.replace('_', '.')}"
    ),
    "sdist of an older form": Route(
        lambda base, _, stock: (
            f"{base}/files/{stock.sdist_digest}/{stock.sdist.replace('_', '-').replace('.tar.gz', '-1.zip')}"
        )
    ),
    "sdist's metadata": Route(lambda *given: f"{_sdist(*given)}.metadata"),
    "sdist of a longer name": Route(
        lambda base, _, stock: f"{base}/files/{stock.sdist_digest}/{stock.sdist.replace('-99', '-tail-99')}"
    ),
    "explain": Route(lambda base, spelled, _: f"{EXPLAIN}?index={base or '/'}&name={spelled}"),
    "explain a version": Route(
        lambda base, spelled, _: f"{EXPLAIN}?index={base or '/'}&name={spelled}&version=99.0"
    ),
    "explain a file": Route(
        lambda base, spelled, stock: f"{EXPLAIN}?index={base or '/'}&name={spelled}&filename={stock.wheel}"
    ),
    "explain to somebody": Route(
        lambda base, spelled, _: f"{EXPLAIN}?index={base or '/'}&name={spelled}&as=ua1", asks=False
    ),
    "names": Route(lambda base, _, __: f"{base}/simple/", asks=False),
    "own files": Route(lambda base, spelled, _: f"{base}/+simple/{spelled}/", asks=False),
    "own files by an escape": Route(lambda base, spelled, _: f"{base}/%2Bsimple/{spelled}", asks=False),
    "own files for hatch": Route(lambda _, spelled, __: f"/legacy/+simple/{spelled}/", asks=False),
    "document": Route(_document),
    "document's head": Route(_document, "HEAD"),
    "document if changed": Route(_document, headers={"If-None-Match": '"x", *'}),
    "document with a slash": Route(lambda *given: f"{_document(*given)}/"),
    "document of a version": Route(lambda base, spelled, _: f"{base}/pypi/{spelled}/99.0/json"),
    "document of no version": Route(lambda base, spelled, _: f"{base}/pypi/{spelled}/nothing/json"),
    "document for pip-tools": Route(lambda base, spelled, _: f"{base}/{spelled}/json"),
    "GitLab's list": Route(
        lambda base, spelled, _: f"{_packages_of_gitlab(base)}?package_name={spelled}", asks=False
    ),
    "list": Route(
        lambda base, spelled, _: f"{API}/packages?namespace={base or '/'}&name={spelled}", asks=False
    ),
    "deletion": Route(
        lambda base, spelled, _: f"{API}/packages/{_namespace(base)}/{spelled}", "DELETE", asks=False
    ),
    "deletion of a file": Route(
        lambda base, spelled, stock: f"{API}/packages/{_namespace(base)}/{spelled}/99.0/{stock.wheel}",
        "DELETE",
        asks=False,
    ),
    "yank": Route(
        lambda base, spelled, _: f"{API}/packages/{_namespace(base)}/{spelled}/1.0/yank", "PUT", asks=False
    ),
}


@dataclass(frozen=True)
class Ask:
    """One request; numbers choose among the namespaces and callers of the world at hand."""

    index: int
    caller: int
    name: Name
    route: str
    base: str
    spelling: str


_ASKS = st.builds(
    Ask,
    st.integers(0, 99),
    st.integers(0, 3),
    st.sampled_from(NAMES),
    st.sampled_from(sorted(ROUTES)),
    st.sampled_from(sorted(BASES)),
    st.sampled_from(["normal"] * 12 + sorted(SPELLINGS)),
)


# Who answers


class Upstream:
    """Has 99.0 of every name, as wheel and sdist, and knows what it was asked for."""

    def __init__(self, directory: Path) -> None:
        self._fake = FakeUpstream(directory)
        made = [{"make": kind, "version": "99.0"} for kind in ("wheel", "sdist")]
        self._fake.load({"projects": {name: {"files": made} for name in NAMES}}, directory)
        self.stock = {name: self._stock_of(name) for name in NAMES}

    def _stock_of(self, name: Name) -> Stock:
        wheel, sdist = sorted(
            self._fake._scenario.projects[name].files, key=lambda file: file.filename, reverse=True
        )
        if not wheel.filename.endswith(".whl"):
            wheel, sdist = sdist, wheel
        contents = {file.path.read_bytes() for file in (wheel, sdist)}
        return Stock(
            wheel.filename,
            sdist.filename,
            wheel.digests["sha256"],
            sdist.digests["sha256"],
            frozenset(contents | {wheel.metadata or b"-"}),
        )

    async def start(self, stack: AsyncExitStack) -> None:
        """Serve at a new address until the stack ends."""
        self._fake.base = await _serve(self._fake.application(), stack)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The configuration of it."""
        return {"index_url": f"{self._fake.base}/simple/", "file_hosts": [self._fake.base[7:]]}

    def take_asked(self) -> set[str]:
        """The names that it was asked for since the last call, by page or file."""
        asked = {self._asked(received.path) for received in self._fake._received}
        self._fake._received.clear()
        return asked

    def _asked(self, path: str) -> str:
        file = self._fake._files.get(path.removesuffix(".metadata"))
        if file is not None:
            (owner,) = [
                name for name, stock in self.stock.items() if file.filename in (stock.wheel, stock.sdist)
            ]
            return owner
        page = re.fullmatch("/simple/([^/]+)/?|/pypi/([^/]+)/(?:[^/]+/)?json", path)
        assert page is not None, f"the upstream was asked for {path}"
        return re.sub("[-_.]+", "-", unquote(page[1] or page[2])).lower()


async def _serve(app: web.Application, stack: AsyncExitStack) -> str:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return "http://{}:{}".format(*runner.addresses[0][:2])


async def _serve_behind_front(app: web.Application, stack: AsyncExitStack) -> str:
    """Serve as a worker does: what was answered once comes from the front."""
    fronts = Fronts(app, grace=1)
    await fronts.start()
    stack.push_async_callback(fronts.stop)
    server = await asyncio.get_running_loop().create_server(fronts, "127.0.0.1", 0)
    stack.callback(server.close)
    return "http://{}:{}".format(*server.sockets[0].getsockname()[:2])


class Overlay:
    """An instance of a world, answering over HTTP."""

    def __init__(self, world: World, instance: Instance) -> None:
        self.world = world
        self.owned = {name: tuple(owned) for name, owned in world.owned.items()}
        self.indexes = tuple(world.tree)
        self._instance = instance
        self._tokens: dict[Caller, str] = {}

    async def start(self, stack: AsyncExitStack) -> None:
        """Fill the registry, make tokens, and serve until the stack ends."""
        stack.push_async_callback(close_instance, self._instance)
        self._instance.registry.change_now(self._fill)
        app = build(Running(self._instance), make_logger("text", "error", io.StringIO()))
        self._base = await _serve_behind_front(app, stack)
        self._session = await stack.enter_async_context(
            aiohttp.ClientSession(headers={"Accept-Encoding": "identity"}, auto_decompress=False)
        )

    def _fill(self, change: Change) -> None:
        for name, owned in self.owned.items():
            for age, claim in enumerate(owned):
                self._claim(change, name, claim, age)
        for number, who in enumerate(self.world.callers):
            if who.kind is not CallerKind.ANONYMOUS:
                self._tokens[who], _ = tokens.mint(
                    change,
                    kind=_TOKEN_KINDS[who.kind],
                    name=f"t{number}",
                    created_at=self._instance.now(),
                    created_by="test",
                    scopes=[] if who.kind in {CallerKind.JOB, CallerKind.OWNER} else who.scopes,
                    user=who.name if who.kind is CallerKind.USER else None,
                    namespace=next(iter(who.homes), None),
                )

    def _claim(self, change: Change, name: Name, claim: str, age: int) -> None:
        """Publish a file, as `World.owned` has it; then delete it, or drop its namespace, for a tombstone."""
        project = NamespacePath(claim.removeprefix("-") or f"gone-{name}")
        filename = f"{name.replace('-', '_')}-1.0-py3-none-any.whl"
        content, metadata = f"{name} of {project}", f"metadata of {name} of {project}"
        for text in (content, metadata):
            self._instance.objects.put_bytes(text.encode())
        at = FIRST_CLAIM + timedelta(days=age)
        new = new_file(filename, at=at, content=content, metadata=metadata, size=len(content))
        packages.insert_file(change, project, new)
        if claim == "-":
            namespaces.drop(change, self._instance.snapshot.tree, project, at)
        elif claim.startswith("-"):
            packages.delete_files(change, project, name)

    async def claim(self, later: Mapping[Name, Sequence[str]]) -> None:
        """Publish and delete more, while it serves."""

        def act(change: Change) -> None:
            for name, places in later.items():
                known = {claim.removeprefix("-") for claim in self.owned.get(name, ())}
                for place in places:
                    if place.removeprefix("-") not in known:
                        self.owned[name] = (*self.owned.get(name, ()), place)
                        self._claim(change, name, place, len(self.owned[name]))

        await self._instance.registry.change(act)

    def every_page(self) -> Iterator[Ask]:
        """Every name at every index, asked for by the owner of the instance, who may see everything."""
        caller = self.world.callers.index(OWNER)
        for index in range(len(self.indexes)):
            for name in NAMES:
                yield Ask(index, caller, name, "page's head", "short", "normal")

    async def ask(self, ask: Ask, stock: Stock) -> tuple[Namespace, int, bytes, str]:
        """Send a request, and follow where it leads; return the index, the last status, body and address."""
        index = self.indexes[ask.index % len(self.indexes)]
        route = ROUTES[ask.route]
        base = _short(index) if route.path("", "", stock).startswith(API) else BASES[ask.base](index)
        target = route.path(base, SPELLINGS[ask.spelling](ask.name), stock)
        headers = dict(route.headers or {})
        token = self._tokens.get(self.world.callers[ask.caller % len(self.world.callers)])
        if token is not None:
            pair = base64.b64encode(f"__token__:{token}".encode()).decode()
            headers["Authorization"] = f"Basic {pair}"
        for _ in range(4):
            url = URL(self._base + target, encoded=True)
            async with self._session.request(
                route.method, url, headers=headers, allow_redirects=False
            ) as answer:
                body = await answer.read()
                if "Location" not in answer.headers:
                    return index, answer.status, body, target
                target = urljoin(target, answer.headers["Location"])
        raise AssertionError(f"{target} leads nowhere")


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Upstream:
    return Upstream(tmp_path_factory.mktemp("upstream"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a data directory with empty databases, to be copied: making their tables takes a while."""
    directory = tmp_path_factory.mktemp("prepared")
    instance = open_instance(replace(snapshot_of("projects: {}"), data_dir=str(directory)))
    asyncio.run(close_instance(instance))
    return directory


@pytest.fixture(scope="module")
def fresh_data(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Path]]:
    """Give a function that copies it; only the last copy is kept."""
    copy = tmp_path_factory.mktemp("data") / "copy"

    def make() -> Path:
        shutil.rmtree(copy, ignore_errors=True)
        return Path(shutil.copytree(prepared, copy))

    yield make
    shutil.rmtree(copy, ignore_errors=True)


async def _opened(
    world: World, upstream: Upstream, data: Path, stack: AsyncExitStack, *, keeps: bool = False
) -> Overlay:
    """Serve a world in which every page is asked for anew each time: a page that is kept would hide a leak.

    Args:
        keeps: in which nothing is asked for twice, instead: what is kept must not hide a claim.
    """
    await upstream.start(stack)
    fresh_for, not_found_for = ("1d", "1d") if keeps else ("0s", "0s")
    config = {
        **world.config,
        "upstreams": {"pypi": upstream.settings},
        "cache": {
            "fresh_for": fresh_for,
            "not_found_for": not_found_for,
            "stale_while_revalidate": "0s",
        },
    }
    instance = open_instance(replace(snapshot_of(config), data_dir=str(data)))
    overlay = Overlay(world, instance)
    await overlay.start(stack)
    upstream.take_asked()
    return overlay


Example: TypeAlias = tuple[World, bool, Sequence[Ask], Mapping[Name, Sequence[str]], Sequence[Ask]]


@st.composite
def _examples(draw: st.DrawFn) -> Example:
    """Draw a world, whether it keeps answers, requests, what is published and deleted then, and more requests."""
    world = draw(worlds())
    asks = st.lists(_ASKS, min_size=ASKS, max_size=ASKS)
    return world, draw(st.booleans()), draw(asks), draw(claims(world.tree)), draw(asks)


async def _judge(overlay: Overlay, upstream: Upstream, ask: Ask) -> None:
    """Send a request and judge what it set going, and what came back."""
    stock = upstream.stock[ask.name]
    index, status, body, target = await overlay.ask(ask, stock)
    asked = upstream.take_asked()
    told = (ask, index.path, target, status, body[:300])
    assert status < 500, told
    for name in asked:
        # Filenames stand for several names, and each is judged by itself.
        assert not _is_closed(overlay, index, Name(name)), (name, *told)
    if _is_closed(overlay, index, ask.name):
        assert body not in stock.contents, told
        if ask.route.startswith(("page", "document")):
            assert b"-99.0" not in body, told


def _is_closed(overlay: Overlay, index: Namespace, name: Name) -> bool:
    """Whether a name is somebody's at an index, and nothing of an upstream is joined to it there."""
    world, owned = overlay.world, overlay.owned
    return world.is_claimed(index.path, name, owned) and not world.is_merged(index.path, name, owned)


@settings(
    # One example is an instance with hundreds of requests.
    max_examples=settings().max_examples // 6,
    deadline=None,
    # Without shrinking, which would take minutes: the assertions tell request, place and answer.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
@given(_examples())
def test_a_claimed_name_is_never_asked_upstream_by_any_route(
    upstream: Upstream,
    fresh_data: Callable[[], Path],
    example: Example,
) -> None:
    world, keeps, before, later, after = example

    async def run() -> None:
        async with AsyncExitStack() as stack:
            overlay = await _opened(world, upstream, fresh_data(), stack, keeps=keeps)
            for ask in (*before, *overlay.every_page()):
                await _judge(overlay, upstream, ask)
            # What was answered once is given by the front, before and behind the change.
            again = before if keeps else ()
            for ask in again:
                await _judge(overlay, upstream, ask)
            await overlay.claim(later)
            for ask in (*again, *after, *overlay.every_page()):
                await _judge(overlay, upstream, ask)

    asyncio.run(run())


# That the requests above would be seen upstream, if nothing stood in their way

_FREE: Mapping[str, Any] = {
    "users": {},
    "groups": {
        "ga1": {
            "id": 1,
            "visibility": "public",
            "groups": {"gb2": {"id": 2, "visibility": "public", "projects": {"pc3": {"id": 3}}}},
        }
    },
}


NAME = NAMES[1]


async def _asked(overlay: Overlay, upstream: Upstream, index: str, **ask: str) -> set[str]:
    """Ask for `NAME` at an index as its owner would; return what the upstream was asked for."""
    position = [namespace.path for namespace in overlay.indexes].index(NamespacePath(index))
    given = Ask(position, 0, NAME, **{"route": "page", "base": "short", "spelling": "normal", **ask})
    await overlay.ask(given, upstream.stock[NAME])
    return upstream.take_asked()


@pytest.mark.parametrize("claim", ["", "ga1/gb2/pc3", "-ga1/gb2/pc3", "-"])
def test_every_route_asks_for_a_name_if_and_only_if_it_is_free(
    upstream: Upstream, fresh_data: Callable[[], Path], claim: str
) -> None:
    owned = {NAME: (claim,)} if claim else {}
    world = World({**_FREE, "projects": {}}, tree_of(_FREE), owned, (OWNER,))

    async def run() -> dict[str, bool]:
        async with AsyncExitStack() as stack:
            overlay = await _opened(world, upstream, fresh_data(), stack)
            return {
                route: NAME in await _asked(overlay, upstream, "ga1/gb2", route=route) for route in ROUTES
            }

    reached = asyncio.run(run())
    assert reached == {name: route.asks and not claim for name, route in ROUTES.items()}


def test_every_spelling_of_a_base_reaches_the_same_index(
    upstream: Upstream, fresh_data: Callable[[], Path]
) -> None:
    world = World({**_FREE, "projects": {}}, tree_of(_FREE), {}, (OWNER,))
    everywhere = ["", "ga1", "ga1/gb2", "ga1/gb2/pc3"]

    async def run() -> dict[tuple[str, str], set[str]]:
        async with AsyncExitStack() as stack:
            overlay = await _opened(world, upstream, fresh_data(), stack)
            return {
                (base, index): await _asked(overlay, upstream, index, base=base)
                for base in BASES
                for index in everywhere
            }

    assert asyncio.run(run()) == {(base, index): {NAME} for base in BASES for index in everywhere}


@pytest.mark.parametrize("route", ["page", "document", "document of a version", "document for pip-tools"])
def test_a_name_reaches_the_upstream_in_its_normal_form_or_not_at_all(
    upstream: Upstream, fresh_data: Callable[[], Path], route: str
) -> None:
    world = World({**_FREE, "projects": {}}, tree_of(_FREE), {}, (OWNER,))

    async def run() -> dict[str, set[str]]:
        async with AsyncExitStack() as stack:
            overlay = await _opened(world, upstream, fresh_data(), stack)
            return {
                spelling: await _asked(overlay, upstream, "ga1", spelling=spelling, route=route)
                for spelling in SPELLINGS
            }

    names = {"normal", "upper", "title", "underscores", "dots", "runs", "escaped", "escaped dash"}
    assert asyncio.run(run()) == {spelling: {NAME} if spelling in names else set() for spelling in SPELLINGS}
