"""Servers on loopback: an S3-compatible one, one for a folder of files, and a proxy that spoils answers on purpose.

    with s3_bucket({"a.jpg": data}) as bucket, faulty(bucket.address, Faults(error=0.1, short=0.05)) as proxy:
        Storage(options=bucket.options(proxy)).read([bucket.url("a.jpg")], threads=1)

Whether a request fails, and how, hangs on the seed, on what it asks for and on how often that was asked for: not on the
order in which requests happen to come.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import logging
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

# --- S3 ------------------------------------------------------------------------------------------------------------


@dataclass
class Bucket:
    """An empty or filled bucket of a moto server in this process."""

    name: str
    address: tuple[str, int]

    def put(self, key: str, data: bytes) -> None:
        """Puts an object in, past the network."""
        from moto.core import DEFAULT_ACCOUNT_ID
        from moto.s3.models import s3_backends

        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].put_object(self.name, key, data)

    def url(self, key: str = "") -> str:
        return f"s3://{self.name}/{key}"

    def options(self, through: Proxy | None = None) -> dict[str, Any]:
        """For `Storage`: how to reach the server, or a proxy before it."""
        host, port = self.address if through is None else through.address
        return {
            "endpoint": f"http://{host}:{port}",
            "region": "us-east-1",
            "access_key_id": "key",
            "secret_access_key": "secret",
        }


_names = iter(f"bucket-{i}" for i in range(10**6))
_server: list[Any] = []


@contextlib.contextmanager
def s3_bucket(objects: Mapping[str, bytes] | None = None) -> Iterator[Bucket]:
    """A bucket with these objects by key. All buckets are on one server, which lives as long as the process."""
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends
    from moto.server import ThreadedMotoServer

    if not _server:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request
        _server.append(ThreadedMotoServer("127.0.0.1", 0, verbose=False))
        _server[0].start()
    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    bucket = Bucket(next(_names), _server[0].get_host_and_port())
    backend.create_bucket(bucket.name, "us-east-1")
    for key, data in (objects or {}).items():
        bucket.put(key, data)
    try:
        yield bucket
    finally:
        backend.buckets.pop(bucket.name)


# --- a web server --------------------------------------------------------------------------------------------------


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""

    def shutdown_request(self, request: Any) -> None:
        self.close_request(request)  # without the farewell that would come before a reset


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self, status: int, headers: Mapping[str, str], body: bytes, sent: int | None = None) -> None:
        """In one piece; only the first ``sent`` bytes of the body, if given."""
        lines = [f"HTTP/1.1 {status} {http.client.responses.get(status, '')}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if not any(name.lower() == "content-length" for name in headers):
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        self.wfile.write(head + (b"" if self.command == "HEAD" else body[:sent]))


@contextlib.contextmanager
def _serving(handler: type[_Handler], **attributes: Any) -> Iterator[_Server]:
    server = _Server(("127.0.0.1", 0), handler)
    server.__dict__.update(attributes)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _FolderHandler(_Handler):
    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        path = self.server.folder / unquote(parts.path).lstrip("/")  # type: ignore[attr-defined]
        if self.server.query is not None and parts.query != self.server.query:  # type: ignore[attr-defined]
            return self.answer(403, {}, b"wrong signature")
        if not path.is_file():
            return self.answer(404, {}, b"no such file")
        data = path.read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked or not self.server.ranges:  # type: ignore[attr-defined]
            return self.answer(200, {}, data)
        start, stop = int(asked[1]), min(int(asked[2] or len(data)) + 1, len(data))
        if start >= len(data):
            return self.answer(416, {"Content-Range": f"bytes */{len(data)}"}, b"")
        return self.answer(206, {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}, data[start:stop])

    do_HEAD = do_GET


@contextlib.contextmanager
def web_server(folder: Path, *, ranges: bool = True, query: str | None = None) -> Iterator[str]:
    """Serves a folder's files; its URL. Without ``ranges`` only whole; with ``query`` only to who knows it."""
    with _serving(_FolderHandler, folder=folder, ranges=ranges, query=query) as server:
        yield f"http://127.0.0.1:{server.server_port}"


# --- what goes wrong -----------------------------------------------------------------------------------------------


