"""The objects of an archive: generations read, objects created and read back, the lock.  Blocking calls.

What is asked of the server, in which order, and why: ``ARCHIVE.md``.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import time
from collections.abc import Mapping

from msgspec import Struct

from dboxfs.errors import CorruptFile, FormatError, NoSuchStore, StoreBusy
from dboxfs.fsapi.drivers.object_client import ObjectInfo, Objects
from dboxfs.fsapi.temporary import Process, lives
from dboxfs.tools.archive.generation import (
    DATA,
    GENERATIONS,
    INDEX,
    LOCK,
    Generation,
    decode_generation,
    digest,
    encode_generation,
    pack,
)

READ_BACK = 8 << 20
"""Bytes that are read back at once."""


_GENERATION = re.compile(GENERATIONS + r"/\d{8}T\d{6}Z-[0-9a-f]{16}")


class WrittenObject(Struct, frozen=True):
    """An object that was written and read back: size (bytes) and digest of what is stored."""

    key: str
    size: int
    digest: str


class Repository:
    """The archive at *url*.

    :param objects: its store.
    :ivar token: of this run.
    """

    def __init__(self, objects: Objects, url: str) -> None:
        self.objects = objects
        self.url = url
        self.token = os.urandom(8).hex()
        self._lock: bytes | None = None

    # -- generations -------------------------------------------------------------------------------------

    def generations(self) -> list[str]:
        """The keys of all generations, the oldest first."""
        keys = (info.key for info in self.objects.list_all(GENERATIONS))
        return sorted(key for key in keys if _GENERATION.fullmatch(key))

    def read(self, key: str) -> Generation:
        """
        :raises CorruptFile: it is damaged.
        :raises OSError: it is not there, or can't be read.
        """
        try:
            return decode_generation(self.objects.get_whole(key))
        except FormatError as error:
            raise CorruptFile(f"{self.url}/{key}", error.offset, error.reason) from None

    def newest(self, before: str | None = None) -> Generation | None:
        """The newest generation; None: there is none.

        :param before: only those whose date (as in a key: 20261130T091500Z, or its beginning) is earlier.
        """
        keys = self.generations()
        if before is not None:
            keys = [key for key in keys if key.removeprefix(GENERATIONS + "/") < before]
        return self.read(keys[-1]) if keys else None

    def opened(self, before: str | None = None) -> Generation:
        """:meth:`newest`, for who needs one.

        :raises NoSuchStore: there is none.
        """
        found = self.newest(before)
        if found is None:
            when = "" if before is None else " that is so old"
            raise NoSuchStore(f"{self.url}: no generation of an archive{when} is there")
        return found

    def create_generation(self, generation: Generation) -> None:
        """The last step of an archive: its objects are there, the lock is this run's.

        :raises StoreBusy: the lock is not this run's any more.
        :raises OSError: an object is missing, or has another size; or the store fails.
        """
        self.check_objects(generation)
        self.check_lock()
        self.create(generation.key, encode_generation(generation))

    def check_objects(self, generation: Generation) -> None:
        """
        :raises OSError: an object of *generation* is missing, or has another size.
        """
        there = self.sizes(DATA) | self.sizes(INDEX)
        for key, (size, _) in generation.objects.items():
            if there.get(key) != size:
                raise OSError(
                    errno.EIO, f"it should have {size} bytes, not {there.get(key, 'none at all')}", key
                )

    # -- objects -----------------------------------------------------------------------------------------

    def create(self, key: str, data: bytes | memoryview) -> WrittenObject:
        """Create an object and read it back.

        :raises OSError: EEXIST: there is another one; EIO: what is there is not what was written.
        """
        self.objects.put(key, data, create=True)
        return self._read_back(key, data)

    def put_packed(self, data: bytes, there: Mapping[str, int]) -> WrittenObject:
        """Pack *data* into an index object, if that is not *there* (keys and sizes), and read it back."""
        stored = pack(data)
        name = digest(stored)
        key = f"{INDEX}/{name}"
        if there.get(key) != len(stored):
            self.objects.put(key, stored, create=False)
            self._read_back(key, stored)
        return WrittenObject(key, len(stored), name)

    def sizes(self, prefix: str) -> dict[str, int]:
        """The objects below *prefix*, with their sizes (bytes)."""
        return {info.key: info.size for info in self.objects.list_all(prefix)}

    def _read_back(self, key: str, data: bytes | memoryview) -> WrittenObject:
        """Compare the server's checksum, or the bytes where it has none."""
        info = self.objects.head(key)
        if info.size != len(data) or (not _has_md5(info, data) and not self._is_equal(info, data)):
            raise OSError(errno.EIO, "what is stored is not what was written", key)
        return WrittenObject(key, len(data), digest(data))

    def _is_equal(self, info: ObjectInfo, data: bytes | memoryview) -> bool:
        view = memoryview(data)
        for start in range(0, len(view), READ_BACK):
            end = min(start + READ_BACK, len(view))
            if self.objects.get(info.key, start, end, info.etag) != view[start:end]:
                return False
        return True

    # -- the lock ----------------------------------------------------------------------------------------

    def lock(self, what: str, *, broken: bool = False) -> None:
        """Have the archive for this run.

        :param what: for people: archive, prune.
        :param broken: take the lock away from whoever has it.
        :raises StoreBusy: another run has it, or may have it.
        """
        here = Process.this()
        held = {
            "host": here.host,
            "process": here.token,
            "since": int(time.time()),
            "token": self.token,
            "what": what,
        }
        data = json.dumps(held, sort_keys=True).encode("ascii") + b"\n"
        for _ in range(2):
            try:
                self.objects.put(LOCK, data, create=True)
            except FileExistsError:
                self._take_away(here, broken=broken)
                continue
            self._lock = data
            return
        raise StoreBusy(f"{self.url}: another run has just taken the lock; try again")

    def _take_away(self, here: Process, *, broken: bool) -> None:
        """Remove the lock of a run that is gone."""
        try:
            text = self.objects.get_whole(LOCK)
        except FileNotFoundError:
            return
        try:
            held = json.loads(text)
            process, host, since, what = (str(held[name]) for name in ("process", "host", "since", "what"))
        except (ValueError, KeyError, TypeError):
            process, host, since, what = "-", "?", "?", "a run"
        same_boot = process != "-" and here.mark != "" and here.mark in process
        if not broken and not (same_boot and host == here.host and not lives(process, here)):
            raise StoreBusy(
                f"{self.url}: {what} on {host} has the lock since {_date(since)}; "
                "wait for its end, or give --break-lock if it is gone"
            )
        self.objects.delete(LOCK)

    def check_lock(self) -> None:
        """
        :raises StoreBusy: the lock is another run's, or gone.
        """
        try:
            now = self.objects.get_whole(LOCK)
        except FileNotFoundError:
            now = b""
        if self._lock is None or now != self._lock:
            self._lock = None
            raise StoreBusy(f"{self.url}: the lock was taken away from this run; nothing more is changed")

    def unlock(self) -> None:
        """Give the lock back, if it is this run's still."""
        if self._lock is not None:
            self.check_lock()
            self.objects.delete(LOCK)
            self._lock = None


def _has_md5(info: ObjectInfo, data: bytes | memoryview) -> bool:
    """Whether the etag is the MD5 of *data*, as it is of objects that S3 got in one request."""
    if info.etag is None or len(info.etag.strip('"')) != 32:
        return False
    return info.etag.strip('"') == hashlib.md5(data, usedforsecurity=False).hexdigest()


def _date(since: str) -> str:
    if not since.isdigit():
        return since
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(int(since)))
