"""Programs that speak Maildir, on a mount with ``view=maildir``; ``doveadm`` says what came of it.

What a program finds is compared with what it finds in a plain Maildir that Dovecot's own mail was written to.
"""

from __future__ import annotations

import mailbox
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.shown import (
    LETTERS,
    ONE,
    TWO,
    ShownMaildir,
    Typed,
    in_terminal,
    showing,
    subject_of,
    wait_for_the_next_second,
)
from tests.live import corpus
from tests.live.dovecot import Append, Dovecot
from tests.live.mounts import Mounts

Make = Callable[..., ShownMaildir]

pytestmark = pytest.mark.expected_log("Rebuilding index", "rebuilding indexes", "fscking index file")


@pytest.fixture
def make(dovecot: Dovecot, mounts: Mounts, tmp_path: Path) -> Iterator[Make]:
    with showing(dovecot, mounts, tmp_path) as made:
        yield made.maildir


def plain(shown: ShownMaildir, root: Path) -> Path:
    """A plain Maildir with the same mail, written by Python."""
    for box in shown.account.status():
        for sub in ("cur", "new", "tmp"):
            (root / box / sub).mkdir(parents=True)
        for message in shown.account.fetch(box):
            letters = "".join(letter for letter, flag in LETTERS.items() if flag in message.flags.split())
            where = (
                f"cur/1.{message.uid}:2,{letters}" if letters or message.keywords else f"new/1.{message.uid}"
            )
            (root / box / where).write_bytes(message.text)
    return root


# -- reading -----------------------------------------------------------------------------------


def test_reading_programs_find_what_they_find_in_a_plain_maildir(make: Make, tmp_path: Path) -> None:
    messages = corpus.with_flags(dict(list(corpus.real().items())[:40]))
    shown = make("sdbox", "ro", messages)
    copy = plain(shown, tmp_path / "plain")

    def counts(root: Path, work: Path) -> dict[str, Any]:
        work.mkdir()
        inbox, found = root / "INBOX", dict[str, Any]()
        box = mailbox.Maildir(inbox, factory=None, create=False)
        found["python"] = sorted(
            (m.as_bytes(), "".join(c for c in m.get_flags() if c in LETTERS)) for m in box
        )
        found["python new"] = sum(message.get_subdir() == "new" for message in box)
        for switch in ("", "-F", "-N", "-r", "-s"):
            command = [arg for arg in ("mlist", switch, str(inbox)) if arg]
            found[f"mblaze {switch}"] = len(shown.run(*command).splitlines())
        listed = shown.run("mlist", inbox).splitlines()
        assert shown.run("mhdr", listed[0])
        found["mscan"] = sorted(shown.run("mscan", "-f", "%D %f %s", *listed).splitlines())
        found["mshow"] = sorted(shown.run("mshow", "-h", "from:subject", "-n", path) for path in listed)
        assert len(listed) == len(found["mscan"]) == len(messages)
        assert all(found["mshow"])
        found["mailutils"] = shown.run("messages", "-q", f"maildir:{inbox}")
        config = work / "notmuch"
        (work / "index").mkdir()
        config.write_text(
            f"[database]\npath={work}/index\nmail_root={root}\n[new]\nignore=dovecot-keywords\n"
            "[user]\nname=a\nprimary_email=a@example.org\n[maildir]\nsynchronize_flags=true\n"
        )
        shown.run("notmuch", "new", NOTMUCH_CONFIG=str(config))
        assert "No new mail" in shown.run("notmuch", "new", NOTMUCH_CONFIG=str(config))
        for tag in ("unread", "flagged", "replied", "draft"):
            command = ["notmuch", "count", "--output=files", f"tag:{tag}"]
            found[f"notmuch {tag}"] = shown.run(*command, NOTMUCH_CONFIG=str(config))
        shown.run("mu", "init", f"--muhome={work}/mu", f"--maildir={root}")
        shown.run("mu", "index", "--quiet", f"--muhome={work}/mu")
        for what in ("flag:unread", "flag:flagged", "flag:trashed", "maildir:/INBOX"):
            said = shown.run("mu", "find", f"--muhome={work}/mu", "--fields", "i", what)
            found[f"mu {what}"] = sorted(said.split())
        return found

    assert counts(shown.mnt, tmp_path / "a") == counts(copy, tmp_path / "b")


# -- writing -----------------------------------------------------------------------------------


