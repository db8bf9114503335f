"""A real server on this machine that completes chats as a test wants it to."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def serving(answer):
    """`answer(number, path, body, headers)` gives status, headers and bytes; yields url and log."""
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

        do_GET = do_POST

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


def completion(text, path="/v1/chat/completions"):
    """What an OpenAI-compatible server says."""
    choice = {"message": {"content": text}} if path.endswith("chat/completions") else {"text": text}
    return 200, {}, json.dumps({"choices": [choice]}).encode()
