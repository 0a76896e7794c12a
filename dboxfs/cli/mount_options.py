"""The options of ``-o``: one table for parsing, and for the messages about wrong ones.

Each row has the values of an option, the group that it belongs to, and the function that reads its value.
Options that mount(8) and fstab add are passed to the kernel (``nosuid`` ...) or ignored, if they have no
meaning for a FUSE daemon.
"""

from __future__ import annotations

import argparse
import enum
import os
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from dboxfs.cli.object_store import retries, seconds
from dboxfs.cli.status import UsageError
from dboxfs.dbox.encoders import Method, parse_method
from dboxfs.store.write import Eol, Fsync, LockMethod, Neighbour, WriteOptions
from dboxfs.util.addresses import Address, parse_address
from dboxfs.util.suggest import did_you_mean
from dboxfs.vfs.options import Charset, Entries, MountOptions, Nesting, Opens, View, ViewOptions

OPTIONS_HELP = """\
options for -o:
  ro                   read-only (the default)
  rw                   writable; with it:
    fsync=commit|never   when a change is acknowledged: on disk (default), or at once (bulk loads)
    eol=keep|lf          line ends: as written (default), or LF as Dovecot saves them
    lock_method=fcntl|flock|dotlock
                         Dovecot's lock_method (default fcntl)
    dbox_version=2|3     of new messages (default: what the store was made with); Dovecot reads 2 only
    compress=METHOD      store new messages compressed: zstd[:LEVEL], lz4, gz[:LEVEL], bz2[:LEVEL] or none
                         (default none; with --user: as Dovecot does)
    encrypt=FILE|none    encrypt new messages, as mail_crypt does, for the public key in FILE (PEM), or for
                         the key of each folder in FILE, the user's dovecot-attributes; default none;
                         with --user: as Dovecot does
    alone                no Dovecot uses the store meanwhile: expunge for good, rewrite indexes
  restore              writable, for putting a backup back: files become messages, with the uids, guids
                       and dates that they bring, at the end of the mount or at dboxfs commit
  view=eml|maildir|mh  one file a message (default); Maildirs: cur/, new/, tmp/ in each mailbox; or MH
                       folders: messages named by number, .mh_sequences
  maildir=verbatim|++  with view=maildir: mailboxes nested (default), or as .Sub.Folder beside INBOX
  names=utf8|mutf7     with view=maildir: names of mailboxes in UTF-8 (default), or as IMAP and mbsync
                       have them
  allow_other          other users may look into the mount, as its modes allow
  uid=N, gid=N         who the files seem to belong to (default: the store's owner)
  umask=OCTAL          permission bits to take away from 0400 (files) and 0500 (directories);
                       with rw: from 0600 and 0700
  fmode=OCTAL, dmode=OCTAL
                       modes of files and directories in their place; for a group that shall read:
                       allow_other,gid=8,fmode=0440,dmode=0550
  replace              take a dead mount away that is there still (as --replace)
  metrics=PORT|unix:PATH
                       tell metrics to Prometheus, too: http://127.0.0.1:PORT/metrics, or a socket of the
                       owner alone; ADDRESS:PORT for another address of this machine
  metrics_public       also where other machines can ask
  namespaces           with --user: the user's other namespaces too (public, shared by others), each below
                       the directories of its prefix
  at=DATE              of an archive (a URL): the newest generation before that day or time
  ca_file=FILE         of an archive: certificates (PEM) that are trusted besides the system's
                       (default: AWS_CA_BUNDLE)
  request_timeout=SECONDS, request_retries=N
                       of an archive: for one try of one request (default 30), and how often it is
                       tried again (default 5)
  separator=C          between the parts of user.dbox.mailbox (default /)
  entries=auto|epoch|companion|timeout
                       how the kernel hears that a name means something else (default auto)
  open=auto|classic|none
                       whether the kernel opens files: not where a read-only mount of an mdbox can do
                       without (default), always, or never (also in an sdbox, see SEMANTICS.md)
  domains              with --users: MNT/<domain>/<user>/ (default MNT/<user>/)
  stores=N             with --users: stores that are open at a time (default 200)
  idle=SECONDS         with --users: after which a store that nobody uses is closed (default 60)
  loop=fast|plain      answer requests with pyfuse3's loop made cheap (default), or as it is
  attachments=DIR      Dovecot's mail_attachment_dir, for messages stored with it
  crypt_key=FILE       private key of messages that mail_crypt has encrypted: PEM, or the user's
                       dovecot-attributes with folder keys; may be given several times; with --users
                       FILE may have %u, %n, %d (users of Dovecot: their folder keys are found)
  crypt_password_fd=N  file descriptor with the password of the key (default: asked for on the terminal)
"""

