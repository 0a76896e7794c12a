"""``dboxfs ls``: messages are found by what Dovecot says of them, whether it has cached it or not."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store import open_store
from dboxfs.store.headers import Fields, HeaderReader
from dboxfs.store.mail_location import parse_location
from dboxfs.tools.finding import Query, find
from tests.live import corpus
from tests.live.dovecot import Account, Append, Dovecot
from tests.live.mounts import Mounts, dboxfs

NAMES = ("from", "subject", "x-nowhere")


@pytest.fixture(params=["sdbox", "mdbox"])
def account(dovecot: Dovecot, request: pytest.FixtureRequest) -> Account:
    made = dovecot.account(f"{request.param}:{{home}}/mail")
    made.append(corpus.with_flags(dict(list(corpus.real().items())[:30])))
    made.append(
        [Append(b"Subject: =?utf-8?Q?gr=C3=BCn?=\n\nx\n", "\\Seen urgent", "02-Feb-2024 12:00:00 +0000")]
    )
    made.doveadm("mailbox create", "Work")
    made.doveadm("copy", "Work", "mailbox", "INBOX", "uid", "31")
    return made


async def fields(account: Account) -> tuple[dict[int, Fields], int, int]:
    """Header fields of INBOX, how many messages had them in the cache, and how many had to be read."""
    async with FileSystem(ThreadsDriver()) as fs:
        location = parse_location(account.location)
        async with open_store(fs, location, follow=False) as store:
            box = store.folders["INBOX"].mailbox
            assert box is not None
            reader = HeaderReader(fs, location)
            found = await reader.read(box, box.uids.tolist(), NAMES)
            return found, reader.from_cache, reader.from_messages


async def test_headers_are_the_same_from_dovecots_cache_and_from_the_messages(account: Account) -> None:
    account.forget_cache()
    read, cached, opened = await fields(account)
    assert (cached, opened) == (0, 31)
    account.doveadm("fetch", "hdr.from hdr.subject hdr.x-nowhere", "mailbox", "INBOX", "all")
    from_cache, cached, opened = await fields(account)
    assert (cached, opened) == (31, 0)
    assert from_cache == read
    assert read[31] == {"subject": "grün"}


async def test_messages_are_found_that_dovecot_finds(account: Account) -> None:
    def searched(query: str) -> list[int]:
        said = account.doveadm("search", *f"mailbox INBOX {query}".split()).split()
        return sorted(int(uid) for uid in said[1::2])

    messages = account.fetch()
    async with FileSystem(ThreadsDriver()) as fs:
        location = parse_location(account.location)
        async with open_store(fs, location, follow=False) as store:
            box = store.folders["INBOX"].mailbox
            assert box is not None
            for query, expected in (
                (Query(unseen=True), searched("unseen")),
                (Query(flagged=True), searched("flagged")),
                (Query(keywords=("$forwarded", "work")), searched("keyword $Forwarded keyword Work")),
                (Query(headers=(("subject", "TEST"),)), searched("subject test")),
                (Query(headers=(("from", "apple"),)), searched("from apple")),
                (Query(since=1767225600), [m.uid for m in messages if m.received >= 1767225600]),
                (Query(larger=2048), [m.uid for m in messages if m.physical_size > 2048]),
            ):
                found = [message.uid for message in await find(box, query, HeaderReader(fs, location))]
                assert found == expected, query
                assert found, query
            assert await find(box, Query(keywords=("nobody",)), HeaderReader(fs, location)) == []


def test_ls_of_a_mountpoint_gives_paths_that_are_there(account: Account, mounts: Mounts) -> None:
    mnt = mounts.mount(account.location)
    done = dboxfs("ls", mnt, "--keyword", "urgent", "-0")
    paths = done.stdout.split("\0")[:-1]
    assert [os.path.relpath(path, mnt) for path in paths] == ["INBOX/31.eml", "Work/1.eml"]
    assert all(Path(path).read_bytes().startswith(b"Subject: =?utf-8") for path in paths)
    (first, _) = [
        json.loads(line) for line in dboxfs("ls", mnt, "--keyword", "urgent", "--json").stdout.splitlines()
    ]
    assert first == {
        "mailbox": "INBOX",
        "uid": 31,
        "path": str(mnt / "INBOX/31.eml"),
        "size": 34,
        "received": "2024-02-02T12:00:00Z",
        "flags": ["\\Seen"],
        "keywords": ["urgent"],
        "from": None,
        "subject": "grün",
    }
    mounts.umount(mnt)
    for options, places in (
        ("view=maildir", ["INBOX/cur", "Work/cur"]),
        ("view=maildir,maildir=++", ["cur", ".Work/cur"]),
        ("view=mh", ["INBOX", "Work"]),
    ):
        mnt = mounts.mount(account.location, options)
        paths = dboxfs("ls", mnt, "--keyword", "urgent", "-0").stdout.split("\0")[:-1]
        assert [os.path.relpath(os.path.dirname(path), mnt) for path in paths] == places
        assert all(Path(path).read_bytes().startswith(b"Subject: =?utf-8") for path in paths)
        lines = dboxfs("ls", mnt, "--keyword", "urgent", "--json").stdout.splitlines()
        assert [json.loads(line)["path"] for line in lines] == paths
        mounts.umount(mnt)


@pytest.mark.parametrize("how", ["file is a directory", "header is damaged"])
def test_ls_tells_of_each_message_that_cannot_be_read_and_never_gives_it_to_a_program_as_found(
    dovecot: Dovecot, how: str
) -> None:
    account = dovecot.account("sdbox:{home}/mail")
    account.append([Append(b"Subject: number %d\n\nx\n" % n) for n in range(1, 4)])
    for cache in account.root.rglob("dovecot.index.cache"):
        cache.unlink()  # 2.4 keeps subjects there, for which no message is read
    (path,) = account.root.rglob("u.2")
    if how == "file is a directory":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(path.read_bytes().replace(b"\x01\x02", b"xx", 1))
    for query, found in (
        ([], {1, 3}), (["--subject", "number 3"], {3}), (["--since", "2020-01-01"], {1, 3}),
        (["--larger", "1"], {1, 3}), (["--larger", "1M"], set()),
    ):  # fmt: skip
        done = dboxfs("ls", account.location, "INBOX", *query)
        shown = {int(line.split()[0]): line for line in done.stdout.splitlines()}
        assert ({*shown}, done.returncode) == ({*found, 2}, 1), (query, done)
        assert "damaged" in shown[2]
        assert "uid 2: " in done.stderr
        assert str(path) in done.stderr
        program = dboxfs("ls", account.location, "INBOX", "-0", *query)
        wanted = {f"INBOX/{uid}.eml" for uid in (found if query else {*found, 2})}
        assert ({*program.stdout.split("\0")[:-1]}, program.returncode) == (wanted, 1), (query, program)
    assert dboxfs("ls", account.location, "INBOX", "--flagged").returncode == 0
