"""Inode numbers: computed, the same after every mount, never shared by two folders."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from dboxfs.store import Folder
from dboxfs.vfs import node as module
from dboxfs.vfs.node import ROOT, UID_MASK, Inodes
from tests.live.dovecot import Append, Dovecot
from tests.live.mounts import Mounts


@dataclass
class Box:
    guid: bytes | None
    uid_validity: int


TOP = Folder("", "", None, None)


def folder(name: str, guid: bytes | None = None, uid_validity: int = 1) -> Folder:
    box = None if guid is None else Box(guid, uid_validity)
    return Folder(name, name, TOP, box)  # type: ignore[arg-type]


def test_the_root_is_1_and_nothing_else_is_small() -> None:
    table = Inodes(TOP)
    assert table.add(TOP) == ROOT
    for n in range(100):
        number = table.add(folder(f"f{n}"))
        assert number & UID_MASK == 0
        assert 1 <= number >> 32 < 1 << 31
    assert table.folder(ROOT) is TOP
    assert table.folder(2) is None


def test_a_number_depends_on_guid_and_uidvalidity_not_on_the_name() -> None:
    one = Inodes(TOP).add(folder("a", bytes(16), 1))
    assert Inodes(TOP).add(folder("b", bytes(16), 1)) == one
    assert Inodes(TOP).add(folder("a", bytes(16), 2)) != one
    assert Inodes(TOP).add(folder("a", b"x" * 16, 1)) != one
    assert Inodes(TOP).add(folder("a")) == Inodes(TOP).add(folder("a")) != Inodes(TOP).add(folder("b"))


def test_a_former_number_leads_to_the_folder_as_long_as_it_is_there() -> None:
    table, old, new, other = Inodes(TOP), folder("a"), folder("b"), folder("a")
    former = table.add(old)
    table.remove(old)
    number = table.add(new)
    assert table.folder(former) is None
    table.was(former, new)
    assert table.folder(former) is new
    assert table.of(new) == number
    assert table.add(other) == former  # one that has this number itself goes first
    assert table.folder(former) is other
    table.remove(other)
    table.remove(new)
    assert table.folder(former) is None


def test_a_message_leads_to_its_folder() -> None:
    table, mine = Inodes(TOP), folder("a", bytes(16))
    number = table.add(mine)
    for uid in (0, 1, UID_MASK):
        assert table.folder(number | uid) is mine
    assert table.of(mine) == number
    assert mine in table
    assert table.remove(mine) == number
    assert mine not in table
    assert table.folder(number | 1) is None
    assert table.remove(mine) == 0


def test_two_folders_with_the_same_hash_get_two_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FOLDER_MASK", 0x3)
    table = Inodes(TOP)
    folders = [folder(f"f{n}") for n in range(3)]
    numbers = [table.add(one) for one in folders]
    assert sorted(number >> 32 for number in numbers) == [1, 2, 3]
    for one, number in zip(folders, numbers, strict=True):
        assert table.folder(number | 7) is one
    table.remove(folders[1])
    assert table.add(folder("other")) in numbers


def inodes_of(mnt: Path) -> dict[str, int]:
    found = {".": mnt.stat().st_ino}
    for top, directories, files in os.walk(mnt):
        for name in [*directories, *files]:
            path = Path(top, name)
            found[str(path.relative_to(mnt))] = path.stat().st_ino
    return found


@pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
def test_numbers_outlive_mounts_and_renames(dovecot: Dovecot, mounts: Mounts, driver: str) -> None:
    account = dovecot.account(f"{driver}:{{home}}/mail")
    for name in ("A", "A/B", "C"):
        account.doveadm("mailbox create", name)
        account.append([Append(b"1\n"), Append(b"2\n")], name)
    account.save(b"x\n")
    mnt = mounts.mount(account.location)
    first = inodes_of(mnt)
    assert len(set(first.values())) == len(first)
    with os.scandir(mnt / "A") as entries:  # what a listing says is what stat says
        assert {entry.name: entry.inode() for entry in entries} == {
            name.removeprefix("A/"): number
            for name, number in first.items()
            if name.count("/") == 1 and name[0] == "A"
        }
    mounts.umount(mnt)
    account.doveadm("mailbox rename", "A/B", "Z")
    mnt = mounts.mount(account.location)
    second = inodes_of(mnt)
    assert second == {name.replace("A/B", "Z"): number for name, number in first.items()}
    account.doveadm("mailbox delete", "C")
    account.doveadm("mailbox create", "C")
    account.append([Append(b"3\n")], "C")
    mounts.umount(mnt)
    third = inodes_of(mounts.mount(account.location))
    assert third["C"] != second["C"]
    assert third["C/1.eml"] not in second.values()
