"""What is said to put into a Dovecot's configuration leads back to the same store."""

from __future__ import annotations

from pathlib import Path

import pytest

from dboxfs.store import Kind, Location, parse_location
from dboxfs.store.mail_settings import for_dovecot, mail_location, mail_settings


def everything(tmp_path: Path) -> Location:
    for name in ("store/boxes", "store/storage", "index/storage"):
        (tmp_path / name).mkdir(parents=True)
    root = str(tmp_path)
    return Location(
        Kind.MDBOX,
        f"{root}/store",
        index=f"{root}/index",
        index_cache=f"{root}/cache",
        control=f"{root}/control",
        alt=f"{root}/a:b",
        inbox=f"{root}/inbox",
        volatile=f"{root}/run",
        mailbox_dir="boxes",
        dirname="mail",
        full_dirname=True,
        utf8=True,
        subscriptions="subs",
    )


def test_mail_location_is_read_back_as_what_it_was_made_of(tmp_path: Path) -> None:
    location = everything(tmp_path)
    assert parse_location(mail_location(location)) == location


@pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.value)
def test_plain_store_has_no_more_than_driver_path_and_no_inbox_of_elsewhere(kind: Kind) -> None:
    location = Location(kind, "/srv/mail/ann")
    assert mail_location(location) == f"{kind.value}:/srv/mail/ann"
    lines = [f"mail_driver = {kind.value}", "mail_path = /srv/mail/ann", "mail_inbox_path ="]
    assert mail_settings(location) == lines


def test_settings_of_24_have_everything_that_the_line_of_23_has(tmp_path: Path) -> None:
    root = str(tmp_path)
    assert mail_settings(everything(tmp_path)) == [
        "mail_driver = mdbox",
        f"mail_path = {root}/store",
        f"mail_index_path = {root}/index",
        f"mail_cache_path = {root}/cache",
        f"mail_control_path = {root}/control",
        f"mail_alt_path = {root}/a:b",
        f"mail_inbox_path = {root}/inbox",
        f"mail_volatile_path = {root}/run",
        "mailbox_root_directory_name = boxes",
        "mailbox_directory_name = mail",
        "mailbox_subscriptions_filename = subs",
        "mailbox_directory_name_legacy = no",
        "mailbox_list_utf8 = yes",
    ]


def test_odd_paths_are_written_as_either_dovecot_reads_them() -> None:
    location = Location(Kind.SDBOX, '/a b/100%/"c":\\')
    assert mail_location(location) == 'sdbox:/a b/100%%/"c"::\\'
    assert mail_settings(location)[1] == 'mail_path = "/a b/100%/\\"c\\":\\\\"'


def test_lines_for_people_say_which_dovecot_they_are_for() -> None:
    assert for_dovecot(Location(Kind.SDBOX, "/srv/mail")) == [
        "for Dovecot 2.3: mail_location = sdbox:/srv/mail",
        "for Dovecot 2.4: mail_driver = sdbox",
        "                 mail_path = /srv/mail",
        "                 mail_inbox_path =",
    ]
