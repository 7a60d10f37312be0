"""A stand-in of the Hugging Face Hub's HTTP interface on loopback: repositories in memory, small and large files.

Covered is what huggingface_hub calls for a model that is created, pushed in one commit, and fetched: /api/repos/create,
/api/validate-yaml, preupload, Git LFS batch and PUT, commit (ndjson), revision, tree, HEAD and GET of resolve.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LARGE = (".safetensors",)
TOKEN = "hf_" + "x" * 30


@dataclass
class Repository:
    """files: content by path; commits: their ids, newest last."""

    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)


class Hub(ThreadingHTTPServer):
    """repositories by name; uploads: large files by sha256; asked: every request, `METHOD path`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.uploads: dict[str, bytes] = {}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def hub() -> Iterator[Hub]:
    """A hub that answers within the block."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def do_GET(self) -> None:
        self._answer("GET")

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def _answer(self, method: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        self.server.asked.append(f"{method} {path}")
        writes = method in ("POST", "PUT") and not path.startswith("/uploads/")
        if writes and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._send(401, {"error": "Invalid credentials"}, {"X-Error-Code": "Unauthorized"})
            return
        for pattern, handle in _ROUTES.items():
            if (match := re.fullmatch(pattern, f"{method} {path}")) is not None:
                handle(self, body, *match.groups())
                return
        self._send(404, {"error": f"no route {method} {path}"})

    def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _repository(self, name: str) -> Repository | None:
        found = self.server.repositories.get(name)
        if found is None:
            self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        return found

    def create(self, body: bytes) -> None:
        about = json.loads(body)
        name = "/".join(part for part in (about.get("organization"), about["name"]) if part)
        known = name in self.server.repositories
        self.server.repositories.setdefault(name, Repository())
        status = 409 if known else 200
        self._send(status, {"url": f"{self.server.url}/{name}", "id": name, "name": name})

    def validate(self, body: bytes) -> None:
        front = json.loads(body)["content"]
        fine = front.startswith("---\n") and "library_name: mmprime" in front
        errors = [] if fine else [{"message": "no metadata"}]
        self._send(200 if fine else 400, {"errors": errors, "warnings": []})

    def preupload(self, body: bytes, name: str) -> None:
        files = [
            {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(LARGE) else "regular", "shouldIgnore": False}
            for f in json.loads(body)["files"]
        ]
        self._send(200, {"files": files})

    def batch(self, body: bytes, name: str) -> None:
        objects = [
            {**each, "actions": {"upload": {"href": f"{self.server.url}/uploads/{each['oid']}", "header": {}}}}
            for each in json.loads(body)["objects"]
        ]
        self._send(200, {"transfer": "basic", "objects": objects}, {"Content-Type": "application/vnd.git-lfs+json"})

    def upload(self, body: bytes, oid: str) -> None:
        fits = hashlib.sha256(body).hexdigest() == oid
        self.server.uploads[oid] = body
        self._send(200 if fits else 400, {})

    def commit(self, body: bytes, name: str) -> None:
        repository = self._repository(name)
        if repository is None:
            return
        for line in body.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                repository.files[value["path"]] = self.server.uploads[value["oid"]]
        commit = hashlib.sha1(body).hexdigest()
        repository.commits.append(commit)
        url = f"{self.server.url}/{name}/commit/{commit}"
        self._send(200, {"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})

    def info(self, body: bytes, name: str, revision: str = "main") -> None:
        repository = self._repository(name)
        if repository is None:
            return
        if revision not in ("main", *repository.commits):
            self._send(404, {"error": "Revision not found"}, {"X-Error-Code": "RevisionNotFound"})
            return
        siblings = [{"rfilename": path} for path in sorted(repository.files)]
        sha = repository.commits[-1] if repository.commits else None
        self._send(200, {"id": name, "modelId": name, "sha": sha, "siblings": siblings, "tags": [], "private": False})

    def tree(self, body: bytes, name: str) -> None:
        repository = self._repository(name)
        if repository is not None:
            entries = [
                {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for path, data in sorted(repository.files.items())
            ]
            self._send(200, entries)

    def resolve(self, body: bytes, name: str, file: str) -> None:
        repository = self._repository(name)
        if repository is None:
            return
        if file not in repository.files:
            self._send(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            return
        data = repository.files[file]
        etag = hashlib.sha256(data).hexdigest()
        self._send(200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": repository.commits[-1]})


_NAME = r"([\w.-]+/[\w.-]+)"
_ROUTES: dict[str, Any] = {
    r"POST /api/repos/create": _Handler.create,
    r"POST /api/validate-yaml": _Handler.validate,
    rf"POST /api/models/{_NAME}/preupload/main": _Handler.preupload,
    rf"POST /{_NAME}\.git/info/lfs/objects/batch": _Handler.batch,
    r"PUT /uploads/(\w+)": _Handler.upload,
    rf"POST /api/models/{_NAME}/commit/main": _Handler.commit,
    rf"GET /api/models/{_NAME}": _Handler.info,
    rf"GET /api/models/{_NAME}/revision/(\w+)": _Handler.info,
    rf"GET /api/models/{_NAME}/tree/\w+": _Handler.tree,
    rf"(?:HEAD|GET) /{_NAME}/resolve/\w+/(.+)": _Handler.resolve,
}
