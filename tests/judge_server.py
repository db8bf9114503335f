"""A real server on this machine that completes chats as a test wants it to."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def serving(answer, models=None):
    """`answer(number, path, body, headers)` gives status, headers and bytes; yields url and log.

    `models` is what `GET /v1/models` lists; it is in no log.
    """
    log, lock = [], threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(log)
                log.append((self.path, body, dict(self.headers)))
            status, headers, data = answer(number, self.path, body, self.headers)
            if status is None:
                return  # the connection closes without a word
            self.send_response(status)
            for name, value in {"Content-Length": len(data), **headers}.items():
                self.send_header(name, str(value))
            self.end_headers()
            with suppress(BrokenPipeError):
                self.wfile.write(data)

        def do_GET(self):
            rows = [{"created": time.time_ns(), **row} for row in models or []]
            data = json.dumps({"data": rows})
            self.send_response(200 if models else 404)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data.encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", log
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def completion(text, path="/v1/chat/completions", **more):
    """What an OpenAI-compatible server says; `more` goes beside the choice."""
    choice = {"message": {"content": text}} if path.endswith("chat/completions") else {"text": text}
    choice |= {"finish_reason": more.pop("finish_reason")} if "finish_reason" in more else {}
    return 200, {}, json.dumps({"choices": [choice], **more}).encode()