@dataclass
class Faults:
    """The shares of requests that go wrong in each way, 0..1, added up at most 1; may be changed while in use.

    ``error``: answered 500, 503 or 429. ``reset``: the connection is reset. ``short``: the answer ends before its
    announced length. ``lie``: a range is shorter than asked for, and announced so. ``hang``: no answer for ``hang_s``.
    ``wait_s``: how long every answer takes. ``only``: a part of the targets that go wrong. ``in_a_row``: at most so
    many for one and the same request, so that enough attempts always help.
    """

    error: float = 0.0
    reset: float = 0.0
    short: float = 0.0
    lie: float = 0.0
    hang: float = 0.0
    hang_s: float = 60.0
    wait_s: float = 0.0
    only: str = ""
    in_a_row: int = 1_000_000
    seed: int = 0


class Request(NamedTuple):
    """One that came to the proxy. ``range``: as in its header; ``fault``: what was done to it, if anything."""

    method: str
    target: str
    range: str
    fault: str | None


@dataclass
class Proxy:
    """What came to a proxy, and what it is to spoil."""

    address: tuple[str, int]
    faults: Faults
    requests: list[Request] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    upstream: tuple[str, int] = ("", 0)
    stopped: threading.Event = field(default_factory=threading.Event)
    _spoilt: Counter[tuple[str, ...]] = field(default_factory=Counter)
    _asked: Counter[tuple[str, ...]] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http://{self.address[0]}:{self.address[1]}"

    def forget(self) -> None:
        """Empties the record of requests."""
        with self._lock:
            self.requests.clear()
            self.most_at_once = 0

    def came(self, method: str, target: str, range_: str) -> str | None:
        """Takes note of a request; what is to be done to it."""
        what, faults = (method, target, range_), self.faults
        with self._lock:
            self._asked[what] += 1
            seed = f"{faults.seed} {what} {self._asked[what]}".encode()
            drawn = random.Random(hashlib.blake2b(seed).digest()).random()
            fault = None
            for name in ("error", "reset", "short", "lie", "hang"):
                if drawn < getattr(faults, name):
                    fault = name
                    break
                drawn -= getattr(faults, name)
            if fault is None or faults.only not in target or self._spoilt[what] >= faults.in_a_row:
                fault, self._spoilt[what] = None, 0
            else:
                self._spoilt[what] += 1
            self.requests.append(Request(*what, fault))
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        return fault

    def gone(self) -> None:
        with self._lock:
            self.at_once -= 1


class _ProxyHandler(_Handler):
    def do_GET(self) -> None:
        proxy: Proxy = self.server.proxy  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = proxy.came(self.command, self.path, self.headers.get("Range", ""))
        try:
            if proxy.faults.wait_s:
                time.sleep(proxy.faults.wait_s)
            if fault == "hang":
                proxy.stopped.wait(proxy.faults.hang_s)
            if fault in ("hang", "reset"):
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                return
            if fault == "error":
                status = (500, 503, 429)[len(proxy.requests) % 3]
                self.answer(status, {}, b"<Error><Code>InternalError</Code><Message>on purpose</Message></Error>")
                return
            upstream = http.client.HTTPConnection(*proxy.upstream, timeout=30)
            upstream.request(self.command, self.path, body or None, dict(self.headers))
            answer = upstream.getresponse()
            data = answer.read()
            upstream.close()
            headers = {
                name: value
                for name, value in answer.getheaders()
                if name.lower() not in ("connection", "transfer-encoding", "keep-alive")
            }
            if fault == "lie" and answer.status == 206:
                headers.pop("Content-Length", None)
                data = data[: len(data) // 2]
            if fault == "short":
                self.close_connection = True
                self.answer(answer.status, {**headers, "Connection": "close"}, data, len(data) // 2)
            else:
                self.answer(answer.status, headers, data)
        finally:
            proxy.gone()

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET


@contextlib.contextmanager
def faulty(upstream: tuple[str, int] | str, faults: Faults | None = None) -> Iterator[Proxy]:
    """A proxy before a server, named by its address or URL."""
    if isinstance(upstream, str):
        parts = urlsplit(upstream)
        upstream = (parts.hostname or "", parts.port or 80)
    with _serving(_ProxyHandler) as server:
        address = ("127.0.0.1", server.server_port)
        proxy = server.proxy = Proxy(address, faults or Faults(), upstream=upstream)  # type: ignore[attr-defined]
        try:
            yield proxy
        finally:
            proxy.stopped.set()
