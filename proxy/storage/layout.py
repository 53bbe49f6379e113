"""Every path below the data directory, its purpose, and the version of its format. No other module joins them.

    registry.sqlite                     packages, releases, files, claims, tokens, audit: precious
    cache.sqlite                        what the cache holds and when it was last used: may be lost
    objects/ab/<sha256>                 private files and their metadata, by content: precious
    incoming/<process>-<random>         uploads in flight; emptied at start
    cache/files/ab/<key>                upstream files, metadata; key: sha256, or `url-…` (domain.pages.url_key)
    cache/partial/<key>-<source>        upstream files that are still arriving
    cache/partial/<key>-<source>.head   what is known of them meanwhile (cache.partials)
    cache/pages-v1/<upstream>/<name>    parsed upstream pages
    cache/documents-v1/<upstream>/<name>/<part>  what upstreams' JSON APIs said; part: `project` or a version's digest
    cache/notes-v1/<slot>               what was learned of an answer and soon is forgotten (cache.notes)
    cache/variants-v1/<upstream>/<name>/<form>.<coding>  upstream pages as they leave (cache.variants)
    cache/names-v1/<upstream>           the list of all names of an upstream (cache.names_file)
    cache/advisories-v1                 known vulnerabilities by name (cache.advisories_file)
    cache/damaged.json                  files that `cache verify` last found damaged and left; may be lost
    run/locks                           byte ranges that processes lock (storage.locks)
    run/board                           numbers that say what changed (storage.board)
    run/metrics/<worker>                what each worker has counted (observe.counts); emptied at start
    run/control                         socket on which the server takes orders (server.control)
    run/jobs/<id>                       how far long work is that was asked for over HTTP (index.jobs)
    run/serve.pid                       process id of the server, for people and scripts
    owner-token                         the token of the first start (mode 0600)
    <log.requests>, also with .1, .2    what was asked for and how it was decided (observe.requests)

A format that changes gets a new name (`pages-v2`); the old directory is then garbage, never misread.
Files under `objects` and `incoming` and under `cache/files` and `cache/partial` lie on one file system, so
that renames are atomic.
"""

# Paths are plain strings here: some are made and looked at for every file that is served.
# ruff: noqa: PTH100, PTH102, PTH103, PTH112, PTH118

from __future__ import annotations

import hashlib
import os
import re

from proxy.domain.names import Name
from proxy.errors import StorageError
from proxy.storage.disk import translated

_KEY = re.compile(r"(?:url-)?([0-9a-f]{2})[0-9a-f]{62}\Z", re.ASCII)
_UPSTREAM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\Z", re.ASCII)
_OWN = frozenset({".", "objects", "incoming", "cache", "run", "owner-token"})
_LONGEST_NAME = 150
"""Characters of a name that stands as it is in a path; file systems allow 255 bytes, temporary suffixes included."""


