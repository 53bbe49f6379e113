"""Deleting what may not be shown any more: old pages and documents of upstreams, and what was made of such pages.

They are replaced when they are asked for again; names that nobody asks for again would stay for ever. A page that
lists files which the cache has stays all the same: without it nobody could tell, when the name is asked for again,
which of those its upstream has removed meanwhile.
"""
# Plain os calls by path, as in storage.
# ruff: noqa: PTH108, PTH110, PTH116, PTH118

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

from proxy.storage.layout import Layout


def sweep(
    layout: Layout,
    keep_for: timedelta,
    now: datetime,
    is_needed: Callable[[str], bool],
    is_over: Callable[[], bool] = lambda: False,
) -> int:
    """Delete pages and documents that were last confirmed longer than `keep_for` ago; return how many.

    Blocks; for a thread, beside a running server: what is confirmed at this very moment is fetched once more.

    Args:
        keep_for: how long an answer may be shown: fresh, and stale while its upstream fails.
        is_needed: whether the page at a path is to stay all the same, until as long after.
        is_over: whether to stop early.
    """
    oldest = now.timestamp() - keep_for.total_seconds()
    gone = 0
    # Each is written anew when it is confirmed, so its file's time says when that was.
    for tree in (layout.cached_pages, layout.cached_documents):
        for directory, _, names in os.walk(tree):
            for name in names:
                if is_over():
                    return gone
                path = os.path.join(directory, name)
                with contextlib.suppress(OSError):
                    if os.stat(path, follow_symlinks=False).st_mtime >= oldest:
                        continue
                    if tree == layout.cached_pages and is_needed(path):
                        # Its envelope says how old it is; this, when to look at it again.
                        os.utime(path, (now.timestamp(), now.timestamp()))
                        continue
                    os.unlink(path)
                    gone += 1
    for variants, page in _made(layout):
        if is_over():
            break
        if not os.path.exists(page):
            shutil.rmtree(variants, ignore_errors=True)
    return gone


def _made(layout: Layout) -> Iterator[tuple[str, str]]:
    """Every directory of finished variants, with the page that they were made of."""
    with contextlib.suppress(OSError), os.scandir(layout.cached_variants) as upstreams:
        for upstream in upstreams:
            with contextlib.suppress(OSError), os.scandir(upstream.path) as names:
                # Both trees name a leaf alike.
                for name in names:
                    yield name.path, os.path.join(layout.cached_pages, upstream.name, name.name)
