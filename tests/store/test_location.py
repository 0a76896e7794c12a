"""Locations: what a mail_location says about paths (mailbox-layout sections 1 and 2), and refusals."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from dboxfs.errors import DboxfsError, NoSuchStore, Unsupported
from dboxfs.store import Kind, Location, parse_location
from dboxfs.store.evidence import kind_by_index
from dboxfs.store.user_variables import StoreUser
from tests.live.dovecot import Dovecot


def make(root: Path, *directories: str) -> Path:
    for directory in directories:
        (root / directory).mkdir(parents=True, exist_ok=True)
    return root


@pytest.fixture
def sdbox(tmp_path: Path) -> Path:
    return make(tmp_path / "store", "mailboxes/INBOX/dbox-Mails")


@pytest.fixture
def mdbox(tmp_path: Path) -> Path:
    return make(tmp_path / "store", "mailboxes/INBOX/dbox-Mails", "storage")


def test_a_plain_directory_is_detected(tmp_path: Path) -> None:
    assert parse_location(str(make(tmp_path / "a", "mailboxes"))).kind is Kind.SDBOX
    assert parse_location(str(make(tmp_path / "b", "mailboxes", "storage"))).kind is Kind.MDBOX


def test_a_plain_directory_may_have_a_colon_or_a_percent_sign_in_its_name(tmp_path: Path) -> None:
    root = make(tmp_path / "50%:x", "mailboxes")
    assert parse_location(str(root)).root == str(root)


def test_a_relative_directory_becomes_absolute(sdbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sdbox.parent)
    assert parse_location("store/").root == str(sdbox)
    assert parse_location("sdbox:store").root == str(sdbox)


def test_a_tilde_is_the_home(sdbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(sdbox.parent))
    assert parse_location("dbox:~/store") == Location(Kind.SDBOX, str(sdbox))


def test_every_key_goes_to_its_path(mdbox: Path) -> None:
    make(mdbox, "i/storage", "boxes")
    location = parse_location(
        f"mdbox:{mdbox}:INDEX={mdbox}/i:INDEXCACHE={mdbox}/k:CONTROL={mdbox}/c:ALT={mdbox}/a"
        ":MAILBOXDIR=boxes:DIRNAME=Msgs:SUBSCRIPTIONS=subs:UTF-8:LISTINDEX=x:VOLATILEDIR=/v:NO-NOSELECT:LAYOUT=fs"
    )
    assert location.mailbox_path("A/B") == f"{mdbox}/boxes/A/B/Msgs"
    assert location.index_path("A/B") == f"{mdbox}/i/boxes/A/B"
    assert location.cache_path("A/B") == f"{mdbox}/k/boxes/A/B/dovecot.index.cache"
    assert location.alt_mailbox_path("A/B") == f"{mdbox}/a/boxes/A/B/Msgs"
    assert (location.storage, location.alt_storage) == (f"{mdbox}/storage", f"{mdbox}/a/storage")
    assert location.map_dir == f"{mdbox}/i/storage"
    assert (location.control_dir, location.subscriptions) == (f"{mdbox}/c", "subs")
    assert location.utf8
    assert location.tree_lock == "/v/mailboxes.lockda39a3ee5e6b4b0d3255bfef95601890afd80709"


def test_a_directory_name_that_is_empty_is_the_default(sdbox: Path) -> None:
    assert parse_location(f"sdbox:{sdbox}:MAILBOXDIR=:DIRNAME=") == parse_location(f"sdbox:{sdbox}")


def test_fulldirname_counts_below_the_index_too(sdbox: Path) -> None:
    location = parse_location(f"sdbox:{sdbox}:FULLDIRNAME=Msgs:INDEX={sdbox}/i")
    assert location.index_path("A") == f"{sdbox}/i/mailboxes/A/Msgs"
    assert location.cache_path("A") == f"{sdbox}/i/mailboxes/A/Msgs/dovecot.index.cache"


def test_variables_and_the_tilde_are_about_the_user(sdbox: Path) -> None:
    user = StoreUser("ann@example.org", str(sdbox.parent))
    expected = Location(Kind.SDBOX, str(sdbox), index="/i/example.org/ann", control=f"{sdbox.parent}/c")
    assert parse_location("sdbox:~/store:INDEX=/i/%d/%n:CONTROL=%h/c", user=user) == expected
    assert parse_location(f"sdbox:{sdbox}:INDEX=/50%%").index == "/50%"


def test_two_colons_are_one_in_a_path(tmp_path: Path) -> None:
    root = make(tmp_path / "a:b", "mailboxes")
    assert parse_location(f"sdbox:{str(root).replace(':', '::')}:UTF-8").root == str(root)


def test_the_alt_root_is_what_the_marker_says_unless_the_location_says_it(sdbox: Path) -> None:
    (sdbox / "dbox-alt-root").symlink_to("../archive")
    assert parse_location(str(sdbox)).alt == str(sdbox.parent / "archive")
    assert parse_location(f"sdbox:{sdbox}").alt == str(sdbox.parent / "archive")
    assert parse_location(f"sdbox:{sdbox}:ALT=/else").alt == "/else"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("{root}/missing", "no such directory"),
        ("{root}/file", "not a directory"),
        ("{root}", "no dbox store"),
        ("{root}/full/mailboxes/INBOX", "give the root of one"),
        ("{root}/parent", "{root}/parent/mdbox looks like one"),
        ("{root}/maildir", "Maildir"),
        ("maildir:{root}/maildir", "maildir is no dbox format"),
        ("sdbox:", "no directory"),
        ("sdbox:{root}/missing", "no such directory"),
        ("mdbox:{root}/sdbox", "storage: no such directory"),
        (
            "mdbox:{root}/full",
            "sdbox store ({root}/full/mailboxes/INBOX/dbox-Mails/u.1",
        ),
        ("mdbox:{root}/multi:INDEX={root}/x", "INDEX={root}/x leads to no index of this store"),
        ("sdbox:{root}/sdbox:INDX=/x", "unknown key 'INDX'"),
        ("sdbox:{root}/sdbox:INDEX=", "INDEX= needs a value"),
        ("sdbox:{root}/sdbox:ALT", "ALT= needs a value"),
        ("sdbox:/srv/%u", "is about a user; give the final path, or --user NAME"),
    ],
)
def test_a_wrong_store_is_refused_with_what_is_wrong(tmp_path: Path, text: str, words: str) -> None:
    make(tmp_path, "parent/mdbox/mailboxes", "maildir/cur", "maildir/new", "maildir/tmp", "sdbox/mailboxes")
    make(tmp_path, "full/mailboxes/INBOX/dbox-Mails", "multi/mailboxes", "multi/storage")
    for name in ("file", "full/mailboxes/INBOX/dbox-Mails/u.1"):
        (tmp_path / name).write_text("")
    with pytest.raises(NoSuchStore) as caught:
        parse_location(text.format(root=tmp_path))
    assert words.format(root=tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["LAYOUT=maildir++", "INDEX=MEMORY"])
def test_what_is_not_supported_is_named(sdbox: Path, key: str) -> None:
    with pytest.raises(Unsupported, match=r"supported|no index") as caught:
        parse_location(f"sdbox:{sdbox}:{key}")
    assert key.replace("++", "") in str(caught.value).replace("++", "")


def test_a_store_that_cannot_be_read_is_refused(sdbox: Path) -> None:
    if os.geteuid() == 0:
        pid = os.fork()
        if pid == 0:
            os.chmod(sdbox, 0o700)
            os.setuid(65534)
            status = 1
            try:
                parse_location(str(sdbox))
            except DboxfsError as exc:
                status = 0 if "permission denied" in str(exc) else 2
            os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    else:
        sdbox.chmod(0)
        with pytest.raises(NoSuchStore, match="permission denied"):
            parse_location(str(sdbox))
        sdbox.chmod(0o700)


@pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
def test_the_layout_is_noticed_in_a_plain_directory_and_contradicted_nowhere(
    dovecot: Dovecot, driver: str
) -> None:
    by_guid = dovecot.account(f"{driver}:{{home}}/mail:LAYOUT=index")
    by_guid.save(b"Subject: x\n\nbody\n")
    assert parse_location(str(by_guid.root)) == parse_location(by_guid.location)
    with pytest.raises(NoSuchStore, match="LAYOUT=index"):
        parse_location(f"{driver}:{by_guid.root}")
    by_name = dovecot.account(f"{driver}:{{home}}/mail")
    by_name.save(b"Subject: x\n\nbody\n")
    with pytest.raises(NoSuchStore, match="leave LAYOUT=index"):
        parse_location(f"{driver}:{by_name.root}:LAYOUT=index")


def test_files_beside_the_mailboxes_of_a_list_index_are_no_mailboxes(tmp_path: Path) -> None:
    root = make(tmp_path / "store", "mailboxes")
    (root / "mailboxes" / "dovecot-acl-list").touch()
    assert parse_location(f"sdbox:{root}:LAYOUT=index").root == str(root)
    (root / "mailboxes" / "Work").mkdir()
    with pytest.raises(NoSuchStore, match="don't lie under their guids"):
        parse_location(f"sdbox:{root}:LAYOUT=index")


def test_a_fifo_in_the_place_of_an_index_is_no_evidence_and_nobody_waits_for_it(tmp_path: Path) -> None:
    fifo = make(tmp_path / "store", "mailboxes/INBOX/dbox-Mails") / "mailboxes/INBOX/dbox-Mails/dovecot.index"
    os.mkfifo(fifo)
    timer = threading.Timer(10, lambda: os.close(os.open(fifo, os.O_RDWR)))
    timer.start()
    assert kind_by_index([str(tmp_path)]) is None
    assert timer.is_alive(), "it was opened, and waited for somebody who writes"
    timer.cancel()
