"""What the mount shows equals what Dovecot reports, for every kind of store that Dovecot makes.

Each store is made by Dovecot in the test, asked through ``doveadm``, and read through the kernel.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pytest

from tests.live import corpus
from tests.live.dovecot import Account, Append, Dovecot
from tests.live.equal import Expected, Tally, assert_shows, assert_shows_soon
from tests.live.mounts import Mounts

SPLIT = ":INDEX={home}/index:CONTROL={home}/control"


@dataclass(frozen=True, slots=True)
class Kind:
    """A ``mail_location`` after the driver and root, and userdb settings."""

    driver: str
    suffix: str = ""
    settings: tuple[tuple[str, str], ...] = ()

    def account(self, dovecot: Dovecot) -> Account:
        return dovecot.account(f"{self.driver}:{{home}}/mail{self.suffix}", **dict(self.settings))

    def __str__(self) -> str:
        keys = [part.split("=")[0] for part in self.suffix.split(":") if part]
        return "-".join([self.driver, *keys, *(f"{key}={value}" for key, value in self.settings)])


PLAIN = [Kind("sdbox"), Kind("mdbox"), Kind("mdbox", settings=(("mdbox_rotate_size", "64k"),))]
COMPRESSED = [
    Kind(driver, settings=(("zlib_save", algorithm),))
    for driver in ("sdbox", "mdbox")
    for algorithm in ("gz", "bz2", "zstd", "lz4")
]
SPLIT_KINDS = [Kind("sdbox", SPLIT), Kind("mdbox", SPLIT), Kind("sdbox", f":FULLDIRNAME=msgs{SPLIT}")]


def kinds(*lists: list[Kind]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kind", [kind for some in lists for kind in some], ids=str)


@kinds(PLAIN, COMPRESSED, SPLIT_KINDS)
def test_every_message_is_shown_as_dovecot_reports_it(
    dovecot: Dovecot, mounts: Mounts, tally: Tally, kind: Kind
) -> None:
    account = kind.account(dovecot)
    account.append(corpus.with_flags(corpus.real() | corpus.nasty()))
    expected = Expected.of(account)
    assert_shows(mounts.mount(account.location), expected, tally)


@kinds(PLAIN, COMPRESSED[2:3])
def test_a_message_of_40_mb(dovecot: Dovecot, mounts: Mounts, tally: Tally, kind: Kind) -> None:
    account = kind.account(dovecot)
    account.append([Append(b"Subject: small\n\n1"), Append(corpus.huge()), Append(b"Subject: small\n\n2")])
    expected = Expected.of(account)
    assert expected.messages["INBOX"][1].virtual_size >= 39_999_999
    assert_shows(mounts.mount(account.location), expected, tally)


@pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
@pytest.mark.parametrize("zlib", ["", "gz"])
def test_attachments_are_put_back(
    dovecot: Dovecot, mounts: Mounts, tally: Tally, driver: str, zlib: str
) -> None:
    settings = {"mail_attachment_dir": "{home}/attachments"} | ({"zlib_save": zlib} if zlib else {})
    account = dovecot.account(f"{driver}:{{home}}/mail", **settings)
    account.append(corpus.with_flags(corpus.attachments() | corpus.real()))
    account.doveadm("mailbox create", "Copies")
    account.doveadm("copy", "Copies", "mailbox", "INBOX", "uid", "1:5")
    account.doveadm("move", "Copies", "mailbox", "INBOX", "uid", "6:7")
    assert len(list((account.home / "attachments").rglob("*-*"))) >= 9
    expected = Expected.of(account)
    mnt = mounts.mount(account.location, f"attachments={account.home}/attachments")
    assert_shows(mnt, expected, tally)


NAMES = [
    "Entwürfe",
    "Work/Sub/Deep",
    "Parent/Only/Child",
    "a.b",
    "Tom & Jerry ~ 100 %",
    "日本/語",
    "😀",
    "INBOX/nested/deeper",
    "x y",
    ".hidden",
    "-dash",
    "17",
    "5.emlx",
    "%2",
]
# Names that can't be shown as they are, and how they are shown instead.
ESCAPED = {
    "5.eml": "5%2Eeml",
    "Work/1.eml": "Work/1%2Eeml",
    ".dboxfs": "%2Edboxfs",
    "a%2fb": "a%252fb",
    "%41": "%2541",
}


@pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
@pytest.mark.parametrize("suffix", ["", ":UTF-8", f":UTF-8{SPLIT}", SPLIT, ":DIRNAME=here:MAILBOXDIR=boxes"])
def test_mailbox_names_and_the_tree(
    dovecot: Dovecot, mounts: Mounts, tally: Tally, driver: str, suffix: str
) -> None:
    account = dovecot.account(f"{driver}:{{home}}/mail{suffix}")
    real = list(corpus.real().values())
    for n, name in enumerate([*NAMES, *ESCAPED, "INBOX"]):
        if name != "INBOX":
            account.doveadm("mailbox create", *(["-s"] if n % 3 == 0 else []), "--", name)
        for data in real[n : n + n % 3]:
            account.save(data, name)
    account.doveadm("mailbox subscribe", "Not There")
    expected = Expected.of(account, ESCAPED)
    assert {*NAMES, *ESCAPED, "INBOX", "Parent", "Parent/Only"} <= set(expected.names)
    assert "Parent" not in expected.status
    mnt = mounts.mount(account.location)
    assert_shows(mnt, expected, tally)


@pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
def test_a_plain_directory_is_recognised(dovecot: Dovecot, mounts: Mounts, tally: Tally, driver: str) -> None:
    account = dovecot.account(f"{driver}:{{home}}/mail")
    account.append(corpus.with_flags(corpus.real()))
    expected = Expected.of(account)
    assert_shows(mounts.mount(account.root), expected, tally)


@pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
def test_messages_in_alternative_storage(dovecot: Dovecot, mounts: Mounts, tally: Tally, driver: str) -> None:
    account = dovecot.account(f"{driver}:{{home}}/mail:ALT={{home}}/alt", mdbox_rotate_size="64k")
    account.append(corpus.with_flags(corpus.real()))
    mnt = mounts.mount(account.location)
    assert_shows_soon(account, mnt, tally)
    account.doveadm("altmove", "mailbox", "INBOX", "uid", "10:60")
    account.purge()
    assert [path for path in (account.home / "alt").rglob("[um].*") if path.stat().st_size > 100]
    assert_shows_soon(account, mnt, tally)
    assert_shows(mounts.mount(account.root), Expected.of(account), tally)
    account.doveadm("altmove", "-r", "mailbox", "INBOX", "uid", "20:30")
    account.purge()
    assert_shows_soon(account, mnt, tally)


def history(account: Account) -> Iterator[str]:
    """What a mailstore goes through, one step at a time."""
    account.append(corpus.with_flags(corpus.real()))
    yield "append"
    for name in ("Archive", "Archive/2026", "Trash"):
        account.doveadm("mailbox create", name)
    yield "create"
    imap = account.imap()
    imap.select()
    imap.uid("store", "1:30", "+FLAGS", r"(\Seen Work)")
    imap.uid("store", "10:20", "-FLAGS", r"(\Seen NonJunk)")
    imap.uid("store", "25:28", "FLAGS", r"(\Draft Other)")
    yield "flags and keywords"
    imap.uid("copy", "5:25", "Archive")
    imap.uid("copy", "5:10", "Archive/2026")
    yield "copy"
    imap.uid("move", "40:60", "Archive")
    yield "move"
    imap.uid("store", "2,4,6,70:75,103", "+FLAGS", r"(\Deleted)")
    imap.expunge()
    yield "expunge"
    imap.logout()
    account.purge()
    yield "purge"
    small = {name: data for name, data in corpus.nasty().items() if len(data) < 200_000}
    account.append(corpus.with_flags(small), "Archive/2026")
    yield "append after purge"
    account.doveadm("move", "Trash", "mailbox", "Archive", "uid", "1:12")
    account.doveadm("flags add", r"\Seen $Label1", "mailbox", "Trash", "all")
    account.doveadm("expunge", "mailbox", "Trash", "uid", "3:5")
    yield "move and expunge by doveadm"
    account.doveadm("mailbox rename", "Archive", "Old")
    yield "rename with a child"
    account.doveadm("mailbox delete", "Trash")
    account.doveadm("mailbox create", "Trash")
    account.save(b"Subject: new\n\nnew\n", "Trash")
    yield "delete and create again"
    account.force_resync()
    yield "index rewrite"
    account.purge()
    yield "purge again"


READ_AFRESH = ("copy", "purge", "rename with a child", "index rewrite", "purge again")


# Dovecot 2.3.19 leaves the child's index behind when its parent is renamed: it shows 0 messages there, and so
# does a mount, which says that it sees their files.
HIDES_A_CHILD = pytest.param(
    SPLIT_KINDS[2], marks=pytest.mark.expected_log("mail may be hidden"), id=str(SPLIT_KINDS[2])
)


# What force-resync says of its own work.
@pytest.mark.expected_log("Rebuilding index", "fscking index file", "rebuilding indexes")
@pytest.mark.parametrize("kind", [*PLAIN, SPLIT_KINDS[1], HIDES_A_CHILD], ids=str)
def test_every_step_of_a_history(dovecot: Dovecot, mounts: Mounts, tally: Tally, kind: Kind) -> None:
    account = kind.account(dovecot)
    account.save(b"Subject: first\n\n")
    followed = mounts.mount(account.location)
    for step in history(account):
        try:
            assert_shows_soon(account, followed, tally)
            if step in READ_AFRESH:
                assert_shows(mounts.mount(account.location), Expected.of(account), tally)
        except (AssertionError, OSError) as exc:
            exc.add_note(f"after: {step}")
            raise


@kinds(PLAIN)
@pytest.mark.parametrize("seed", range(1, 1 + int(os.environ.get("DBOXFS_HISTORIES", "1"))))
def test_a_random_history(dovecot: Dovecot, mounts: Mounts, tally: Tally, kind: Kind, seed: int) -> None:
    """Hundreds of random IMAP commands over four mailboxes, compared after every twenty."""
    account = kind.account(dovecot)
    rng = random.Random(seed)
    boxes = ["INBOX", "A", "A/B", "C"]
    for name in boxes[1:]:
        account.doveadm("mailbox create", name)
    messages = list((corpus.real() | corpus.nasty()).values())
    account.append([Append(data) for data in rng.sample(messages, 40)])
    mnt = mounts.mount(account.location)
    for _ in range(10):
        for _ in range(20):
            _random_command(account, rng, boxes, messages)
        if rng.random() < 0.3:
            account.purge()
        assert_shows_soon(account, mnt, tally)
    assert_shows(mounts.mount(account.location), Expected.of(account), tally)


def _random_command(account: Account, rng: random.Random, boxes: list[str], messages: list[bytes]) -> None:
    source, target = rng.choice(boxes), rng.choice(boxes)
    command = rng.choice(["append", "store", "store", "copy", "move", "expunge"])
    if command == "append":
        flags = rng.choice(["", r"\Seen", r"\Flagged K1", "K2 K3", r"\Draft K4"])
        account.append([Append(rng.choice(messages), flags) for _ in range(rng.randrange(1, 4))], target)
        return
    imap = account.imap()
    _, (count,) = imap.select(source)
    if count is not None and int(count):
        low = rng.randrange(1, int(count) + 1)
        some = f"{low}:{min(int(count), low + rng.randrange(5))}"
        if command == "store":
            flags = rng.choice([r"(\Seen)", r"(\Answered K1)", "(K2)", rf"(K{rng.randrange(9)} \Flagged)"])
            imap.store(some, rng.choice(["+FLAGS", "-FLAGS", "FLAGS"]), flags)
        elif command == "copy":
            imap.copy(some, target)
        elif command == "move" and source != target:
            imap.uid("MOVE", _uids(imap.fetch(some, "(UID)")[1]), target)
        elif command == "expunge":
            imap.store(some, "+FLAGS", r"(\Deleted)")
            imap.expunge()
    imap.logout()


def _uids(answers: Iterable[object]) -> str:
    return ",".join(str(answer).split("UID ")[1].split(")")[0] for answer in answers)


@pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
def test_after_the_log_was_rotated(dovecot: Dovecot, mounts: Mounts, tally: Tally, driver: str) -> None:
    """A log rotates above 1 MB: 1,000 messages and very many flag changes, followed and read afresh."""
    account = dovecot.account(f"{driver}:{{home}}/mail")
    account.append([Append(b"Subject: %d\n\nbody %d\n" % (n, n)) for n in range(1000)])
    mnt = mounts.mount(account.location)
    assert len(list((mnt / "INBOX").iterdir())) == 1000
    box = account.root / "mailboxes" / "INBOX" / "dbox-Mails"
    rotations = 0
    for login in range(50):
        before = (box / "dovecot.index.log").stat().st_ino
        imap = account.imap()
        imap.select()
        for n in range(login * 8, login * 8 + 8):
            half = ",".join(str(uid) for uid in range(1 + n % 2, 1001, 2))
            imap.uid("store", half, "+FLAGS.SILENT", f"(Round{n % 7})")
            imap.uid("store", half, "-FLAGS.SILENT", f"(Round{(n + 3) % 7})")
        imap.logout()
        if (box / "dovecot.index.log").stat().st_ino != before:
            rotations += 1
            assert (box / "dovecot.index.log.2").stat().st_size > 1_000_000
            assert_shows_soon(account, mnt, tally)
        if rotations == 2:
            break
    assert rotations == 2
    assert_shows(mounts.mount(account.location), Expected.of(account), tally)
