"""Pages as PyPI writes them: project pages and the root list, JSON and HTML, and documents of the JSON API.

Sources: the simple repository API specification, PEP 503, 592, 629, 658, 691, 700, 714, 740, 792; from PyPI
itself: nulls for what is missing, the misspelt `data-dist-info-metadata`, both attributes in HTML.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import zlib
from collections.abc import Iterable, Iterator
from email.parser import BytesParser
from typing import Any
from urllib.parse import quote

from tests.fake_upstream.scenario import CHUNK, File, Project, Settings

JSON_TYPE = "application/vnd.pypi.simple.v1+json"
HTML_TYPE = "application/vnd.pypi.simple.v1+html"
PLAIN_HTML = "text/html"
SERIAL = 1_000_000


def representation(accept: str, settings: Settings) -> str:
    """Choose the type of a page: what `Accept` likes best, HTML where it likes nothing, and never 406.

    As PyPI does: at equal liking `text/html`, then the versioned HTML, then JSON. A wildcard gets HTML.
    """
    if settings.form == "json":
        return JSON_TYPE
    liked = {}
    for element in accept.split(","):
        kind, *parameters = (part.strip() for part in element.split(";"))
        quality = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        try:
            liked[kind.lower().replace(".latest+", ".v1+")] = float(quality)
        except ValueError:
            continue
    offers = [PLAIN_HTML, HTML_TYPE] if settings.form == "html" else [PLAIN_HTML, HTML_TYPE, JSON_TYPE]
    best = max(offers, key=lambda offer: liked.get(offer, 0.0))
    return best if liked.get(best) else PLAIN_HTML


def project_page(project: Project, kind: str, base: str) -> bytes:
    """Write a project's page; `base` is what absolute links begin with, without a slash at its end."""
    if kind == JSON_TYPE:
        return json.dumps(_project_json(project, base)).encode()
    settings = project.settings
    lines = [
        "<!DOCTYPE html>\n<html>\n  <head>",
        f'    <meta name="pypi:repository-version" content="{settings.api_version}">',
        f'    <meta name="pypi:project-status" content="{html.escape(project.status)}">',
        f"    <title>Links for {html.escape(project.name)}</title>\n  </head>\n  <body>",
        f"    <h1>Links for {html.escape(project.name)}</h1>",
        *(_anchor(file, settings, base) for file in project.files),
        f"  </body>\n</html>\n<!--SERIAL {SERIAL}-->",
    ]
    return "\n".join(lines).encode()


def root_page(projects: Iterable[Project], kind: str, settings: Settings) -> bytes:
    """Write the list of all projects by name; a quarantined one is left out."""
    shown = {one.name: one.display_name for one in projects if one.status != "quarantined"}
    shown |= {name: name for name in map("made-up-{:07}".format, range(settings.names))}
    listed = sorted(shown.items())
    if kind == JSON_TYPE:
        meta = {"_last-serial": SERIAL, "api-version": settings.api_version}
        names = [{"_last-serial": SERIAL, "name": spelling} for _, spelling in listed]
        return json.dumps({"meta": meta, "projects": names}).encode()
    anchors = (f'    <a href="/simple/{name}/">{html.escape(spelling)}</a>' for name, spelling in listed)
    head = (
        f'<meta name="pypi:repository-version" content="{settings.api_version}"><title>Simple index</title>'
    )
    body = "\n".join(anchors)
    return f"<!DOCTYPE html>\n<html>\n  <head>{head}</head>\n  <body>\n{body}\n  </body>\n</html>\n".encode()


def document(project: Project, version: str | None, base: str) -> bytes | None:
    """Write the JSON API's document of a project, or of one of its versions; None where it has no such version."""
    shown = version or next((file.version for file in reversed(project.files) if file.yanked is False), None)
    files = [file for file in project.files if file.version == shown]
    if not files:
        return None
    said = BytesParser().parsebytes(files[0].metadata or b"")
    about = f"{base}/project/{project.name}/"
    info = {
        "author": said["Author"],
        "author_email": said["Author-Email"] or "",
        "bugtrack_url": None,
        "classifiers": said.get_all("Classifier", []),
        "description": said.get_payload() or "",
        "description_content_type": said["Description-Content-Type"],
        "docs_url": None,
        "downloads": {"last_day": -1, "last_month": -1, "last_week": -1},
        "home_page": said["Home-Page"] or "",
        "keywords": said["Keywords"] or "",
        "license": said["License"],
        "name": project.display_name,
        "package_url": about,
        "platform": "",
        "project_url": about,
        "project_urls": None,
        "release_url": f"{about}{shown}/",
        "requires_dist": said.get_all("Requires-Dist"),
        "requires_python": said["Requires-Python"],
        "summary": said["Summary"],
        "version": shown,
        "yanked": files[0].yanked is not False,
        "yanked_reason": files[0].yanked if isinstance(files[0].yanked, str) else None,
        **project.info,
    }
    whole: dict[str, Any] = {
        "info": info,
        "last_serial": SERIAL,
        "urls": [_document_file(file, project.settings, base) for file in files],
        "vulnerabilities": list(project.vulnerabilities),
    }
    if version is None:
        releases: dict[str, list[dict[str, Any]]] = {}
        for file in project.files:
            entry = _document_file(file, project.settings, base)
            releases.setdefault(file.version, []).append(entry)
        whole["releases"] = releases
    return json.dumps(whole, sort_keys=True).encode()


