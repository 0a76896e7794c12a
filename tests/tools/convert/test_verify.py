"""``--verify`` finds whatever a conversion could have changed, and names it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store import open_store
from dboxfs.store.location import Kind, Location
from dboxfs.store.write import Neighbour, NewMessage, StoreWriter, WriteOptions, init_store
from dboxfs.tools.convert.errors import VerifyFailed
from dboxfs.tools.convert.mailbox_snapshot import take_portrait
from dboxfs.tools.convert.verify import verify

ALONE = WriteOptions(neighbour=Neighbour.ALONE)
GUID = bytes(range(100, 116))
TWINS = bytes(range(16))

Messages = list[NewMessage]
Change = Callable[[Messages], None]


def messages() -> Messages:
    """Three, two of them copies with a record each that were first saved to different mailboxes."""
    found = [
        NewMessage(
            b"Subject: %d\n\ntext\n" % n,
            received=1_000_000_000 + n,
            saved=1_100_000_000 + n,
            guid=bytes(15) + bytes([n]),
            uid=n + 1,
            pop3_uidl=b"pop%d" % n,
            orig_mailbox=b"Box",
            keywords=("one", "two")[: n + 1],
        )
        for n in range(3)
    ]
    for n, origin in ((1, b"Box"), (2, b"Other")):
        found[n] = replace(found[n], guid=TWINS, orig_mailbox=origin)
    return found


def first(**values: object) -> Change:
    """The first message is another one in this."""

    def change(found: Messages) -> None:
        found[0] = replace(found[0], **values)

    return change


async def made(
    fs: FileSystem,
    root: Path,
    *,
    change: Change | None = None,
    identity: tuple[bytes, int, int] = (GUID, 7, 30),
) -> StoreWriter:
    """A store with the messages in ``Box``.  *identity*: of ``Box``, its guid, uidvalidity and next uid."""
    location = Location(Kind.MDBOX, str(root))
    await init_store(fs, location, options=ALONE)
    writer = StoreWriter(fs, location, root.stat(), ALONE)
    await writer.create_mailbox("Box")
    await writer.subscribe("Box")
    found = messages()
    if change is not None:
        change(found)
    await writer.save("Box", found)
    await writer.set_identity("INBOX", guid=GUID[::-1], uid_validity=7, next_uid=30)
    guid, uid_validity, next_uid = identity
    await writer.set_identity("Box", guid=guid, uid_validity=uid_validity, next_uid=next_uid)
    return writer


async def compared(fs: FileSystem, source: Path, other: Path) -> int:
    """Compare two stores; returns how many messages were compared."""
    seen = 0

    def count(messages: int, _: int) -> None:
        nonlocal seen
        seen += messages

    def tell(line: str) -> None:
        raise AssertionError(line)

    async with (
        open_store(fs, Location(Kind.MDBOX, str(source)), follow=False) as here,
        open_store(fs, Location(Kind.MDBOX, str(other)), follow=False) as there,
    ):
        portraits = {
            name: take_portrait(name, folder.mailbox.state)
            for name, folder in here.folders.items()
            if folder.mailbox is not None and folder.mailbox.state is not None
        }
        await verify(here, there, portraits, frozenset(), count, tell)
    return seen


MESSAGES: dict[str, Change] = {
    "the flags differ": first(flags=0x08),
    "the keywords differ": first(keywords=("one", "two")),
    "the text differs": first(source=b"Subject: 0\n\nTEXT\n"),
    "the received date differs": first(received=5),
    "the saved date differs": first(saved=5),
    "the G line differs": first(guid=b"another message."),
    "the P line differs": first(pop3_uidl=b"pop9"),
    "the original mailbox differs": first(orig_mailbox=b"Elsewhere"),
}
IDENTITIES: dict[str, tuple[bytes, int, int]] = {
    "the guid differs": (bytes(16), 7, 30),
    "the uidvalidity differs": (GUID, 8, 30),
    "the next uid differs": (GUID, 7, 31),
}


async def difference(fs: FileSystem, tmp_path: Path) -> str:
    """What is found in ``other``, which is not as ``source`` is."""
    with pytest.raises(VerifyFailed) as caught:
        await compared(fs, tmp_path / "source", tmp_path / "other")
    return str(caught.value)


@pytest.mark.parametrize(("line", "change"), MESSAGES.items(), ids=list(MESSAGES))
async def test_each_difference_of_a_message_is_found(tmp_path: Path, line: str, change: Change) -> None:
    async with FileSystem(ThreadsDriver()) as fs:
        await made(fs, tmp_path / "source")
        await made(fs, tmp_path / "other", change=change)
        assert await difference(fs, tmp_path) == f"Box: uid 1: {line}"


async def test_more_text_behind_the_last_piece_that_is_compared_is_found(tmp_path: Path) -> None:
    piece = b"Subject: 0\n\n".ljust(1 << 20, b"x")
    async with FileSystem(ThreadsDriver()) as fs:
        await made(fs, tmp_path / "source", change=first(source=piece))
        await made(fs, tmp_path / "other", change=first(source=piece + b"more\n"))
        assert await difference(fs, tmp_path) == "Box: uid 1: the size differs"


async def test_a_copy_has_the_original_mailbox_of_one_of_the_copies_and_no_other(tmp_path: Path) -> None:
    def set_origin(origin: bytes) -> Change:
        def change(found: Messages) -> None:
            found[1] = replace(found[1], orig_mailbox=origin)

        return change

    async with FileSystem(ThreadsDriver()) as fs:
        await made(fs, tmp_path / "source")
        await made(fs, tmp_path / "one", change=set_origin(b"Other"))
        assert await compared(fs, tmp_path / "source", tmp_path / "one") == 3
        await made(fs, tmp_path / "other", change=set_origin(b"Elsewhere"))
        assert await difference(fs, tmp_path) == "Box: uid 2: the original mailbox differs"


@pytest.mark.parametrize(("line", "identity"), IDENTITIES.items(), ids=list(IDENTITIES))
async def test_each_difference_of_a_mailbox_is_found(
    tmp_path: Path, line: str, identity: tuple[bytes, int, int]
) -> None:
    async with FileSystem(ThreadsDriver()) as fs:
        await made(fs, tmp_path / "source")
        await made(fs, tmp_path / "other", identity=identity)
        assert await difference(fs, tmp_path) == f"Box: {line}"


async def test_a_message_too_many_or_too_few_a_mailbox_and_a_subscription_are_found(tmp_path: Path) -> None:
    async with FileSystem(ThreadsDriver()) as fs:
        await made(fs, tmp_path / "source")
        other = await made(fs, tmp_path / "other")
        await other.subscribe("INBOX")
        assert await difference(fs, tmp_path) == "the subscriptions differ"
        await other.create_mailbox("New")
        assert await difference(fs, tmp_path) == "New: a mailbox that only one of both has"
        await other.delete_mailbox("New")
        await other.delete_mailbox("Box")
        assert await difference(fs, tmp_path) == "Box: a mailbox that only one of both has"


async def test_a_list_with_another_message_is_found(tmp_path: Path) -> None:
    def without_the_last(found: Messages) -> None:
        found.pop()

    async with FileSystem(ThreadsDriver()) as fs:
        await made(fs, tmp_path / "source")
        await made(fs, tmp_path / "other", change=without_the_last)
        assert await difference(fs, tmp_path) == "Box: the uids differ"


async def test_flags_that_were_changed_and_changed_back_are_found_by_the_modseq(tmp_path: Path) -> None:
    async with FileSystem(ThreadsDriver()) as fs:
        await made(fs, tmp_path / "source")
        other = await made(fs, tmp_path / "other")
        await other.set_flags("Box", [1], add=0x08)
        await other.set_flags("Box", [1], remove=0x08)
        assert await difference(fs, tmp_path) == "Box: the highest modseq differs"


async def test_equal_stores_are_equal_and_each_message_is_compared(tmp_path: Path) -> None:
    async with FileSystem(ThreadsDriver()) as fs:
        for name in ("source", "other"):
            await made(fs, tmp_path / name)
        assert await compared(fs, tmp_path / "source", tmp_path / "other") == 3
