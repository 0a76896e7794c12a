"""io_uring(7) by its three system calls: a submission ring and a completion ring shared with the kernel.

**Why this is safe without memory barriers, which Python doesn't have.**  Rings shared with a kernel that
works on another processor need a store-release of the submission tail and a load-acquire of the completion
tail.  Here the kernel touches the rings *only inside of our own io_uring_enter*, on the calling thread, where
program order is enough:

* the submission ring is read by ``io_uring_enter`` alone (no IORING_SETUP_SQPOLL);
* with IORING_SETUP_DEFER_TASKRUN (Linux 6.1) and SINGLE_ISSUER a completion is never posted from an
  interrupt or a kernel worker: a finished operation is queued, and its entry is written when the one thread
  that may call ``io_uring_enter`` does so.  Without these two flags a :class:`Ring` can't be made (EINVAL).

The eventfd tells that a completion is queued, through the kernel's own locks.

**Memory.**  Memory that the kernel may read or write belongs to the ring from :meth:`Ring.push` until the
completion of that entry has been reaped (``keep``), even if the caller is gone.  A ring that is closed with
entries in flight keeps this memory for ever (:meth:`Ring.close`): a worker of the kernel may still be copying
into it.

Layouts: <linux/io_uring.h>.  Not thread-safe: one thread makes, uses and closes a ring.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from typing import Any

_SYS_SETUP, _SYS_ENTER, _SYS_REGISTER = 425, 426, 427  # on every architecture but alpha
_SETUP_CLAMP, _SETUP_SUBMIT_ALL = 1 << 4, 1 << 7
_SETUP_SINGLE_ISSUER, _SETUP_DEFER_TASKRUN = 1 << 12, 1 << 13
_SETUP = _SETUP_CLAMP | _SETUP_SUBMIT_ALL | _SETUP_SINGLE_ISSUER | _SETUP_DEFER_TASKRUN
_FEATURES = (1 << 0) | (1 << 1) | (1 << 2)  # SINGLE_MMAP, NODROP, SUBMIT_STABLE
_ENTER_GETEVENTS = 1
_REGISTER_EVENTFD, _REGISTER_PROBE, _REGISTER_WORKERS = 4, 8, 19
_OFF_SQES = 0x10000000
_PARAMS = 30  # 32-bit words of struct io_uring_params
_SQE = struct.Struct("=BBHiQQIIQHHiQQ")
_CQE = struct.Struct("=QiI")
_PROBE_SUPPORTED = 1

_LATER = (errno.EINTR, errno.EAGAIN, errno.EBUSY)

FSYNC, READ, WRITE, FADVISE = 3, 22, 23, 24
OPENAT, CLOSE, STATX, RENAMEAT, UNLINKAT, LINKAT = 18, 19, 21, 35, 36, 39
OPERATIONS = (FSYNC, READ, WRITE, FADVISE, OPENAT, CLOSE, STATX, RENAMEAT, UNLINKAT, LINKAT)
ASYNC = 1 << 4
"""Flag of an entry: don't try it on this thread first, give it to a worker of the kernel at once."""
FSYNC_DATASYNC = 1

_libc = ctypes.CDLL(None, use_errno=True)
_fast = ctypes.PyDLL(None, use_errno=True)
_new_bytes = ctypes.pythonapi.PyBytes_FromStringAndSize
_new_bytes.argtypes, _new_bytes.restype = (ctypes.c_char_p, ctypes.c_ssize_t), ctypes.py_object
_bytes_address = ctypes.pythonapi.PyBytes_AsString
_bytes_address.argtypes, _bytes_address.restype = (ctypes.py_object,), ctypes.c_void_p
_keep_for_ever = ctypes.pythonapi.Py_IncRef
_keep_for_ever.argtypes, _keep_for_ever.restype = (ctypes.py_object,), None


def new_bytes(size: int) -> bytes:
    """A bytes object that the kernel fills before other code sees it (``size`` above 0)."""
    data: bytes = _new_bytes(None, size)
    return data


def address_of(data: bytes) -> int:
    """The address of the bytes; valid as long as ``data`` exists."""
    return int(_bytes_address(data))


def _call(number: int, *arguments: Any) -> int:
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


