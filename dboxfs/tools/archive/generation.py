"""The generation of an archive: what one run has left, as a line of JSON (``ARCHIVE.md``).  Sans-I/O.

Invariants that :func:`decode_generation` checks: the checksum; every file and the rows are slices of objects
that are named, with their sizes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import zstandard
from msgspec import Struct, field
from msgspec.structs import asdict

from dboxfs.errors import FormatError
from dboxfs.fsapi.drivers.slices import Packed, Slice, SliceTree

FORMAT: Final = "dboxfs archive"
ARCHIVE_VERSION: Final = 1

GENERATIONS: Final = "generations"
_STAMP: Final = "%Y%m%dT%H%M%SZ"
DATA: Final = "data"
ROWS: Final = "rows"
INDEX: Final = "index"
LOCK: Final = "lock"

SIZES: Final = "sizes"
"""The directory of the tree with the tables of exact sizes."""

MOST_UNPACKED: Final = 1 << 30
"""Bytes of a packed object's plain bytes, at most."""

ROW: Final = np.dtype(
    [
        ("map_uid", "<u4"), ("file_id", "<u4"), ("offset", "<u4"), ("size", "<u4"),
        ("body", "<u4"), ("crc", "<u4"), ("guid", "V16"), ("references", "<u2"),
    ]
)  # fmt: skip
"""A record: its place and size (bytes), size and CRC-32 of its stored body, guid, messages that refer to
it."""

Rows = npt.NDArray[Any]


class MailboxEntry(Struct, frozen=True):
    """A mailbox of a generation.  ``fingerprint``: of what was archived of it; equal ones are equal.

    ``guid``: 32 hex digits.
    """

    fingerprint: str
    guid: str
    uid_validity: int
    messages: int


class Generation(Struct, frozen=True):
    """One generation; the fields are those of the JSON."""

    created: int
    token: str
    parent: str | None
    utf8: bool
    escape: str
    map_uid_validity: int
    next_map_uid: int
    highest_file_id: int
    rows: Slice
    mailboxes: Mapping[str, MailboxEntry]
    files: Mapping[str, Slice]
    directories: tuple[str, ...]
    objects: Mapping[str, tuple[int, str]] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Where it is kept."""
        return f"{GENERATIONS}/{stamp(self.created)}-{self.token}"

    @property
    def messages(self) -> int:
        """Of all mailboxes."""
        return sum(entry.messages for entry in self.mailboxes.values())

    def tree(self) -> SliceTree:
        """Its files, as a driver shows them."""
        packed = {
            key: Packed(digest, unpack)
            for key, (_, digest) in self.objects.items()
            if key.startswith(INDEX + "/")
        }
        return SliceTree(self.files, packed, self.directories, self.created * 10**9)

    def same_store(self, other: Generation) -> bool:
        """Whether both have the same mailboxes and files."""
        return (self.files, self.directories, self.utf8, self.escape) == (
            other.files,
            other.directories,
            other.utf8,
            other.escape,
        )


def stamp(seconds: int) -> str:
    """A date in a key: UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime(_STAMP)


def made_at(key: str) -> int:
    """When the generation of *key* was made, in seconds since the epoch."""
    name = key.removeprefix(GENERATIONS + "/").partition("-")[0]
    return int(datetime.strptime(name, _STAMP).replace(tzinfo=UTC).timestamp())


def digest(data: bytes | memoryview) -> str:
    """BLAKE2b, 16 bytes, in hex."""
    return blake2b(data, digest_size=16).hexdigest()


def pack(data: bytes) -> bytes:
    """The bytes of a packed object; the same ones for the same *data*."""
    return zstandard.ZstdCompressor(level=3, write_content_size=True).compress(data)


def unpack(stored: bytes) -> bytes:
    """The plain bytes of a packed object.

    :raises OSError: it is none.
    """
    try:
        return zstandard.ZstdDecompressor().decompress(stored, max_output_size=MOST_UNPACKED)
    except zstandard.ZstdError as error:
        raise OSError(5, f"no packed object: {error}") from None


def encode_generation(generation: Generation) -> bytes:
    """The object."""
    plain = {
        **asdict(generation),
        "format": FORMAT,
        "version": ARCHIVE_VERSION,
        "rows": _triple(generation.rows),
        "files": {path: _triple(one) for path, one in generation.files.items()},
        "mailboxes": {name: asdict(entry) for name, entry in generation.mailboxes.items()},
    }
    line = _line(plain)
    return _line({**plain, "checksum": digest(line)})


def decode_generation(data: bytes) -> Generation:
    """The generation.

    :raises FormatError: it is damaged, or of a version that is not known.
    """
    try:
        found: dict[str, Any] = json.loads(data)
        checksum = found.pop("checksum")
        if found["format"] != FORMAT or found["version"] != ARCHIVE_VERSION:
            raise FormatError(0, f"generation: {found['format']!r}, version {found['version']!r}")
        if digest(_line(found)) != checksum:
            raise FormatError(0, "generation: the checksum doesn't fit")
        generation = Generation(
            found["created"], found["token"], found["parent"], found["utf8"], found["escape"],
            found["map_uid_validity"], found["next_map_uid"], found["highest_file_id"], Slice(*found["rows"]),
            {name: MailboxEntry(**entry) for name, entry in found["mailboxes"].items()},
            {path: Slice(*one) for path, one in found["files"].items()},
            tuple(found["directories"]),
            {key: (size, hexdigits) for key, (size, hexdigits) in found["objects"].items()},
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(0, f"generation: {type(error).__name__}: {error}") from None
    for one in (*generation.files.values(), generation.rows):
        if one.key not in generation.objects:
            raise FormatError(0, f"generation: {one.key} is not among its objects")
    return generation


def _triple(one: Slice) -> list[object]:
    return [one.key, one.offset, one.size]


def _line(plain: Mapping[str, Any]) -> bytes:
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return text.encode("ascii") + b"\n"
