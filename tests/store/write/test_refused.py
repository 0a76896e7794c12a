"""What a store can't take or no longer has is said in one line: which, why, and what to do."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dboxfs.errors import CorruptFile, NoSuchMailbox, NoSuchMessage, Unsupported
from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.index import payload
from dboxfs.index.log import RecordType, encode_log_header, encode_record
from dboxfs.store import Folder, Kind, Location, open_store
from dboxfs.store.mailbox_names import NameCoding
from dboxfs.store.write import InvalidName, NewMessage, StoreWriter, WriteOptions, init_store
from dboxfs.store.write.mailbox_check import check_mailbox_name
from dboxfs.store.write_errors import RefusedMessage
from dboxfs.tools.exporting.errors import NoPlace
from dboxfs.tools.exporting.maildir import MaildirFormat
from dboxfs.tools.exporting.mbox import MboxFormat
from tests.index import build

TEXT = b"Subject: a\n\na\n"


@asynccontextmanager
async def writing(root: Path, kind: Kind = Kind.SDBOX) -> AsyncIterator[StoreWriter]:
    """A writer beside a Dovecot, of a new store with one message."""
    location = Location(kind, str(root))
    async with FileSystem(ThreadsDriver(2)) as fs:
        await init_store(fs, location)
        writer = StoreWriter(fs, location, root.stat(), WriteOptions())
        await writer.save("INBOX", [NewMessage(TEXT)])
        yield writer


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("inbox", ": for IMAP this is INBOX, whatever its case"),
        ("a//b", ": a mailbox name can't have the part ''"),
        ("a/..", ": a mailbox name can't have the part '..'"),
        ("~x", ": a mailbox name can't have the part '~x'"),
        ("x" * 256, ": too long, or control characters in the name"),
        ("a\nb", ": too long, or control characters in the name"),
        ("b&d", ": not a valid name in this store: "),
        ("a&AIU-b", ": control characters in the name"),
    ],
)
def test_a_name_that_no_mailbox_can_have_is_refused_with_the_part(name: str, why: str) -> None:
    with pytest.raises(InvalidName) as refused:
        check_mailbox_name(Location(Kind.SDBOX, "/mail"), name)
    assert str(refused.value).startswith(f"{name!r}{why}")


async def test_what_is_gone_or_has_to_stay_is_named(tmp_path: Path) -> None:
    async with writing(tmp_path / "s") as writer:
        with pytest.raises(Unsupported, match=r"^INBOX can't be deleted$"):
            await writer.delete_mailbox("INBOX")
        with pytest.raises(Unsupported, match=r"^next to a Dovecot only Dovecot cleans up$"):
            await writer.maintain()
        await writer.create_mailbox("Work")
        (tmp_path / "s/mailboxes/INBOX/dbox-Mails/u.1").unlink()
        with pytest.raises(NoSuchMessage, match=r"INBOX: the file of uid 1 is gone$"):
            await writer.copy("INBOX", [1], "Work")


def change(log: Path, kind: RecordType, data: bytes) -> None:
    """What a Dovecot adds to a log."""
    with log.open("ab") as file:
        file.write(encode_record(kind, data, True))


async def test_a_mailbox_that_is_being_deleted_or_is_no_dbox_is_named(tmp_path: Path) -> None:
    async with writing(tmp_path / "s") as writer:
        for name in ("Going", "Other"):
            await writer.create_mailbox(name)
        log = tmp_path / "s/mailboxes/Going/dbox-Mails/dovecot.index.log"
        change(log, RecordType.INDEX_DELETED, payload.index_deleted())
        with pytest.raises(NoSuchMailbox, match=r"Going: the mailbox is deleted$"):
            await writer.save("Going", [NewMessage(TEXT)])
        log = tmp_path / "s/mailboxes/Other/dbox-Mails/dovecot.index.log"
        log.write_bytes(encode_log_header(build.HEADER) + build.uid_validity())
        with pytest.raises(CorruptFile, match=f"^{log}: damaged at offset 0: the index of Other has no dbox"):
            await writer.save("Other", [NewMessage(TEXT)])


async def test_an_index_whose_log_belongs_to_another_time_is_named(tmp_path: Path) -> None:
    async with writing(tmp_path / "s"):
        log = tmp_path / "s/mailboxes/INBOX/dbox-Mails/dovecot.index.log"
        data = bytearray(log.read_bytes())
        data[8:16] = struct.pack("<II", 7, 6)  # file_seq, prev_file_seq
        log.write_bytes(data)
        location = Location(Kind.SDBOX, str(tmp_path / "s"))
        async with FileSystem(ThreadsDriver(2)) as fs, open_store(fs, location, follow=False) as store:
            box = store.folders["INBOX"].mailbox
            assert box is not None
            with pytest.raises(CorruptFile, match=f"^{log}: .*base index and log don't fit together: "):
                await box.refresh()


@pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.value)
async def test_a_text_that_would_be_taken_for_an_encrypted_one_is_refused(tmp_path: Path, kind: Kind) -> None:
    async with writing(tmp_path / "s", kind) as writer:
        with pytest.raises(RefusedMessage, match=r"begins like one that Dovecot's mail_crypt has encrypted$"):
            await writer.save("INBOX", [NewMessage(b"CRYPTED\x03\x07\x02rest")])


@pytest.mark.parametrize(
    ("form", "name", "why"),
    [
        (MaildirFormat, "cur", "cur: a Maildir can't have such a name; rename the mailbox first"),
        (
            MboxFormat,
            "a/mBoX-MeSsAgEs",
            "a/mBoX-MeSsAgEs: a directory of mboxes can't have such a name; rename it",
        ),
        (MaildirFormat, "caf\udce9", "no name in modified UTF-7; rename it first"),
    ],
)
def test_a_mailbox_whose_name_another_format_can_not_have_is_named(
    form: Callable[[bool, NameCoding], MaildirFormat | MboxFormat], name: str, why: str
) -> None:
    location = dataclasses.replace(Location(Kind.SDBOX, "/mail"), utf8=True)
    with pytest.raises(NoPlace, match=why):
        form(True, location.names).place(Folder(name, name, None, None))