def _document_file(file: File, settings: Settings, base: str) -> dict[str, Any]:
    wheel = file.filename.endswith(".whl")
    return {
        "comment_text": f"about {file.filename}",
        "digests": dict(file.digests),
        "downloads": -1,
        "filename": file.filename,
        "has_sig": False,
        "md5_digest": file.digests["md5"],
        "packagetype": "bdist_wheel" if wheel else "sdist",
        "python_version": "py3" if wheel else "source",
        "requires_python": file.requires_python,
        "size": file.length,
        "upload_time": (file.upload_time or "")[:19] or None,
        "upload_time_iso_8601": file.upload_time,
        "url": _link(file, settings, base),
        "yanked": file.yanked is not False,
        "yanked_reason": file.yanked if isinstance(file.yanked, str) else None,
    }


def etag(encoded: bytes) -> str:
    """Return a strong validator of PyPI's form: MD5 of the body as it is sent, in base64."""
    return f'"{base64.b64encode(hashlib.md5(encoded, usedforsecurity=False).digest()).decode()}"'


def compressed(body: bytes) -> bytes:
    """Return the body gzipped, the same each time."""
    return gzip.compress(body, mtime=0)


def bomb(size: int) -> Iterator[bytes]:
    """Yield a small gzip stream that unpacks into `size` blanks: it would end as JSON, if anyone came so far."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    while size > 0:
        yield packer.compress(b" " * min(CHUNK, size))
        size -= CHUNK
    yield packer.compress(b"{}") + packer.flush()


def _link(file: File, settings: Settings, base: str) -> str:
    if file.url is not None:
        return file.url
    address = quote(file.address, safe="/")
    return f"../..{address}" if settings.relative_links else f"{base}{address}"


def _hashes(file: File, settings: Settings) -> dict[str, str]:
    told = {**file.digests, "sha256": file.sha256 or file.digests["sha256"]}
    return {name: told[name] for name in settings.hashes}


def _core_metadata(file: File, settings: Settings) -> dict[str, str] | bool:
    if not (settings.core_metadata and file.core_metadata and file.metadata):
        return False
    if file.core_metadata == "bare":
        return True
    return {"sha256": file.metadata_sha256 or hashlib.sha256(file.metadata).hexdigest()}


def _project_json(project: Project, base: str) -> dict[str, Any]:
    settings = project.settings
    status = {"status": project.status}
    if project.status_reason is not None:
        status["reason"] = project.status_reason
    versions = dict.fromkeys([*project.versions, *(file.version for file in project.files)])
    return {
        "files": [_file_json(file, settings, base) for file in project.files],
        "meta": {"_last-serial": SERIAL, "api-version": settings.api_version},
        "name": project.name,
        "project-status": status,
        "versions": list(versions),
    }


def _file_json(file: File, settings: Settings, base: str) -> dict[str, Any]:
    metadata = _core_metadata(file, settings)
    entry: dict[str, Any] = {
        "filename": file.filename,
        "hashes": _hashes(file, settings),
        "provenance": file.provenance,
        "requires-python": file.requires_python,
        "url": _link(file, settings, base),
        "yanked": file.yanked,
    }
    if settings.core_metadata:
        entry |= {"core-metadata": metadata, "data-dist-info-metadata": metadata}
    if settings.size:
        entry["size"] = file.length
    if settings.upload_time and file.upload_time is not None:
        entry["upload-time"] = file.upload_time
    return entry


def _anchor(file: File, settings: Settings, base: str) -> str:
    fragment = "".join(f"#{name}={value}" for name, value in list(_hashes(file, settings).items())[:1])
    attributes = {"href": _link(file, settings, base) + fragment}
    if file.requires_python is not None:
        attributes["data-requires-python"] = file.requires_python
    if metadata := _core_metadata(file, settings):
        told = f"sha256={metadata['sha256']}" if isinstance(metadata, dict) else "true"
        attributes |= {"data-dist-info-metadata": told, "data-core-metadata": told}
    if file.yanked is not False:
        attributes["data-yanked"] = file.yanked if isinstance(file.yanked, str) else ""
    if file.provenance is not None:
        attributes["data-provenance"] = file.provenance
    written = " ".join(f'{name}="{html.escape(value)}"' for name, value in attributes.items())
    return f"    <a {written}>{html.escape(file.filename)}</a><br />"
