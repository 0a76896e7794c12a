"""A message file of an archive while it is made: records of format 3, in a temporary file, then an object.

``rows/`` objects say what a message file has, for a run that goes on where another died::

    rows = line, count * ROW, BLAKE2b (16 bytes) of all that
    line = JSON: key, size, digest of the message file, count; LF
"""

from __future__ import annotations

import json
import mmap
import os
import tempfile
import zlib
from hashlib import blake2b

import numpy as np
from msgspec.structs import replace

from dboxfs.errors import FormatError
from dboxfs.store.write.record import new_file
from dboxfs.tools.archive.generation import DATA, ROW, ROWS, Rows
from dboxfs.tools.archive.repository import Repository, WrittenObject
from dboxfs.tools.convert.encoding import completed_items
from dboxfs.tools.convert.errors import Unfit
from dboxfs.tools.convert.source import PIECE, Stored
from dboxfs.tools.convert.target import begin_stored

MOST_BODY = 2 << 30
"""Bytes of the largest message that is archived."""

_ROWS_CHECKSUM = 16


class DataFile:
    """``m.N`` that is being made.  ``end``: its size so far (bytes)."""

    def __init__(self, file_id: int, token: str) -> None:
        self.file_id = file_id
        self.name = f"m.{file_id}-{token}"
        self._form = new_file(3)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._file.write(self._form.header)
        self.end = len(self._form.header)
        self.rows: list[tuple[int, int, int, int, int, int, bytes, int]] = []

    async def append(self, message: Stored, mailbox: str, map_uid: int) -> str:
        """Append a record; gives what is wrong with its text, one line.

        :raises Unfit: it can't be stored, or can't be read; nothing was appended.
        """
        if message.size > MOST_BODY:
            raise Unfit(f"it has {message.size} bytes, more than an archive holds ({MOST_BODY})")
        start, crc = self.end, 0
        try:
            record = await begin_stored(replace(self._form.first, offset=start), message)
            self._write(record.head)
            for offset in range(0, message.size, PIECE):
                piece = await message.read(min(PIECE, message.size - offset), offset)
                record.feed(piece)
                message.count(piece)
                crc = zlib.crc32(piece, crc)
                self._write(piece)
            judged = message.judge()
            self._write(record.tail(completed_items(judged.items, message.guid, mailbox)))
        except BaseException:
            self._file.seek(start)
            self._file.truncate()
            self.end = start
            raise
        size = self.end - start
        self.rows.append((map_uid, self.file_id, start, size, message.size, crc, message.guid, 0))
        return judged.trouble

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self.end += len(data)

    def upload(self, repository: Repository) -> WrittenObject:
        """Make the two objects of it (blocking)."""
        self._file.flush()
        mapped = mmap.mmap(self._file.fileno(), self.end, access=mmap.ACCESS_READ)
        stored = repository.create(f"{DATA}/{self.name}", memoryview(mapped))
        repository.create(f"{ROWS}/{self.name}", encode_rows(stored, np.array(self.rows, ROW)))
        return stored

    def close(self) -> None:
        """Give the temporary file back."""
        self._file.close()


def encode_rows(stored: WrittenObject, rows: Rows) -> bytes:
    """A ``rows/`` object."""
    head = {"key": stored.key, "size": stored.size, "digest": stored.digest, "count": len(rows)}
    data = json.dumps(head, sort_keys=True).encode("ascii") + b"\n" + rows.tobytes()
    return data + blake2b(data, digest_size=_ROWS_CHECKSUM).digest()


def decode_rows(data: bytes) -> tuple[WrittenObject, Rows]:
    """What :func:`encode_rows` was given.

    :raises FormatError: it is damaged.
    """
    body = data[:-_ROWS_CHECKSUM]
    if blake2b(body, digest_size=_ROWS_CHECKSUM).digest() != data[-_ROWS_CHECKSUM:]:
        raise FormatError(0, "rows of a message file: the checksum doesn't fit")
    try:
        line, _, columns = body.partition(b"\n")
        head = json.loads(line)
        rows = np.frombuffer(columns, ROW, head["count"]).copy()
        return WrittenObject(head["key"], head["size"], head["digest"]), rows
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(0, f"rows of a message file: {error}") from None


def file_id_of(key: str) -> int:
    """N of ``data/m.N-TOKEN``; 0: it is none."""
    name = os.path.basename(key)
    number = name[2:].partition("-")[0]
    return int(number) if name.startswith("m.") and number.isascii() and number.isdigit() else 0
