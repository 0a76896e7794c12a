"""A small S3 server for tests: objects in memory, or passed on to a real server; faults where a test says so.

It speaks as much of the protocol as obstore asks for: GET (one range, If-Match), HEAD, PUT (``If-None-Match:
*``), the deletion of many, the listing (version 2), and uploads in parts.  Signatures are not checked here; a
real server behind it checks them, since the Host line is passed on as it came.

A fault is one of:

=========  =================================================================================================
``503``    (any status) answered at once, nothing is done
``stall``  nothing is done or answered until the client has given up
``drop``   the connection ends before anything is done
``lost``   it is done, then the connection ends without an answer
``cut``    it is done, then half of the answer's body comes, and the connection ends
``halt``   the same, but the connection stays until the client gives up
=========  =================================================================================================
"""

from __future__ import annotations

import hashlib
import html
import http.client
import re
import socket
import ssl
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from xml.sax.saxutils import escape

FAULTS = ("503", "429", "500", "stall", "drop", "lost", "cut", "halt")

Fault = Callable[[int, str, str], str | None]
"""What happens to a request: its number, method and path with query; None: it is answered."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answers.  A body that HEAD leaves out is given all the same."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class Upstream(Protocol):
    """Does what a request asks for."""

    def __call__(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer: ...


class InMemory:
    """A bucket in memory, whose name is ``bucket``."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self._parts: dict[str, dict[int, bytes]] = {}
        self._lock = threading.Lock()

    def __call__(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        where, _, query = path.partition("?")
        asked = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        bucket, _, key = urllib.parse.unquote(where).lstrip("/").partition("/")
        if bucket != "bucket":
            return Answer(404, body=b"<Error><Code>NoSuchBucket</Code></Error>")
        with self._lock:
            if method in ("GET", "HEAD"):
                return self._list(asked) if not key else self._get(key, headers)
            if method == "PUT" and "uploadId" in asked:
                self._parts[asked["uploadId"]][int(asked["partNumber"])] = body
                return Answer(200, {"ETag": _etag(body)})
            if method == "PUT":
                if headers.get("if-none-match") == "*" and key in self.objects:
                    return Answer(412, body=b"<Error><Code>PreconditionFailed</Code></Error>")
                self.objects[key] = body
                return Answer(200, {"ETag": _etag(body)})
            if method == "POST" and "delete" in asked:
                keys = [html.unescape(one) for one in re.findall("<Key>([^<]*)</Key>", body.decode())]
                for one in keys:
                    self.objects.pop(one, None)
                gone = "".join(f"<Deleted><Key>{escape(one)}</Key></Deleted>" for one in keys)
                return _xml("DeleteResult", gone)
            if "uploads" in asked:
                name = f"upload-{len(self._parts)}"
                self._parts[name] = {}
                return _xml("InitiateMultipartUploadResult", f"<UploadId>{name}</UploadId>")
            parts = self._parts.pop(asked["uploadId"])
            self.objects[key] = b"".join(parts[number] for number in sorted(parts))
            return _xml("CompleteMultipartUploadResult", "<ETag>&quot;parts-1&quot;</ETag>")

    def _get(self, key: str, headers: Mapping[str, str]) -> Answer:
        data = self.objects.get(key)
        if data is None:
            return Answer(404, body=b"<Error><Code>NoSuchKey</Code></Error>")
        about = {"ETag": _etag(data), "Last-Modified": formatdate(1_700_000_000, usegmt=True)}
        if headers.get("if-match", about["ETag"]) != about["ETag"]:
            return Answer(412)
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", headers.get("range", ""))
        if found is None:
            return Answer(200, about, data)
        start, end = int(found[1]), min(int(found[2]) + 1, len(data))
        if start >= len(data):
            return Answer(416)
        return Answer(206, about | {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}, data[start:end])

    def _list(self, asked: Mapping[str, str]) -> Answer:
        prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter", "")
        rows, levels = [], set()
        for key, data in sorted(self.objects.items()):
            if not key.startswith(prefix):
                continue
            level, more, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            if more:
                levels.add(prefix + level + delimiter)
                continue
            rows.append(
                f"<Contents><Key>{escape(key)}</Key><LastModified>2023-11-14T22:13:20.000Z</LastModified>"
                f"<ETag>{escape(_etag(data))}</ETag><Size>{len(data)}</Size></Contents>"
            )
        rows += [f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>" for one in sorted(levels)]
        return _xml("ListBucketResult", "<IsTruncated>false</IsTruncated>" + "".join(rows))


class PassedOn:
    """A real server at *endpoint* (``http://host:port``)."""

    def __init__(self, endpoint: str) -> None:
        self._place = urllib.parse.urlsplit(endpoint)

    def __call__(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        connection = http.client.HTTPConnection(self._place.hostname or "", self._place.port, timeout=60)
        try:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            kept = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP}
            size = int(answer.getheader("Content-Length") or 0)
            return Answer(answer.status, kept, bytes(size) if method == "HEAD" else answer.read())
        finally:
            connection.close()


_HOP = frozenset({"connection", "content-length", "transfer-encoding", "keep-alive"})


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


def _xml(name: str, inner: str) -> Answer:
    return Answer(200, {"Content-Type": "application/xml"}, f"<{name}>{inner}</{name}>".encode())


class FaultyServer(ThreadingHTTPServer):
    """The server.

    :ivar asked: method and path of each request, in the order in which they came.
    :ivar fault: decides what happens to each.
    """

    daemon_threads = True
    request_queue_size = 100

    def __init__(self, upstream: Upstream) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream
        self.asked: list[tuple[str, str]] = []
        self.fault: Fault = lambda number, method, path: None
        self.over = threading.Event()
        self.lock = threading.Lock()

    @property
    def bucket(self) -> dict[str, bytes]:
        """The objects of a server that has them in memory, as they are."""
        assert isinstance(self.upstream, InMemory)
        return self.upstream.objects

    def count(self, method: str, path: str) -> str | None:
        """Note a request; gives its fault."""
        with self.lock:
            self.asked.append((method, path))
            return self.fault(len(self.asked) - 1, method, path)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gives up is what is tested."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FaultyServer

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""

    def _answer(self) -> None:
        fault = self.server.count(self.command, self.path)
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size // 2 if fault == "drop" else size)
        if fault == "drop":
            self._hang_up()
            return
        if fault == "stall":
            self._wait_for_the_client()
            return
        if fault is not None and fault.isdigit():
            self._send(Answer(int(fault), body=b"<Error><Code>SlowDown</Code></Error>"))
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.upstream(self.command, self.path, headers, body)
        if fault == "lost":
            self._hang_up()
        else:
            self._send(answer, cut=fault in ("cut", "halt"))
            if fault == "halt":
                self._wait_for_the_client()
            elif fault == "cut":
                self._hang_up()

    do_GET = do_HEAD = do_PUT = do_POST = _answer

    def _send(self, answer: Answer, *, cut: bool = False) -> None:
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.status != 204:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[: len(answer.body) // 2] if cut else answer.body)

    def _hang_up(self) -> None:
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def _wait_for_the_client(self) -> None:
        self.connection.settimeout(0.02)
        while not self.server.over.is_set():
            try:
                if not self.connection.recv(1):
                    break
            except TimeoutError:
                continue
        self.close_connection = True


@contextmanager
def served(upstream: Upstream | None = None, *, certificate: str | None = None) -> Iterator[FaultyServer]:
    """A server that runs meanwhile.

    :param certificate: a file with certificate and key: it speaks TLS.
    """
    server = FaultyServer(upstream or InMemory())
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


def endpoint(server: FaultyServer, *, scheme: str = "http") -> str:
    """What AWS_ENDPOINT_URL is for it."""
    return f"{scheme}://localhost:{server.server_address[1]}"
