"""Message files without a store around them: loose ``m.N`` or ``u.N``, or a bare ``storage/``.

Often a broken disk gives back no more than these files.  Indexes beside the files are used.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Final

from dboxfs.errors import NoSuchStore
from dboxfs.store.location import Kind, Location

_FILE: Final = re.compile(r"([mu])\.[0-9]+(?:\.broken)?")


def find_source(find: Callable[[], Location], text: str | None) -> Location:
    """The store that *find* gives, or the message files in the directory *text* if it finds none.

    :param text: a mail location or a directory; None: the store is given in another way.
    :raises NoSuchStore: there is neither a store nor a message file.
    :raises Unsupported: a dbox store of a kind that dboxfs doesn't read.
    """
    try:
        return find()
    except NoSuchStore:
        loose = None if text is None else _loose(os.path.abspath(os.path.expanduser(text)))
        if loose is None:
            raise
        return loose


def _loose(directory: str) -> Location | None:
    try:
        names = os.listdir(directory)
    except OSError:
        return None
    kinds = {found[1] for name in names if (found := _FILE.fullmatch(name))}
    if len(kinds) > 1:
        raise NoSuchStore(
            f"{directory}: files of both formats, u.N and m.N: put them into directories of their own"
        )
    if not kinds:
        return None
    if "m" in kinds:
        return Location(Kind.MDBOX, directory, loose=True)
    return Location(Kind.SDBOX, directory, inbox=directory, loose=True)