def test_mbsync_merges_both_sides_and_has_nothing_to_do_then(make: Make, tmp_path: Path) -> None:
    shown = make("mdbox", "rw,names=mutf7", corpus.with_flags(dict(list(corpus.real().items())[:9])))
    shown.account.append([Append(ONE), Append(TWO, r"\Seen")])
    far, state = tmp_path / "far", tmp_path / "state"
    far.mkdir()
    state.mkdir()
    rc = shown.file(
        "mbsyncrc",
        f"MaildirStore near\nPath {shown.mnt}/\nInbox {shown.mnt}/INBOX\nSubFolders Verbatim\n\n"
        f"MaildirStore far\nPath {far}/\nInbox {far}/INBOX\nSubFolders Verbatim\n\n"
        "Channel all\nFar :far:\nNear :near:\nPatterns *\nCreate Both\nRemove None\nExpunge None\n"
        f"SyncState {state}/\n",
    )

    def sync() -> dict[str, set[str]]:
        shown.run("mbsync", "-c", rc, "-a")
        return shown.flags()

    before = shown.flags()
    assert sync() == before
    assert sorted(path.name for path in far.iterdir()) == ["Entw&APw-rfe", "INBOX", "Work"]
    tree = sorted(str(path) for root in (far, shown.mnt) for path in root.rglob("*"))
    modseqs = [message.modseq for message in shown.account.fetch()]
    assert sync() == before
    assert sorted(str(path) for root in (far, shown.mnt) for path in root.rglob("*")) == tree
    assert [message.modseq for message in shown.account.fetch()] == modseqs

    (two,) = [path for path in (far / "INBOX/cur").iterdir() if subject_of(path.read_bytes()) == "two"]
    two.rename(two.with_name(two.name.replace(":2,S", ":2,FS")))
    (far / "INBOX/new/1600.M1P1.far").write_bytes(ONE.replace(b": one", b": three"))
    shown.account.doveadm("flags add", "\\Answered", "mailbox", "INBOX", "subject", "one")
    shown.account.save(ONE.replace(b": one", b": four"), "Work")
    merged = sync()
    assert merged["two"] == {"\\Flagged", "\\Seen"}
    assert merged["three"] == set()
    theirs = {
        subject_of(path.read_bytes()): path.name for path in (far / "INBOX").glob("*/*") if path.is_file()
    }
    assert theirs["one"].endswith(":2,R")
    assert [subject_of(path.read_bytes()) for path in (far / "Work/new").iterdir()] == ["four"]
    assert (shown.mnt / "INBOX/.uidvalidity").is_file()


OFFLINEIMAP = """
[general]
accounts = all
metadata = {work}/metadata
[Account all]
localrepository = mount
remoterepository = server
[Repository mount]
type = Maildir
localfolders = {mnt}
[Repository server]
type = IMAP
remotehost = 127.0.0.1
remoteport = {port}
remoteuser = {user}
remotepass = any
ssl = no
starttls = no
"""


def test_offlineimap_syncs_the_mount_with_a_server_and_has_nothing_to_do_then(make: Make) -> None:
    shown = make("mdbox", "rw,names=mutf7", [Append(ONE), Append(TWO, r"\Seen")])
    server = shown.dovecot.account("mdbox:{home}/mail")
    server.append([Append(ONE.replace(b": one", b": far"), r"\Flagged")])
    text = OFFLINEIMAP.format(work=shown.tmp, mnt=shown.mnt, port=shown.dovecot.port, user=server.name)
    rc = shown.file("offlineimaprc", text)

    def sync() -> dict[str, set[str]]:
        shown.run("offlineimap", "-c", rc, "-o", "-u", "quiet")
        assert {subject_of(m.text): {*m.flags.split()} for m in server.fetch()} == shown.flags()
        return shown.flags()

    before = sync()
    assert before == {"one": set(), "two": {"\\Seen"}, "far": {"\\Flagged"}}
    modseqs = [message.modseq for message in shown.account.fetch()]
    assert sync() == before
    assert [message.modseq for message in shown.account.fetch()] == modseqs
    server.doveadm("flags add", "\\Answered \\Seen", "mailbox", "INBOX", "subject", "one")
    shown.account.doveadm("flags add", "\\Flagged", "mailbox", "INBOX", "subject", "two")
    server.doveadm("expunge", "mailbox", "INBOX", "subject", "far")
    assert sync() == {"one": {"\\Answered", "\\Seen"}, "two": {"\\Flagged", "\\Seen"}}