_MAX_ID = (1 << 32) - 2

# Options that mount(8) and fstab add, and that have no meaning for a FUSE daemon.
_IGNORED = frozenset(
    {"defaults", "auto", "noauto", "user", "nouser", "users", "owner", "group", "nofail", "_netdev",
     "relatime", "norelatime", "strictatime", "nodiratime", "lazytime", "mand", "nomand", "bg", "fg"}
)  # fmt: skip
_KERNEL = frozenset(
    {"dev", "nodev", "suid", "nosuid", "exec", "noexec", "atime", "noatime", "sync", "async", "dirsync",
     "auto_unmount"}
)  # fmt: skip


class ParsedOptions(Struct, frozen=True):
    """The parsed values of ``-o``.

    :ivar attachments: Dovecot's mail_attachment_dir, absolute.
    :ivar keys: files of private keys, absolute.
    :ivar encrypt: file of the public key that new messages are encrypted for, absolute; empty: none; None:
        the option was not given.
    :ivar password_fd: file descriptor from which the password of a key is read.
    :ivar replace: remove a dead mount first.
    :ivar namespaces: show the user's other namespaces, too.
    :ivar at: which generation of an archive, as keys of generations begin; None: the newest.
    :ivar access: how the server of an archive is asked: fields of Access.
    :ivar site: options of a mount of many users.
    :ivar metrics_public: metrics may be served at an address that other machines reach.
    """

    mount: MountOptions
    attachments: str | None
    keys: tuple[str, ...] = ()
    password_fd: int | None = None
    encrypt: str | None = None
    replace: bool = False
    namespaces: bool = False
    at: str | None = None
    access: Mapping[str, Any] = field(default_factory=dict)
    site: Mapping[str, Any] = field(default_factory=dict)
    metrics_public: bool = False


class _Goes(enum.Enum):
    """The group of settings that an option belongs to."""

    MOUNT = enum.auto()
    VIEW = enum.auto()
    WRITE = enum.auto()
    """To WriteOptions, and only with ``rw``."""
    VERSION = enum.auto()
    """To MountOptions, and only with ``rw``."""
    KEY = enum.auto()
    """To ParsedOptions, and only with ``rw``."""
    STORE = enum.auto()
    ACCESS = enum.auto()
    SITE = enum.auto()
    """Only with ``--users``."""


class MountOption(Struct, frozen=True):
    """One option.

    :ivar takes: its values, for messages to the user; empty: it takes no value.
    :ivar read: converts a value; raises KeyError or ValueError for a wrong one.
    :ivar many: it may be given several times, and all values count: the field is a tuple.
    """

    takes: str
    goes: _Goes
    field: str
    read: Callable[[str], object]
    many: bool = False


def _flag(goes: _Goes, field: str, value: object = True) -> MountOption:
    return MountOption("", goes, field, {"": value}.__getitem__)


def _choice(goes: _Goes, field: str, values: Mapping[str, object]) -> MountOption:
    return MountOption("|".join(values), goes, field, values.__getitem__)


def _enum(goes: _Goes, field: str, kind: type[enum.Enum]) -> MountOption:
    return _choice(goes, field, {one.value: one for one in kind})


def _id(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= _MAX_ID):
        raise ValueError(text)
    return int(text)


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= _MAX_ID):
        raise ValueError(text)
    return int(text)


def _octal(text: str) -> int:
    if not text or not set(text) <= set("01234567"):
        raise ValueError(text)
    return int(text, 8) & 0o777


def _given(read: Callable[[str], object]) -> Callable[[str], object]:
    """*read* of a command's option, with the error that an option of a mount raises."""

    def checked(text: str) -> object:
        try:
            return read(text)
        except argparse.ArgumentTypeError as error:
            raise ValueError(str(error)) from None

    return checked