class Ring:
    """One pair of rings.

    :param entries: submission entries; as many can be pushed between two calls of :meth:`enter`.
    :param workers: threads that the kernel may use for blocking operations (of each of its two kinds).
    :raises OSError: ENOSYS, EPERM, EINVAL, ENOMEM: this kernel has no io_uring, forbids it, or has an older
        one (before Linux 6.1).
    :ivar eventfd: readable when :meth:`enter` has something to reap.
    """

    def __init__(self, entries: int, workers: int) -> None:
        params = (ctypes.c_uint32 * _PARAMS)()
        params[2] = _SETUP
        self._fd = _call(_SYS_SETUP, ctypes.c_uint(entries), ctypes.byref(params))
        self.eventfd = -1
        self._maps: list[mmap.mmap] = []
        self._views: list[memoryview] = []
        self._keep: dict[int, object] = {}
        self._pushed = 0
        self._closed = False
        try:
            if params[5] & _FEATURES != _FEATURES:
                raise OSError(errno.EINVAL, "an io_uring that is too old")
            self._map(params)
            self._probe()
            self.eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._register(_REGISTER_EVENTFD, (ctypes.c_int * 1)(self.eventfd), 1)
            self._register(_REGISTER_WORKERS, (ctypes.c_uint * 2)(workers, workers), 2)
        except BaseException:
            self.close()
            raise
        self._enter = _fast.syscall  # the GIL is kept: nothing here waits
        self._enter.restype = ctypes.c_long
        self._enter.argtypes = (
            *(ctypes.c_long, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint),
            *(ctypes.c_uint, ctypes.c_void_p, ctypes.c_size_t),
        )

    def _map(self, params: Any) -> None:
        sq, cq = params[10:18], params[20:28]
        self.entries = params[0]
        cq_entries = params[1]
        size = max(sq[6] + self.entries * 4, cq[5] + cq_entries * _CQE.size)
        shared = {"flags": mmap.MAP_SHARED | mmap.MAP_POPULATE, "prot": mmap.PROT_READ | mmap.PROT_WRITE}
        self._maps.append(mmap.mmap(self._fd, size, **shared))
        self._maps.append(mmap.mmap(self._fd, self.entries * _SQE.size, offset=_OFF_SQES, **shared))
        words = memoryview(self._maps[0])[: size & ~3].cast("I")
        self._words, self._sqes = words, memoryview(self._maps[1])
        self._views += [words, self._sqes]
        self._cqes = memoryview(self._maps[0])[cq[5] : cq[5] + cq_entries * _CQE.size]
        self._views.append(self._cqes)
        self._sq_tail, self._cq_head, self._cq_tail = sq[1] // 4, cq[0] // 4, cq[1] // 4
        self._sq_mask, self._cq_mask = words[sq[2] // 4], words[cq[2] // 4]
        for index in range(self.entries):  # entry n of the ring is submission entry n, for good
            words[sq[6] // 4 + index] = index
        self._tail, self._head = words[self._sq_tail], words[self._cq_head]

    def _register(self, what: int, argument: Any, count: int) -> None:
        _call(_SYS_REGISTER, self._fd, ctypes.c_uint(what), ctypes.byref(argument), ctypes.c_uint(count))

    def _probe(self) -> None:
        buffer = ctypes.create_string_buffer(16 + 256 * 8)
        self._register(_REGISTER_PROBE, buffer, 256)
        for opcode in OPERATIONS:
            _, _, flags, _ = struct.unpack_from("=BBHI", buffer, 16 + 8 * opcode)
            if not flags & _PROBE_SUPPORTED:
                raise OSError(errno.EINVAL, f"an io_uring without operation {opcode}")

    @property
    def in_flight(self) -> int:
        """Number of entries that were pushed and are not reaped."""
        return len(self._keep)

    @property
    def room(self) -> int:
        """Number of entries that can be pushed before the next :meth:`enter`."""
        return int(self.entries - self._pushed)

    def push(
        self,
        tag: int,
        keep: object,
        opcode: int,
        fd: int,
        address: int = 0,
        length: int = 0,
        offset: int = 0,
        op_flags: int = 0,
        flags: int = 0,
    ) -> None:
        """Put an entry into the submission ring.  ``keep`` owns all memory that it names.

        :param tag: its number, unique among the entries in flight.
        :raises OSError: EBUSY: there is no room.
        """
        if self._pushed >= self.entries:
            raise OSError(errno.EBUSY, "no room in the submission ring")
        place = (self._tail + self._pushed & self._sq_mask) * 64
        _SQE.pack_into(
            self._sqes, place, opcode, flags, 0, fd, offset, address, length, op_flags, tag, 0, 0, 0, 0, 0
        )
        self._keep[tag] = keep
        self._pushed += 1

    def enter(self) -> list[tuple[int, int]]:
        """Submit the pushed entries and reap the ended ones: ``(tag, result)``; result below 0: -errno.

        Never waits.  An entry that can be answered from memory ends in the call that submits it.  If the
        kernel is short of memory, some pushed entries stay (``room``) for a later call.

        :raises OSError: the kernel refuses for another reason.
        """
        ended: list[tuple[int, int]] = []
        while True:
            if self._pushed:
                self._words[self._sq_tail] = self._tail + self._pushed & 0xFFFFFFFF
            count = self._enter(_SYS_ENTER, self._fd, self._pushed, 0, _ENTER_GETEVENTS, None, 0)
            code = ctypes.get_errno() if count < 0 else 0
            if code not in (0, *_LATER):
                raise OSError(code, os.strerror(code))
            submitted = max(0, count)
            self._tail = self._tail + submitted & 0xFFFFFFFF
            self._pushed -= submitted
            # The kernel may leave some for the next call: ask until a call brings nothing.
            if not self._reap(ended) and (code or not self._pushed or not submitted):
                return ended

    def _reap(self, ended: list[tuple[int, int]]) -> bool:
        words, head = self._words, self._head
        tail = words[self._cq_tail]
        if head == tail:
            return False
        while head != tail:
            tag, result, _ = _CQE.unpack_from(self._cqes, (head & self._cq_mask) * _CQE.size)
            del self._keep[tag]
            ended.append((tag, result))
            head = head + 1 & 0xFFFFFFFF
        self._head = words[self._cq_head] = head
        return True

    def close(self) -> None:
        """Close the rings.  Operations in flight go on; their memory is then never freed."""
        if self._closed:
            return
        self._closed = True
        if self._keep:
            _keep_for_ever(self._keep)
        for view in self._views:
            view.release()
        for mapped in self._maps:
            mapped.close()
        if self.eventfd >= 0:
            os.close(self.eventfd)
        os.close(self._fd)
