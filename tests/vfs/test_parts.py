"""``.dboxfs/parts``: the decoded parts of messages as files."""

from __future__ import annotations

import errno
import stat
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dboxfs.store import Kind
from dboxfs.store.write import NewMessage
from dboxfs.vfs import parts
from dboxfs.vfs.mime_parts import LONGEST_PART_NAME, PARTS_MOST, parts_of
from tests.vfs.inside import JULY, ONE, Mounted, mounted, raises

MAIL = b"""Subject: report
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary=b

--b
Content-Type: multipart/alternative; boundary=c

--c
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: quoted-printable

Gr=C3=BC=C3=9Fe
--c
Content-Type: text/html

<p>hi</p>
--c--
--b
Content-Type: application/pdf; name=a.pdf
Content-Disposition: attachment; filename="../../etc/a.pdf"
Content-Transfer-Encoding: base64

JVBERi0x
--b
Content-Type: application/pdf
Content-Disposition: attachment; filename="a.pdf"
Content-Transfer-Encoding: base64

JVBERi0y
--b
Content-Type: message/rfc822

Subject: inner

inner text
--b--
"""

FILES = {
    b"part-1.txt": ("text/plain", "Grüße".encode()),
    b"part-2.html": ("text/html", b"<p>hi</p>"),
    b"a.pdf": ("application/pdf", b"%PDF-1"),
    b"a-2.pdf": ("application/pdf", b"%PDF-2"),
    b"part-5.eml": ("message/rfc822", b"Subject: inner\n\ninner text"),
}

TOP = ".dboxfs/parts"


@pytest.fixture(params=list(Kind), ids=lambda kind: kind.value)
async def m(request: pytest.FixtureRequest) -> AsyncIterator[Mounted]:
    """INBOX: 2 has parts; a mailbox is called 2024."""
    async with mounted(request.param) as made:
        await made.others.save("INBOX", [NewMessage(MAIL, JULY)])
        await made.others.create_mailbox("Work/2024")
        await made.store.refresh_tree()
        await made.follow()
        yield made


def test_parts_have_their_names_types_and_bytes() -> None:
    assert {part.name: (part.kind, part.content) for part in parts_of(MAIL)} == FILES
    (whole,) = parts_of(ONE)
    assert (whole.name, whole.kind, whole.content) == (b"part-1.txt", "text/plain", b"first\n")


@pytest.mark.parametrize(
    ("filename", "name"),
    [
        ('"..\\\\..\\\\x.txt"', b"x.txt"),
        ('".."', b"part-1.bin"),
        ('".profile"', b"_profile"),
        ('"a\tb\x7f.txt"', b"a_b_.txt"),
        ('"' + "x" * 300 + '.txt"', b"x" * (LONGEST_PART_NAME - 4) + b".txt"),
        ("=?utf-8?q?=C3=BC.txt?=", b"=?utf-8?q?=C3=BC.txt?="),
        ("*=utf-8''%C3%BC%2F..%2Fy.txt", b"y.txt"),
    ],
)
def test_a_name_is_harmless(filename: str, name: bytes) -> None:
    given_name = filename if filename.startswith("*=") else f"={filename}"
    head = (
        f"Content-Type: application/octet-stream\nContent-Disposition: attachment; filename{given_name}\n\nx"
    )
    assert [part.name for part in parts_of(head.encode())] == [name]


@given(st.binary(max_size=400), st.sampled_from([b"", MAIL[:200], MAIL[200:700]]))
def test_whatever_a_message_is_its_parts_have_names_of_their_own_that_files_can_have(
    noise: bytes, before: bytes
) -> None:
    found = parts_of(before + noise)
    assert len({part.name for part in found}) == len(found) <= PARTS_MOST
    for part in found:
        assert 0 < len(part.name) <= LONGEST_PART_NAME
        assert b"/" not in part.name
        assert b"\0" not in part.name
        assert not part.name.startswith(b".")


async def test_the_tree_has_the_mailboxes_their_messages_and_the_parts_of_these(m: Mounted) -> None:
    p = m.program()
    assert await p.names(TOP) == ["INBOX", "Work"]
    assert await p.names(f"{TOP}/INBOX") == ["1", "2"]
    assert await p.names(f"{TOP}/Work") == ["%32024"]
    assert await p.names(f"{TOP}/INBOX/2") == sorted(name.decode() for name in FILES)
    for name, (kind, content) in FILES.items():
        path = f"{TOP}/INBOX/2/{name.decode()}"
        assert await p.read(path) == content
        attrs = await p.stat(path)
        assert (attrs.size, attrs.mode) == (len(content), stat.S_IFREG | 0o400)
        inode = await p.inode(path)
        assert await p.vfs.getxattr(inode, b"user.mime_type") == kind.encode()
        assert await p.vfs.listxattr(inode) == [b"user.dbox.content_type"]
    for path in ("INBOX/3", "INBOX/2/nothing", "Nowhere", "Work/2024", "INBOX/02"):
        with raises(errno.ENOENT):
            await p.stat(f"{TOP}/{path}")


async def test_nothing_can_be_changed_in_it_and_only_the_owner_looks(m: Mounted) -> None:
    p = m.program()
    for change in (p.unlink(f"{TOP}/INBOX/2/a.pdf"), p.rename(f"{TOP}/INBOX/2/a.pdf", "INBOX/x")):
        with raises(errno.EPERM):
            await change
    with raises(errno.EPERM):
        await p.append(f"{TOP}/INBOX/2/a.pdf", b"more")
    for path in (TOP, f"{TOP}/INBOX", f"{TOP}/INBOX/2", f"{TOP}/INBOX/2/a.pdf"):
        assert not (await p.stat(path)).mode & 0o277, path


async def test_a_message_that_goes_takes_its_parts_with_it(m: Mounted) -> None:
    p = m.program()
    inode = await p.inode(f"{TOP}/INBOX/2/a.pdf")
    file = await p.open(f"{TOP}/INBOX/2/a.pdf")
    await p.unlink("INBOX/2.eml")
    with raises(errno.ENOENT):
        await p.stat(f"{TOP}/INBOX/2")
    with raises(errno.ENOENT, errno.ESTALE):
        await p.vfs.getattr(inode)
    assert await file.read() == b"%PDF-1"


async def test_it_is_bounded(m: Mounted, monkeypatch: pytest.MonkeyPatch) -> None:
    p = m.program()
    first = await p.inode(f"{TOP}/INBOX/2/a.pdf")
    monkeypatch.setattr(parts, "PART_NUMBERS", 3)
    await p.names(f"{TOP}/INBOX/2")
    with raises(errno.ESTALE):
        await p.vfs.getattr(first)
    monkeypatch.setattr(parts, "PARTS_LARGEST", 20)
    assert await p.names(f"{TOP}/INBOX") == ["1", "2"]
    await m.others.save("INBOX", [NewMessage(MAIL, JULY)])
    await m.follow()
    with raises(errno.EFBIG):
        await p.names(f"{TOP}/INBOX/3")