def _character(text: str) -> str:
    if len(text) != 1 or not text.isprintable():
        raise ValueError(text)
    return text


def _path(text: str) -> str:
    if not text:
        raise ValueError(text)
    return os.path.abspath(os.path.expanduser(text))


def _generation_at(text: str) -> str:
    from dboxfs.tools.archive.view import parse_at

    return parse_at(text)


def _path_or_none(text: str) -> str:
    return "" if text == "none" else _path(text)


OPTIONS: Mapping[str, MountOption] = {
    "allow_other": _flag(_Goes.MOUNT, "allow_other"),
    "metrics": MountOption("PORT, ADDRESS:PORT or unix:PATH", _Goes.MOUNT, "metrics", parse_address),
    "metrics_public": _flag(_Goes.STORE, "metrics_public"),
    "loop": _choice(_Goes.MOUNT, "fast_loop", {"fast": True, "plain": False}),
    "entries": _enum(_Goes.MOUNT, "entries", Entries),
    "open": _enum(_Goes.MOUNT, "opens", Opens),
    "uid": MountOption("a number", _Goes.VIEW, "uid", _id),
    "gid": MountOption("a number", _Goes.VIEW, "gid", _id),
    "umask": MountOption("octal digits", _Goes.VIEW, "umask", _octal),
    "fmode": MountOption("octal digits", _Goes.VIEW, "file_mode", _octal),
    "dmode": MountOption("octal digits", _Goes.VIEW, "directory_mode", _octal),
    "view": _enum(_Goes.VIEW, "view", View),
    "maildir": _enum(_Goes.VIEW, "nesting", Nesting),
    "names": _enum(_Goes.VIEW, "charset", Charset),
    "separator": MountOption("one character", _Goes.VIEW, "separator", _character),
    "attachments": MountOption("a directory", _Goes.STORE, "attachments", _path),
    "crypt_key": MountOption("a file", _Goes.STORE, "keys", _path, many=True),
    "crypt_password_fd": MountOption("a number", _Goes.STORE, "password_fd", _id),
    "replace": _flag(_Goes.STORE, "replace"),
    "at": MountOption("a day (2026-11-01), or a time", _Goes.STORE, "at", _generation_at),
    "ca_file": MountOption("a file", _Goes.ACCESS, "ca_file", _path),
    "request_timeout": MountOption("0.1 to 3600 seconds", _Goes.ACCESS, "timeout", _given(seconds)),
    "request_retries": MountOption("a number from 0 to 100", _Goes.ACCESS, "retries", _given(retries)),
    "namespaces": _flag(_Goes.STORE, "namespaces"),
    "fsync": _enum(_Goes.WRITE, "fsync", Fsync),
    "eol": _enum(_Goes.WRITE, "eol", Eol),
    "lock_method": _enum(_Goes.WRITE, "lock_method", LockMethod),
    "compress": MountOption("zstd, lz4, gz, bz2 or none, with :LEVEL", _Goes.WRITE, "compress", parse_method),
    "encrypt": MountOption("a file or none", _Goes.KEY, "encrypt", _path_or_none),
    "alone": _flag(_Goes.WRITE, "neighbour", Neighbour.ALONE),
    "domains": _flag(_Goes.SITE, "domains"),
    "stores": MountOption("a number above 0", _Goes.SITE, "stores", _positive),
    "idle": MountOption("a number of seconds above 0", _Goes.SITE, "idle", _positive),
    "restore": _flag(_Goes.VERSION, "restore"),
    "dbox_version": _choice(_Goes.VERSION, "dbox_version", {"2": 2, "3": 3}),
}


def says_how_to_write(key: str) -> bool:
    """Whether an option only has a meaning for a writable mount."""
    return key in OPTIONS and OPTIONS[key].goes in (_Goes.WRITE, _Goes.VERSION, _Goes.KEY)


