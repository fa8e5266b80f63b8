"""The part of the hub on loopback that is written to: repositories, branches, commits and LFS."""

from __future__ import annotations

import base64
import json
from typing import Any

from hub_layouts import git_sha1, sha256
from hub_repos import KeptRepo, is_lfs
from hub_server import Handler, Request

TOKEN = "hf_" + "loopback" * 4
READ_TOKEN = "hf_" + "readonly" * 4


class WriteHandler(Handler):
    """Also takes commits, from the user `me`."""

    def do_GET(self) -> None:
        if self.path != "/api/whoami-v2":
            super().do_GET()
        elif self.headers.get("Authorization") in (f"Bearer {TOKEN}", f"Bearer {READ_TOKEN}"):
            self.send_json({"name": "me", "type": "user", "orgs": []})
        else:
            message = "Invalid credentials in Authorization header"
            self.send(b"", {"X-Error-Message": message}, 401)

    def do_PUT(self) -> None:
        content = self.body()
        fault = self.hub.take_fault("PUT", self.path)
        if fault is not None and fault.kind == "cut":
            self.close_connection = True
            self.connection.close()
            return
        assert self.path.rpartition("/")[2] == sha256(content)
        self.uploads[sha256(content)] = content
        self.send(b"", {})

    def do_POST(self) -> None:
        path = self.path.split("?")[0]
        body = self.body()
        has_token = "authorization" in self.headers
        self.hub.requests.append(Request("POST", path, "", has_token))
        fault = self.hub.take_fault("POST", path)
        if fault is not None and fault.kind == "status":
            self.send(b"", fault.headers, fault.number)
        elif path == "/api/validate-yaml":
            self.validate(json.loads(body))
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.send(b"", {"X-Error-Message": "You need write access"}, 403)
        elif path == "/api/repos/create":
            self.create(json.loads(body))
        elif path.endswith("/info/lfs/objects/batch"):
            self.batch(json.loads(body))
        else:
            self.change(path.removeprefix("/api/models/"), body)

    def validate(self, wanted: dict[str, Any]) -> None:
        import yaml

        _, block, _ = wanted["content"].split("---\n", 2)
        is_sound = isinstance(yaml.safe_load(block), dict)
        self.send(b'{"errors":[],"warnings":[]}', {}, 200 if is_sound else 400)

    def create(self, wanted: dict[str, Any]) -> None:
        owner = wanted.get("organization") or "me"
        repo_id = f"{owner}/{wanted['name']}"
        if repo_id in self.hub.kept:
            self.send(b"{}", {}, 409)
            return
        is_private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        self.hub.kept[repo_id] = KeptRepo(private=is_private)
        self.send_json({"url": f"{self.hub.endpoint}/{repo_id}"})

    def batch(self, wanted: dict[str, Any]) -> None:
        objects = []
        for each in wanted["objects"]:
            answer: dict[str, Any] = {"oid": each["oid"], "size": each["size"]}
            if each["oid"] not in self.uploads:
                upload = {"href": f"{self.hub.endpoint}/upload/{each['oid']}", "header": {}}
                answer["actions"] = {"upload": upload}
            objects.append(answer)
        self.send_json({"transfer": "basic", "objects": objects})

    def change(self, path: str, body: bytes) -> None:
        owner, name, what, branch = path.split("/", 3)
        repo = self.hub.kept.get(f"{owner}/{name}")
        if repo is None:
            self.send(b"", {"X-Error-Code": "RepoNotFound"}, 404)
        elif what == "branch":
            if branch in repo.refs:
                self.send(b"", {}, 409)
                return
            repo.refs[branch] = repo.refs["main"]
            self.send_json({})
        elif branch not in repo.refs:
            self.send(b"", {"X-Error-Code": "RevisionNotFound"}, 404)
        elif what == "preupload":
            self.preupload(repo, branch, json.loads(body))
        else:
            self.commit(
                f"{owner}/{name}", repo, branch, [json.loads(line) for line in body.splitlines()]
            )

    def preupload(self, repo: KeptRepo, branch: str, wanted: dict[str, Any]) -> None:
        found = repo.at(branch)
        assert found is not None
        files = []
        for each in wanted["files"]:
            there = found[1].get(each["path"])
            answer = {
                "path": each["path"],
                "uploadMode": "lfs" if is_lfs(each["path"]) else "regular",
                "shouldIgnore": False,
            }
            if there is not None and not is_lfs(each["path"]):
                answer["oid"] = git_sha1(there.read_bytes())
            files.append(answer)
        self.send_json({"files": files})

    def commit(
        self, repo_id: str, repo: KeptRepo, branch: str, lines: list[dict[str, Any]]
    ) -> None:
        header, *changes = lines
        parent = header["value"].get("parentCommit")
        if parent is not None and parent != repo.refs[branch]:
            self.send(b"", {"X-Error-Message": "the branch moved"}, 412)
            return
        files = {}
        for each in changes:
            value = each["value"]
            if each["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                assert each["key"] == "lfsFile"
                files[value["path"]] = self.uploads[value["oid"]]
        url = f"{self.hub.endpoint}/{repo_id}"
        sha = repo.commit(branch, files, header["value"]["summary"])
        self.send_json({"commitOid": sha, "commitUrl": f"{url}/commit/{sha}"})

    @property
    def uploads(self) -> dict[str, bytes]:
        return self.hub.uploads

    def body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))
