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
