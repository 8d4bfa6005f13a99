"""Doubles of object stores and web servers: moto's S3 on this machine behind a proxy that disturbs requests.

The doubles answer only on 127.0.0.1.
"""

from __future__ import annotations

import atexit
import http.client
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import manifests.stores.requests

KEY_ID, KEY = "AKIALIKENESSKEYID", "secret-key-of-the-store"  # moto accepts all credentials
CUT, ERROR, DENY, GONE = "cut", "503", "403", "404"  # what a disturbance does with the answer to a request

_CODES = {
    code: f"<Error><Code>{text}</Code></Error>".encode()
    for code, text in ((ERROR, "SlowDown"), (DENY, "AccessDenied"), (GONE, "NoSuchBucket"))
}

# Receives the method and the path of a request. Returns what to do with the answer, or None to pass it on.
Disturb = Callable[[str, str], str | None]


class Server(ThreadingHTTPServer):
    """Answers with `answer`, and disturbs the answers with `disturb`. `requests` lists all methods and paths."""

    daemon_threads = True

    def __init__(self, answer: Callable[[BaseHTTPRequestHandler], tuple[int, dict[str, str], bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer, self.requests = answer, list[tuple[str, str]]()
        self.disturb: Disturb = lambda method, path: None
        self.address = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def _handle(self) -> None:
        self.server.requests.append((self.command, self.path))
        size = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(size)
        fault = self.server.disturb(self.command, unquote(self.path))
        if fault in _CODES:  # the store does nothing
            status, headers, data = int(fault), dict[str, str](), _CODES[fault]
        else:
            status, headers, data = self.server.answer(self)
        headers = {
            name: value for name, value in headers.items() if name.lower() not in ("connection", "date", "server")
        }
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if fault == CUT else data)
        if fault == CUT:
            self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle

    def log_message(self, *_: object) -> None: ...


@contextmanager
def serve(answer: Callable[[BaseHTTPRequestHandler], tuple[int, dict[str, str], bytes]]) -> Iterator[Server]:
    server = Server(answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def serve_folder(folder: Path, secret: str = "") -> Iterator[Server]:
    """Serves the files of a folder. If `secret` is given, each request must have it in the query or as a password."""

    def answer(request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
        from base64 import b64encode

        password = b64encode(f"user:{secret}".encode()).decode()
        if secret and secret not in request.path and password not in request.headers.get("Authorization", ""):
            return 403, {}, b""
        path = folder / unquote(urlsplit(request.path).path).lstrip("/")
        if not path.is_file():
            return 404, {}, b""
        status = path.stat()
        return 200, {"ETag": f'"{status.st_mtime_ns}-{status.st_size}"'}, path.read_bytes()

    with serve(answer) as server:
        yield server


@cache
def start_moto() -> tuple[str, int]:
    """Starts moto's server, which all tests of this process use, and returns its host and its port."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    atexit.register(moto.stop)
    return moto.get_host_and_port()


@contextmanager
def serve_s3() -> Iterator[Server]:
    """Serves an S3 store with moto. The environment gets the address of the store and the credentials.

    The buckets of the store are those of all tests of this process.
    """
    host, port = start_moto()

    def answer(request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(host, port, timeout=30)
        try:
            connection.request(request.command, request.path, request.body, dict(request.headers))
            response = connection.getresponse()
            data = response.read()
            headers = {name: value for name, value in response.getheaders() if name.lower() != "transfer-encoding"}
            return response.status, headers, data
        finally:
            connection.close()

    with pytest.MonkeyPatch.context() as patch, serve(answer) as server:
        for name, value in {
            "AWS_ENDPOINT_URL": server.address,
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            patch.setenv(name, value)
        manifests.stores.requests._make_store.cache_clear()
        try:
            yield server
        finally:
            manifests.stores.requests._make_store.cache_clear()


def hurry(patch: pytest.MonkeyPatch) -> None:
    """Makes the pauses between repeated requests short."""
    patch.setattr(manifests.stores.requests, "FIRST_PAUSE", 0.001)


def find_secret(folder: Path, secret: str) -> list[Path]:
    """Returns the files below a folder that contain the secret, as text or in a part of 12 characters."""
    parts = {secret.encode(), secret[:12].encode()}
    return [path for path in folder.rglob("*") if path.is_file() and any(part in path.read_bytes() for part in parts)]
