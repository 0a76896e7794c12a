"""``user.mime_type``, ``user.xdg.tags``, ``user.mail.*``: answered by name, never listed."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator

import pytest

from dboxfs.store import Kind
from dboxfs.store.write import NewMessage
from tests.vfs.inside import JULY, Mounted, Program, mounted, raises

MAIL = (
    b"From: =?utf-8?q?J=C3=B6rg?= <j@example.org>\nTo: a@example.org,\n b@example.org\n"
    b"Subject: =?iso-8859-1?q?Gr=FC=DFe?=\nDate: Mon, 1 Jan 2024 10:00:00 +0100\n\nSubject: no header\n"
)


@pytest.fixture(params=list(Kind), ids=lambda kind: kind.value)
async def m(request: pytest.FixtureRequest) -> AsyncIterator[Mounted]:
    """INBOX: 2 has headers, and keywords of which one has a comma."""
    async with mounted(request.param) as made:
        await made.others.save("INBOX", [NewMessage(MAIL, JULY, 0, ("Later", "a,b", "$Work"))])
        await made.follow()
        yield made


async def value(p: Program, name: str, path: str = "INBOX/2.eml") -> str:
    return (await p.vfs.getxattr(await p.inode(path), b"user." + name.encode())).decode()


async def put(p: Program, name: str, text: str, path: str = "INBOX/2.eml") -> None:
    await p.rw.setxattr(await p.inode(path), b"user." + name.encode(), text.encode())


async def test_they_say_what_the_message_says(m: Mounted) -> None:
    p = m.program()
    assert await value(p, "mime_type") == "message/rfc822"
    assert await value(p, "xdg.tags") == "Later,$Work"
    assert await value(p, "mail.subject") == "Grüße"
    assert await value(p, "mail.from") == "Jörg <j@example.org>"
    assert await value(p, "mail.to") == "a@example.org, b@example.org"
    assert await value(p, "mail.date") == "Mon, 1 Jan 2024 10:00:00 +0100"
    for name, path in (
        ("mail.message-id", "INBOX/2.eml"), ("mail.cc", "INBOX/2.eml"), ("xdg.tags", "INBOX/1.eml"),
        ("mime_type", "INBOX"), ("mail.subject", ".dboxfs/stats.json"),
    ):  # fmt: skip
        with raises(errno.ENODATA):
            await value(p, name, path)


async def test_no_listing_has_them(m: Mounted) -> None:
    p = m.program()
    await value(p, "mail.subject")
    names = await p.vfs.listxattr(await p.inode("INBOX/2.eml"))
    assert names
    assert all(name.startswith(b"user.dbox.") for name in names)


async def test_tags_that_are_set_are_keywords(m: Mounted) -> None:
    p = m.program()
    await put(p, "xdg.tags", "one, two")
    assert sorted((await m.flags(2))[1]) == ["a,b", "one", "two"]
    assert await value(p, "xdg.tags") == "one,two"
    with raises(errno.EINVAL):
        await put(p, "xdg.tags", "two words")
    await p.rw.removexattr(await p.inode("INBOX/2.eml"), b"user.xdg.tags")
    assert (await m.flags(2))[1] == ("a,b",)


async def test_a_new_file_brings_tags(m: Mounted) -> None:
    p = m.program()
    file = await p.create("INBOX/new")
    await file.write(MAIL)
    await put(p, "xdg.tags", "fresh", "INBOX/new")
    await put(p, "mime_type", "text/plain", "INBOX/new")
    await file.close()
    assert (await m.flags(3))[1] == ("fresh",)
    assert await value(p, "mime_type", "INBOX/new") == "message/rfc822"


async def test_what_only_informs_can_not_be_changed(m: Mounted) -> None:
    p = m.program()
    await put(p, "mime_type", "message/rfc822")
    for name in ("mime_type", "mail.subject"):
        with raises(errno.EPERM):
            await put(p, name, "other")
        with raises(errno.EPERM):
            await p.rw.removexattr(await p.inode("INBOX/2.eml"), b"user." + name.encode())
    assert len(await m.stored()) == 2