class Layout:
    """The paths of one data directory. Making one touches nothing; `prepare` makes the directories."""

    __slots__ = ("data_dir",)

    def __init__(self, data_dir: str) -> None:
        """Take `data_dir`, absolute or relative to the working directory of now."""
        self.data_dir = os.path.abspath(data_dir)

    def _below(self, *parts: str) -> str:
        return os.path.join(self.data_dir, *parts)

    @property
    def registry_database(self) -> str:
        return self._below("registry.sqlite")

    @property
    def cache_database(self) -> str:
        return self._below("cache.sqlite")

    @property
    def objects(self) -> str:
        return self._below("objects")

    @property
    def incoming(self) -> str:
        return self._below("incoming")

    @property
    def cached_files(self) -> str:
        return self._below("cache", "files")

    @property
    def partial_files(self) -> str:
        return self._below("cache", "partial")

    @property
    def cached_pages(self) -> str:
        return self._below("cache", "pages-v1")

    @property
    def cached_documents(self) -> str:
        return self._below("cache", "documents-v1")

    @property
    def notes(self) -> str:
        return self._below("cache", "notes-v1")

    @property
    def cached_variants(self) -> str:
        return self._below("cache", "variants-v1")

    @property
    def known_names(self) -> str:
        return self._below("cache", "names-v1")

    @property
    def advisories(self) -> str:
        return self._below("cache", "advisories-v1")

    @property
    def damaged_files(self) -> str:
        return self._below("cache", "damaged.json")

    @property
    def run(self) -> str:
        return self._below("run")

    @property
    def locks(self) -> str:
        return self._below("run", "locks")

    @property
    def board(self) -> str:
        return self._below("run", "board")

    @property
    def metrics(self) -> str:
        return self._below("run", "metrics")

    @property
    def control(self) -> str:
        return self._below("run", "control")

    @property
    def jobs(self) -> str:
        return self._below("run", "jobs")

    @property
    def serve_pid(self) -> str:
        return self._below("run", "serve.pid")

    def request_log(self, file: str) -> str:
        """Where requests are recorded; `file` is what the configuration says.

        Raises:
            StorageError: something else lies there, or may come to.
        """
        path = os.path.normpath(self._below(file))
        first = os.path.relpath(path, self.data_dir).partition(os.sep)[0]
        # A database has more files beside its own.
        if first in _OWN or first.startswith(("registry.sqlite", "cache.sqlite")):
            raise StorageError(
                f"log.requests cannot be {file[:80]!a}: that is taken",
                hint="name a file, such as requests.jsonl",
            )
        return path

    @property
    def owner_token(self) -> str:
        return self._below("owner-token")

    def object(self, digest: str) -> str:
        """Where the private bytes with this sha256 (lower-case hex) lie.

        Raises:
            StorageError: `digest` is not a content key. It may come from an address, so it never becomes
                a path unchecked.
        """
        return os.path.join(self.objects, _shard(digest), digest)

    def cached_file(self, key: str) -> str:
        """Where the upstream file of this key lies once it is whole and verified. Raises as `object`."""
        return os.path.join(self.cached_files, _shard(key), key)

    def partial_file(self, key: str, source: str) -> str:
        """Where the upstream file of this key is being written while it comes from `source`.

        Two addresses may claim one digest: each fills a file of its own until one is verified. Raises as `object`.
        """
        _shard(key)
        return os.path.join(self.partial_files, f"{key}-{hashlib.sha256(source.encode()).hexdigest()[:16]}")

    def partial_head(self, partial: str) -> str:
        """Where it stands what is known of the arriving file `partial`; written aside with `.new` behind it."""
        return f"{partial}.head"

    def partial_of(self, path: str) -> str:
        """The arriving file that `path`, of a file among them, is or tells of."""
        return path.removesuffix(".new").removesuffix(".head")

    def cached_page(self, upstream: str, name: Name) -> str:
        """Where the parsed page of `name` at `upstream` (a key of the configuration) lies.

        Long names are hashed behind a `+`, which no normalised name contains.
        """
        return os.path.join(self.pages_of(upstream), _leaf(name))

    def documents_of(self, upstream: str, name: Name) -> str:
        """The directory of what the JSON API of `upstream` said of `name`. Raises as `pages_of`."""
        return os.path.join(self.cached_documents, _checked(upstream), _leaf(name))

    def cached_document(self, upstream: str, name: Name, version: str | None) -> str:
        """Where one such document lies: of a version in any text, or of the project. Raises as `pages_of`."""
        part = "project" if version is None else hashlib.sha256(version.encode()).hexdigest()[:32]
        return os.path.join(self.documents_of(upstream, name), part)

    def variants_of(self, upstream: str, name: Name) -> str:
        """The directory of the page of `name` at `upstream` as it leaves. Raises as `pages_of`."""
        return os.path.join(self.cached_variants, _checked(upstream), _leaf(name))

    def cached_variant(self, upstream: str, name: Name, form: str, coding: str) -> str:
        """Where the page lies in one form and coding, both plain words. Raises as `pages_of`."""
        return os.path.join(self.variants_of(upstream, name), f"{form}.{coding}")

    def pages_of(self, upstream: str) -> str:
        """The directory of all pages of one upstream.

        Raises:
            StorageError: not the form of an upstream's name.
        """
        return os.path.join(self.cached_pages, _checked(upstream))

    def names_of(self, upstream: str) -> str:
        """Where the list of all names of one upstream lies. Raises as `pages_of`."""
        return os.path.join(self.known_names, _checked(upstream))

    def job(self, job_id: str) -> str:
        """Where the state of the job with this id (hex digits) is written."""
        return os.path.join(self.jobs, job_id)

    def prepare(self) -> None:
        """Make what is missing, readable by this user alone; what exists is left as it is.

        An existing data directory keeps its mode, since it may be a mount or a directory of the operator's;
        what lies below is closed all the same. The database files are made here so that SQLite, which goes
        by the umask, does not decide who may read them.

        Raises:
            StorageError: the data directory cannot be made or written.
        """
        try:
            with translated("the data directory cannot be used"):
                os.makedirs(self.data_dir, mode=0o700, exist_ok=True)
                for directory in (
                    self.objects,
                    self.incoming,
                    self._below("cache"),
                    self.cached_files,
                    self.partial_files,
                    self.cached_pages,
                    self.cached_documents,
                    self.cached_variants,
                    self.notes,
                    self.known_names,
                    self.run,
                    self.metrics,
                    self.jobs,
                ):
                    if not os.path.isdir(directory):
                        os.mkdir(directory, 0o700)
                    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
                        raise PermissionError(13, os.strerror(13))
                for database in (self.registry_database, self.cache_database):
                    _create_private(database)
        except StorageError as error:
            error.hint = error.hint or "check storage.data_dir, its owner and its permissions"
            raise


def _create_private(path: str) -> None:
    # Only ever opened when new: closing a file that SQLite has open in this process would drop its locks.
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return


def _leaf(name: Name) -> str:
    return name if len(name) <= _LONGEST_NAME else "+" + hashlib.sha256(name.encode()).hexdigest()


def _checked(upstream: str) -> str:
    if _UPSTREAM.match(upstream) is None:
        raise StorageError(f"{upstream[:80]!a} is not the name of an upstream")
    return upstream


def _shard(key: str) -> str:
    match = _KEY.match(key)
    if match is None:
        raise StorageError(f"{key[:80]!a} is not the key of a file")
    return match[1]
