"""A small process that invalidates names in the kernel, because the daemon must not wait for that.

The kernel takes a directory's lock to invalidate a name in it (FUSE_NOTIFY_INVAL_ENTRY,
FUSE_NOTIFY_DELETE). A client holds that lock while it waits for the daemon's answer to a rename, an unlink,
a create. A daemon that is killed while one of its threads waits for that lock never ends: the lock's holder
waits for an answer, and the kernel ends a connection only when its last descriptor is closed. The waiting
thread keeps that descriptor open. So on kernels without epochs (:mod:`dboxfs.fuse.notify`) another process
makes these calls, and the daemon none of them.

::

    daemon     ──── socket ────  companion, main thread     reads requests at once, never calls the kernel
      names to invalidate  ─>      │ queue
      tickets             <─       └ calling thread         writes to its duplicate of /dev/fuse; may wait

The daemon's end of the socket closes when the daemon ends, however it ends.  The main thread then aborts the
connection: every client gets its error and gives its locks up, the calling thread comes back, and nothing
hangs.  The abort is necessary: the companion's duplicate of ``/dev/fuse`` keeps the connection of a dead
daemon alive, which the kernel would otherwise have ended.

A read-only mount without OPEN has a companion, too (:mod:`dboxfs.fuse.pusher`). There a thread of the daemon
may wait in the kernel for a READ, and a daemon that is killed at that moment keeps its end of the socket
open. So the companion also has the kernel signal it (PR_SET_PDEATHSIG) when the thread that forked it, the
daemon's main thread, dies, and aborts the connection then.

It is forked before the daemon has any thread, and gets ``/dev/fuse`` over the socket when the mount is
made. It holds nothing else of the daemon's, ignores the signals that end the daemon, and ends with it.

Requests are packets: ``parent, deleted, ticket`` (64 bits each, in the machine's order), then the name. A
ticket other than 0 comes back when the call was made.

Limit: when both processes are killed at the same moment while the calling thread waits in the kernel, the
connection has to be aborted by hand (``dboxfs umount``).
"""

from __future__ import annotations

import ctypes
import os
import queue
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from dboxfs.errors import MountError
from dboxfs.util.mounts import Abort, Mount

_REQUEST = struct.Struct("=QQQ")
_TICKET = struct.Struct("=Q")
_HEADER = struct.Struct("=IiQ")
_INVAL_ENTRY = struct.Struct("=QII")
_DELETE = struct.Struct("=QQII")
_NOTIFY_INVAL_ENTRY = 3
_NOTIFY_DELETE = 6
_READY = b"ready"
_PACKET = 4096
"""Bytes; a name has 255 at most."""

_PR_SET_PDEATHSIG = 1
_DAEMON_ENDED = signal.SIGUSR2

_END_PATIENCE = 2.0
"""Seconds that an ending daemon waits for the companion to end."""


