"""External attachments whose files are not what the message says: the error names the file and the place."""

from __future__ import annotations

from pathlib import Path

import pytest

from dboxfs.dbox import parse_ext_refs, plan
from dboxfs.errors import CorruptFile
from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store.body import AssembledBody
from dboxfs.store.body_plain import PlainBody

SHORT = Path("/sys/kernel/uevent_seqnum")
"""A file with fewer bytes than its size says, as one that is cut off while it is read."""


async def why(part: Path, size: int, message: Path) -> str:
    """The error of reading a message that is an attachment of *size* bytes in the file *part*."""
    message.touch()
    async with FileSystem(ThreadsDriver(2)) as fs:
        inner = PlainBody(fs.open(str(message)), str(message), 0, 0, lambda: None)
        body = AssembledBody(fs, inner, plan(parse_ext_refs(b"0 %d - part" % size), 0), lambda _: str(part))
        with pytest.raises(CorruptFile) as damaged:
            await body.read(size, 0)
        body.close()
    return str(damaged.value)


async def test_an_attachment_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    part = tmp_path / "part"
    damaged = f"{part}: damaged at offset 0: "
    assert await why(part, 10, tmp_path / "u.1") == f"{damaged}the file of an external attachment is missing"
    part.write_bytes(bytes(9))
    found = await why(part, 10, tmp_path / "u.1")
    assert found == f"{damaged}attachment of 9 bytes gives 9 bytes, expected 10"
    found = await why(SHORT, SHORT.stat().st_size, tmp_path / "u.1")
    end = len(SHORT.read_bytes())
    assert found == f"{SHORT}: damaged at offset {end}: the file of an external attachment ends early"
