"""Evidence of a store's kind: the files in its directories, which a location is checked against.

* ``storage/`` with ``m.N``, or with a map (``dovecot.map.index``, ``.log``): an mdbox;
* a directory of the mailbox tree with ``u.N``: an sdbox;
* directories of the tree with an index or ``u.N``: mailboxes, whose last part is DIRNAME;
* the header in a mailbox's index (``mdbox-hdr``, ``dbox-hdr``), if names contradict each other.

The module takes no lock, and lists only as many directories as the answer needs: one or two for a healthy
store.  A file that can't be read is no evidence; opening it later raises the error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

from dboxfs.util.regular import open_regular

NOTE = "dboxfs-note"
"""The beginning of the names of notes of intent (``write/notes``)."""

MESSAGE = re.compile(r"u\.[1-9][0-9]*")
CONTAINER = re.compile(r"m\.[1-9][0-9]*")
GUID = re.compile("[0-9a-f]{32}")
"""The name of a mailbox's directory below its guid."""
_MAP = frozenset({"dovecot.map.index", "dovecot.map.index.log"})
_EXTENSIONS_HEAD = 64 << 10
"""The first bytes of an index or log, which have the names of its extensions."""
_INDEX = frozenset({"dovecot.index", "dovecot.index.log"})


def names_in(directory: str) -> list[str]:
    """The names in a directory, sorted; empty if it can't be read."""
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def first_container(directories: Iterable[str | None]) -> str | None:
    """The path of an ``m.N`` in one of *directories*; None: there is none."""
    for directory in directories:
        if directory is None:
            continue
        for name in names_in(directory):
            if CONTAINER.fullmatch(name):
                return os.path.join(directory, name)
    return None


def map_file(directory: str) -> str | None:
    """The path of a map's index or log in *directory*."""
    found = sorted(_MAP & set(names_in(directory)))
    return os.path.join(directory, found[0]) if found else None


def first_message(directories: Iterable[str | None]) -> str | None:
    """The path of a ``u.N`` in one of *directories*, or below one; None: there is none."""
    for directory in directories:
        for path, names in _walk(directory) if directory is not None else ():
            for name in names:
                if MESSAGE.fullmatch(name):
                    return os.path.join(path, name)
    return None


def other_dirname(tree: str, dirname: str) -> str | None:
    """The path of a mailbox directory in the tree that is not called *dirname*, if none is."""
    for name in names_in(tree):
        if os.path.isdir(os.path.join(tree, name, dirname)):
            return None  # nearly every store has it: no need to walk the tree
    found = None
    for path, names in _walk(tree):
        if os.path.basename(path) == dirname and path != tree:
            return None
        if found is None and path != tree and (_INDEX & set(names) or any(map(MESSAGE.fullmatch, names))):
            found = path
    return found


def is_by_guid(tree: str, indexes: str, dirname: str) -> bool:
    """Whether mailboxes lie under their guids (LAYOUT=index, mailbox-layout section 4).

    :param tree: the directory of all mailboxes; *indexes*: that of their indexes.
    """
    return any(
        GUID.fullmatch(name)
        and os.path.exists(os.path.join(indexes, name, "dovecot.index.log"))
        and not os.path.exists(os.path.join(tree, name, dirname))
        for name in names_in(tree)
    )


def alt_root(root: str) -> str | None:
    """The target of ``dbox-alt-root``, a symlink that Dovecot makes in every store with an ALT; None: no
    symlink.
    """
    try:
        target = os.readlink(os.path.join(root, "dbox-alt-root"))
    except OSError:
        return None
    return os.path.normpath(os.path.join(root, target))


def _walk(directory: str) -> Iterator[tuple[str, list[str]]]:
    """Each directory with the names of its files; without directories that can't be read."""
    todo = [directory]
    while todo:
        path = todo.pop()
        try:
            with os.scandir(path) as entries:
                found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
        except OSError:
            continue
        yield path, [name for name, is_dir in found if not is_dir]
        todo += [os.path.join(path, name) for name, is_dir in reversed(found) if is_dir]


def kind_by_index(directories: Iterable[str | None]) -> str | None:
    """``mdbox`` or ``sdbox``, by the first mailbox index in or below *directories*; None: no index says
    it.
    """
    for directory in directories:
        for path, names in _walk(directory) if directory is not None else ():
            for name in sorted(_INDEX & set(names)):
                data = _beginning(os.path.join(path, name))
                if b"mdbox-hdr" in data:
                    return "mdbox"
                if b"dbox-hdr" in data:
                    return "sdbox"
    return None


def _beginning(path: str) -> bytes:
    try:
        with open(open_regular(path), "rb") as file:
            return file.read(_EXTENSIONS_HEAD)
    except OSError:
        return b""
