"""A restore brings a message that the store has: it is the same with uid, guid and text, and only then."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio.testing
from msgspec.structs import replace

from dboxfs.fsapi.drivers.memory import MemoryDriver
from dboxfs.store import Kind
from dboxfs.store.write import Eol, NewMessage
from tests.vfs.inside import ALONE, JULY, TWO, Mounted, mounted

GUID = "00112233445566778899aabbccddee01"
LINES = b"Subject: lines\n\none\ntwo\n"
CRLF = LINES.replace(b"\n", b"\r\n")


@pytest.fixture
async def tree(kind: Kind, autojump_clock: trio.testing.MockClock) -> AsyncIterator[Mounted]:
    """A store whose mailbox Work has message 7."""
    async with mounted(kind) as made:
        yield made


async def have(m: Mounted, text: bytes) -> None:
    await m.others.save("Work", [NewMessage(text, JULY, guid_text=GUID.encode(), uid=7)])


async def brought(
    m: Mounted, text: bytes, *, guid: str | None = GUID, uid: int = 7, eol: Eol = Eol.KEEP
) -> tuple[object, list[bytes]]:
    """A restore brings a file: how many the store had already, and the texts of Work then."""
    driver = MemoryDriver(tree=m.tree)
    async with mounted(m.location.kind, replace(ALONE, eol=eol), driver=driver, restore=True) as again:
        p = again.program()
        await p.write("Work/.letter", text, received=JULY)
        await p.set_xattr("Work/.letter", "uid", str(uid))
        if guid is not None:
            await p.set_xattr("Work/.letter", "guid", guid)
        await p.rename("Work/.letter", "Work/letter")
        assert again.vfs.staging is not None
        await again.vfs.staging.commit()
        return again.vfs.staging.describe()["there"], [text for _, text in await again.stored("Work")]


async def test_the_same_uid_guid_and_text_are_the_message(tree: Mounted) -> None:
    await have(tree, TWO)
    assert await brought(tree, TWO) == (1, [TWO])


@pytest.mark.parametrize("guid", [None, GUID[:-1] + "2"], ids=["none", "other"])
async def test_the_same_text_with_another_guid_or_none_is_another_message(
    tree: Mounted, guid: str | None
) -> None:
    await have(tree, TWO)
    assert await brought(tree, TWO, guid=guid) == (0, [TWO, TWO])


@pytest.mark.parametrize("text", [TWO[:-1], TWO + b"x", TWO.upper()], ids=["shorter", "longer", "other"])
async def test_another_text_with_uid_and_guid_of_a_message_is_another_message(
    tree: Mounted, text: bytes
) -> None:
    await have(tree, TWO)
    assert await brought(tree, text) == (0, [TWO, text])


async def test_line_ends_that_are_converted_are_no_other_text(tree: Mounted) -> None:
    await have(tree, LINES)
    assert await brought(tree, CRLF, eol=Eol.LF) == (1, [LINES])


@pytest.mark.parametrize("text", [CRLF[:-5], CRLF + b"x"], ids=["shorter", "longer"])
async def test_a_text_whose_line_ends_are_converted_is_compared_to_its_end(
    tree: Mounted, text: bytes
) -> None:
    await have(tree, LINES)
    assert await brought(tree, text, eol=Eol.LF) == (0, [LINES, text.replace(b"\r", b"")])


async def test_what_the_store_can_not_read_is_saved_again(tree: Mounted, kind: Kind) -> None:
    await have(tree, TWO)
    (path,) = [path for path in tree.files() if path.endswith("/u.7" if kind is Kind.SDBOX else "/m.1")]
    data = tree.file(path)
    at = data.rindex(b"\x01\x02")
    data[at : at + 2] = b"\xff\xff"
    driver = MemoryDriver(tree=tree.tree)
    async with mounted(kind, driver=driver, restore=True) as again:
        p = again.program()
        await p.write("Work/.letter", TWO, received=JULY)
        for name, value in (("uid", "7"), ("guid", GUID)):
            await p.set_xattr("Work/.letter", name, value)
        await p.rename("Work/.letter", "Work/letter")
        assert again.vfs.staging is not None
        await again.vfs.staging.commit()
        report = again.vfs.staging.describe()
        assert (report["there"], report["messages"]) == (0, 1)
        box = again.folder("Work").mailbox
        assert box is not None
        assert box.uids.tolist() == [7, 8]
        body = await box.open(8)
        assert await body.read(body.size, 0) == TWO
        body.close()
