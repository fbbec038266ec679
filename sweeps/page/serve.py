"""Serves the page on 127.0.0.1, for a browser at the other end of an SSH tunnel. Only one address answers."""

from __future__ import annotations

import hmac
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HOST = "127.0.0.1"


@contextmanager
def serve(path: Path, port: int = 0) -> Iterator[str]:
    """Within the `with` block, serves the current content of the file at `path`. Gives the address. Port 0: a free one.

    The address holds a token, so that other users of this machine, who can reach the port, cannot read the page.
    """
    token = secrets.token_urlsafe(16)
    server = ThreadingHTTPServer((HOST, port), _handler(path, token))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://{HOST}:{server.server_address[1]}/{token}/"
    finally:
        server.shutdown()
        server.server_close()


def tunnel(address: str) -> str:
    """The command for the machine with the browser."""
    port = address.split(":")[2].split("/")[0]
    return f"ssh -N -L {port}:{HOST}:{port} {socket.getfqdn()}"


def _handler(path: Path, token: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        server_version = "mtrl"
        sys_version = ""

        def do_GET(self) -> None:
            if not hmac.compare_digest(self.path.encode(), f"/{token}/".encode()) or not self._local():
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            content = path.read_bytes()
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("Referrer-Policy", "no-referrer")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(content)

        def _local(self) -> bool:
            """Whether the browser names this machine in a way that no other site can (against DNS rebinding)."""
            name = self.headers.get("Host", "").rpartition(":")[0]
            return name in (HOST, "localhost")

        def log_message(self, format: str, *arguments: object) -> None:
            """Logs nothing, because the address has the token."""

    return Handler
