"""The promises that hold in each view: the tenets of SEMANTICS.md, and that what was acknowledged stays."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from dboxfs.fsapi.drivers.memory import MemoryDriver
from dboxfs.store import Kind
from dboxfs.vfs.node import UID_MASK
from tests.vfs.inside import JULY, ONE, TWO, raises
from tests.vfs.views.inside import InView, maildir, mh

SEEN = 0x08
THREE = b"Subject: three\n\n" + b"third\n" * 9

Make = Callable[..., AbstractAsyncContextManager[InView]]


class Shown:
    """The messages of INBOX as a program finds them."""

    def __init__(self, w: InView) -> None:
        self.w = w

    async def paths(self) -> dict[int, str]:
        """uid -> path of each message that is listed."""
        found = {}
        for directory in ("INBOX", "INBOX/cur", "INBOX/new"):
            if directory == "INBOX" or await self.w.p.exists(directory):
                for name, inode in (await self.w.p.listed(directory)).items():
                    if inode & UID_MASK and name not in ("cur", "new", "tmp", ".mh_sequences"):
                        found[inode & UID_MASK] = f"{directory}/{name}"
        return found

    async def texts(self) -> dict[int, bytes]:
        return {uid: await self.w.p.read(path) for uid, path in (await self.paths()).items()}


@pytest.mark.parametrize("make", [maildir, mh])
async def test_a_view_to_be_read_keeps_the_promises(make: Make, kind: Kind) -> None:
    async with make(kind) as w:
        shown, others = Shown(w), w.inner.others
        await w.came(TWO, SEEN)
        await w.came(THREE)
        before = {path: bytes(w.inner.file(path)) for path in w.inner.files()}

        # What Dovecot has is shown, all of it, and its times and numbers are exact.
        assert await shown.texts() == {1: ONE, 2: TWO, 3: THREE}
        for uid, path in (await shown.paths()).items():
            attrs = await w.p.stat(path)
            assert (attrs.size, attrs.modified_ns) == (len((ONE, TWO, THREE)[uid - 1]), JULY * 10**9)
            assert await w.p.xattr(path, "uid") == str(uid)

        # Nothing was written, and nothing can be.
        assert {path: bytes(w.inner.file(path)) for path in w.inner.files()} == before
        assert not {"create", "unlink", "rename", "setxattr"} & {*dir(w.p.vfs)}

        # A message that is expunged goes from the listing, and a process that has it open reads its end.
        path = (await shown.paths())[1]
        file = await w.p.open(path)
        assert await file.read(5) == ONE[:5]
        await others.expunge("INBOX", [1])
        await w.inner.follow()
        assert sorted(await shown.paths()) == [2, 3]
        with raises(errno.ENOENT):
            await w.p.stat(path)
        assert await file.read(at=5) == ONE[5:]
        await file.close()

        # A damaged message is EIO on itself alone.
        for name in w.inner.files():
            data = w.inner.file(name)
            at = data.find(THREE)
            if at >= 0:
                data[at + len(THREE) : at + len(THREE) + 4] = b"\0" * 4
    async with make(kind, driver=MemoryDriver(tree=w.inner.tree)) as w:
        shown = Shown(w)
        paths = await shown.paths()
        assert sorted(paths) == [2, 3]
        with raises(errno.EIO):
            await w.p.read(paths[3])
        assert await w.p.read(paths[2]) == TWO


@pytest.mark.parametrize(
    ("make", "first", "second"),
    [(maildir, "INBOX/new/first", "INBOX/cur/second:2,S"), (mh, "INBOX/2", "INBOX/3")],
)
async def test_a_view_to_be_written_keeps_the_promises(
    make: Make, first: str, second: str, kind: Kind, tmp_path: Path
) -> None:
    async with make(kind, directory=tmp_path) as w:
        shown, reader = Shown(w), Shown(w)
        reader.w = InView(w.inner, w.program())

        # No process sees a part of a message; a close that has returned has made the whole of it.
        file = await w.p.create(first)
        await file.write(TWO[:9])
        assert await reader.texts() == {1: ONE}
        await file.write(TWO[9:])
        await file.set_received(JULY)
        await file.close()
        assert await reader.texts() == {1: ONE, 2: TWO}
        assert await w.inner.program().texts() == {"1.eml": ONE, (await w.inner.program().names())[-1]: TWO}

        # A message that is written anew while a process reads it: the reader keeps the old one.
        old = await reader.w.p.open(first)
        await w.p.write(first, THREE, received=JULY)
        assert await old.read() == TWO
        await old.close()
        assert await w.p.read(first) == THREE
        await w.p.write(second, ONE, received=JULY)
        await w.p.unlink((await shown.paths())[1])
        acknowledged = dict(zip((first, second), (THREE, ONE), strict=True))
        tree = w.inner.tree

        # The daemon is gone: what was acknowledged is there, with its name, and what was removed is not.
        async with make(kind, driver=MemoryDriver(tree=tree)) as again:
            found = {path: await again.p.read(path) for path in (await Shown(again).paths()).values()}
            assert found == acknowledged
            assert {(await again.p.stat(path)).modified_ns for path in found} == {JULY * 10**9}
