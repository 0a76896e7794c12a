"""The names that the kernel is believed to remember: a bounded number."""

from __future__ import annotations

from dboxfs.vfs.views.maildir_names import Name
from dboxfs.vfs.views.places import Sub
from dboxfs.vfs.views.told_names import ToldNames

ONE, TWO = Name(Sub.NEW, b"one"), Name(Sub.CUR, b"two:2,S")


def test_no_more_names_are_remembered_than_there_is_room_for() -> None:
    told = ToldNames(most=2)
    assert told.put(1, 1, ONE)
    assert told.put(2, 1, ONE)
    assert not told.put(1, 2, TWO)
    assert told.put(1, 1, TWO), "one that is known takes no more room"
    assert (told.get(1, 1), told.get(1, 2)) == (TWO, None)
    assert (told.has_room(1, 1), told.has_room(1, 2)) == (True, False)
    told.pop(1, 1)
    told.pop(1, 1)
    assert told.put(1, 2, TWO)
    told.forget(2)
    assert told.put(3, 1, ONE)
    assert not told.put(3, 2, ONE)


def test_a_message_of_which_many_names_are_told_at_once_has_one() -> None:
    told = ToldNames(most=5)
    assert told.put(1, 7, ONE)
    told.put_many(1, Sub.NEW, {7: b"one", 8: b"three"})
    told.put_many(1, Sub.CUR, {7: b"two:2,S", 9: b"four:2,F"})
    assert [told.get(1, uid) for uid in (7, 8, 9)] == [
        TWO,
        Name(Sub.NEW, b"three"),
        Name(Sub.CUR, b"four:2,F"),
    ]
    assert sorted(told.uids(1)) == [7, 8, 9]
    assert (told.has_room(2, 2), told.has_room(2, 3)) == (True, False), "each takes room once"
    told.pop(1, 8)
    assert told.has_room(2, 3)
    told.forget(1)
    assert (told.uids(1), told.has_room(2, 5), told.has_room(2, 6)) == ([], True, False)
