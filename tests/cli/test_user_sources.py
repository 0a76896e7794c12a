"""What a mount of many users changes in the locations of all of them, and what it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from dboxfs.cli.site_mount import apart_from
from dboxfs.cli.user_keys import GivenKeys, KeyedUsers
from dboxfs.errors import NoSuchStore
from dboxfs.store.user_templates import TemplateUsers


def stores(root: Path, names: Sequence[str]) -> TemplateUsers:
    """Stores, empty ones."""
    for name in names:
        (root / name / "mdbox" / "storage").mkdir(parents=True)
        (root / name / "mdbox" / "mailboxes").mkdir()
    return TemplateUsers(f"mdbox:{root}/%u/mdbox")


def test_all_users_get_the_same_values_and_the_source_is_what_it_was(tmp_path: Path) -> None:
    source = stores(tmp_path, ("anna", "bert"))
    given = KeyedUsers(source, GivenKeys(encrypt=""), {"attachments": "/srv/attachments"})
    assert [given.locate(name).attachments for name in given.names()] == ["/srv/attachments"] * 2
    assert (given.described, given.place, given.kind) == (source.described, source.place, source.kind)
    assert given.locate("anna").root == source.locate("anna").root


def test_a_store_in_the_mount_itself_is_refused_and_names_it(tmp_path: Path) -> None:
    apart = apart_from(str(tmp_path / "mnt"), stores(tmp_path, ("anna", "mnt")))
    assert apart.locate("anna").root == str(tmp_path / "anna" / "mdbox")
    with pytest.raises(NoSuchStore, match=f"{tmp_path}/mnt lies inside of this store, or"):
        apart.locate("mnt")
