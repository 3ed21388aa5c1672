"""A stand-in for the Hugging Face Hub on the loopback: what huggingface_hub asks to upload and download."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class Hub(ThreadingHTTPServer):
    """Repositories in memory: name → revision → file → bytes.

    Attributes:
        repositories: What was uploaded.
        asked: Method and path of each request, in order.
        tokens: Authorization headers of the commits.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.asked: list[str] = []
        self.tokens: list[str | None] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def serving() -> Iterator[Hub]:
    """A stand-in that serves until the block ends."""
    with Hub() as hub:
        thread = Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.server.asked.append(f"POST {self.path}")
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            self.server.repositories.setdefault(name, {"main": {}})
            self._json({"url": f"{self.server.address}/{name}", "name": name, "id": name})
        elif self.path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif match := re.fullmatch(r"/api/models/(.+)/(preupload|commit)/(.+)", self.path):
            name, what, revision = match.groups()
            if name not in self.server.repositories:
                self._refuse("RepoNotFound")
            elif what == "preupload":
                files = [
                    {"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]
                ]
                self._json({"files": [{**file, "shouldIgnore": False} for file in files]})
            else:
                self._commit(name, revision, [json.loads(line) for line in body.splitlines()])
        else:
            self._refuse("EntryNotFound")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        name, revision, file = match.groups() if match else ("", "", "")
        if name not in self.server.repositories:
            self._refuse("RepoNotFound")
        elif revision not in self.server.repositories[name]:
            self._refuse("RevisionNotFound")
        elif (content := self.server.repositories[name][revision].get(file)) is None:
            self._refuse("EntryNotFound")
        else:
            digest = hashlib.sha1(content).hexdigest()
            self._answer(200, content, {"ETag": f'"{digest}"', "X-Repo-Commit": digest})

    def _commit(self, name: str, revision: str, lines: list[dict]) -> None:
        files = self.server.repositories[name].setdefault(revision, {})
        for line in lines:
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        self.server.tokens.append(self.headers["Authorization"])
        oid = hashlib.sha1(repr(files).encode()).hexdigest()
        self._json(
            {"commitUrl": f"{self.server.address}/{name}/commit/{oid}", "commitOid": oid, "success": True}
        )

    def _json(self, value: object) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, code: str) -> None:
        self._answer(404, b"{}", {"X-Error-Code": code, "X-Error-Message": f"{self.path}: {code}"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""
