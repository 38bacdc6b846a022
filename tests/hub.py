"""A Hub on loopback: the part of the Hugging Face Hub's HTTP API that `huggingface_hub` and `datasets` use.

Source: what huggingface_hub 2.4 asks (its source), and huggingface.co/docs/hub/api. Content lies in memory. Faults
are planted from outside: `POST /faults` with a list of `{"path": "/commit/", "status": 429, "times": 2}`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

TOKEN = "hf_testing"


@dataclass
class Repository:
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)
    large: set[str] = field(default_factory=set)
    others: dict[str, tuple[str, dict[str, bytes]]] = field(default_factory=dict)
    """Tags by name."""

    def __post_init__(self) -> None:
        self.add("initial commit", {".gitattributes": b"*.parquet filter=lfs\n"})

    def add(self, message: str, files: dict[str, bytes]) -> str:
        oid = hashlib.sha1(f"{len(self.commits)} {message} {sorted(files)}".encode()).hexdigest()
        self.commits.append((oid, files))
        return oid

    @property
    def head(self) -> tuple[str, dict[str, bytes]]:
        return self.commits[-1]

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if revision == "main":
            return self.head
        return next((c for c in [*self.commits, *self.others.values()] if c[0] == revision), None)


@dataclass
class Hub:
    """What the server holds and has seen."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    sent: Counter[str] = field(default_factory=Counter)
    """Bytes of content received, by sha256."""
    deleted: set[str] = field(default_factory=set)
    """What was deleted for good, by sha256."""
    faults: list[dict] = field(default_factory=list)
    seen: list[tuple[str, str]] = field(default_factory=list)
    takes: int = 10**9
    """Contents that are still received; then who sends more waits, as on a network that has stalled."""
    before_commit: list = field(default_factory=list)
    """Called with the repository before a commit is looked at, once each: somebody else is faster."""

    def fault(self, path: str) -> Response | None:
        for fault in self.faults:
            if fault["path"] in path and fault["times"] > 0:
                fault["times"] -= 1
                return JSONResponse(
                    {"error": "planted"}, fault["status"], {"Retry-After": "0"} if fault["status"] == 429 else {}
                )
        return None


