"""Messages in a file that several processes append to, on storage that the kernel does not cache."""

from __future__ import annotations

from dboxfs.fsapi import FileSystem
from dboxfs.fsapi.drivers.memory import MemoryDriver
from dboxfs.store import Kind, Location
from dboxfs.store.write import NewMessage, StoreWriter
from tests.vfs.inside import ALONE, ONE, ROOT_DIRECTORY, TWO, make_store, mounted


async def record_of(text: bytes) -> bytes:
    """The bytes of a message's record in an ``m.N`` that has another message before it."""
    driver, shared = MemoryDriver(), f"{ROOT_DIRECTORY}/storage/m.1"
    driver.make_dirs(ROOT_DIRECTORY.rpartition("/")[0])
    await make_store(driver, Kind.MDBOX)
    end = len(driver.tree.find(shared).data)
    async with FileSystem(MemoryDriver(tree=driver.tree)) as fs:
        location = Location(Kind.MDBOX, ROOT_DIRECTORY)
        await StoreWriter(fs, location, await fs.stat(ROOT_DIRECTORY), ALONE).save(
            "INBOX", [NewMessage(text)]
        )
    return bytes(driver.tree.find(shared).data[end:])


async def test_a_record_that_another_writer_took_back_is_never_read_as_the_one_that_came_in_its_place() -> (
    None
):
    """A failed save cuts its record off again, and the next record begins at the same place."""
    taken_back = await record_of(bytes(reversed(TWO)))
    async with mounted(Kind.MDBOX) as m:
        p, shared = m.program(), m.file(f"{ROOT_DIRECTORY}/storage/m.1")
        end = len(shared)
        shared += taken_back
        assert await p.read("INBOX/1.eml") == ONE  # whole pages are read, with what is behind the message
        del shared[end:]
        async with m.again() as other:
            await other.program().write("INBOX/note", TWO)
        assert len(shared) == end + len(taken_back)
        await m.follow()
        assert await p.read("INBOX/note") == TWO
