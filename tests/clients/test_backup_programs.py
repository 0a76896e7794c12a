"""What people make backups with puts a store back through ``-o restore`` exactly: ``doveadm`` says so.

The long form, with a large store: ``scripts/restores``.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from tests.fuse_rw.rw import both, resynced
from tests.live.dovecot import Account, Dovecot
from tests.live.mounts import Mounts
from tests.restores.filling import fill
from tests.restores.programs import FILES_ONLY, PARTS, PLAIN, PROGRAMS, runner
from tests.restores.proof import Portrait, damage, differences, plain_differences, put_back, row

pytestmark = resynced
DRIVERS = ("sdbox", "mdbox")
PARTS_TRIED = [
    (program, driver)
    for n, program in enumerate(PROGRAMS)
    for m, driver in enumerate(DRIVERS)
    if os.environ.get("DBOXFS_RESTORES") == "all" or n % 2 == m
]
"""Each program with one of the formats; ``DBOXFS_RESTORES=all``: with both."""


@pytest.fixture(scope="module")
def filled() -> dict[str, tuple[Account, Portrait]]:
    """The stores that are backed up, by format: made once."""
    return {}


@pytest.fixture
def original(
    filled: dict[str, tuple[Account, Portrait]], dovecot: Dovecot, driver: str
) -> tuple[Account, Portrait]:
    """A store, and what Dovecot says of it."""
    if driver not in filled:
        account = dovecot.account(f"{driver}:{{home}}/mail")
        fill(account, 40, 1_500_000)
        account.forget_cache()  # that of 2.4 has 1970 for what was received before
        filled[driver] = account, Portrait.of(account)
    return filled[driver]


@both
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_store_comes_back_exactly(
    original: tuple[Account, Portrait],
    dovecot: Dovecot,
    mounts: Mounts,
    tmp_path: Path,
    driver: str,
    program: str,
) -> None:
    keep, back = PROGRAMS[program]
    account, before = original
    (kept := tmp_path / "kept").mkdir()
    run = runner(tmp_path)
    mnt = mounts.mount(account.location)
    keep(run, mnt, kept)
    mounts.umount(mnt)
    other = dovecot.account(f"{driver}:{{home}}/mail")
    said = put_back(other, mounts, partial(back, run, kept=kept))
    assert f"{before.count} kept their uid, {before.count} their guid" in said
    after = Portrait.of(other)
    assert differences(before, after, directories=program not in FILES_ONLY) == []
    assert damage(other, after) == []


@pytest.mark.parametrize(("program", "driver"), PARTS_TRIED)
def test_one_mailbox_comes_back_and_one_message_of_another(
    original: tuple[Account, Portrait],
    dovecot: Dovecot,
    mounts: Mounts,
    tmp_path: Path,
    driver: str,
    program: str,
) -> None:
    (keep, _), (back_mailbox, back_message) = PROGRAMS[program], PARTS[program]
    account, before = original
    (kept := tmp_path / "kept").mkdir()
    run = runner(tmp_path)
    mnt = mounts.mount(account.location)
    keep(run, mnt, kept)
    mounts.umount(mnt)
    other, message = dovecot.account(f"{driver}:{{home}}/mail"), before.messages["INBOX"][1]

    def put(mnt: Path) -> None:
        back_mailbox(run, mnt, kept, "Archive")
        back_message(run, mnt, kept, f"INBOX/{message.uid}.eml")

    put_back(other, mounts, put)
    after = Portrait.of(other)
    assert list(map(row, after.messages["INBOX"])) == [row(message)]
    assert list(map(row, after.messages["Archive"])) == list(map(row, before.messages["Archive"]))
    if program not in FILES_ONLY:
        assert after.identities["Archive"] == before.identities["Archive"]
    assert damage(other, after) == []


@both
def test_files_without_attributes_bring_texts_dates_and_uids(
    original: tuple[Account, Portrait], dovecot: Dovecot, mounts: Mounts, tmp_path: Path, driver: str
) -> None:
    (keep, back), (account, before), run = PLAIN, original, runner(tmp_path)
    mnt = mounts.mount(account.location)
    keep(run, mnt, tmp_path)
    mounts.umount(mnt)
    other = dovecot.account(f"{driver}:{{home}}/mail")
    put_back(other, mounts, partial(back, run, kept=tmp_path))
    after = Portrait.of(other)
    assert plain_differences(before, after) == []
    assert damage(other, after) == []
