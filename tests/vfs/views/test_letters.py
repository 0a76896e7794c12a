"""Flags and keywords as letters."""

from __future__ import annotations

import pytest

from dboxfs.vfs.views.letters import Marks, keywords_file, letters_of, marks_of, split

WORDS = ("$Forwarded", "urgent", "later")


@pytest.mark.parametrize(
    ("flags", "keywords", "letters"),
    [
        (0, (), ""),
        (0x1F, (), "DFRST"),
        (0x08, ("later", "urgent"), "Sab"),
        (0x0A, ("$Forwarded",), "FPS"),
    ],
)
def test_letters_are_in_the_order_of_their_bytes_and_lead_back(
    flags: int, keywords: tuple[str, ...], letters: str
) -> None:
    assert letters_of(Marks(flags, keywords), WORDS) == letters
    back = marks_of(letters, WORDS)
    assert (back.flags, set(back.keywords)) == (flags, set(keywords))


def test_a_letter_that_stands_for_nothing_is_no_mark() -> None:
    for letters in ("Q", "c", "1", "é"):
        with pytest.raises(ValueError, match=f"^{letters}$"):
            marks_of(letters, WORDS)


def test_only_26_keywords_have_letters() -> None:
    words = tuple(f"k{number}" for number in range(30))
    assert letters_of(Marks(0, ("k25", "k26")), words) == "z"
    assert len(keywords_file(words).splitlines()) == 26


def test_the_info_part_is_behind_the_last_mark() -> None:
    assert split(b"a.b:2,FS") == (b"a.b", "FS")
    assert split(b"a:2,b:2,") == (b"a:2,b", "")
    assert split(b"a.b,S=12") == (b"a.b,S=12", "")
