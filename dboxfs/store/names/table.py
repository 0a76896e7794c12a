"""The written names of all mailboxes of a mounted store; those of one: :mod:`dboxfs.store.names.of_mailbox`.

Concurrency: no method awaits, so each is atomic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from dboxfs.store import Folder, Mailbox
from dboxfs.store.names.codec import Line
from dboxfs.store.names.of_mailbox import NAMES_FOLLOWED, BoxNames, encode, never, number_of


class WrittenNames:
    """The names of all mailboxes of a mounted store.

    :param lives: whether the process that has written a line still runs.
    """

    def __init__(self, lives: Callable[[str], bool] = never) -> None:
        self._boxes: dict[bytes, BoxNames] = {}
        self._lives = lives

    # -- asking --------------------------------------------------------------------------------

    def _of(self, box: Mailbox | None) -> BoxNames | None:
        if not self._boxes or box is None or box.guid is None:
            return None
        found = self._boxes.get(box.guid)
        return found if found is not None and found.validity == box.uid_validity else None

    def resolve(self, folder: Folder, name: bytes) -> int | None:
        """The uid of the message with the name *name* in *folder*; None: there is none."""
        box = folder.mailbox
        if box is None:
            return None
        names = self._of(box)
        uid = names.by_name.get(name) if names is not None else None
        if uid is None:
            uid = number_of(name)
        if uid is None or uid not in box or self.name(folder, uid) != name:
            return None
        return uid

    def name(self, folder: Folder, uid: int) -> bytes:
        """The name of a message."""
        names = self._of(folder.mailbox)
        return names.name(uid, folder.children) if names is not None else b"%d.eml" % uid

    def unusual(self, folder: Folder) -> Mapping[int, bytes]:
        """The names that differ from ``<uid>.eml``, by uid."""
        names = self._of(folder.mailbox)
        if names is None:
            return {}
        taken = [encode(child) for child in folder.children]
        uids = {uid for name in taken for uid in (names.by_name.get(name), number_of(name))} - {None}
        if not uids:
            return names.unusual
        return names.unusual | {uid: names.name(uid, folder.children) for uid in uids if uid is not None}

    def version(self, folder: Folder) -> object:
        """A value that changes whenever a written name of the mailbox is added or removed."""
        names = self._of(folder.mailbox)
        return names.version if names is not None else None

    def holder(self, folder: Folder, name: bytes) -> int | None:
        """The uid of the existing message that was written under this name; None: there is none."""
        names = self._of(folder.mailbox)
        return names.by_name.get(name) if names is not None else None

    def heir(self, folder: Folder, uid: int, *, renamed: bool = False) -> int | None:
        """The message with which any mount has replaced one that is gone; None: unknown.

        :param renamed: also a message that was renamed over it: another file with its name.
        """
        names = self._of(folder.mailbox)
        for _ in range(NAMES_FOLLOWED):
            if names is None or folder.mailbox is None or uid in folder.mailbox:
                break
            uid = names.heirs.get(uid) or (names.successors.get(uid, 0) if renamed else 0)
        return uid if folder.mailbox is not None and uid in folder.mailbox else None

    def are_waiting(self, box: Mailbox) -> bool:
        """Whether there are names that wait for a message to go or to be written, or whose writer died."""
        names = self._of(box)
        return names is not None and bool(names.pending or names.unfinished)

    # -- changing ------------------------------------------------------------------------------

    def of(self, box: Mailbox) -> BoxNames:
        """The names of a mailbox, for changing; made if there are none."""
        assert box.guid is not None
        names = self._boxes.get(box.guid)
        if names is None or names.validity != box.uid_validity:
            names = self._boxes[box.guid] = BoxNames(box.uid_validity, self._lives)
        names.has, names.gone = box.__contains__, partial(_is_gone, box)
        return names

    def clear(self, box: Mailbox) -> set[bytes]:
        """Forget the names of a mailbox, which will be read again; gives those that have another meaning
        now.
        """
        names = self._boxes.pop(box.guid or b"", None)
        if names is None:
            return set()
        if names.validity == box.uid_validity:  # replacements stay, even if the file has others
            new = self.of(box)
            new.heirs, new.successors, new.replaced = names.heirs, names.successors, names.replaced
        return {*names.by_name, *names.unusual.values(), *(b"%d.eml" % uid for uid in names.unusual)}

    def take(self, box: Mailbox, lines: Iterable[Line | None]) -> set[bytes]:
        """Take over the lines of a file, in their order; gives the names that have another meaning now."""
        names, changed = self.of(box), set()
        for line in lines:
            names.lines += 1
            if line is not None and line.validity == box.uid_validity:
                changed |= names.take(line)
        return changed

    def update(self, folder: Folder, went: Sequence[int], came: Sequence[int]) -> set[bytes]:
        """Update the names after messages went and came; gives the names that have another meaning now, with
        those that went.
        """
        names = self._of(folder.mailbox)
        if names is None:
            return {b"%d.eml" % uid for uid in went}
        hidden = {names.name(uid, folder.children) for uid in went} if folder.children else set()
        return hidden | names.update(went, came)

    def renamed(self, box: Mailbox) -> None:
        """Update the names of a mailbox that may have been renamed: messages may have gone meanwhile."""
        names = self._of(box)
        if names is not None:
            self.of(box).update([uid for uid in names.by_uid if uid not in box])

    def explain(self, folder: Folder, lost: Iterable[bytes], came: Iterable[int]) -> bool:
        """Whether all names are known that new messages may have.

        :param lost: names of messages that went, which new messages may have.
        """
        names = self._of(folder.mailbox)
        if names is None:
            return not any(True for _ in came)
        return all(uid in names.by_uid for uid in came) and all(name in names.by_name for name in lost)


def _is_gone(box: Mailbox, uid: int) -> bool:
    """Whether a message is gone; False for one that the mailbox has but was not read yet."""
    return 0 < uid < box.shown_next and uid not in box
