"""Serve one text over HTTP, on a TCP port or a Unix socket, for programs that read metrics.

``GET /metrics`` gives the text, other requests get 404 or 405.  h11 does the HTTP.

A number alone is a port of 127.0.0.1.  The caller refuses any address but a loopback one, unless the user
explicitly allows it: every client that can connect sees the text.  A Unix socket is only for its owner (mode
0600).

Bounds: :data:`CONNECTIONS` at a time, others wait in the kernel; :data:`CLIENT_SECONDS` for each; h11 limits
the size of a request, and a body is not read.

Concurrency: all of it runs on the event loop; the text is made between two checkpoints.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable
from contextlib import suppress

import h11
import trio

from dboxfs.util.addresses import Address

CONNECTIONS = 16
"""Clients that are served at the same time, at most."""

CLIENT_SECONDS = 10.0
"""Seconds for one client, from its connection to its answer."""

PATH = "/metrics"
_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_RECEIVED_AT_ONCE = 4096
_SCARCE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
_PAUSE = 0.1


def listen(address: Address) -> socket.socket:
    """Make a listening socket.  A Unix socket that a dead process has left is removed first.

    :raises OSError: the socket can't be made.
    """
    family = socket.AF_UNIX
    if address.host:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        if address.host:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address.host, address.port))
        else:
            _remove_dead(address.path)
            os.fchmod(listener.fileno(), 0o600)  # before it has a name
            listener.bind(address.path)
        listener.listen(CONNECTIONS)
    except BaseException:
        listener.close()
        raise
    return listener


def _remove_dead(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "is there, and no socket", path)
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            with suppress(FileNotFoundError):
                os.unlink(path)


async def serve(listener: socket.socket, address: Address, make: Callable[[], str]) -> None:
    """Answer with the text from *make*, until cancelled; then close *listener* and remove its name."""
    listener.setblocking(False)
    limit = trio.CapacityLimiter(CONNECTIONS)

    async def answer(stream: trio.SocketStream) -> None:
        try:
            with (
                trio.move_on_after(CLIENT_SECONDS),
                suppress(trio.BrokenResourceError, h11.RemoteProtocolError),
            ):
                await _answer(stream, make)
            await trio.aclose_forcefully(stream)
        finally:
            limit.release_on_behalf_of(stream)

    try:
        async with trio.open_nursery() as nursery:
            accepting = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
            while True:
                try:
                    stream = await accepting.accept()
                except OSError as exc:
                    if exc.errno not in _SCARCE:
                        raise
                    await trio.sleep(_PAUSE)
                    continue
                await limit.acquire_on_behalf_of(stream)
                nursery.start_soon(answer, stream)
    finally:
        listener.close()
        if address.path:
            with suppress(FileNotFoundError):
                os.unlink(address.path)


async def _answer(stream: trio.SocketStream, make: Callable[[], str]) -> None:
    connection = h11.Connection(h11.SERVER)
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(await stream.receive_some(_RECEIVED_AT_ONCE))
    if not isinstance(event, h11.Request):
        return
    status, text = _response(event, make)
    body = text.encode("utf-8", "backslashreplace")
    headers = [("Content-Type", _TYPE), ("Content-Length", str(len(body))), ("Connection", "close")]
    parts = [connection.send(h11.Response(status_code=status, headers=headers))]
    if event.method != b"HEAD":
        parts.append(connection.send(h11.Data(data=body)))
    parts.append(connection.send(h11.EndOfMessage()))
    await stream.send_all(b"".join(part for part in parts if part))
    await stream.send_eof()


def _response(request: h11.Request, make: Callable[[], str]) -> tuple[int, str]:
    if request.method not in (b"GET", b"HEAD"):
        return 405, "only GET\n"
    if request.target.partition(b"?")[0] != PATH.encode():
        return 404, f"there is only {PATH}\n"
    return 200, make()
