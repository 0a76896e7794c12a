"""Whose a name is, whatever is known first: the lines of the file, or what came and went in the mailbox."""

from __future__ import annotations

import itertools

import pytest

from dboxfs.store.names.codec import Line, LineKind
from dboxfs.store.names.of_mailbox import BoxNames, number_of

ALIVE, DEAD = "1-0123abcd-4-5", "2-0123abcd-4-5"


class Box:
    """A mailbox, and the names in it."""

    def __init__(self, *uids: int) -> None:
        self.uids = set(uids)
        self.next = max(uids, default=0) + 1
        self.names = BoxNames(7, lambda writer: writer == ALIVE, self.uids.__contains__, self.is_gone)

    def is_gone(self, uid: int) -> bool:
        return 0 < uid < self.next and uid not in self.uids

    def say(
        self, uid: int, name: bytes, after: int = 0, kind: LineKind = LineKind.SAID, by: str = ALIVE
    ) -> set[bytes]:
        return self.names.take(Line(7, uid, name, after, kind, by if kind is not LineKind.SAID else ""))

    def go(self, *went: int, came: tuple[int, ...] = ()) -> set[bytes]:
        self.uids -= set(went)
        self.uids |= set(came)
        self.next = max(self.next, *(uid + 1 for uid in came)) if came else self.next
        return self.names.update(went, came)

    @property
    def shown(self) -> dict[int, bytes]:
        shown = {uid: self.names.name(uid) for uid in sorted(self.uids)}
        unusual = {uid: name for uid, name in self.names.unusual.items() if uid in self.uids}
        assert unusual == {uid: name for uid, name in shown.items() if name != b"%d.eml" % uid}
        assert len(set(shown.values())) == len(shown), "two messages with one name"
        return shown


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_name_is_there_while_its_message_is_replaced_whatever_is_heard_first(
    order: tuple[int, ...],
) -> None:
    """The announcement comes before the index; the last word behind it, or before it was read."""
    box = Box(5)
    box.say(5, b"x")
    steps = [
        lambda: box.say(6, b"x", 5, LineKind.ANNOUNCED),
        lambda: box.go(5, came=(6,)),
        lambda: box.say(6, b"x"),
    ]
    for step in order:
        if step == order[0] == 1:
            continue  # nobody shows the message before the file was read
        steps[step]()
        assert b"x" in box.shown.values()
    if 6 not in box.uids:
        box.go(5, came=(6,))
    assert box.shown == {6: b"x"}


def test_it_is_there_also_when_several_have_replaced_it_before_the_index_was_read() -> None:
    box = Box(5)
    box.say(5, b"x")
    box.say(6, b"x", 5, LineKind.ANNOUNCED)
    box.say(6, b"x")
    box.say(7, b"x", 6, LineKind.ANNOUNCED)
    assert box.shown == {5: b"x"}
    assert box.go(5, came=(7,)) <= {b"x"}
    assert box.shown == {7: b"x"}
    assert (box.names.heirs, box.names.pending) == ({5: 6, 6: 7}, {})


def test_a_rename_over_a_message_counts_when_that_is_gone_and_no_earlier() -> None:
    box = Box(3, 7)
    box.say(3, b"x")
    box.say(7, b"y")
    box.say(7, b"x", 3, LineKind.PLACED, DEAD)
    assert box.shown == {3: b"x", 7: b"y"}
    assert box.go(3) == {b"x", b"y"}
    assert box.shown == {7: b"x"}
    assert (box.names.heirs, box.names.successors) == ({}, {3: 7}), "it is another file"


def test_a_later_word_about_a_message_is_the_one_that_counts() -> None:
    box = Box(3, 7)
    box.say(3, b"x")
    box.say(7, b"x", 3, LineKind.PLACED)
    box.say(7, b"z")
    box.go(3)
    assert box.shown == {7: b"z"}


def test_nothing_is_believed_of_a_writer_that_died_before_its_last_word() -> None:
    box = Box(5)
    box.say(5, b"x")
    box.say(6, b"x", 5, LineKind.ANNOUNCED, DEAD)
    box.say(7, b"y", 0, LineKind.ANNOUNCED, DEAD)
    box.go(5, came=(6, 7))
    assert box.shown == {6: b"6.eml", 7: b"7.eml"}
    box.say(7, b"y")
    assert box.shown == {6: b"6.eml", 7: b"y"}


def test_the_name_of_a_uid_gives_way_to_a_written_one_and_comes_back() -> None:
    box = Box(1, 2, 3)
    assert box.say(1, b"2.eml") == {b"1.eml", b"2.eml", b"uid-2.eml"}
    assert box.shown == {1: b"2.eml", 2: b"uid-2.eml", 3: b"3.eml"}
    assert box.say(3, b"uid-2.eml") == {b"3.eml", b"uid-2.eml", b"uid-uid-2.eml"}
    assert box.shown == {1: b"2.eml", 2: b"uid-uid-2.eml", 3: b"uid-2.eml"}
    assert box.go(1) == {b"2.eml", b"uid-uid-2.eml"}
    assert box.shown == {2: b"2.eml", 3: b"uid-2.eml"}
    box.say(2, b"3.eml")
    box.say(3, b"2.eml")
    assert box.shown == {2: b"3.eml", 3: b"2.eml"}


