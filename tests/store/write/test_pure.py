"""What can be said without a store: line ends, ranges, subscriptions, group commit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from dboxfs.dbox import LineEnds
from dboxfs.store.write.group_commit import GroupCommit, Request
from dboxfs.store.write.log_records import check_keywords, uid_ranges
from dboxfs.store.write.message import DropCr
from dboxfs.store.write.subscriptions import changed_subscriptions

PIECES = st.lists(st.text(alphabet="a\r\n\0", max_size=6).map(str.encode), max_size=8)


@given(PIECES, st.sampled_from([1, 700]))
def test_line_ends_are_counted_over_pieces_short_and_long(short: list[bytes], times: int) -> None:
    lines, pieces = LineEnds(), [piece * times for piece in short]
    for piece in pieces:
        lines.feed(piece)
    text = b"".join(pieces)
    assert lines.size == len(text)
    assert lines.virtual_size == len(text) + len(re.findall(rb"(?<!\r)\n", text))


@given(PIECES)
def test_carriage_returns_go_over_pieces(pieces: list[bytes]) -> None:
    drop = DropCr()
    got = b"".join([drop.feed(piece) for piece in pieces])
    text = b"".join(pieces)
    # dbox-files section 1.3: a CR directly before LF, once; running Dovecot: a CR at the very end.
    assert got == re.sub(rb"\r(?=\n|\Z)", b"", text)


@given(st.sets(st.integers(1, 60)))
def test_ranges_name_exactly_the_uids(uids: set[int]) -> None:
    ranges = uid_ranges(uids)
    assert [uid for first, last in ranges for uid in range(first, last + 1)] == sorted(uids)
    assert all(a[1] + 1 < b[0] for a, b in pairwise(ranges))


def test_what_can_be_a_keyword() -> None:
    check_keywords(["$Label1", "NonJunk", "a-b_c.d", "&AOk-", "x" * 255])
    for word in ("", "two words", "(", ")", "{", "%", "*", '"', "\\Seen", "é", "a\n", "]", "x" * 256):
        with pytest.raises(ValueError, match="keyword"):
            check_keywords([word])


@pytest.mark.parametrize(
    ("before", "name", "subscribed", "after"),
    [
        (None, "Work/Sub", True, b"V\t2\n\nWork\tSub\n"),
        (b"", "INBOX", True, b"V\t2\n\nINBOX\n"),
        (b"V\t2\n\nA\n", "B", True, b"V\t2\n\nA\nB\n"),
        (b"V\t2\n\nA\nB\tC\n", "B/C", False, b"V\t2\n\nA\n"),
        (b"V\t2\n\nA\n", "A", True, None),
        (b"V\t2\n\nA\n", "B", False, None),
        (b"A\nB/C\n", "D/E", True, b"A\nB/C\nD/E\n"),
        (b"A\nB/C\n", "B/C", False, b"A\n"),
        (None, "tab\there", True, b"V\t2\n\ntab\x01there\n"),
    ],
)
def test_subscriptions(before: bytes | None, name: str, subscribed: bool, after: bytes | None) -> None:
    assert changed_subscriptions(before, name, subscribed=subscribed) == after


async def test_a_group_is_what_came_during_one_commit() -> None:
    groups: list[list[int]] = []

    async def commit(group: Sequence[Request[int, str]]) -> None:
        groups.append([request.what for request in group])
        await trio.sleep(0.05)
        for request in group:
            if request.what == 5:
                request.error = OSError(5, "five")
            else:
                request.result = str(request.what)

    queue: GroupCommit[int, str] = GroupCommit(commit)
    answers: dict[int, str] = {}

    async def one(number: int) -> None:
        try:
            answers[number] = await queue.run(Request(number))
        except OSError as error:
            answers[number] = str(error.strerror)

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(one, number)
            if number == 2:
                await trio.testing.wait_all_tasks_blocked()
    assert [sorted(group) for group in groups] == [[0, 1, 2], [3, 4, 5, 6, 7]]
    assert queue.groups == 2
    assert answers == {n: "five" if n == 5 else str(n) for n in range(8)}


async def test_a_request_that_waits_can_be_withdrawn_and_one_that_is_taken_cannot() -> None:
    done: list[int] = []
    begun = trio.Event()

    async def commit(group: Sequence[Request[int, str]]) -> None:
        begun.set()
        await trio.sleep(0.05)
        for request in group:
            done.append(request.what)
            request.result = "done"

    queue: GroupCommit[int, str] = GroupCommit(commit)
    first, second = Request[int, str](1), Request[int, str](2)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(queue.run, first)
            await begun.wait()
            nursery.start_soon(queue.run, second)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert (first.taken, second.taken) == (True, False)
    assert done == [1]
    assert await queue.run(Request(3)) == "done"
    assert done == [1, 3]
