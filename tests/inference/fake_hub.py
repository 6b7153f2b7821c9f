"""A Hugging Face hub on this machine: what `huggingface_hub` asks of one to read a model and to upload it."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SHA = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """A server on a free port; a context.

    Attributes:
        models: Name -> files by their path.
        asked: (method, path) of every request.
    """

    def __init__(self):
        self.models, self.asked, self.uploaded = {}, [], {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self):
                hub._file(self, body=False)

            def do_GET(self):
                hub.asked.append(("GET", self.path))
                path = self.path.partition("?")[0]
                if "/resolve/" in path:
                    hub._file(self, body=True)
                    return
                name, _, rest = path.removeprefix("/api/models/").partition("/")
                name, _, rest = f"{name}/{rest}".partition("/revision")[0], "", rest
                name = "/".join(name.split("/")[:2])
                if name not in hub.models:
                    hub._json(self, {"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
                elif "/tree/" in path:
                    rows = [
                        {"type": "file", "path": k, "size": len(v), "oid": hub.etag(v)}
                        for k, v in hub.models[name].items()
                    ]
                    hub._json(self, rows)
                else:
                    files = [{"rfilename": file} for file in hub.models[name]]
                    hub._json(self, {"id": name, "modelId": name, "sha": SHA, "siblings": files, "private": False})

            def do_POST(self):
                hub.asked.append(("POST", self.path))
                data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                hub.authorization = self.headers.get("Authorization")
                if self.path == "/api/repos/create":
                    given = json.loads(data)
                    name = f"{given.get('organization') or 'me'}/{given['name']}"
                    hub.models.setdefault(name, {})
                    hub._json(self, {"url": f"{hub.address}/{name}", "name": name})
                elif "/preupload/" in self.path:
                    rows = [
                        {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                        for f in json.loads(data)["files"]
                    ]
                    hub._json(self, {"files": rows})
                elif "/commit/" in self.path:
                    name = "/".join(self.path.removeprefix("/api/models/").split("/")[:2])
                    for line in data.splitlines():
                        entry = json.loads(line)
                        if entry["key"] == "file":
                            content = base64.b64decode(entry["value"]["content"])
                            hub.models[name][entry["value"]["path"]] = content
                    url = f"{hub.address}/{name}/commit/{SHA}"
                    hub._json(self, {"success": True, "commitOid": SHA, "commitUrl": url, "pullRequestUrl": None})
                else:
                    hub._json(self, {}, 200)

            def log_message(self, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self.authorization = None

    @staticmethod
    def etag(content):
        return hashlib.sha1(content).hexdigest()

    def _file(self, handler, body):
        path = handler.path.partition("?")[0].lstrip("/")
        name, _, rest = path.partition("/resolve/")
        content = self.models.get(name, {}).get(rest.partition("/")[2])
        if content is None:
            self._json(handler, {}, 404, {"X-Error-Code": "EntryNotFound"}, body)
            return
        handler.send_response(200)
        for key, value in (("X-Repo-Commit", SHA), ("ETag", f'"{self.etag(content)}"')):
            handler.send_header(key, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        if body:
            handler.wfile.write(content)

    def _json(self, handler, value, status=200, headers=None, body=True):
        data = json.dumps(value).encode()
        handler.send_response(status)
        for key, header in {"Content-Type": "application/json", **(headers or {})}.items():
            handler.send_header(key, header)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        if body:
            handler.wfile.write(data)

    def environment(self, folder: Path):
        """What a program needs to take this for the hub, with a cache of its own."""
        return {
            "HF_ENDPOINT": self.address,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(folder),
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": "hf_test",
            "NO_PROXY": "127.0.0.1",
        }

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
