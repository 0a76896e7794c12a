"""A store that shows less mail than it has is known, with the likely cause; a healthy one never is."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from dboxfs.errors import NoSuchStore
from dboxfs.fsapi import Crash, Fault, FaultsDriver, FileSystem, ThreadsDriver
from dboxfs.store import Kind, Location, open_store, parse_location
from dboxfs.store.hidden import FEW, Cause, Hidden, hidden_in, summary
from dboxfs.store.write import Neighbour, NewMessage, StoreWriter, WriteOptions, init_store

BOTH = pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.value)
ALONE = WriteOptions(Neighbour.ALONE)


async def made(kind: Kind, root: Path, **counts: int) -> Path:
    """A store with so many messages in INBOX and in other mailboxes."""
    location = Location(kind, str(root))
    async with FileSystem(ThreadsDriver(2)) as fs:
        await init_store(fs, location)
        writer = StoreWriter(fs, location, root.stat(), ALONE)
        for name, count in counts.items():
            if name != "INBOX":
                await writer.create_mailbox(name)
            await writer.save(name, [NewMessage(b"Subject: %d\n\n%d\n" % (n, n)) for n in range(count)])
    return root


async def hidden(location: str | Path) -> list[Hidden]:
    async with (
        FileSystem(ThreadsDriver(2)) as fs,
        open_store(fs, parse_location(str(location)), follow=False) as store,
    ):
        return await hidden_in(store)


def lose_index(root: Path, name: str) -> Path:
    """The index files of a mailbox go; gives its directory."""
    directory = root / "mailboxes" / name / "dbox-Mails"
    for path in directory.glob("dovecot.index*"):
        path.unlink()
    return directory


@BOTH
async def test_store_that_shows_everything_hides_nothing(kind: Kind, tmp_path: Path) -> None:
    root = await made(kind, tmp_path / "s", INBOX=3, Work=2, Empty=0)
    lose_index(root, "Empty")
    assert await hidden(root) == []


@BOTH
async def test_mailbox_whose_index_is_lost_is_named_with_its_messages(kind: Kind, tmp_path: Path) -> None:
    root = await made(kind, tmp_path / "s", INBOX=3, Work=2)
    directory = lose_index(root, "Work")
    (found,) = await hidden(root)
    assert (found.cause, found.mailbox, found.messages) == (Cause.NO_INDEX, "Work", 2)
    assert found.path == str(directory)
    assert "INDEX=" in found.todo
    assert "mail_index_path" in found.todo
    assert "dboxfs rescue" in found.todo


async def test_indexes_that_lie_elsewhere_are_named_and_nothing_is_hidden_where_they_are_given(
    tmp_path: Path,
) -> None:
    root = await made(Kind.SDBOX, tmp_path / "s", INBOX=3, Work=2)
    for name in ("INBOX", "Work"):
        (tmp_path / "index/mailboxes" / name).mkdir(parents=True)
        for path in (root / "mailboxes" / name / "dbox-Mails").glob("dovecot.index*"):
            shutil.move(path, tmp_path / "index/mailboxes" / name)
    found = await hidden(root)
    assert [(one.cause, one.mailbox, one.messages) for one in found] == [
        (Cause.NO_INDEX, "INBOX", 3),
        (Cause.NO_INDEX, "Work", 2),
    ]
    assert "and 1 more" in summary(found)
    assert await hidden(f"sdbox:{root}:INDEX={tmp_path / 'index'}") == []
    (tmp_path / "other").mkdir()
    wrong = await hidden(f"sdbox:{root}:INDEX={tmp_path / 'other'}")
    assert f"see that INDEX={tmp_path / 'other'} is right" in wrong[0].todo


async def test_message_files_in_the_alternative_storage_count(tmp_path: Path) -> None:
    root = await made(Kind.SDBOX, tmp_path / "s", INBOX=1, Work=2)
    directory = lose_index(root, "Work")
    (tmp_path / "alt/mailboxes/Work").mkdir(parents=True)
    shutil.move(directory, tmp_path / "alt/mailboxes/Work/dbox-Mails")
    directory.mkdir()
    (found,) = await hidden(f"sdbox:{root}:ALT={tmp_path / 'alt'}")
    assert (found.cause, found.messages) == (Cause.NO_INDEX, 2)


@BOTH
async def test_inbox_that_lies_elsewhere_is_named_and_nothing_is_hidden_where_it_is_given(
    kind: Kind, tmp_path: Path
) -> None:
    root = await made(kind, tmp_path / "s", INBOX=3, Work=2)
    shutil.move(root / "mailboxes/INBOX/dbox-Mails", tmp_path / "inbox")
    shutil.rmtree(root / "mailboxes/INBOX")
    (found,) = await hidden(root)
    assert (found.cause, found.messages) == (Cause.NO_INBOX, 3 if kind is Kind.MDBOX else 0)
    assert "INBOX=" in found.todo
    assert "mail_inbox_path" in found.todo
    assert await hidden(f"{kind.value}:{root}:INBOX={tmp_path / 'inbox'}") == []


@BOTH
async def test_store_without_any_mailbox_has_no_inbox(kind: Kind, tmp_path: Path) -> None:
    root = await made(kind, tmp_path / "s")
    shutil.rmtree(root / "mailboxes/INBOX")
    assert [one.cause for one in await hidden(root)] == [Cause.NO_INBOX]


async def test_mailbox_of_an_mdbox_that_is_gone_is_named(tmp_path: Path) -> None:
    root = await made(Kind.MDBOX, tmp_path / "s", INBOX=1, Work=2)
    shutil.rmtree(root / "mailboxes/Work")
    (found,) = await hidden(root)
    assert (found.cause, found.mailbox, found.messages) == (Cause.NO_MAILBOX, "Work", 2)


async def test_index_that_was_made_anew_over_a_lost_one_is_noticed(tmp_path: Path) -> None:
    root = await made(Kind.MDBOX, tmp_path / "s", INBOX=1, Work=FEW)
    lose_index(root, "Work")
    location = Location(Kind.MDBOX, str(root))
    async with FileSystem(ThreadsDriver(2)) as fs:
        await StoreWriter(fs, location, root.stat(), ALONE).set_flags("Work", [], add=8)
    (found,) = await hidden(root)
    assert (found.cause, found.mailbox, found.messages) == (Cause.NO_MAILBOX, "Work", FEW)
    assert "made anew" in found.todo


@pytest.mark.parametrize("index", ["made anew", "older than the files"])
async def test_index_that_lists_fewer_messages_than_there_are_files_of_others_is_noticed(
    tmp_path: Path, index: str
) -> None:
    root = await made(Kind.SDBOX, tmp_path / "s", INBOX=1, Work=FEW if index.startswith("older") else 0)
    log = root / "mailboxes/Work/dbox-Mails/dovecot.index.log"
    before = log.read_bytes()
    shown = FEW if index.startswith("older") else 0
    location = Location(Kind.SDBOX, str(root))
    async with FileSystem(ThreadsDriver(2)) as fs:
        writer = StoreWriter(fs, location, root.stat(), ALONE)
        await writer.save("Work", [NewMessage(b"Subject: x\n\nx\n")] * (FEW - 1))
        few = log.read_bytes()
        log.write_bytes(before)
        assert await hidden(root) == []  # a writer that died may have left so many
        log.write_bytes(few)
        await writer.save("Work", [NewMessage(b"Subject: x\n\nx\n")] * (shown + 1))
    log.write_bytes(before)
    (found,) = await hidden(root)
    assert (found.cause, found.mailbox, found.messages) == (Cause.OLD_INDEX, "Work", shown + FEW)
    assert "made anew, or is it older" in found.todo
    assert "dboxfs rescue" in found.todo


async def test_messages_that_a_dead_writer_has_expunged_are_not_hidden(tmp_path: Path) -> None:
    root = await made(Kind.SDBOX, tmp_path / "s", INBOX=1, Work=2 * FEW)
    time.sleep(0.02)  # until the clock of the file system has gone on
    location, work = Location(Kind.SDBOX, str(root)), root / "mailboxes/Work/dbox-Mails"
    driver = FaultsDriver(ThreadsDriver(1), [Fault("unlink", 1, crash=Crash.BEFORE)], depth=1)
    async with FileSystem(driver) as fs:
        with pytest.raises(OSError, match="Input/output error"):
            await StoreWriter(fs, location, root.stat(), ALONE).expunge("Work", range(1, 2 * FEW + 1))
    assert driver.crashed
    assert len(list(work.glob("u.*"))) == 2 * FEW
    assert await hidden(root) == []
    time.sleep(0.02)
    for path in work.glob("u.*"):
        path.rename(f"{path}.old").rename(path)  # as if they were put back
    (found,) = await hidden(root)
    assert (found.cause, found.messages) == (Cause.OLD_INDEX, 2 * FEW)


async def test_few_messages_that_interrupted_saves_left_hide_nothing(tmp_path: Path) -> None:
    root = await made(Kind.MDBOX, tmp_path / "s", INBOX=1, Work=1)
    log = root / "mailboxes/Work/dbox-Mails/dovecot.index.log"
    before = log.read_bytes()
    location = Location(Kind.MDBOX, str(root))
    async with FileSystem(ThreadsDriver(2)) as fs:
        await StoreWriter(fs, location, root.stat(), ALONE).save(
            "Work", [NewMessage(b"Subject: x\n\nx\n")] * 3
        )
    log.write_bytes(before)  # it never came to the mailbox
    assert await hidden(root) == []


@BOTH
async def test_saves_that_a_dead_writer_did_not_finish_hide_nothing(kind: Kind, tmp_path: Path) -> None:
    root = await made(kind, tmp_path / "s", INBOX=1, Work=0)
    location = Location(kind, str(root))
    # the message file, the map, the mailbox; all message files, their note, the mailbox
    plan = [Fault("append", 3 if kind is Kind.MDBOX else 2 * FEW + 2, crash=Crash.BEFORE)]
    driver = FaultsDriver(ThreadsDriver(1), plan, depth=1)
    async with FileSystem(driver) as fs:
        messages = [NewMessage(b"Subject: %d\n\nx\n" % n) for n in range(2 * FEW)]
        with pytest.raises(OSError, match="Input/output error"):
            await StoreWriter(fs, location, root.stat(), ALONE).save("Work", messages)
    assert driver.crashed
    assert kind is Kind.MDBOX or len(list((root / "mailboxes/Work/dbox-Mails").glob("u.*"))) == 2 * FEW
    assert await hidden(root) == []


async def test_mailbox_whose_index_is_damaged_is_an_error_and_no_lost_one(tmp_path: Path) -> None:
    root = await made(Kind.MDBOX, tmp_path / "s", INBOX=1, Work=2)
    (root / "mailboxes/Work/dbox-Mails/dovecot.index.log").write_bytes(b"no log")
    assert await hidden(root) == []


# -- what contradicts the location -------------------------------------------------------------------------


@pytest.mark.parametrize("damaged", [False, True])
async def test_store_of_another_kind_is_refused(damaged: bool, tmp_path: Path) -> None:
    mdbox = await made(Kind.MDBOX, tmp_path / "m", INBOX=2)
    sdbox = await made(Kind.SDBOX, tmp_path / "s", INBOX=2)
    with pytest.raises(NoSuchStore, match=rf"an mdbox store.*storage/m\.1.*give mdbox:{mdbox}"):
        parse_location(f"sdbox:{mdbox}", damaged=damaged)
    if damaged:  # else: no storage/ in it
        with pytest.raises(NoSuchStore, match=rf"an sdbox store.*u\.1.*give sdbox:{sdbox}"):
            parse_location(f"mdbox:{sdbox}", damaged=damaged)
    (sdbox / "storage").mkdir()
    with pytest.raises(NoSuchStore, match=rf"an sdbox store.*u\.1.*give sdbox:{sdbox}"):
        parse_location(f"mdbox:{sdbox}", damaged=damaged)
    assert parse_location(str(sdbox), damaged=damaged).kind is Kind.SDBOX
    assert parse_location(str(mdbox), damaged=damaged).kind is Kind.MDBOX


async def test_mdbox_whose_storage_is_in_the_alternative_only_is_an_mdbox(tmp_path: Path) -> None:
    root = await made(Kind.MDBOX, tmp_path / "m", INBOX=2)
    (tmp_path / "alt/storage").mkdir(parents=True)
    shutil.move(root / "storage/m.1", tmp_path / "alt/storage")
    with pytest.raises(NoSuchStore, match="an mdbox store"):
        parse_location(f"sdbox:{root}:ALT={tmp_path / 'alt'}")
    assert await hidden(f"mdbox:{root}:ALT={tmp_path / 'alt'}") == []


async def test_sdbox_with_a_storage_directory_of_old_is_what_its_indexes_say(tmp_path: Path) -> None:
    sdbox = await made(Kind.SDBOX, tmp_path / "s", INBOX=2)
    mdbox = await made(Kind.MDBOX, tmp_path / "m", INBOX=2)
    shutil.copytree(mdbox / "storage", sdbox / "storage")
    assert parse_location(f"sdbox:{sdbox}").kind is Kind.SDBOX
    shutil.copy2(sdbox / "mailboxes/INBOX/dbox-Mails/u.1", mdbox / "mailboxes/INBOX/dbox-Mails/u.1")
    with pytest.raises(NoSuchStore, match="an mdbox store"):
        parse_location(f"sdbox:{mdbox}")


async def test_mdbox_without_its_map_is_refused_and_with_the_right_index_it_is_not(tmp_path: Path) -> None:
    root = await made(Kind.MDBOX, tmp_path / "s", INBOX=2)
    (tmp_path / "index/storage").mkdir(parents=True)
    for path in (root / "storage").glob("dovecot.map*"):
        shutil.move(path, tmp_path / "index/storage")
    with pytest.raises(NoSuchStore, match=r"m\.1 holds messages.*no map in .*INDEX=.*dboxfs rescue"):
        parse_location(str(root))
    assert parse_location(str(root), damaged=True).kind is Kind.MDBOX
    assert parse_location(f"mdbox:{root}:INDEX={tmp_path / 'index'}").index == str(tmp_path / "index")


@BOTH
@pytest.mark.parametrize("damaged", [False, True])
async def test_mailboxes_of_another_dirname_are_refused_with_its_name(
    kind: Kind, damaged: bool, tmp_path: Path
) -> None:
    root = await made(kind, tmp_path / "s", INBOX=2, Work=1)
    for name in ("INBOX", "Work"):
        (root / "mailboxes" / name / "dbox-Mails").rename(root / "mailboxes" / name / "mail")
    with pytest.raises(NoSuchStore, match=r"called dbox-Mails, but .*/INBOX/mail holds.*give DIRNAME=mail"):
        parse_location(str(root), damaged=damaged)
    assert await hidden(f"{kind.value}:{root}:DIRNAME=mail") == []
    with pytest.raises(NoSuchStore, match="called other, but"):
        parse_location(f"{kind.value}:{root}:DIRNAME=other", damaged=damaged)


async def test_single_directory_of_another_name_does_not_make_a_store_another_one(tmp_path: Path) -> None:
    root = await made(Kind.SDBOX, tmp_path / "s", INBOX=2)
    shutil.copytree(root / "mailboxes/INBOX/dbox-Mails", root / "mailboxes/INBOX/dbox-Mails.old")
    assert await hidden(root) == []


@BOTH
@pytest.mark.parametrize("damaged", [False, True])
async def test_empty_store_contradicts_nothing(kind: Kind, damaged: bool, tmp_path: Path) -> None:
    root = await made(kind, tmp_path / "s")
    assert parse_location(f"{kind.value}:{root}", damaged=damaged).kind is kind
    assert parse_location(str(root), damaged=damaged).kind is kind