def test_a_name_that_is_announced_for_another_message_changes_nothing_that_is_shown() -> None:
    box = Box(1, 2)
    assert box.say(9, b"2.eml", 0, LineKind.ANNOUNCED) == set()
    assert box.shown == {1: b"1.eml", 2: b"2.eml"}
    assert box.go(came=(9,)) == {b"2.eml", b"uid-2.eml"}
    assert box.shown == {1: b"1.eml", 2: b"uid-2.eml", 9: b"2.eml"}


def test_which_uid_a_name_would_be_of() -> None:
    for name in (b"7.eml", b"uid-7.eml", b"uid-uid-7.eml"):
        assert number_of(name) == 7
    for other in (b"07.eml", b"0.eml", b"7.EML", b"uid7.eml", b"4294967296.eml", b"", b"x", None):
        assert number_of(other) is None


def read_anew(writer: Box, *uids: int) -> Box:
    """Another mount, which shows these messages, and reads a file that *writer* has written anew."""
    reader = Box(*uids)
    for line in writer.names.all_lines():
        reader.names.take(line)
    return reader


@pytest.mark.parametrize("known", [5, 6, 7, 8])
def test_a_file_that_is_written_anew_tells_who_is_behind_what_was_called_so_and_what_has_replaced_it(
    known: int,
) -> None:
    writer = Box(5)
    writer.say(5, b"x")
    for uid in (6, 7, 8):
        writer.say(uid, b"x", uid - 1, LineKind.ANNOUNCED)
        writer.go(uid - 1, came=(uid,))
        writer.say(uid, b"x")
    reader = read_anew(writer, known)
    assert reader.shown == {known: b"x"}
    reader.go(*range(known, 8), came=(8,))
    assert reader.shown == {8: b"x"}
    assert [reader.names.heirs[uid] for uid in range(known, 8)] == list(range(known + 1, 9))


def test_a_file_that_is_written_anew_tells_what_was_renamed_over_a_message_and_that_it_is_another_file() -> (
    None
):
    writer = Box(3, 7)
    writer.say(3, b"x")
    writer.say(7, b"y")
    writer.say(7, b"x", 3, LineKind.PLACED)
    writer.go(3)
    reader = read_anew(writer, 3, 7)
    assert reader.shown == {3: b"x", 7: b"7.eml"}
    reader.go(3)
    assert reader.shown == {7: b"x"}
    assert (reader.names.heirs, reader.names.successors) == ({}, {3: 7})


def test_a_file_that_is_written_anew_gives_no_name_back() -> None:
    writer = Box(5, 9)
    writer.say(5, b"x")
    writer.say(6, b"x", 5, LineKind.ANNOUNCED)
    writer.go(5, came=(6,))
    writer.say(6, b"y")
    assert read_anew(writer, 6, 9).shown == {6: b"y", 9: b"9.eml"}
    writer.say(6, b"x")
    writer.say(9, b"x")
    assert read_anew(writer, 6, 9).shown == {6: b"6.eml", 9: b"x"}


def test_a_file_that_is_written_anew_says_of_a_bounded_number_of_messages_that_were_replaced() -> None:
    writer = Box(1)
    writer.say(1, b"x")
    for uid in range(2, 500):
        writer.say(uid, b"x", uid - 1, LineKind.ANNOUNCED)
        writer.go(uid - 1, came=(uid,))
        writer.say(uid, b"x")
    assert 64 < len(writer.names.all_lines()) < 70


def test_a_message_that_is_called_as_it_would_be_anyway_needs_no_last_word() -> None:
    box = Box(4)
    box.say(5, b"5.eml", 0, LineKind.ANNOUNCED)
    assert box.names.confirmation(5, b"5.eml") == []
    box.go(came=(5,))
    assert box.names.confirmation(5, b"5.eml") == []
    again = Box(4, 5)
    again.say(5, b"5.eml", 0, LineKind.ANNOUNCED, DEAD)
    assert again.shown == box.shown == {4: b"4.eml", 5: b"5.eml"}


@pytest.mark.parametrize("earlier", [LineKind.ANNOUNCED, LineKind.SAID])
def test_it_needs_one_where_another_line_was_about_it(earlier: LineKind) -> None:
    """That line would count as soon as the announcement does not."""
    box = Box(4)
    box.say(5, b"other", 0, earlier)
    box.say(5, b"5.eml", 0, LineKind.ANNOUNCED)
    assert box.names.confirmation(5, b"5.eml") == [Line(7, 5, b"5.eml")]
    box.go(came=(5,))
    assert box.names.confirmation(5, b"5.eml") == [Line(7, 5, b"5.eml")]
    box.say(5, b"5.eml")
    assert not box.names.contested


def test_it_needs_one_where_it_replaces_a_message_or_another_waits_for_its_name() -> None:
    box = Box(4)
    box.say(4, b"5.eml")
    box.say(5, b"5.eml", 4, LineKind.ANNOUNCED)
    box.go(4, came=(5,))
    assert box.names.confirmation(5, b"5.eml")[0] == Line(7, 5, b"5.eml")
    box = Box(4)
    box.say(9, b"5.eml", 0, LineKind.ANNOUNCED)
    box.say(5, b"5.eml", 0, LineKind.ANNOUNCED)
    assert box.names.confirmation(5, b"5.eml")[0] == Line(7, 5, b"5.eml")


def test_one_that_was_never_announced_or_has_another_number_is_written_down() -> None:
    box = Box(5)
    assert box.names.confirmation(5, b"5.eml") == [Line(7, 5, b"5.eml")]
    box.say(6, b"7.eml", 0, LineKind.ANNOUNCED)
    assert box.names.confirmation(6, b"7.eml") == [Line(7, 6, b"7.eml")]
