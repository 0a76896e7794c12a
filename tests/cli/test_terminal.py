"""No mail, and no name in a store, controls the terminal of a command's reader or forges a line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import trio

from dboxfs.cli.logs import one_line
from dboxfs.cli.main import main
from dboxfs.cli.restoring import tell
from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store import Kind, Location
from dboxfs.store.write import NewMessage, StoreWriter, init_store

SUBJECTS = {
    "Gr\N{LATIN SMALL LETTER U WITH DIAERESIS}\N{LATIN SMALL LETTER SHARP S}e": "Grüße",
    "=?utf-8?q?Gr=C3=BC=C3=9Fe?=": "Grüße",
    "red \x1b[31m": r"red \x1b[31m",
    "=?utf-8?q?red_=1B[31m?=": r"red \x1b[31m",
    "=?utf-8?q?two=0Alines?=": "two lines",
    "=?utf-8?q?bell=07_=C2=9B31m?=": r"bell\x07 \x9b31m",
    "=?utf-8?q?turned_=E2=80=AE?=": r"turned \u202e",
    "=?no-such-charset?q?abc?=": "abc",
}
HOSTILE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose names, keywords and subjects are control sequences, with deleted messages."""
    root = tmp_path_factory.mktemp("hostile") / "mail"
    location = Location(Kind.MDBOX, str(root))
    messages = [NewMessage(f"Subject: {subject}\n\ntext\n".encode()) for subject in SUBJECTS]

    async def make() -> None:
        async with FileSystem(ThreadsDriver()) as fs:
            await init_store(fs, location)
            writer = StoreWriter(fs, location, await fs.stat(str(root)))
            saved = await writer.save("INBOX", messages)
            await writer.expunge("INBOX", saved.uids)
            await writer.save("INBOX", [NewMessage(messages[2].source, keywords=("$Evil",))])
            await writer.create_mailbox("Name")
            await writer.save("Name", messages[:1])

    trio.run(make)
    (root / "mailboxes/Name").rename(root / "mailboxes/\x1b[2J\udc9b")
    log = root / "mailboxes/INBOX/dbox-Mails/dovecot.index.log"
    data = log.read_bytes()
    assert data.count(b"$Evil") >= 1
    log.write_bytes(data.replace(b"$Evil", b"\x1b[31m"))
    return root


@pytest.mark.parametrize(
    "command",
    [
        "ls STORE", "ls STORE INBOX", "ls STORE --since 2000-01-01", "ls STORE --json --since 2000-01-01",
        "info STORE", "check STORE --unused", "check STORE --unused --json", "undelete STORE --list",
        "doctor STORE",
        "dump STORE/mailboxes/INBOX/dbox-Mails/dovecot.index.log",
        "rescue STORE NEW/r", "convert STORE NEW/c --format sdbox", "export STORE NEW/e --format eml",
        "export STORE NEW/m --format maildir",
    ],
)  # fmt: skip
def test_what_a_command_prints_of_a_hostile_store_are_lines_of_text(
    store: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], command: str
) -> None:
    main([word.replace("STORE", str(store)).replace("NEW", str(tmp_path)) for word in command.split()])
    said = capfd.readouterr()
    assert said.out
    for text in said:
        assert not HOSTILE.search(text), ascii(text)


def test_a_listing_of_deleted_messages_shows_subjects_as_people_read_them(
    store: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["undelete", str(store), "--list"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.partition(" INBOX  ")[2] for line in lines[:-1]] == list(SUBJECTS.values())


def test_a_name_that_a_restore_could_not_keep_forges_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    told = {"mailbox": "Work", "name": "a\nrestored 9 messages\x1b[2J", "what": "uid 3", "why": "it is taken"}
    report = {
        "messages": 1, "bytes": 10, "mailboxes": 1, "kept_uid": 0, "kept_guid": 1, "not_kept": [told],
        "not_kept_and_not_told": 0, "failed": {"W\x1b[2J": "the\nreason"},
    }  # fmt: skip
    assert tell(report) == 1
    said = capsys.readouterr()
    assert (said.out.count("\n"), said.err.count("\n")) == (1, 1)
    assert r"Work/a\x0arestored 9 messages\x1b[2J: uid 3" in said.out
    assert said.err == "dboxfs: W\\x1b[2J: not committed: the\\x0areason\n"


def test_text_of_any_language_stays_as_it_is() -> None:
    text = "Grüße, \N{HEBREW LETTER SHIN}\N{HEBREW LETTER LAMED}, \N{CJK UNIFIED IDEOGRAPH-4F60}"
    assert one_line(text) == text
    assert one_line("a\u2028b\u2066c") == r"a\u2028b\u2066c"
