"""A small web server on this machine that answers as a test wants it to."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

Answer = tuple[int, bytes]


@dataclass
class Web:
    """A server that runs.

    Attributes:
        asked: the paths of all requests so far.
    """

    address: str
    asked: list[str] = field(default_factory=list)


@contextmanager
def web(answer: Callable[[int], Answer]) -> Iterator[Web]:
    """Runs a server that answers its nth request, counted from 0, with a status and a body."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answer(len(made.asked))
            made.asked.append(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made = Web(f"http://127.0.0.1:{server.server_port}")
        Thread(target=server.serve_forever, daemon=True).start()
        yield made
        server.shutdown()


@contextmanager
def silent_listener(greeting: bytes = b"") -> Iterator[int]:
    """The port of a server that takes connections and says no more than a greeting."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        held: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                held.append(connection)
                if greeting:
                    connection.recv(1000)
                    connection.sendall(greeting)
                    connection.close()

        Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
