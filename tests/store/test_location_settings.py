"""Locations in the settings of Dovecot 2.4: the same as in 2.3's own words (dovecot-2.4, settings)."""

from __future__ import annotations

from pathlib import Path

import pytest

from dboxfs.errors import NoSuchStore, Unsupported
from dboxfs.store import Kind, Location, parse_location
from dboxfs.store.location_settings import location_of
from dboxfs.store.mail_settings import mail_settings
from dboxfs.store.user_variables import StoreUser
from tests.live.dovecot import Dovecot


@pytest.fixture
def mdbox(tmp_path: Path) -> Path:
    for directory in ("boxes/INBOX/Msgs", "mailboxes/INBOX/dbox-Mails", "storage", "i/storage"):
        (tmp_path / "mdbox" / directory).mkdir(parents=True)
    return tmp_path / "mdbox"


def test_every_setting_is_what_its_key_of_2_3_is(mdbox: Path) -> None:
    keys = f"INDEX={mdbox}/i:INDEXCACHE=/k:CONTROL=/c:ALT=/a:INBOX=/in:VOLATILEDIR=/v:MAILBOXDIR=boxes"
    old = parse_location(f"mdbox:{mdbox}:{keys}:FULLDIRNAME=Msgs:SUBSCRIPTIONS=subs:UTF-8")
    settings = {
        "mail_driver": "mdbox",
        "mail_path": str(mdbox),
        "mail_index_path": f"{mdbox}/i",
        "mail_cache_path": "/k",
        "mail_control_path": "/c",
        "mail_alt_path": "/a",
        "mail_inbox_path": "/in",
        "mail_volatile_path": "/v",
        "mailbox_root_directory_name": "boxes",
        "mailbox_directory_name": "Msgs",
        "mailbox_directory_name_legacy": "no",
        "mailbox_subscriptions_filename": "subs",
        "mailbox_list_utf8": "yes",
        "mailbox_list_layout": "fs",
    }
    assert location_of(settings) == old
    told = dict(line.split(" = ") for line in mail_settings(old))
    assert location_of(told) == old, "what dboxfs tells a Dovecot 2.4 is understood by dboxfs"
    assert not location_of({**settings, "mailbox_directory_name_legacy": "yes"}).full_dirname


def test_settings_without_a_value_are_as_if_they_were_not_there(mdbox: Path) -> None:
    plain = Location(Kind.MDBOX, str(mdbox))
    empty = {"mail_index_path": "", "mailbox_directory_name": "", "mailbox_list_layout": ""}
    assert location_of({"mail_driver": "mdbox", "mail_path": str(mdbox), **empty}) == plain


def test_a_path_that_is_not_set_is_the_drivers_own_in_the_users_home(mdbox: Path) -> None:
    user = StoreUser("ann", str(mdbox.parent))
    assert location_of({"mail_driver": "mdbox"}, user=user).root == str(mdbox)
    settings = {
        "mail_driver": "mdbox",
        "mail_path": "~/mdbox",
        "mail_index_path": f"{mdbox}/%{{user|substr(9)}}i",
    }
    assert location_of(settings, user=user).index == f"{mdbox}/i"


def test_what_is_no_store_is_refused_with_what_is_wrong(mdbox: Path) -> None:
    root = str(mdbox)
    with pytest.raises(NoSuchStore, match="mail_driver is not set"):
        location_of({"mail_path": root})
    with pytest.raises(NoSuchStore, match="maildir is no dbox format"):
        location_of({"mail_driver": "maildir", "mail_path": root})
    with pytest.raises(NoSuchStore, match="is about a user"):
        location_of({"mail_driver": "mdbox"})
    with pytest.raises(Unsupported, match="leaves no index on disk"):
        location_of({"mail_driver": "mdbox", "mail_path": root, "mail_index_path": "MEMORY"})


def test_a_path_that_is_not_set_is_where_the_real_dovecot_keeps_its_mail(dovecot: Dovecot) -> None:
    for driver in ("sdbox", "mdbox"):
        path = "" if dovecot.dialect.version >= (2, 4) else f"~/{driver}"  # 2.3 has no default
        account = dovecot.account(f"{driver}:{path}")
        account.save(b"Subject: x\n\n")
        user = StoreUser(account.name, str(account.home))
        found = location_of({"mail_driver": driver}, user=user)
        assert found == Location(Kind(driver), str(account.home / driver))
