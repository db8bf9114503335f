"""The part of the hub's HTTP interface that a push and a download use, on this machine."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

COMMIT = "c" * 40


@dataclass
class Store:
    """What was made and uploaded."""

    url: str = ""
    repos: dict[str, dict] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)


class Handler(BaseHTTPRequestHandler):
    store: Store

    def log_message(self, *_):
        pass

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def reply(self, value=None, status=200, headers=(), raw=None):
        data = json.dumps(value).encode() if raw is None else raw
        self.send_response(status)
        for name, text in headers:
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_POST(self):
        self.store.tokens.add(self.headers.get("Authorization", ""))
        path, given = self.path.partition("?")[0], self.body()
        if path == "/api/repos/create":
            asked = json.loads(given)
            name = "/".join(filter(None, [asked.get("organization"), asked["name"]]))
            self.store.repos[name] = asked
            self.reply({"url": f"{self.store.url}/{name}", "id": name, "name": name})
        elif path == "/api/validate-yaml":
            self.reply({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            rows = json.loads(given)["files"]
            modes = [
                {
                    "path": row["path"],
                    "uploadMode": "lfs" if row["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for row in rows
            ]
            self.reply({"files": modes})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.store.url}/put/{one['oid']}"}}}
                for one in json.loads(given)["objects"]
            ]
            self.reply({"transfer": "basic", "objects": objects})
        elif "/commit/" in path:
            for line in given.splitlines():
                row = json.loads(line)
                value = row["value"]
                if row["key"] == "file":
                    self.store.files[value["path"]] = base64.b64decode(value["content"])
                elif row["key"] == "lfsFile":
                    self.store.files[value["path"]] = self.store.large[value["oid"]]
            url = f"{self.store.url}/someone/thing/commit/{COMMIT}"
            self.reply({"commitOid": COMMIT, "commitUrl": url, "hookOutput": ""})
        else:
            self.reply({"error": path}, 404)

    def do_PUT(self):
        data = self.body()
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(data).hexdigest() == oid
        self.store.large[oid] = data
        self.reply({})

    def do_GET(self):
        path = self.path.partition("?")[0]
        if path.startswith("/api/"):
            self.reply({"id": "someone/thing", "sha": COMMIT, "siblings": []})
            return
        name = path.rpartition("/")[2]
        if name not in self.store.files:
            self.reply({}, 404, [("X-Error-Code", "EntryNotFound"), ("X-Repo-Commit", COMMIT)])
            return
        etag = hashlib.sha256(self.store.files[name]).hexdigest()
        heads = [("ETag", f'"{etag}"'), ("X-Repo-Commit", COMMIT)]
        self.reply(headers=heads, raw=self.store.files[name])

    do_HEAD = do_GET


@contextmanager
def serving() -> Iterator[Store]:
    store = Store()

    bound = type("Bound", (Handler,), {"store": store})
    server = ThreadingHTTPServer(("127.0.0.1", 0), bound)
    store.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