def test_fetching_programs_deliver(make: Make) -> None:
    """getmail delivers nothing as root: here it does as nobody, whom the mount shows as the owner."""
    shown = make("sdbox", "rw,allow_other,uid=65534,gid=65534", [Append(ONE, r"\Seen")])
    server = shown.dovecot.account("mdbox:{home}/mail")
    server.append([Append(TWO.replace(b": two", b": by getmail"))])
    where = f"server = 127.0.0.1\nport = {shown.dovecot.port}\nusername = {server.name}\npassword = any\n"
    rc = shown.file(
        "getmailrc",
        f"[retriever]\ntype = SimpleIMAPRetriever\n{where}"
        f"[destination]\ntype = Maildir\npath = {shown.mnt}/INBOX/\nuser = nobody\n"
        "[options]\nread_all = false\n",
    )
    for _ in range(2):
        shown.run("getmail", "--getmaildir", shown.tmp, "--rcfile", rc)
    assert set(shown.flags()) == {"one", "by getmail"}
    if Path("/etc/debian_version").read_text().startswith("13"):
        return  # there fdm is no package any more
    action = f'action "work" maildir "{shown.mnt}/Work"'
    conf = shown.file("fdm.conf", f'{action}\naccount "stdin" stdin\nmatch all action "work"\n')
    conf.chmod(0o600)
    shown.feed(TWO.replace(b": two", b": by fdm"), "fdm", "-f", conf, "-a", "stdin", "fetch")
    assert shown.flags("Work") == {"by fdm": set()}


