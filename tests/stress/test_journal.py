"""The stress finds what it is there to find: its texts, its journal and its comparison, without a store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.stress import texts, verify
from tests.stress.journal import Item, Journal, Operation, Outcome, decide, read
from tests.stress.served import Shown
from tests.stress.texts import Mangled, Text
from tests.stress.verify import Common

A = Item(0, "INBOX", "a", ":w0-1", r"\Seen")
B = Item(0, "Work", "b", ":w0-1", r"\Seen")
OTHER = Item(0, "INBOX", "c", ":w1-1")


def told(outcomes: list[Outcome], view: Iterable[Item], common: Common | None = None) -> list[str]:
    """What a comparison has to say."""
    found: list[str] = []
    shown = [Shown(item, uid) for uid, item in enumerate(view, 1)]
    verify.compare(outcomes, common or Common({}, {}), shown, 0, "here", found.append)
    return found


class TestTexts:
    def test_a_text_says_what_it_is(self) -> None:
        data = texts.first("w0-1", 300) + texts.more("w0-2", 1) + texts.more("w3-9", 70_005)
        assert texts.parse(data) == Text("", ("w0-1", "w0-2", "w3-9"))
        assert Text.of(str(texts.parse(data))) == texts.parse(data)

    def test_what_a_delivery_puts_in_front_is_told_apart(self) -> None:
        data = texts.first("w0-1", 300)
        one = texts.parse(b"Return-Path: <a@b>\nReceived: from x\n\tby y\n" + data)
        two = texts.parse(b"Return-Path: <a@c>\nReceived: from x\n\tby y\n" + data)
        assert one.segments == two.segments
        assert one.prefix != two.prefix

    @pytest.mark.parametrize("size", [1, 200, 205, 210, 215, 4096])
    def test_a_text_that_is_cut_anywhere_is_none(self, size: int) -> None:
        data = texts.first("w0-1", size) + texts.more("w0-2", size)
        whole = len(texts.first("w0-1", size))
        for end in {0, 1, 9, 40, whole - 1, whole + 1, len(data) - 1} - {whole}:
            with pytest.raises(Mangled):
                texts.parse(data[:end])

    @pytest.mark.parametrize(
        "data",
        [
            texts.more("w0-1", 40),
            texts.first("w0-1", 40) + b"x",
            texts.first("w0-1", 40) + texts.first("w0-2", 40),
            texts.first("w0-1", 40) + texts.more("w0-1", 40),
            texts.first("w0-1", 40).replace(b"w0-1", b"w0-2").replace(b"40 ", b"39 "),
            texts.first("w0-1", 4000)[:2000] + texts.first("w0-2", 4000)[2000:],
            b"X-Other: 1\n" + texts.first("w0-1", 40),
        ],
    )
    def test_a_text_that_is_mixed_or_doubled_is_none(self, data: bytes) -> None:
        with pytest.raises(Mangled):
            texts.parse(data)


class TestJournal:
    def test_what_was_acknowledged_is_there_and_the_rest_is_open(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path / "journal")
        journal.begin("create", [], [A])
        journal.acknowledged()
        journal.begin("move", [A], [B])
        journal.failed("ENOTCONN")
        found = read(journal.path, [OTHER])
        assert found.items == Counter([OTHER, A])
        assert found.open == Operation(2, "move", (A,), (B,))
        assert found.error == "ENOTCONN"

    def test_what_was_expected_is_corrected_by_what_is_there(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path / "journal")
        journal.begin("lmtp", [], [A])
        journal.acknowledged([OTHER])
        assert read(journal.path, []).items == Counter([OTHER])

    def test_what_another_worker_was_faster_with_is_not_done(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path / "journal")
        journal.begin("take", [], [A], "text")
        journal.lost()
        found = read(journal.path, [])
        assert (found.items, found.open, found.taken) == (Counter(), None, set())

    def test_a_journal_that_contradicts_itself_is_refused(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path / "journal")
        journal.begin("unlink", [A], [])
        journal.acknowledged()
        with pytest.raises(ValueError, match="never there"):
            read(journal.path, [])

    @pytest.mark.parametrize(
        ("seen", "done"),
        [([A, OTHER], False), ([B, OTHER], True), ([A, B, OTHER], None), ([OTHER], None), ([B, B], None)],
    )
    def test_a_move_without_an_end_is_done_or_not_done_as_a_whole(
        self, seen: list[Item], done: bool | None
    ) -> None:
        move = Operation(1, "move", (A,), (B,))
        certain = Counter(item.key for item in (A, OTHER))
        assert decide(move, certain, Counter(item.key for item in seen)) is done

    def test_a_copy_without_an_end_leaves_the_message_it_is_of(self) -> None:
        copy = Operation(1, "copy", (), (B,))
        certain = Counter([A.key])
        assert decide(copy, certain, Counter([A.key])) is False
        assert decide(copy, certain, Counter([A.key, B.key])) is True
        assert decide(copy, certain, Counter([B.key])) is None


class TestComparison:
    def test_nothing_is_said_of_what_is_right(self) -> None:
        assert told([Outcome(Counter([A])), Outcome(Counter([OTHER]))], [OTHER, A]) == []

    @pytest.mark.parametrize(
        ("view", "what"),
        [
            ([], ["missing"]),
            ([A, A], ["too much"]),
            ([A, OTHER], ["too much"]),
            ([B], ["missing", "too much"]),
            ([Item(0, "INBOX", "a", ":w0-1", "")], ["missing", "too much"]),
            ([Item(0, "INBOX", "a", ":w0-1+w0-2", r"\Seen")], ["missing", "too much"]),
        ],
    )
    def test_what_is_missing_or_too_much_is_told(self, view: list[Item], what: list[str]) -> None:
        found = told([Outcome(Counter([A]))], view)
        assert [line.split(": ")[1] for line in found] == what

    def test_an_append_that_was_acknowledged_is_not_dropped(self) -> None:
        common = Common({}, {"s1": ("share", 0)})
        outcome = Outcome(Counter(), shares={"0:share:w0-1", "0:share:w0-2"}, maybe={"0:share:w0-3"})
        for segments, wrong in (("s1+w0-1+w0-2", 0), ("s1+w0-2+w0-1+w0-3", 0), ("s1+w0-1", 1), ("s1", 2)):
            assert len(told([outcome], [Item(0, "Shared", "share", f":{segments}")], common)) == wrong
        assert len(told([outcome], [], common)) == 1
        assert len(told([outcome], [Item(0, "Shared", "share", ":s1+w0-1+w0-2+w9-9")], common)) == 1

    def test_prey_is_in_one_place(self) -> None:
        prey = Item(0, "Shared", "prey", ":p1")
        mine, yours = Item(0, "INBOX", "x", ":p1"), Item(0, "Work", "y", ":p1")
        for taken, view, wrong in (([mine], [mine], 0), ([mine, yours], [mine], 1), ([], [mine], 2)):
            outcomes = [Outcome(Counter([item]), taken={":p1"}) for item in taken]
            common = Common({":p1": prey}, {})
            verify.settle(outcomes, common, Counter(item.key for item in view), pytest.fail)
            assert len(told(outcomes, view, common)) == wrong

    def test_a_message_keeps_its_name_and_one_without_has_its_uid(self) -> None:
        unnamed = Item(0, "Work", "", ":w0-2")
        outcomes = [Outcome(Counter([A, unnamed]))]
        found: list[str] = []
        right = [Shown(A, 1), Shown(Item(0, "Work", "7.eml", ":w0-2"), 7)]
        assert verify.names(outcomes, right, 0, set(), "here", found.append) == [[A, unnamed]]
        assert found == []
        wrong = [Shown(Item(0, "INBOX", "1.eml", ":w0-1", r"\Seen"), 1), right[1]]
        verify.names(outcomes, wrong, 0, set(), "here", found.append)
        assert len(found) == 1
        assert "is called 1.eml, not a" in found[0]
        assert verify.names(outcomes, wrong, 0, {":w0-1"}, "here", pytest.fail)[0][1].name == "1.eml"
