"""``undelete``: bring back messages of an mdbox that were expunged and not purged."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from shlex import quote

import trio

from dboxfs.cli.begin_writing import begin_writing
from dboxfs.cli.crypt_keys import add_keys, sealing_as, with_given_keys
from dboxfs.cli.dates import date_or_days
from dboxfs.cli.each_user import EachUser, add_each_user, for_each_user
from dboxfs.cli.help_texts import STATUS_HELP, STORE_HELP
from dboxfs.cli.logs import log_to_stderr, one_line, tell
from dboxfs.cli.owned import store_to_read, store_to_write
from dboxfs.cli.status import UsageError
from dboxfs.cli.stores import Chosen, add_store, choose_store, is_one_of_all
from dboxfs.cli.user_keys import GivenKeys
from dboxfs.errors import CorruptFile, DboxfsError, NoSuchMailbox, NoSuchMessage
from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store import Location, Store
from dboxfs.store.deleted import DEFAULT_MAILBOX, DeletedMessage, DeletedMessages
from dboxfs.store.headers import parse_fields
from dboxfs.store.mailbox_names import display_name
from dboxfs.store.write import (
    InvalidName,
    LockMethod,
    MailboxExists,
    Neighbour,
    NewMessage,
    StoreWriter,
    WriteOptions,
    with_version,
)
from dboxfs.store.write.message import BodySource
from dboxfs.store.write_options import SealsByFolder
from dboxfs.util.dates import rfc3339

DESCRIPTION = """\
Bring back messages of STORE (an mdbox) that were expunged and not purged, each with its guid, into the
mailbox that it was first saved to; one that is not there any more is made. A Dovecot may go on working.

  dboxfs undelete ~/mdbox --list                   what could be brought back
  dboxfs undelete ~/mdbox --guid 8f2e...           one of them
  dboxfs undelete ~/mdbox --mailbox Work --since 2026-11-01 --to Work/Restored

"""

_HEADER = 16 << 10
_KEPT_FLAGS = 0x1B
"""Answered, flagged, seen, draft: all but deleted."""
_IN_ONE = 100
"""Messages of one transaction, during which the map is locked."""


def declare(parser: argparse.ArgumentParser, *, by_option: bool) -> None:
    """The command line of ``dboxfs undelete``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION + STORE_HELP
    parser.epilog = STATUS_HELP
    parser.set_defaults(run=undelete)
    add_store(parser, by_option=by_option, users=True)
    add_each_user(parser)
    parser.add_argument("--list", action="store_true", help="only tell what could be brought back")
    parser.add_argument("--all", action="store_true", help="bring back every message")
    parser.add_argument(
        "--guid", metavar="GUID", action="append", default=[], help="this message (may be given again)"
    )
    parser.add_argument(
        "--mailbox", metavar="NAME", help="only messages that were first saved to this mailbox"
    )
    parser.add_argument(
        "--since", metavar="DATE", type=date_or_days,
        help="only messages that were received since then (2026-11-30, local time; or 2026-11-30T08:00:00Z), "
        "or in the last days (7d); a store doesn't note when a message is expunged",
    )  # fmt: skip
    parser.add_argument("--to", metavar="NAME", help="into this mailbox, which has to be there")
    add_keys(parser)
    parser.add_argument(
        "--encrypt", metavar="FILE",
        help="keys of folders (dovecot-attributes): a message of another folder is encrypted anew, which "
        "needs --crypt-key; none: messages come back as they are stored (default: as Dovecot, with --user)",
    )  # fmt: skip
    parser.add_argument(
        "--lock-method", choices=[some.value for some in LockMethod], default=LockMethod.FCNTL.value,
        help="Dovecot's setting lock_method (default fcntl)",
    )  # fmt: skip


