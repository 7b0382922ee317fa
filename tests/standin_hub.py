"""A stand-in for the model hub: a folder of repositories behind the hub's own HTTP interface.

It counts what it serves, refuses what the hub refuses, and takes uploads.
"""

import base64
import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LARGE = 20_000
"""Bytes from which on a file counts as large, as those in LFS do."""

TOKEN = "hf_" + "a" * 34


class Repository:
    """Commits, each a mapping of names to contents, and what branches and tags call them."""

    def __init__(self, private: bool = False, gated: bool = False, hidden: bool = False):
        self.private, self.gated = private, gated
        self.hidden = hidden
        """Private, and of somebody else's: the hub does not tell that it is there."""
        self.commits: dict[str, dict[str, bytes]] = {}
        self.refs: dict[str, str] = {}
        self.messages: list[str] = []

    def commit(self, files: dict[str, bytes], ref: str = "main", message: str = "") -> str:
        facts = [sorted((n, hashlib.sha1(b).hexdigest()) for n, b in files.items()), self.messages]
        name = hashlib.sha1(json.dumps(facts).encode()).hexdigest()
        self.commits[name] = dict(files)
        self.refs[ref] = name
        self.messages.append(message)
        return name

    def at(self, revision: str) -> str | None:
        return self.refs.get(revision, revision if revision in self.commits else None)

    @property
    def files(self) -> dict[str, bytes]:
        """Those of `main`."""
        return self.commits[self.refs["main"]]


class StandInHub:
    """The server, its repositories by id, and what it was asked for."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.served: Counter[str] = Counter()
        """File (repository/name) -> bytes of it that were sent."""
        self.uploads: dict[str, bytes] = {}
        self.is_down = False
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def add(self, name: str, files: dict[str, bytes], **kind: bool) -> str:
        """A repository with one commit."""
        self.repositories[name] = Repository(**kind)
        return self.repositories[name].commit(files)

    @property
    def total(self) -> int:
        """Bytes of files that were sent."""
        return sum(self.served.values())

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: StandInHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_HEAD(self) -> None:
        self._get()

    def do_GET(self) -> None:
        self._get()

    def do_PUT(self) -> None:
        data = self._body()
        self.hub.uploads[hashlib.sha256(data).hexdigest()] = data
        self._send(200, b"")

    def do_POST(self) -> None:
        body, path = self._body(), unquote(urlsplit(self.path).path)
        if self.hub.is_down:
            return self._refuse(503, "")
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if not self._is_known_user():
            return self._refuse(401, "", "Invalid username or password.")
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if found := re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", path):
            return self._batch(json.loads(body))
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit|branch)/(.+)", path)
        repository = found and self.hub.repositories.get(found[1])
        if not found or repository is None:
            return self._refuse(404, "RepoNotFound")
        if found[2] == "branch":
            repository.refs[found[3]] = repository.refs["main"]
            return self._json({})
        if repository.at(found[3]) is None:
            return self._refuse(404, "RevisionNotFound")
        if found[2] == "preupload":
            return self._preupload(json.loads(body))
        return self._commit(found[1], repository, found[3], body)

    def _create(self, asked: dict) -> None:
        name = f"{asked['organization'] or 'me'}/{asked['name']}"
        if name.startswith("nobody/"):
            return self._refuse(404, "", "Organization not found")
        if name in self.hub.repositories:
            told = {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"}
            return self._send(409, json.dumps(told).encode())
        if not name.startswith("me/"):
            return self._refuse(403, "", "You don't have the rights to create a model there")
        is_private = asked.get("private") or asked.get("visibility") == "private"
        self.hub.add(name, {".gitattributes": b""}, private=bool(is_private))
        return self._json({"url": f"{self.hub.url}/{name}"})

    def _batch(self, asked: dict) -> None:
        objects = []
        for each in asked["objects"]:
            told = {"oid": each["oid"], "size": each["size"]}
            if each["oid"] not in self.hub.uploads:
                told["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{each['oid']}"}}
            objects.append(told)
        self._json({"transfer": "basic", "objects": objects})

    def _preupload(self, asked: dict) -> None:
        files = [
            {
                "path": each["path"],
                "uploadMode": "lfs" if each["size"] >= LARGE else "regular",
                "shouldIgnore": False,
            }
            for each in asked["files"]
        ]
        self._json({"files": files})

    def _commit(self, name: str, repository: Repository, revision: str, body: bytes) -> None:
        files, message = dict(repository.commits[repository.at(revision) or ""]), ""
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploads[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        oid = repository.commit(files, revision, message)
        self._json({"commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "commitOid": oid})

    def _get(self) -> None:
        if self.hub.is_down:
            return self._refuse(503, "")
        path = unquote(urlsplit(self.path).path)
        if path == "/api/whoami-v2":
            if self._is_known_user():
                return self._json({"name": "me", "type": "user"})
            return self._refuse(401, "", "Invalid username or password.")
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+?)(?:/(revision|tree)/(.+))?", path):
            if repository := self._repository(found[1]):
                self._about(found[1], repository, found[2], found[3] or "main")
            return None
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            if repository := self._repository(found[1]):
                self._file(found[1], repository, found[2], found[3])
            return None
        return self._refuse(404, "")

    def _about(self, name: str, repository: Repository, what: str | None, revision: str) -> None:
        commit = repository.at(revision)
        if commit is None:
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files = repository.commits[commit]
        if what == "tree":
            return self._json(
                [
                    {"type": "file", "path": n, "size": len(b), "oid": blob_id(b)}
                    for n, b in files.items()
                ]
            )
        siblings = []
        for file, data in files.items():
            told = {"rfilename": file, "size": len(data), "blobId": blob_id(data)}
            if len(data) >= LARGE:
                sha = hashlib.sha256(data).hexdigest()
                told["lfs"] = {"sha256": sha, "size": len(data), "pointerSize": 130}
            siblings.append(told)
        return self._json(
            {"id": name, "sha": commit, "private": repository.private, "siblings": siblings}
        )

    def _file(self, name: str, repository: Repository, revision: str, file: str) -> None:
        commit = repository.at(revision)
        if repository.gated and not self._is_known_user():
            return self._refuse(401, "GatedRepo", f"Access to model {name} is restricted.")
        if commit is None:
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if file not in repository.commits[commit]:
            return self._refuse(404, "EntryNotFound", "Entry not found")
        data = repository.commits[commit][file]
        is_large = len(data) >= LARGE
        etag = hashlib.sha256(data).hexdigest() if is_large else blob_id(data)
        status, headers = 200, {"X-Repo-Commit": commit, "ETag": f'"{etag}"'}
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(asked[1]), int(asked[2] or len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            status, data = 206, data[first : last + 1]
        if self.command == "GET":
            self.hub.served[f"{name}/{file}"] += len(data)
        return self._send(status, data, headers)

    def _repository(self, name: str) -> Repository | None:
        repository = self.hub.repositories.get(name)
        is_secret = repository and (repository.private and not self._is_known_user())
        if repository is None or repository.hidden or is_secret:
            # The hub does not tell strangers whether there is one.
            is_known = self._is_known_user()
            self._refuse(404 if is_known else 401, "RepoNotFound", "Repository not found")
            return None
        return repository

    def _is_known_user(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, message: str = "") -> None:
        self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": message})

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            if value:
                self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextmanager
def running() -> Iterator[StandInHub]:
    hub = StandInHub()
    try:
        yield hub
    finally:
        hub.close()
