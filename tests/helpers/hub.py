"""A stand-in of the Hugging Face hub on 127.0.0.1: the endpoints that an upload and a download of a model need."""

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
from urllib.parse import unquote, urlsplit

WRITER, READER = "hf_writer", "hf_reader"  # tokens that the hub knows: of the owner `me`, and of one who may read only


@dataclass
class Repository:
    """private: only those with a token see it; commits: the files of each, by its number, the last one is main."""

    private: bool
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{}])

    def revision(self, name: str) -> int | None:
        """The number of a commit by its digest, or of `main`."""
        if name == "main":
            return len(self.commits) - 1
        numbers = [number for number in range(len(self.commits)) if digest_of(number).startswith(name)]
        return numbers[0] if numbers else None


def digest_of(commit: int) -> str:
    return f"{commit:040x}"[::-1]


@dataclass
class HubServer:
    """repositories: by name; stored: large files by their SHA-256; cut: names of files that are sent without their last
    bytes; asked: method and path of each request, and its token; status: of every answer, where it is set."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    status: int | None = None

    def files(self, name: str) -> dict[str, bytes]:
        """The files on the main branch of a repository."""
        return self.repositories[name].commits[-1]


class HubHandler(BaseHTTPRequestHandler):
    """Answers as the hub does, as far as huggingface_hub asks."""

    protocol_version = "HTTP/1.1"
    server: Any

    @property
    def hub(self) -> HubServer:
        return self.server.hub

    def answer(self, content: Any, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str = "", message: str = "") -> None:
        self.answer({"error": message or code}, status, X_Error_Code=code, X_Error_Message=message or code)

    def route(self) -> None:
        path = unquote(urlsplit(self.path).path)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.hub.asked.append((self.command, path, token))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.hub.status is not None and path != "/":
            self.refuse(self.hub.status, message="the hub is being repaired")
        elif token not in ("", WRITER, READER) and not path.startswith("/large/"):
            self.refuse(401, message="Invalid credentials in Authorization header")
        elif path == "/":
            self.answer(b"")
        elif path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            self.create(json.loads(body), token)
        elif path.startswith("/large/"):
            self.hub.stored[path.rpartition("/")[2]] = body
            self.answer(b"")
        else:
            self.in_repository(path, token, body)

    do_GET = do_HEAD = do_POST = do_PUT = route

    def create(self, asked: dict[str, Any], token: str) -> None:
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if token != WRITER or not name.startswith("me/"):
            self.refuse(403, message="You don't have the rights to create a model under this namespace")
            return
        known = name in self.hub.repositories
        self.hub.repositories.setdefault(name, Repository(private=asked.get("visibility") == "private"))
        self.answer({"url": f"{self.hub.url}/{name}", "name": name}, 409 if known else 200)

    def in_repository(self, path: str, token: str, body: bytes) -> None:
        found = re.match(r"/(?:api/models/)?([^/]+/[^/]+?)(?:\.git)?(?:/(.*))?$", path)
        name, rest = (found[1], found[2] or "") if found else ("", "")
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and not token):
            self.refuse(404 if token else 401, "RepoNotFound", "Repository not found")
            return
        kind, _, rest = rest.partition("/")
        if self.command == "POST" and token != WRITER:
            self.refuse(403, message="Forbidden: you must have write access")
        elif kind == "preupload":
            files = [{"path": file["path"], "shouldIgnore": False, "oid": None,
                      "uploadMode": "lfs" if file["path"].endswith((".safetensors", ".pt")) else "regular"}
                     for file in json.loads(body)["files"]]  # fmt: skip
            self.answer({"files": files})
        elif kind == "info":
            objects = [{"oid": one["oid"], "size": one["size"],
                        "actions": {"upload": {"href": f"{self.hub.url}/large/{one['oid']}"}}}
                       for one in json.loads(body)["objects"]]  # fmt: skip
            self.answer({"transfer": "basic", "objects": objects})
        elif kind == "commit":
            self.commit(repository, body)
        else:
            self.read(name, repository, kind, rest)

    def commit(self, repository: Repository, body: bytes) -> None:
        files = dict(repository.commits[-1])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.stored[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        repository.commits.append(files)
        digest = digest_of(len(repository.commits) - 1)
        self.answer({"success": True, "commitUrl": f"{self.hub.url}/me/x/commit/{digest}", "commitOid": digest})

    def read(self, name: str, repository: Repository, kind: str, rest: str) -> None:
        revision, _, file = rest.partition("/")
        number = repository.revision(revision or "main")
        if number is None:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        files = repository.commits[number]
        if kind == "tree":
            self.answer([tree_entry(path, content) for path, content in files.items()])
        elif kind == "resolve" and file in files:
            content = files[file]
            sent = content[:-100] if file in self.hub.cut and self.command == "GET" else content
            etag = hashlib.sha256(content).hexdigest()
            self.answer(sent, ETag=f'"{etag}"', X_Repo_Commit=digest_of(number), X_Linked_Size=str(len(content)))
        elif kind == "resolve":
            self.refuse(404, "EntryNotFound")
        else:
            siblings = [{"rfilename": path} for path in files]
            self.answer({"_id": "1", "id": name, "modelId": name, "sha": digest_of(number), "tags": [],
                         "private": repository.private, "siblings": siblings})  # fmt: skip

    def log_message(self, *words: object) -> None:
        pass


def tree_entry(path: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "type": "file",
        "path": path,
        "size": len(content),
        "oid": hashlib.sha1(content).hexdigest(),
    }
    if path.endswith((".safetensors", ".pt")):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 100}
    return entry


@contextmanager
def serving_hub() -> Iterator[HubServer]:
    """A hub without repositories, until the end of the block."""
    running: Any = ThreadingHTTPServer(("127.0.0.1", 0), HubHandler)
    running.hub = HubServer(f"http://127.0.0.1:{running.server_port}")
    threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield running.hub
    finally:
        running.shutdown()
        running.server_close()


def use_hub(monkeypatch: Any, hub: HubServer, cache: Any, token: str | None = WRITER) -> None:
    """Let huggingface_hub in this process talk to the stand-in, with an empty cache, and by LFS instead of xet, as
    HF_ENDPOINT, HF_HUB_CACHE, HF_HUB_DISABLE_XET and HF_TOKEN do for a process that starts."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + template[template.index("/{") :])
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache) + "-no-token")
    if token is None:
        monkeypatch.delenv("HF_TOKEN", raising=False)
    else:
        monkeypatch.setenv("HF_TOKEN", token)
