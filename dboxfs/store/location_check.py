"""Check that the files of a store don't contradict its location: written as another kind of store, it would
be lost.

The check refuses another kind of store, another layout, mailboxes under another DIRNAME, and messages of an
mdbox without its map (``evidence`` finds these).
"""

from __future__ import annotations

import os
from shlex import quote

from dboxfs.errors import NoSuchStore
from dboxfs.store.evidence import (
    GUID,
    first_container,
    first_message,
    is_by_guid,
    kind_by_index,
    map_file,
    names_in,
    other_dirname,
)
from dboxfs.store.location import UNFINISHED, Kind, Location, TreeLayout


def check_location(location: Location, *, damaged: bool) -> Location:
    """Check that the store of *location* exists; gives *location*.

    :param damaged: parts of the store may be missing or unreadable; only its root must be there.
    :raises NoSuchStore: it does not exist, is another kind of store, or can't be read.
    """
    needed = [location.root] if damaged else [location.root, location.tree]
    if location.kind is Kind.MDBOX and not damaged:
        needed += [location.storage, location.map_dir]
    for path in needed:
        try:
            os.scandir(path).close()
        except OSError as exc:
            if isinstance(exc, FileNotFoundError):
                refuse_unfinished(location.root)
                _refuse_other_kind(location)
                _refuse_missing_index(location, path)
            hint = f"is {location.root} an {location.kind.value} store?"
            raise unreadable(path, exc, hint) from None
    _refuse_other_layout(location)
    _refuse_contradiction(location, damaged=damaged)
    return location


def unreadable(path: str, error: OSError, hint: str) -> NoSuchStore:
    """The error for a directory that can't be read, with advice.

    :param hint: advice if the directory does not exist.
    """
    if isinstance(error, FileNotFoundError):
        return NoSuchStore(f"{path}: no such directory; {hint}")
    if isinstance(error, NotADirectoryError):
        return NoSuchStore(f"{path}: not a directory; {hint}")
    if isinstance(error, PermissionError):
        return NoSuchStore(f"{path}: permission denied; run dboxfs as the store's owner or as root")
    return NoSuchStore(f"{path}: {error.strerror}")


def _refuse_contradiction(location: Location, *, damaged: bool) -> None:
    """Refuse a store whose files contradict the location.

    :param damaged: the map may be missing.
    :raises NoSuchStore: they do.
    """
    _refuse_other_kind(location)
    stray = other_dirname(location.tree, location.dirname) if location.layout is TreeLayout.FS else None
    if stray is not None:
        raise NoSuchStore(
            f"{location.root}: no mailbox directory is called {location.dirname}, but {stray} holds a "
            f"mailbox; give DIRNAME={os.path.basename(stray)} (Dovecot 2.4: mailbox_directory_name)"
        )
    if location.kind is Kind.MDBOX and not damaged and map_file(location.map_dir) is None:
        container = first_container((location.storage, location.alt_storage))
        if container is not None:
            raise NoSuchStore(
                f"{location.root}: {container} holds messages, but there is no map in {location.map_dir}; "
                "give INDEX= if the indexes lie elsewhere (Dovecot 2.4: mail_index_path), or make a new "
                "store of the messages: dboxfs rescue STORE DST"
            )


def _refuse_other_kind(location: Location) -> None:
    other = other_kind(location)
    if other is not None:
        kind = "mdbox" if location.kind is Kind.SDBOX else "sdbox"
        raise NoSuchStore(
            f"{location.root}: this is an {kind} store ({other} says so); give "
            + quote(f"{kind}:{location.root}")
        )


def _refuse_missing_index(location: Location, missing: str) -> None:
    """Raise an error that names INDEX=, if *missing* is below it."""
    if location.index is not None and missing == location.map_dir != location.storage:
        raise NoSuchStore(
            f"{location.root}: INDEX={location.index} leads to no index of this store ({missing}: no such "
            "directory); give the one that Dovecot has (Dovecot 2.4: mail_index_path)"
        )


def other_kind(location: Location) -> str | None:
    """A path that shows that the store is of the other kind; None: there is none."""
    indexes = None if location.index is None else os.path.join(location.index, location.mailbox_dir)
    trees = (location.tree, location.inbox, indexes)
    container = first_container((location.storage, location.alt_storage))
    container = container or map_file(location.map_dir) or map_file(location.storage)
    if location.kind is Kind.SDBOX and container is not None:
        message = first_message((location.tree, location.inbox))
        return None if message is not None and kind_by_index(trees) == "sdbox" else container
    if location.kind is Kind.MDBOX and container is None:
        return first_message((location.tree, location.inbox))
    return None


def refuse_unfinished(root: str) -> None:
    """Refuse the files of an interrupted conversion, which are no store until the conversion is finished."""
    if os.path.lexists(os.path.join(root, UNFINISHED)):
        raise NoSuchStore(f"{root}: an unfinished conversion; the same dboxfs convert goes on with it")


def _refuse_other_layout(location: Location) -> None:
    """Refuse the wrong layout, which would show the store empty, or its mailboxes under their guids.

    :raises NoSuchStore: mailboxes lie under their guids, and the location has the other layout; or the
        reverse.
    """
    indexes = os.path.join(location.list_index_dir, location.mailbox_dir)
    by_guid = is_by_guid(location.tree, indexes, location.dirname)
    if by_guid and location.layout is TreeLayout.FS:
        wanted = f"guids; give {quote(f'{location.kind.value}:{location.root}:LAYOUT=index')} (Dovecot 2.4: "
        raise NoSuchStore(
            f"{location.root}: its mailboxes lie under their {wanted}mailbox_list_layout = index)"
        )
    by_name = any(
        GUID.fullmatch(name) is None and os.path.isdir(os.path.join(location.tree, name))
        for name in names_in(location.tree)
    )
    if not by_guid and location.layout is TreeLayout.INDEX and by_name:
        wanted = "leave LAYOUT=index (Dovecot 2.4: mailbox_list_layout = index) out"
        raise NoSuchStore(f"{location.root}: its mailboxes don't lie under their guids; {wanted}")
