"""A small Hub on this machine: the few endpoints by which huggingface_hub uploads a folder and fetches it again."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c" * 40


class Hub:
    """The server; `files` holds what was uploaded: (repository, path) -> bytes."""

    def __init__(self) -> None:  # noqa: C901 - one branch for each address
        self.files: dict[tuple[str, str], bytes] = {}
        self.requests: list[str] = []
        self.repositories: dict[str, bool] = {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def reply(self, body: bytes | dict | list, status: int = 200, **headers: str) -> None:
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                if not isinstance(body, bytes):
                    self.send_header("Content-Type", "application/json")
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                hub.requests.append(f"POST {self.path}")
                path = self.path.partition("?")[0]
                if "authorization" not in {name.lower() for name in self.headers}:
                    self.reply({"error": "Invalid username or password."}, 401)
                elif path == "/api/repos/create":
                    asked = json.loads(body)
                    name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
                    hub.repositories[name] = asked.get("visibility") == "private" or bool(asked.get("private"))
                    self.reply({"url": f"{hub.address}/{name}"})
                elif path == "/api/validate-yaml":
                    self.reply({"errors": [], "warnings": []})
                elif "/preupload/" in path:
                    asked = json.loads(body)["files"]
                    told = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]
                    self.reply({"files": told})
                elif "/commit/" in path:
                    repository = path.removeprefix("/api/models/").partition("/commit/")[0]
                    for line in body.splitlines():
                        entry = json.loads(line)
                        if entry["key"] == "file":
                            content = base64.b64decode(entry["value"]["content"])
                            hub.files[repository, entry["value"]["path"]] = content
                    url = f"{hub.address}/{repository}/commit/{COMMIT}"
                    self.reply({"success": True, "commitOid": COMMIT, "commitUrl": url})
                else:
                    self.reply({"error": f"no such address {path}"}, 404)

            def do_GET(self) -> None:
                hub.requests.append(f"{self.command} {self.path}")
                path = self.path.partition("?")[0]
                if path.startswith("/api/models/"):
                    repository, _, rest = path.removeprefix("/api/models/").partition("/revision/")
                    files = sorted(name for owner, name in hub.files if owner == repository)
                    if "/tree/" in repository:
                        repository = repository.partition("/tree/")[0]
                        found = [
                            {"type": "file", "path": n, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                            for (owner, n), c in sorted(hub.files.items())
                            if owner == repository
                        ]
                        self.reply(found)
                    elif repository in hub.repositories:
                        told = {"id": repository, "modelId": repository, "sha": COMMIT, "private": False, "tags": []}
                        self.reply({**told, "siblings": [{"rfilename": name} for name in files], "downloads": 0})
                    else:
                        self.reply({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
                elif "/resolve/" in path:
                    repository, _, rest = path[1:].partition("/resolve/")
                    content = hub.files.get((repository, rest.partition("/")[2]))
                    if content is None:
                        self.reply(
                            {"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT
                        )
                    else:
                        etag = f'"{hashlib.sha1(content).hexdigest()}"'
                        self.reply(content, ETag=etag, X_Repo_Commit=COMMIT)
                else:
                    self.reply({"error": f"no such address {path}"}, 404)

            do_HEAD = do_GET  # noqa: N815

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()
