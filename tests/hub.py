"""A hub on this machine: the few addresses of huggingface.co that fetching a model's files needs, with its headers."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What it has and refuses; `asked` are the files that were sent."""

    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """By model id and name."""
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Status and X-Error-Code by model id."""
    url: str = ""
    asked: list[str] = field(default_factory=list)


@contextmanager
def running_hub(files: dict[str, dict[str, bytes]], refused: dict[str, tuple[int, str]]) -> Iterator[Hub]:
    hub = Hub(files, refused)

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_content=False)

        def do_GET(self) -> None:
            self._answer(with_content=True)

        def _answer(self, *, with_content: bool) -> None:
            name, _, file = self.path.partition("?")[0].strip("/").partition("/resolve/main/")
            if name in hub.refused:
                self._refuse(*hub.refused[name])
            elif name not in hub.files:
                self._refuse(401, "")  # as huggingface.co answers whom it does not know: the model may be private
            elif file not in hub.files[name]:
                self._refuse(404, "EntryNotFound")
            else:
                content = hub.files[name][file]
                headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
                self._send(200, headers, content if with_content else b"", len(content))
                if with_content:
                    hub.asked.append(f"{name}/{file}")

        def _refuse(self, status: int, code: str) -> None:
            self._send(status, {"X-Error-Code": code} if code else {}, b"", 0)

        def _send(self, status: int, headers: dict[str, str], content: bytes, length: int) -> None:
            self.send_response(status)
            for header, value in {**headers, "Content-Length": str(length)}.items():
                self.send_header(header, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
