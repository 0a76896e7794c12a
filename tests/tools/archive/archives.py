"""A small store, and an archive of it in memory, for the tests of archives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.fsapi.drivers.object_client import Cost, ObjectInfo, Objects, connect
from dboxfs.store import Kind, Location, Store, open_store
from dboxfs.store.write import Fsync, Neighbour, NewMessage, StoreWriter, WriteOptions, init_store
from dboxfs.tools.archive import Archived, ArchiveOptions, Archiver, ArchiveView, Repository
from tests.store.write.stores import body

FAST = WriteOptions(Neighbour.ALONE, Fsync.NEVER)
URL = "memory://archive"

Shown = dict[str, object]


class Died(BaseException):
    """The run was killed here: nothing of it runs any more."""


@dataclass(slots=True)
class FaultyObjects:
    """A store that counts what changes in it, and does something else at one of these steps.

    ``fault``: called with the number of the step, what it is, the key; before it (False), behind it (True).
    """

    inner: Objects
    fault: Callable[[int, str, str, bool], None] = lambda number, kind, key, after: None
    steps: list[tuple[str, str]] = field(default_factory=list)
    reads: Callable[[str, bytes], bytes] = lambda key, data: data

    @property
    def cost(self) -> Cost:
        return self.inner.cost

    def _step(self, kind: str, key: str, call: Callable[[], None]) -> None:
        number = len(self.steps)
        self.steps.append((kind, key))
        self.fault(number, kind, key, False)
        call()
        self.fault(number, kind, key, True)

    def head(self, key: str) -> ObjectInfo:
        return self.inner.head(key)

    def get(self, key: str, start: int, end: int, etag: str | None = None) -> bytes:
        return self.reads(key, self.inner.get(key, start, end, etag))

    def get_whole(self, key: str) -> bytes:
        return self.reads(key, self.inner.get_whole(key))

    def put(self, key: str, data: bytes | memoryview, *, create: bool) -> None:
        self._step("put", key, lambda: self.inner.put(key, data, create=create))

    def put_file(self, key: str, file: BinaryIO, size: int) -> None:
        self._step("put", key, lambda: self.inner.put_file(key, file, size))

    def delete(self, key: str) -> None:
        self._step("delete", key, lambda: self.inner.delete(key))

    def copy(self, source: str, target: str, *, replace: bool) -> None:
        self._step("copy", target, lambda: self.inner.copy(source, target, replace=replace))

    def list_all(self, prefix: str) -> Iterator[ObjectInfo]:
        return self.inner.list_all(prefix)

    def list_level(self, prefix: str) -> tuple[list[str], list[ObjectInfo]]:
        return self.inner.list_level(prefix)


def memory() -> Objects:
    """An empty store in this process's memory."""
    return connect("memory://")


async def make_store(root: Path, kind: str = "mdbox", messages: int = 6) -> Location:
    """Messages in INBOX, the second of 400 KB, with flags and keywords; two copies in Work/Deep; Empty."""
    location = Location(Kind(kind), str(root))
    root.mkdir(exist_ok=True)
    async with FileSystem(ThreadsDriver()) as fs:
        await init_store(fs, location, options=FAST)
        writer = StoreWriter(fs, location, root.stat(), FAST)
        await writer.create_mailbox("Work/Deep")
        await writer.create_mailbox("Empty")
        texts = [body(number, 400_000 if number == 1 else 500) for number in range(messages)]
        saved = await writer.save(
            "INBOX",
            [
                NewMessage(
                    text, received=1_600_000_000 + 86400 * n, flags=n % 8, keywords=("work",) * (n % 2)
                )
                for n, text in enumerate(texts)
            ],
        )
        await writer.copy("INBOX", saved.uids[:2], "Work/Deep")
    return location


async def add(location: Location, *numbers: int, mailbox: str = "INBOX") -> None:
    """More messages."""
    async with FileSystem(ThreadsDriver()) as fs:
        writer = StoreWriter(fs, location, Path(location.root).stat(), FAST)
        await writer.save(mailbox, [NewMessage(body(n, 700)) for n in numbers])


async def expunge(location: Location, mailbox: str, *uids: int) -> None:
    """Fewer messages."""
    async with FileSystem(ThreadsDriver()) as fs:
        writer = StoreWriter(fs, location, Path(location.root).stat(), FAST)
        await writer.expunge(mailbox, list(uids))


async def change(location: Location) -> None:
    """What may happen to a store between two archives."""
    async with FileSystem(ThreadsDriver()) as fs:
        writer = StoreWriter(fs, location, Path(location.root).stat(), FAST)
        await writer.save("INBOX", [NewMessage(body(n, 700)) for n in (50, 51)])
        await writer.expunge("INBOX", [1, 2])
        await writer.set_flags("INBOX", [3], add=1)
        await writer.move("INBOX", [4], "Work/Deep")
        await writer.create_mailbox("Later")


def saved_as_before(now: dict[str, Shown], before: dict[str, Shown]) -> dict[str, Shown]:
    """*now*, with the saved dates that messages had *before*: those of an sdbox move with their copies."""
    for name in now.keys() & before.keys():
        messages: Any = now[name].get("messages", {})
        old: Any = before[name].get("messages", {})
        for uid in messages.keys() & old.keys():
            messages[uid] = (*messages[uid][:3], old[uid][3], *messages[uid][4:])
    return now


def texts(found: dict[str, Shown]) -> set[bytes]:
    """All messages, whatever is known of them."""
    boxes = [shown["messages"] for shown in found.values() if "messages" in shown]
    return {message[0] for box in boxes for message in box.values()}  # type: ignore[attr-defined]


async def archive(location: Location, objects: Objects, options: ArchiveOptions | None = None) -> Archived:
    """One run."""
    async with FileSystem(ThreadsDriver(2)) as fs, open_store(fs, location, follow=False) as store:
        return await Archiver(store, Repository(objects, URL), options or ArchiveOptions()).run()


async def shown(store: Store) -> dict[str, Shown]:
    """Everything that a mount shows of a store, by mailbox."""
    found: dict[str, Shown] = {"": {"subscribed": sorted(await store.subscribed())}}
    for name, folder in store.folders.items():
        box = folder.mailbox
        if box is None:
            found[name] = {}
            continue
        messages = {}
        for uid in box.uids.tolist():
            facts = await box.facts_of(uid)
            opened = await box.open(uid)
            text = await opened.read(opened.size, 0)
            opened.close()
            guid = (await box.details(uid)).metadata.guid128
            flags, keywords = box.flags(uid), sorted(box.keywords(uid))
            messages[uid] = (text, facts.size, facts.received, facts.saved, flags, keywords, guid)
        found[name] = {
            "guid": box.guid, "validity": box.uid_validity, "next": box.uid_next, "messages": messages,
        }  # fmt: skip
    return found


async def of_store(location: Location) -> dict[str, Shown]:
    """What a mount shows of the store."""
    async with FileSystem(ThreadsDriver(2)) as fs, open_store(fs, location, follow=False) as store:
        return await shown(store)


async def of_archive(objects: Objects, at: str | None = None) -> dict[str, Shown]:
    """What a mount shows of the archive."""
    view = ArchiveView(URL, at, make=lambda url, access: objects)
    async with (
        FileSystem(view.driver(2)) as fs,
        open_store(fs, view.location(), follow=False, cache_dir=view.cache_dir) as store,
    ):
        return await shown(store)
