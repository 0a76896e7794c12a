"""Programs that speak MH, on a mount with ``view=mh``; ``doveadm`` says what came of it.

How they behave was looked at first with plain folders (nmh 1.8, mutt 2.2.12, neomutt 20220429, mailutils
3.15, Python 3.11): see the table of MH programs in SEMANTICS.md.
"""

from __future__ import annotations

import mailbox
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.shown import ONE, TWO, ShownMh, in_terminal, showing, subject_of
from tests.live import corpus
from tests.live.dovecot import Append, Dovecot
from tests.live.mounts import Mounts

Make = Callable[..., ShownMh]

NMH = "/usr/bin/mh"
NMH_LIB = "/usr/lib/mh"

pytestmark = pytest.mark.expected_log("Rebuilding index", "rebuilding indexes", "fscking index file")

THREE = ONE.replace(b": one", b": three").replace(b"<one@", b"<three@")


@pytest.fixture
def make(dovecot: Dovecot, mounts: Mounts, tmp_path: Path) -> Iterator[Make]:
    with showing(dovecot, mounts, tmp_path) as made:
        yield made.mh


def plain(shown: ShownMh, root: Path) -> Path:
    """Plain MH folders with the same mail, and the same sequences."""
    for box in shown.account.status():
        (root / box).mkdir(parents=True)
        for name, text in shown.texts(box).items():
            (root / box / name).write_bytes(text)
        (root / box / ".mh_sequences").write_text((shown.mnt / box / ".mh_sequences").read_text())
    return root


class Nmh:
    """nmh with its folders below *root*; ``context`` is a file there."""

    def __init__(self, shown: ShownMh, root: Path) -> None:
        self._shown = shown
        self._profile = shown.file(f"profile-{root.name}", f"Path: {root}\nUnseen-Sequence: unseen\n")

    def __call__(
        self, program: str, *args: str | Path, status: int = 0, where: str = NMH, data: bytes = b""
    ) -> list[str]:
        """Run one of its programs, with *data* to read; gives the lines that it says."""
        profile = str(self._profile)
        return self._shown.feed(data, f"{where}/{program}", *args, status=status, MH=profile).splitlines()


def test_reading_programs_find_what_they_find_in_plain_folders(make: Make, tmp_path: Path) -> None:
    messages = corpus.with_flags(dict(list(corpus.real().items())[:40]))
    shown = make("mdbox", "rw", messages)
    copy = plain(shown, tmp_path / "plain")

    def counts(root: Path) -> dict[str, object]:
        nmh, found = Nmh(shown, root), dict[str, object]()
        found["scan"] = nmh("scan", "+INBOX", "-format", "%(msg) %{subject} %(unseen)", "-width", "200")
        for sequence in ("unseen", "flagged", "replied"):
            found[sequence] = nmh("pick", sequence, "+INBOX", "-list")
        found["folders"] = sorted(nmh("folders", "-fast", "-all"))
        found["mailutils"] = shown.run("messages", "-q", f"mh:{root}/INBOX")
        box = mailbox.MH(root / "INBOX", create=False)
        found["python"] = {key: message.get_sequences() for key, message in box.iteritems()}
        found["python texts"] = {key: box.get_bytes(key) for key in box.iterkeys()}
        return found

    assert counts(shown.mnt) == counts(copy)


def test_nmh_shows_marks_files_packs_and_removes(make: Make) -> None:
    shown = make("sdbox", "rw", [Append(ONE), Append(TWO), Append(THREE, r"\Seen")])
    nmh = Nmh(shown, shown.mnt)
    nmh("show", "-showproc", "cat", "+INBOX", "1")
    assert shown.flags() == {"one": {"\\Seen"}, "two": set(), "three": {"\\Seen"}}
    nmh("mark", "+INBOX", "3", "-sequence", "flagged", "-add")
    nmh("mark", "+INBOX", "3", "-sequence", "mine", "-add")
    assert shown.flags()["three"] == {"\\Flagged", "\\Seen"}
    nmh("refile", "3", "-src", "+INBOX", "+Work")
    assert shown.flags("Work") == {"three": {"\\Flagged", "\\Seen"}}
    assert shown.flags()["three"] >= {"\\Deleted"}  # nmh renames what it has filed to ,3
    assert sorted(shown.texts()) == [",3", "1", "2"]
    nmh("rmm", "-unlink", "1", "+INBOX")
    nmh("folder", "-pack", "+INBOX")
    assert shown.numbers()["two"] == "1"
    nmh("mark", "+INBOX", "1", "-sequence", "unseen", "-delete")  # the last one: nmh takes the file away
    assert shown.flags()["two"] == {"\\Seen"}
    assert nmh("pick", "mine", "+Work", status=1)