def undelete(arguments: argparse.Namespace) -> int:
    """``dboxfs undelete STORE [--list] [--all] [--guid GUID] [--mailbox NAME] [--since DATE] ...``."""
    log_to_stderr()
    if not (arguments.list or arguments.all or arguments.guid or arguments.mailbox or arguments.since):
        raise UsageError("say which messages: --guid, --mailbox, --since, or --all; --list shows them")
    if arguments.users is not None:
        return for_each_user(arguments, EachUser("looked through", undelete, tells_all=True))
    location = _with_keys(choose_store(arguments), arguments)

    async def run() -> int:
        opened = store_to_read if arguments.list else store_to_write
        async with FileSystem(ThreadsDriver()) as fs, opened(fs, location) as store:
            deleted = DeletedMessages(store)
            found = _chosen(await deleted.look(), arguments, store)
            if deleted.unreadable:
                text = (
                    f"{deleted.unreadable} more can't be read; dboxfs check {quote(location.root)} says why"
                )
                print(one_line(f"dboxfs: {text}"), file=sys.stderr)
            if arguments.list:
                await _list(store, deleted, found)
                return 0
            lock_method = LockMethod(arguments.lock_method)
            by_folder = location.encrypt if isinstance(location.encrypt, SealsByFolder) else None
            beside = WriteOptions(Neighbour.DOVECOT, lock_method=lock_method, encrypt=by_folder)
            options = await with_version(store, beside)
            writer = StoreWriter(store.fs, location, store.owner, options, views=store)
            await begin_writing(writer, store, options)
            return await _Bringing(store, writer, deleted, arguments.to).run(found)

    return trio.run(run)


def _with_keys(chosen: Chosen, arguments: argparse.Namespace) -> Location:
    """The location with the keys that read its messages, and those that new ones are encrypted for."""
    if is_one_of_all(arguments):
        return chosen.location
    location = with_given_keys(chosen.location, arguments)
    if chosen.found is not None:
        location = GivenKeys(location.keys, encrypt="").of(location, chosen.found.user, chosen.found)
    return replace(location, encrypt=sealing_as(arguments.encrypt, chosen.of_dovecot))


def _chosen(
    messages: Sequence[DeletedMessage], arguments: argparse.Namespace, store: Store
) -> list[DeletedMessage]:
    """The messages that the command line selects.

    :raises NoSuchMessage: no deleted message has a given guid.
    """
    wanted = {guid.lower() for guid in arguments.guid}
    missing = wanted - {name for some in messages for name in _guids(some)}
    if missing:
        raise NoSuchMessage(
            f"{sorted(missing)[0]}: no deleted message of {store.location.root} has this guid; "
            "--list shows them"
        )
    return [
        some
        for some in messages
        if (not wanted or wanted & _guids(some))
        and (arguments.mailbox is None or arguments.mailbox in (some.mailbox, _shown(store, some.mailbox)))
        and (arguments.since is None or some.received >= arguments.since)
    ]


def _guids(message: DeletedMessage) -> set[str]:
    return {message.guid_text.lower(), message.what.guid.hex()}


def _shown(store: Store, mailbox: str) -> str:
    return display_name(mailbox, utf8=store.location.utf8)


# -- telling ---------------------------------------------------------------------------------------------


async def _list(store: Store, deleted: DeletedMessages, messages: Sequence[DeletedMessage]) -> None:
    """One line a message: received, size, guid, mailbox, subject."""
    for message in messages:
        subject = await _subject(deleted, message)
        mailbox = _shown(store, message.mailbox)
        line = f"{rfc3339(message.received)} {message.size:>9} {message.guid_text} {mailbox}  {subject}"
        print(one_line(line.rstrip()))
    print(f"{len(messages)} messages can be brought back, until the next purge")


async def _subject(deleted: DeletedMessages, message: DeletedMessage) -> str:
    try:
        body = await deleted.open(message)
    except (DboxfsError, OSError) as exc:
        return f"({one_line(str(exc))})"
    try:
        head = await body.read(_HEADER, 0)
    except (DboxfsError, OSError) as exc:
        return f"({one_line(str(exc))})"
    finally:
        body.close()
    fields = parse_fields(re.split(rb"\r?\n\r?\n", head)[0], ("subject",))
    return " ".join(fields.get("subject", "").split())


# -- bringing back ---------------------------------------------------------------------------------------