def _app(hub: Hub) -> Starlette:
    async def whoami(request: Request) -> Response:
        return JSONResponse({"name": "somebody", "type": "user", "orgs": [], "auth": {"type": "access_token"}})

    async def create(request: Request) -> Response:
        body = await request.json()
        name = f"{body.get('organization') or 'somebody'}/{body['name']}"
        if name in hub.repositories:
            return JSONResponse({"error": "exists", "url": f"{hub.url}/datasets/{name}"}, 409)
        hub.repositories[name] = Repository()
        return JSONResponse({"url": f"{hub.url}/datasets/{name}", "name": name, "id": name})

    def entry(path: str, content: bytes, repository: Repository) -> dict:
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        found = {"type": "file", "path": path, "size": len(content), "oid": blob}
        if path in repository.large:
            found["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return found

    async def info(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in hub.repositories:
            return JSONResponse({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        found = hub.repositories[name].at(request.path_params.get("revision", "main"))
        if found is None:
            return JSONResponse({"error": "Revision not found"}, 404, {"X-Error-Code": "RevisionNotFound"})
        oid, files = found
        return JSONResponse(
            {"id": name, "_id": name, "sha": oid, "private": False, "tags": [], "downloads": 0, "likes": 0}
            | {"siblings": [{"rfilename": path} for path in sorted(files)]}
        )

    async def tree(request: Request) -> Response:
        repository = hub.repositories[request.path_params["name"]]
        _, files = repository.at(request.path_params["revision"]) or repository.head
        under = request.path_params.get("folder", "").strip("/")
        wide = request.query_params.get("recursive", "").lower() == "true"
        found, folders = [], set()
        for path, content in sorted(files.items()):
            if under and not path.startswith(under + "/"):
                continue
            rest = path[len(under) + 1 if under else 0 :]
            if "/" in rest and not wide:
                folders.add(f"{under}/{rest.split('/')[0]}".strip("/"))
            else:
                found.append(entry(path, content, repository))
        if under and not found and not folders:
            return JSONResponse({"error": "no such folder"}, 404, {"X-Error-Code": "EntryNotFound"})
        return JSONResponse(
            [{"type": "directory", "path": p, "oid": "0" * 40, "size": 0} for p in sorted(folders)] + found
        )

    async def paths_info(request: Request) -> Response:
        repository = hub.repositories[request.path_params["name"]]
        _, files = repository.at(request.path_params["revision"]) or repository.head
        body = await request.body()
        try:
            paths = json.loads(body)["paths"]
        except ValueError:
            paths = (await request.form()).getlist("paths")
        return JSONResponse([entry(path, files[path], repository) for path in paths if path in files])

    async def preupload(request: Request) -> Response:
        body = await request.json()
        modes = [
            {
                "path": f["path"],
                "uploadMode": "lfs" if f["path"].endswith((".parquet", ".flac", ".safetensors")) else "regular",
                "shouldIgnore": False,
            }
            for f in body["files"]
        ]
        return JSONResponse({"files": modes})

    async def batch(request: Request) -> Response:
        body = await request.json()
        objects = []
        for wanted in body["objects"]:
            found = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in hub.objects:
                found["actions"] = {
                    "upload": {"href": f"{hub.url}/store/{wanted['oid']}"},
                    "verify": {"href": f"{hub.url}/verify/{wanted['oid']}"},
                }
            objects.append(found)
        return JSONResponse({"transfer": "basic", "objects": objects}, media_type="application/vnd.git-lfs+json")

    async def store(request: Request) -> Response:
        oid, content = request.path_params["oid"], await request.body()
        while hub.takes <= 0:
            await asyncio.sleep(0.01)
        hub.takes -= 1
        hub.sent[oid] += len(content)
        if hashlib.sha256(content).hexdigest() != oid:
            return PlainTextResponse("the content is not what its name says", 400)
        hub.objects[oid] = content
        return PlainTextResponse("")

    async def verify(request: Request) -> Response:
        return PlainTextResponse("", 200 if request.path_params["oid"] in hub.objects else 404)

    async def commit(request: Request) -> Response:
        repository = hub.repositories[request.path_params["name"]]
        lines = [json.loads(line) for line in (await request.body()).splitlines() if line]
        while hub.before_commit:
            hub.before_commit.pop()(repository)
        header = next(line["value"] for line in lines if line["key"] == "header")
        oid, files = repository.head
        if header.get("parentCommit") not in (None, oid):
            return JSONResponse({"error": "A commit has happened since. Please refresh and try again."}, 412)
        files = dict(files)
        for line in lines:
            value = line["value"]
            if line["key"] == "lfsFile":
                if value["oid"] not in hub.objects:
                    return JSONResponse({"error": f"LFS pointer {value['oid']} points to nothing"}, 400)
                files[value["path"]] = hub.objects[value["oid"]]
                repository.large.add(value["path"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        oid = repository.add(header["summary"], files)
        return JSONResponse(
            {
                "commitOid": oid,
                "commitUrl": f"{hub.url}/datasets/{request.path_params['name']}/commit/{oid}",
                "success": True,
            }
        )

    async def refs(request: Request) -> Response:
        repository = hub.repositories[request.path_params["name"]]
        tags = [{"name": n, "ref": f"refs/tags/{n}", "targetCommit": c[0]} for n, c in repository.others.items()]
        main = {"name": "main", "ref": "refs/heads/main", "targetCommit": repository.head[0]}
        return JSONResponse({"branches": [main], "converts": [], "tags": tags, "pullRequests": []})

    async def commits(request: Request) -> Response:
        repository = hub.repositories[request.path_params["name"]]
        told = {"title": "", "message": "", "authors": [], "date": "2026-01-01T00:00:00.000Z"}
        return JSONResponse([{"id": oid, **told} for oid, _ in reversed(repository.commits)])

    async def squash(request: Request) -> Response:
        repository = hub.repositories[request.path_params["name"]]
        files = repository.head[1]
        repository.commits.clear()
        repository.add((await request.json())["message"] + " squashed", files)
        return JSONResponse({})

    async def lfs_files(request: Request) -> Response:
        told = {"filename": "some.parquet", "pushedAt": "2026-01-01T00:00:00.000Z", "ref": "main", "pusher": {}}
        return JSONResponse(
            [{"fileOid": f"id-{oid}", "oid": oid, "size": len(c), **told} for oid, c in hub.objects.items()]
        )

    async def delete_lfs(request: Request) -> Response:
        repository = hub.repositories[request.path_params["name"]]
        asked = (await request.json())["deletions"]
        assert asked["rewriteHistory"] is True
        for file in asked["sha"]:
            hub.deleted.add(file.removeprefix("id-"))
            gone = hub.objects.pop(file.removeprefix("id-"))
            for _, files in repository.commits:
                for path in [path for path, content in files.items() if content == gone]:
                    del files[path]
        return JSONResponse({})

    async def resolve(request: Request) -> Response:
        name, path = request.path_params["name"], request.path_params["path"]
        repository = hub.repositories.get(name)
        found = None if repository is None else repository.at(request.path_params["revision"])
        if repository is None or found is None or path not in found[1]:
            return JSONResponse({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
        oid, content = found[0], found[1][path]
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": oid, "Accept-Ranges": "bytes"}
        if path in repository.large:
            headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(content))}
        asked = request.headers.get("range", "")
        if asked.startswith("bytes="):
            begin, _, end = asked[6:].partition("-")
            last = min(int(end) if end else len(content) - 1, len(content) - 1)
            headers["Content-Range"] = f"bytes {begin}-{last}/{len(content)}"
            return Response(content[int(begin) : last + 1], 206, headers)
        headers["Content-Length"] = str(len(content))
        return Response(b"" if request.method == "HEAD" else content, headers=headers)

    async def yaml(request: Request) -> Response:
        return JSONResponse({"errors": [], "warnings": []})

    def guarded(endpoint):
        async def call(request: Request) -> Response:
            hub.seen.append((request.method, request.url.path))
            if (planted := hub.fault(request.url.path)) is not None:
                await request.body()
                return planted
            writes = request.method in ("POST", "PUT") and "/store/" not in request.url.path
            if (
                writes
                and request.headers.get("authorization") != f"Bearer {TOKEN}"
                and "verify" not in request.url.path
            ):
                return JSONResponse({"error": "Invalid username or password."}, 401)
            return await endpoint(request)

        return call

    name = "{name:path}"
    routes = [
        ("/api/whoami-v2", whoami, ["GET"]),
        ("/api/repos/create", create, ["POST"]),
        ("/api/validate-yaml", yaml, ["POST"]),
        ("/store/{oid}", store, ["PUT"]),
        ("/verify/{oid}", verify, ["POST"]),
    ]
    for kind, place in (("datasets", "/datasets"), ("models", "")):  # models last: their names begin the path
        api = f"/api/{kind}/{name}"
        routes += [
            (f"{api}/revision/{{revision}}", info, ["GET"]),
            (f"{api}/tree/{{revision}}", tree, ["GET"]),
            (f"{api}/tree/{{revision}}/{{folder:path}}", tree, ["GET"]),
            (f"{api}/paths-info/{{revision}}", paths_info, ["POST"]),
            (f"{api}/preupload/{{revision}}", preupload, ["POST"]),
            (f"{api}/commit/{{revision}}", commit, ["POST"]),
            (f"{api}/refs", refs, ["GET"]),
            (f"{api}/commits/{{revision}}", commits, ["GET"]),
            (f"{api}/super-squash/{{revision}}", squash, ["POST"]),
            (f"{api}/lfs-files", lfs_files, ["GET"]),
            (f"{api}/lfs-files/batch", delete_lfs, ["POST"]),
            (api, info, ["GET"]),
            (f"{place}/{name}.git/info/lfs/objects/batch", batch, ["POST"]),
            (f"{place}/{name}/resolve/{{revision}}/{{path:path}}", resolve, ["GET", "HEAD"]),
        ]
    return Starlette(routes=[Route(path, guarded(endpoint), methods=methods) for path, endpoint, methods in routes])


@contextmanager
def serving() -> Iterator[Hub]:
    """A Hub of its own on loopback, until the block ends."""
    hub = Hub()
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    hub.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(_app(hub), log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        assert time.monotonic() < deadline, "the Hub on loopback does not start"
        time.sleep(0.01)
    try:
        yield hub
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