def parse_options(
    texts: list[str], separator: str = "/", compress: Method | None = None, prefix: str = ""
) -> ParsedOptions:
    """Parse the values of ``-o``; if two contradict each other, the last one counts.

    :param separator: used without ``-o separator``.
    :param compress: used without ``-o compress``.
    :param prefix: of the namespace.
    :raises UsageError: an option is wrong, or needs another one.
    """
    found: dict[_Goes, dict[str, Any]] = {goes: {} for goes in _Goes}
    kernel: list[str] = []
    writable, needs_rw = False, ""
    for option in [part for text in texts for part in text.split(",") if part]:
        key, equals, value = option.partition("=")
        if key in ("ro", "rw") and not equals:
            writable = key == "rw"
        elif key in _KERNEL and not equals:
            kernel.append(key)
        elif key in OPTIONS:
            row = OPTIONS[key]
            meant = _read(option, row, value, has_value=bool(equals))
            before = found[row.goes].get(row.field, ())
            found[row.goes][row.field] = (*before, meant) if row.many else meant
            writable |= key == "restore"
            needs_rw = key if row.goes in (_Goes.WRITE, _Goes.VERSION, _Goes.KEY) else needs_rw
        elif key not in _IGNORED and not key.startswith(("x-", "comment")):
            known = (*OPTIONS, "ro", "rw", *_KERNEL)
            other = did_you_mean(key, known)
            raise UsageError(f"-o {option}: unknown option{other}; dboxfs mount --help lists them")
    if needs_rw and not writable:
        raise UsageError(f"-o {needs_rw}: says how to write; it needs -o rw (in fstab: writable)")
    if writable and found[_Goes.MOUNT].get("opens") is Opens.NONE:
        raise UsageError("-o open=none: only for read-only mounts; leave it out, or rw")
    _check_metrics(found[_Goes.MOUNT].get("metrics"), found[_Goes.STORE])
    _check_view(found[_Goes.VIEW], restores="restore" in found[_Goes.VERSION])
    if "namespaces" in found[_Goes.STORE]:
        _check_namespaces(found[_Goes.VIEW], found[_Goes.MOUNT], restores="restore" in found[_Goes.VERSION])
    mount = MountOptions(
        view=replace(ViewOptions(separator=separator, prefix=prefix), **found[_Goes.VIEW]),
        fuse=tuple(kernel),
        write=WriteOptions(**{"compress": compress, **found[_Goes.WRITE]}) if writable else None,
        **found[_Goes.MOUNT],
        **found[_Goes.VERSION],
    )
    store = found[_Goes.STORE] | found[_Goes.KEY]
    return ParsedOptions(
        mount, **{"attachments": None, **store}, access=found[_Goes.ACCESS], site=found[_Goes.SITE]
    )


def _check_metrics(address: Address | None, store: Mapping[str, Any]) -> None:
    """
    :raises UsageError: other machines could read the metrics at *address*, and ``metrics_public`` is missing.
    """
    if address is not None and not address.is_local and "metrics_public" not in store:
        raise UsageError(
            f"-o metrics={address}: other machines could read it; give a loopback address, or add "
            "metrics_public"
        )


def _check_view(view: Mapping[str, Any], *, restores: bool) -> None:
    """
    :raises UsageError: an option needs another view.
    """
    shown = view.get("view", View.EML)
    for key, told in (("maildir", "nesting"), ("names", "charset")):
        if told in view and shown is not View.MAILDIR:
            raise UsageError(f"-o {key}: says how Maildirs are shown; it needs -o view=maildir")
    if shown is View.EML:
        return
    if restores:
        raise UsageError("-o restore: puts back what the default view shows; leave view out")


def _check_namespaces(view: Mapping[str, Any], mount: Mapping[str, Any], *, restores: bool) -> None:
    """
    :raises UsageError: an option that a mount of several stores doesn't support.
    """
    if restores:
        raise UsageError("-o restore: puts back one namespace at a time; leave namespaces out")
    if view.get("view", View.EML) is not View.EML:
        raise UsageError("-o namespaces: only with the default view; leave it out, or view")
    if mount.get("opens") is Opens.NONE:
        raise UsageError("-o open=none: for one store alone; leave it out, or namespaces")


def _read(option: str, row: MountOption, value: str, *, has_value: bool) -> object:
    """The converted value of *option*.

    :raises UsageError: the value is missing or wrong, or the option takes none.
    """
    try:
        if has_value == bool(row.takes):
            return row.read(value)
    except (KeyError, ValueError):
        pass
    takes = f"takes {row.takes}" if row.takes else "takes no value"
    raise UsageError(f"-o {option}: {takes}; dboxfs mount --help says more")