class _Bringing:
    """Brings messages back, up to 100 of a mailbox in one transaction.

    :param to: the shown name of the mailbox for all of them; None: each to its own.
    """

    def __init__(self, store: Store, writer: StoreWriter, deleted: DeletedMessages, to: str | None) -> None:
        self._store = store
        self._writer = writer
        self._deleted = deleted
        self._to = None if to is None else self._existing(to)
        self._targets: dict[str, str] = {}
        self._failed = 0

    def _existing(self, name: str) -> str:
        for folder in self._store.folders.values():
            if folder.mailbox is not None and name in (self._store.display_name(folder), folder.name):
                return folder.name
        raise NoSuchMailbox(f"{name}: no such mailbox in {self._store.location.root}; make it first")

    async def run(self, messages: Sequence[DeletedMessage]) -> int:
        """Bring all messages back; returns the exit status."""
        groups: dict[str, list[DeletedMessage]] = {}
        for message in messages:
            groups.setdefault(await self._target(message.mailbox), []).append(message)
        for target, group in groups.items():
            done, as_stored = 0, []
            for message in group:
                if await self._fits(target, message):
                    as_stored.append(message)
                else:
                    done += await self._save_anew(target, message)
            for start in range(0, len(as_stored), _IN_ONE):
                done += await self._bring(target, as_stored[start : start + _IN_ONE])
            print(one_line(f"{_shown(self._store, target)}: {done} messages brought back"))
        if not messages:
            print("no deleted message fits: nothing was changed; --list shows what is deleted")
        return 1 if self._failed else 0

    async def _bring(self, target: str, group: Sequence[DeletedMessage]) -> int:
        """Bring back the messages of a group, one by one if that fails; returns the number brought back."""
        try:
            return len((await self._writer.undelete(target, [some.what for some in group])).uids)
        except (NoSuchMessage, NoSuchMailbox, CorruptFile) as exc:
            if len(group) > 1:
                return sum([await self._bring(target, [some]) for some in group])
            return self._not_brought(group[0], exc)

    def _not_brought(self, message: DeletedMessage, why: Exception) -> int:
        self._failed += 1
        tell(f"{message.guid_text}: not brought back: {why}")
        return 0

    async def _fits(self, target: str, message: DeletedMessage) -> bool:
        """Whether Dovecot can read a message in the mailbox *target* as it is stored."""
        keys = self._writer.options.by_folder
        if keys is None:
            return True
        try:
            ids = await self._deleted.key_ids(message)
            folder = self._store.folders.get(target)
            guid = None if folder is None or folder.mailbox is None else folder.mailbox.guid
            return not ids or (guid is not None and await keys.have(self._store.fs, guid, ids))
        except (DboxfsError, OSError):
            return message.mailbox == target  # Dovecot may read what this program can't

    async def _save_anew(self, target: str, message: DeletedMessage) -> int:
        """Save the text of a message, encrypted for the key of *target*; returns the number brought back.

        The deleted message stays as it is until a purge, and is not listed any more.
        """
        flags, keywords = self._marks(message)
        try:
            body = await self._deleted.open(message)
            try:
                new = NewMessage(BodySource(body), message.received, flags, keywords, message.what.guid)
                return len((await self._writer.save(target, [new])).uids)
            finally:
                body.close()
        except (DboxfsError, OSError) as exc:
            return self._not_brought(message, exc)

    def _marks(self, message: DeletedMessage) -> tuple[int, tuple[str, ...]]:
        """Flags and keywords of a message, known while its expunge is a request."""
        if message.what.requested is None:
            return 0, ()
        name, uid = message.what.requested
        box = self._store.folders[name].mailbox
        return (0, ()) if box is None else (box.flag_bits(uid) & _KEPT_FLAGS, box.keywords(uid))

    async def _target(self, mailbox: str) -> str:
        """The mailbox that gets messages of *mailbox*; it is made if it is gone."""
        if self._to is not None:
            return self._to
        if mailbox not in self._targets:
            self._targets[mailbox] = await self._made(mailbox)
        return self._targets[mailbox]

    async def _made(self, mailbox: str) -> str:
        folder = self._store.folders.get(mailbox)
        if folder is not None and folder.mailbox is not None:
            return mailbox
        shown = _shown(self._store, mailbox)
        try:
            await self._writer.create_mailbox(mailbox)
        except MailboxExists:
            return mailbox
        except InvalidName:
            print(
                one_line(f"{shown}: not a valid name of a mailbox: its messages are brought back into INBOX")
            )
            return DEFAULT_MAILBOX
        print(one_line(f"{shown}: the mailbox did not exist any more, and was made"))
        return mailbox