def test_nmh_delivers(make: Make) -> None:
    shown = make("mdbox", "rw", [Append(ONE, r"\Seen"), Append(TWO)])
    shown.account.doveadm("expunge", "mailbox", "INBOX", "subject", "two")
    nmh = Nmh(shown, shown.mnt)
    spool = shown.file("spool", "From a@example.org Mon Jan  1 00:00:00 2024\n" + THREE.decode() + "\n")
    nmh("inc", "-file", spool, "-notruncate", "+INBOX")
    assert shown.flags() == {"one": {"\\Seen"}, "three": set()}
    assert shown.numbers() == {"one": "1", "three": "2"}  # one above the highest, though uid 2 is gone
    assert [message.uid for message in shown.account.fetch()] == [1, 3]
    assert nmh("pick", "unseen", "+INBOX", "-list") == ["2"]
    done = shown.feed(
        TWO, f"{NMH_LIB}/rcvstore", "+Work", "-unseen", MH=str(shown.tmp / f"profile-{shown.mnt.name}")
    )
    assert done == ""
    assert shown.flags("Work") == {"two": set()}
    nmh("anno", "2", "+INBOX", "-component", "X-Note", "-text", "seen by me", "-nodate")
    (message,) = [m for m in shown.account.fetch() if subject_of(m.text) == "three"]
    assert message.text.startswith(b"X-Note: seen by me\n")
    assert shown.numbers()["three"] == "2"


@pytest.mark.parametrize("program", ["mutt", "neomutt"])
def test_mutt_flags_saves_and_deletes(make: Make, program: str) -> None:
    shown = make("sdbox", "rw", [Append(ONE), Append(TWO), Append(THREE, r"\Seen")])
    rc = shown.file(
        f"{program}rc",
        f"set folder={shown.mnt}\nset mbox_type=MH\nset move=no\nset mark_old=no\n"
        "set confirmappend=no\nset confirmcreate=no\nset delete=yes\nset wait_key=no\n"
        "set sort=mailbox-order\nset quit=yes\n"
        'push "<search>~s one<enter><flag-message><search>~s two<enter><save-message>=Work<enter>'
        '<search>~s three<enter><delete-message><sync-mailbox><quit>"\n',
    )
    in_terminal(shown, program, "-n", "-F", rc, "-f", shown.mnt / "INBOX")
    assert shown.flags()["one"] == {"\\Flagged"}
    assert shown.flags("Work") == {"two": set()}
    assert {"\\Deleted"} <= shown.flags()["three"]
    assert sorted(shown.numbers().items()) == [("one", "1"), ("three", ",3"), ("two", ",2")]


def test_python_adds_marks_replaces_and_removes(make: Make) -> None:
    shown = make("mdbox", "rw", [Append(ONE), Append(TWO, r"\Seen")])
    box: Any = mailbox.MH(shown.mnt / "INBOX", create=False)  # its keys are int, whatever its types say
    assert box.get_sequences() == {"unseen": [1]}
    box.lock()
    message = mailbox.MHMessage(THREE)
    message.add_sequence("flagged")
    message.add_sequence("mine")
    key = box.add(message)
    box.unlock()
    assert (key, shown.flags()["three"]) == (3, {"\\Flagged", "\\Seen"})
    assert box.get_sequences() == {"unseen": [1], "flagged": [3], "mine": [3]}
    assert box.add(mailbox.MHMessage(ONE.replace(b": one", b": four"))) == 4
    assert shown.flags()["four"] == {"\\Seen"}
    box.set_sequences({"replied": [2]})
    assert shown.flags() == {
        "one": {"\\Seen"},
        "two": {"\\Answered", "\\Seen"},
        "three": {"\\Seen"},
        "four": {"\\Seen"},
    }
    box[1] = b"Subject: short\n\n"
    assert shown.numbers()["short"] == "1"
    box.remove(4)
    box.remove(3)
    assert sorted(shown.flags()) == ["short", "two"]
    box.add(THREE)
    assert shown.numbers()["three"] == "3"
    box.discard(2)
    box.pack()
    assert shown.numbers() == {"short": "1", "three": "2"}
    made = mailbox.MH(shown.mnt / "Made", create=True)
    made.add(TWO)
    assert shown.flags("Made") == {"two": set()}
    made.clear()
    mailbox.MH(shown.mnt, create=False).remove_folder("Made")
    assert "Made" not in shown.account.mailboxes()


def test_mailutils_copies_and_deletes(make: Make) -> None:
    shown = make("sdbox", "rw", [Append(ONE), Append(TWO), Append(THREE)])
    commands = shown.file("commands", f"copy 1 mh:{shown.mnt}/Work\ndelete 2\nquit\n")
    shown.feed(commands.read_bytes(), "mail.mailutils", "-n", "-f", f"mh:{shown.mnt}/INBOX")
    assert list(shown.flags("Work")) == ["one"]
    assert sorted(shown.texts()) == [",2", "1", "3"]
    assert "\\Deleted" in shown.flags()["two"]
    shown.account.save(TWO.replace(b": two", b": new"), "Work")
    shown.feed(commands.read_bytes(), "mail.mailutils", "-n", "-f", f"mh:{shown.mnt}/INBOX")
    assert sorted(subject_of(m.text) for m in shown.account.fetch("Work")) == ["new", "one", "one"]


def test_a_read_only_mount_shows_the_sequences_and_takes_no_change(make: Make) -> None:
    shown = make("sdbox", "ro", [Append(ONE), Append(TWO, r"\Seen \Flagged")])
    box = mailbox.MH(shown.mnt / "INBOX", create=False)
    assert box.get_sequences() == {"unseen": [1], "flagged": [2]}
    with pytest.raises(OSError, match="Read-only"):
        box.add(ONE)