class Companion:
    """The daemon's side.

    :meth:`start` forks it; :meth:`own` has to be called before the first :meth:`send`. One thread may send
    while another one receives.
    """

    def __init__(self, pid: int, end: socket.socket) -> None:
        self.pid = pid
        self._end = end

    @classmethod
    def start(cls) -> Companion:
        """Fork it.  The calling process must not have threads.

        :raises OSError: there are too many processes or descriptors.
        """
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        daemon = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                _main(its, daemon)
            finally:
                os._exit(1)
        its.close()
        return cls(pid, ours)

    def own(self, device: int, mount: Mount) -> None:
        """Give it the descriptor of ``/dev/fuse``, and the mount whose connection it may have to abort.

        :raises MountError: it can't abort that connection.
        :raises OSError: it has ended.
        """
        place = f"{mount.mnt_id} {mount.device} {mount.kind} {mount.point}"
        socket.send_fds(self._end, [place.encode("utf-8", "surrogateescape")], [device])
        if (answer := self._end.recv(_PACKET)) != _READY:
            raise MountError(answer.decode() or "the companion process has ended")

    def fileno(self) -> int:
        """Readable when a ticket came back, or the companion has ended."""
        return self._end.fileno()

    def send(self, parent: int, name: bytes, deleted: int, ticket: int) -> None:
        """Have *name* in *parent* looked up again; *deleted*: it was this inode, which is gone.

        It may wait until the companion gets processor time, but never because the companion waits in the
        kernel.

        :raises OSError: it has ended.
        """
        self._end.send(_REQUEST.pack(parent, deleted, ticket) + name)

    def tickets(self) -> list[int]:
        """The tickets that came back; does not wait.

        :raises EOFError: the companion has ended.
        """
        found: list[int] = []
        try:
            while packet := self._end.recv(_TICKET.size, socket.MSG_DONTWAIT):
                found += _TICKET.unpack(packet)
        except BlockingIOError:
            return found
        except OSError:
            pass
        raise EOFError

    def stop(self) -> None:
        """Close the socket: the companion aborts the connection and ends.  Waits :data:`_END_PATIENCE` s."""
        self._end.close()
        deadline = time.monotonic() + _END_PATIENCE
        with suppress(ChildProcessError):
            while os.waitpid(self.pid, os.WNOHANG) == (0, 0) and time.monotonic() < deadline:
                time.sleep(0.002)


# -- the other process -------------------------------------------------------------------------


def _main(end: socket.socket, daemon: int) -> None:
    """The companion's whole life."""
    os.setsid()
    _end_with(daemon, lambda: None)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    _close_all_but(end.fileno())
    place, descriptors, _, _ = socket.recv_fds(end, _PACKET, 1)
    if not descriptors:
        os._exit(0)
    try:
        abort = Abort(_mount(place))
    except MountError as exc:
        end.send(str(exc).encode())
        os._exit(1)
    _end_with(daemon, abort)
    todo: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_call, args=(descriptors[0], todo, end), daemon=True).start()
    end.send(_READY)
    try:
        while packet := end.recv(_PACKET):
            todo.put(packet)
    except OSError:
        pass
    abort()
    os._exit(0)


def _end_with(daemon: int, last: Callable[[], object]) -> None:
    """Call *last* and exit when the daemon's main thread ends, even if others of its threads live on."""

    def end(number: int, frame: object) -> None:
        last()
        os._exit(0)

    signal.signal(_DAEMON_ENDED, end)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(_DAEMON_ENDED))
    if os.getppid() != daemon:  # the daemon ended before the call
        end(_DAEMON_ENDED, None)


def _mount(place: bytes) -> Mount:
    mnt_id, device, kind, point = place.decode("utf-8", "surrogateescape").split(" ", 3)
    return Mount(int(mnt_id), device, point, kind)


def _call(device: int, todo: queue.SimpleQueue[bytes], end: socket.socket) -> None:
    while True:
        packet = todo.get()
        parent, deleted, ticket = _REQUEST.unpack_from(packet)
        with suppress(OSError):  # the kernel doesn't know the name: there is nothing to invalidate
            os.write(device, notification(parent, packet[_REQUEST.size :], deleted))
        if ticket:
            with suppress(OSError):  # the daemon has ended
                end.send(_TICKET.pack(ticket))


def notification(parent: int, name: bytes, deleted: int) -> bytes:
    """The bytes of a notification for ``/dev/fuse`` (<linux/fuse.h>)."""
    if deleted:
        code, body = _NOTIFY_DELETE, _DELETE.pack(parent, deleted, len(name), 0)
    else:
        code, body = _NOTIFY_INVAL_ENTRY, _INVAL_ENTRY.pack(parent, len(name), 0)
    rest = body + name + b"\0"
    return _HEADER.pack(_HEADER.size + len(rest), code, 0) + rest


def _close_all_but(keep: int) -> None:
    """Close every inherited descriptor but *keep*: else locks and pipes of the daemon would stay for ever."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    limit = os.sysconf("SC_OPEN_MAX")
    os.closerange(3, keep)
    os.closerange(keep + 1, limit if limit > 0 else 65536)