def test_delivery_agents_deliver(make: Make) -> None:
    # maildrop has a group of its own (setgid mail), and so is another user for the kernel
    shown = make("sdbox", "rw,allow_other", [Append(ONE, r"\Seen")])
    filters = shown.file("mailfilter", f'to "{shown.mnt}/INBOX"\n')
    filters.chmod(0o600)
    recipe = shown.file("procmailrc", f"MAILDIR={shown.mnt}\nDEFAULT={shown.mnt}/Work/\n")
    for program, text in (
        (("maildrop", filters), b"by maildrop"),
        (("procmail", "-m", recipe), b"by procmail"),
    ):
        data = TWO.replace(b": two", b": " + text)
        done = subprocess.run(program, input=data, capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
    assert shown.flags() == {"one": {"\\Seen"}, "by maildrop": set()}
    assert shown.flags("Work") == {"by procmail": set()}
    assert shown.names()["by maildrop"].startswith("new/")


def test_notmuch_and_dovecot_tell_each_other_of_flags(make: Make, tmp_path: Path) -> None:
    shown = make("sdbox", "rw", [Append(ONE), Append(TWO, r"\Seen")])
    config = shown.file(
        "notmuch-config",
        f"[database]\npath={shown.mnt}\n[user]\nname=a\nprimary_email=a@example.org\n[new]\ntags=unread\n"
        "[maildir]\nsynchronize_flags=true\n",
    )

    def notmuch(*args: str) -> list[str]:
        return shown.run("notmuch", *args, NOTMUCH_CONFIG=str(config)).split()

    notmuch("new")
    assert (shown.mnt / ".notmuch").is_dir()
    notmuch("tag", "+flagged", "-unread", "id:one@example.org")
    notmuch("tag", "+unread", "id:two@example.org")
    assert shown.flags() == {"one": {"\\Flagged", "\\Seen"}, "two": set()}
    shown.account.doveadm("flags add", "\\Answered \\Seen", "mailbox", "INBOX", "subject", "two")
    shown.account.doveadm("flags remove", "\\Flagged", "mailbox", "INBOX", "subject", "one")
    wait_for_the_next_second()  # notmuch takes the times of directories in seconds
    notmuch("new")
    assert notmuch("search", "--output=messages", "tag:replied") == ["id:two@example.org"]
    assert notmuch("search", "--output=messages", "tag:flagged") == []
    assert notmuch("search", "--output=messages", "tag:unread") == []


def test_mblaze_and_python_flag_file_and_remove(make: Make) -> None:
    shown = make("mdbox", "rw", [Append(ONE), Append(TWO, r"\Seen")])
    shown.run("minc", "INBOX")
    shown.run("mflag", "-FS", f"INBOX/{shown.names()['one']}")
    assert shown.flags()["one"] == {"\\Flagged", "\\Seen"}
    shown.run("mrefile", f"INBOX/{shown.names()['two']}", "Work")
    assert (list(shown.flags()), shown.flags("Work")) == (["one"], {"two": {"\\Seen"}})
    box = mailbox.Maildir(shown.mnt / "INBOX", factory=None, create=False)
    message = mailbox.MaildirMessage(ONE.replace(b": one", b": three"))
    message.set_subdir("cur")
    message.set_flags("RS")
    key = box.add(message)
    assert shown.flags()["three"] == {"\\Answered", "\\Seen"}
    box.discard(key)
    assert list(shown.flags()) == ["one"]
    made = mailbox.Maildir(shown.mnt / "Made", factory=None, create=True)
    made.add(TWO)
    assert shown.flags("Made") == {"two": set()}


@pytest.mark.parametrize("program", ["mutt", "neomutt"])
def test_mutt_flags_saves_and_deletes(make: Make, program: str) -> None:
    three = ONE.replace(b": one", b": three").replace(b"<one@", b"<three@")
    shown = make("sdbox", "rw", [Append(ONE), Append(TWO), Append(three, r"\Seen")])
    rc = shown.file(
        f"{program}rc",
        f"set folder={shown.mnt}\nset mbox_type=Maildir\nset move=no\nset mark_old=no\n"
        "set confirmappend=no\nset confirmcreate=no\nset delete=yes\nset wait_key=no\nset sort=date\n"
        "set quit=yes\nset maildir_trash=no\n"
        'push "<search>~s one<enter><flag-message><search>~s two<enter><save-message>=Work<enter>'
        '<search>~s three<enter><delete-message><sync-mailbox><quit>"\n',
    )
    in_terminal(shown, program, "-n", "-F", rc, "-f", shown.mnt / "INBOX")
    assert shown.flags() == {"one": {"\\Flagged"}}
    assert list(shown.flags("Work")) == ["two"]


@pytest.mark.parametrize("program", ["mutt", "neomutt"])
def test_mutt_shows_what_somebody_types_and_writes_when_it_is_told_to(make: Make, program: str) -> None:
    three = ONE.replace(b": one", b": three").replace(b"<one@", b"<three@")
    shown = make("mdbox", "rw", [Append(ONE), Append(TWO), Append(three, r"\Seen")])
    rc = shown.file(
        f"{program}rc",
        f"set folder={shown.mnt}\nset mbox_type=Maildir\nset move=no\nset mark_old=no\n"
        "set confirmappend=no\nset confirmcreate=no\nset delete=yes\nset wait_key=no\nset beep=no\n"
        "set quit=yes\nset maildir_trash=no\nset sort=mailbox-order\nset pager_stop=yes\n",
    )

    def holds(expected: dict[str, set[str]], box: str = "INBOX") -> Callable[[bytes], bool]:
        return lambda said: shown.flags(box) == expected

    in_terminal(
        shown, program, "-n", "-F", rc, "-f", shown.mnt / "INBOX", seconds=60,
        typed=[
            Typed(lambda said: b"three" in said, b"/~s one\rF"),
            Typed(lambda said: True, b"/~s two\rs=Work\r"),
            Typed(lambda said: True, b"/~s three\rd$"),
            Typed(holds({"one": {"\\Flagged"}}), b"/~s one\r\r"),
            Typed(lambda said: b"first" in said, b"q$"),
            Typed(holds({"one": {"\\Flagged", "\\Seen"}}), b"q"),
        ],
    )  # fmt: skip
    assert shown.flags("Work") == {"two": set()}


def test_aerc_flags_reads_moves_and_deletes(make: Make) -> None:
    three = ONE.replace(b": one", b": three").replace(b"<one@", b"<three@")
    shown = make("mdbox", "rw", [Append(ONE), Append(TWO), Append(three)])
    account = f"[mail]\nsource=maildir://{shown.mnt}\ndefault=INBOX\nfrom=a <a@example.org>\n"
    shown.file("aerc/accounts.conf", account).chmod(0o600)
    shown.file("aerc/aerc.conf", "[ui]\nsort=subject\nmouse-enabled=false\n")
    shown.file("aerc/binds.conf", "[messages]\nQ = :quit<Enter>\n")

    def holds(expected: dict[str, set[str]], box: str = "INBOX") -> Callable[[bytes], bool]:
        return lambda said: shown.flags(box) == expected

    seen = {"one": {"\\Flagged", "\\Seen"}, "two": set(), "three": set()}
    in_terminal(
        shown, "aerc", seconds=60, XDG_CONFIG_HOME=str(shown.tmp), XDG_RUNTIME_DIR=str(shown.tmp),
        typed=[
            Typed(lambda said: b"three" in said, b":select 0\r:flag -t\r"),
            Typed(holds(seen | {"one": {"\\Flagged"}}), b":read\r"),
            Typed(holds(seen), b":select 2\r:move Work\r"),
            Typed(holds({"two": set()}, "Work"), b":select 1\r:delete\r"),
            Typed(holds({"one": seen["one"]}), b":quit\r"),
        ],
    )  # fmt: skip
    assert list((shown.mnt / "INBOX/new").iterdir()) == []
