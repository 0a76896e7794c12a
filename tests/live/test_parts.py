"""``.dboxfs/parts`` on a real mount, also where the kernel opens nothing."""

from __future__ import annotations

import os

import pytest

from tests.live.dovecot import Dovecot
from tests.live.mounts import Mounts
from tests.vfs.test_parts import FILES, MAIL


@pytest.mark.parametrize("options", ["ro", "ro,open=classic", "rw", "ro,view=mh"])
def test_the_parts_of_a_message_that_dovecot_has_saved_are_files(
    dovecot: Dovecot, mounts: Mounts, options: str
) -> None:
    account = dovecot.account("mdbox:{home}/mail")
    account.save(MAIL)
    account.save(MAIL.replace(b"report", b"second"))
    top = mounts.mount(account.location, options) / ".dboxfs/parts/INBOX"
    for _ in range(2):
        for uid in ("1", "2"):
            found = {os.fsencode(path.name): path for path in (top / uid).iterdir()}
            assert {name: path.read_bytes() for name, path in found.items()} == {
                name: content for name, (_, content) in FILES.items()
            }
            for name, path in found.items():
                assert os.getxattr(path, "user.mime_type").decode() == FILES[name][0]
                assert path.stat().st_size == len(FILES[name][1])
