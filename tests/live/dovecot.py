"""One private Dovecot for a test run: the source of every expected value of the live tests.

A :class:`Dovecot` keeps all it needs in one temporary directory, listens on one free loopback port and
is started once a session.  An :class:`Account` is one of its users, with any ``mail_location`` and any
userdb settings; each has a home of its own, so tests don't meet.

What Dovecot says is taken from ``doveadm``:

* ``doveadm -f pager fetch`` prints, for each message, ``field: value`` lines in the order asked for,
  then ``text:`` LF, then the message exactly as stored (LF line ends, whatever came in), then form feed
  and LF unless it is the last one.  Nothing is escaped, so the text can only be delimited by
  ``size.physical``: :func:`parse_pager` does that and fails on anything left over.  The other formats
  can't be used: ``tab`` puts tabs into long texts, ``json`` can't hold 8-bit bytes.
* Line ends are therefore compared in the stored form everywhere: what :meth:`Account.fetch` returns as
  ``text`` and what a reader of the mount gets are the same bytes.
* ``\\Recent`` is a property of a session, not of a message, and is dropped.
* Fetching ``modseq`` or asking for ``highestmodseq`` makes Dovecot write a modseq extension into the
  index.  Ask Dovecot first, look at the mount afterwards.

Warnings and errors, of the daemon and of every ``doveadm`` run, are collected by
:meth:`Dovecot.log_lines`; a fixture fails the test that caused one it didn't announce.
"""

from __future__ import annotations

import base64
import getpass
import grp
import imaplib
import json
import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.live.dialects import Dialect, Instance, Namespaces, dovecot_binary, installed

_LOUD = re.compile(r"\b(Warning|Error|Panic|Fatal): ")
_FETCH_FIELDS = (
    "uid guid seq flags modseq date.received.unixtime date.saved.unixtime "
    "pop3.uidl size.virtual size.physical"
)


class DoveadmError(Exception):
    """``doveadm`` ended with a status other than 0."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """One message as ``doveadm fetch`` reports it; dates in seconds since the epoch, sizes in bytes."""

    uid: int
    guid: str
    seq: int
    flags: str
    keywords: str
    modseq: int
    received: int
    saved: int
    pop3_uidl: str
    virtual_size: int
    physical_size: int
    text: bytes


@dataclass(frozen=True, slots=True)
class Status:
    """One mailbox as ``doveadm mailbox status`` reports it."""

    mailbox: str
    guid: str
    messages: int
    unseen: int
    uidnext: int
    uidvalidity: int
    highestmodseq: int


@dataclass(frozen=True, slots=True)
class Append:
    """One message for :meth:`Account.append`; ``date`` is an IMAP date-time without quotes, or empty."""

    data: bytes
    flags: str = ""
    date: str = ""


@dataclass(slots=True)
class Account:
    """One user of the private Dovecot."""

    dovecot: Dovecot
    name: str
    location: str  # the STORE argument for dboxfs: mail_location with final paths
    home: Path
    settings: dict[str, str]

    @property
    def root(self) -> Path:
        """The root directory of the store."""
        return Path(self.location.split(":")[1])

    def doveadm(self, *args: str, stdin: bytes = b"") -> bytes:
        """Run ``doveadm COMMAND -u NAME …``; a two word command is given as one argument, "mailbox list"."""
        command, *rest = args
        return self.dovecot.doveadm(*command.split(" "), "-u", self.name, *rest, stdin=stdin)

    def save(self, data: bytes, mailbox: str = "INBOX") -> None:
        self.doveadm("save", "-m", mailbox, stdin=data)

    def imap(self) -> imaplib.IMAP4:
        """A logged-in IMAP session over TCP."""
        client = imaplib.IMAP4("127.0.0.1", self.dovecot.port)
        client.login(self.name, "any")
        return client

    def append(self, messages: Iterable[Append], mailbox: str = "INBOX") -> None:
        """APPEND the messages over IMAP, byte for byte (``imaplib``'s own append rewrites line ends).

        An IMAP literal holds no NUL and is not empty; such messages go through ``doveadm save``.
        """
        client = self.imap()
        encoded = _mutf7(mailbox)
        for message in messages:
            if not message.data or b"\0" in message.data:
                self.save(message.data, mailbox)
                continue
            head = f'A APPEND "{encoded}" ({message.flags})'
            if message.date:
                head += f' "{message.date}"'
            client.send(f"{head} {{{len(message.data)}+}}\r\n".encode() + message.data + b"\r\n")
            line = client.readline()
            while not line.startswith(b"A "):
                line = client.readline()
            if not line.startswith(b"A OK"):
                raise DoveadmError(f"APPEND: {line!r}")
        client.logout()

    def mailboxes(self) -> list[str]:
        """The full names, in UTF-8, of all mailboxes and of parents that are none themselves."""
        return sorted(self.doveadm("mailbox list").decode().splitlines())

    def subscriptions(self) -> list[str]:
        return sorted(self.doveadm("mailbox list", "-s").decode().splitlines())

    def status(self, *masks: str) -> dict[str, Status]:
        """The status of every selectable mailbox, by name.

        :param masks: of names; left out: ``*``, which matches none of a namespace with a prefix.
        """
        fields = "messages unseen uidnext uidvalidity highestmodseq guid"
        found, rows = {}, []
        for mask in masks or ("*",):
            out = self.dovecot.doveadm("-f", "json", "mailbox", "status", "-u", self.name, fields, mask)
            rows += json.loads(out)
        for row in rows:
            counts = {
                k: int(row[k]) for k in ("messages", "unseen", "uidnext", "uidvalidity", "highestmodseq")
            }
            found[row["mailbox"]] = Status(mailbox=row["mailbox"], guid=row["guid"], **counts)
        return found

    def fetch(self, mailbox: str = "INBOX", search: str = "all") -> list[Fetched]:
        """Every message of the mailbox that the search finds, with its exact stored text, in uid order."""
        args = ("fetch", "-u", self.name, "--", f"{_FETCH_FIELDS} text", "mailbox", mailbox, *search.split())
        return [
            _fetched(values, text) for values, text in parse_pager(self.dovecot.doveadm("-f", "pager", *args))
        ]

    def fetch_body(self, mailbox: str, uid: int) -> bytes:
        """The exact stored bytes of one message."""
        (message,) = self.fetch(mailbox, f"uid {uid}")
        return message.text

    def forget_cache(self) -> None:
        """Take Dovecot's cache files away: what it shows next is what its message files say.

        Its cache has no room for dates before 1970, and 2.4 caches dates and sizes of all it saves.
        """
        for cache in self.home.rglob("dovecot.index.cache"):
            cache.unlink()

    def purge(self) -> None:
        self.doveadm("purge")

    def force_resync(self, mailbox: str = "*") -> None:
        self.doveadm("force-resync", mailbox)


def _mutf7(name: str) -> str:
    """A mailbox name as IMAP wants it (RFC 3501 section 5.1.3)."""

    def shift(match: re.Match[str]) -> str:
        packed = base64.b64encode(match[0].encode("utf-16-be")).decode()
        return f"&{packed.rstrip('=').replace('/', ',')}-"

    return re.sub(r"[^\x20-\x7e]+", shift, name.replace("&", "&-"))


def parse_pager(out: bytes) -> list[tuple[dict[str, str], bytes]]:
    """Split the output of ``doveadm -f pager fetch '… size.physical text'`` into field values and text."""
    records = []
    at = 0
    while at < len(out):
        head_end = out.index(b"text:\n", at)
        lines = out[at:head_end].decode().splitlines()
        values = {name: value.removeprefix(" ") for name, _, value in (line.partition(":") for line in lines)}
        start = head_end + len(b"text:\n")
        end = start + int(values["size.physical"])
        text = out[start:end]
        if end < len(out) and out[end : end + 2] != b"\f\n":
            raise ValueError(f"doveadm fetch: uid {values['uid']}: text longer than size.physical")
        if len(text) != int(values["size.physical"]):
            raise ValueError(f"doveadm fetch: uid {values['uid']}: text shorter than size.physical")
        records.append((values, text))
        at = end + 2
    return records


def _signed(number: str) -> int:
    """A date before 1970 is printed as a 64 bit number with the sign bit set."""
    value = int(number)
    return value - 2**64 if value >= 2**63 else value


def _fetched(values: dict[str, str], text: bytes) -> Fetched:
    names = values["flags"].split()
    return Fetched(
        uid=int(values["uid"]),
        guid=values["guid"],
        seq=int(values["seq"]),
        flags=" ".join(n for n in names if n.startswith("\\") and n != "\\Recent"),
        keywords=" ".join(n for n in names if not n.startswith("\\")),
        modseq=int(values["modseq"]),
        received=_signed(values["date.received.unixtime"]),
        saved=int(values["date.saved.unixtime"]),
        pop3_uidl=values["pop3.uidl"],
        virtual_size=int(values["size.virtual"]),
        physical_size=int(values["size.physical"]),
        text=text,
    )


@dataclass(slots=True)
class Dovecot:
    """The daemon: use as a context manager, then :meth:`account`."""

    static: str = ""
    """A ``mail_location`` of all users of a static userdb; empty: each has a file of its own."""
    namespaces: Namespaces | None = None
    dialect: Dialect = field(init=False, default_factory=installed)
    root: Path = field(init=False)
    port: int = field(init=False, default=0)
    _process: subprocess.Popen[bytes] | None = field(init=False, default=None)
    _doveadm_log: list[str] = field(init=False, default_factory=list)
    _accounts: int = field(init=False, default=0)

    def __enter__(self) -> Dovecot:
        # Not below pytest's directory, which is closed to the mail user; short, since it holds sockets.
        self.root = Path(tempfile.mkdtemp(prefix="dboxfs-dovecot."))
        self.root.chmod(0o755)
        for name in ("run", "state", "users", "home", "public"):
            (self.root / name).mkdir()
        for name in ("home", "public"):
            os.chown(self.root / name, self.mail_uid, -1)
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        shutil.rmtree(self.root)

    @property
    def mail_user(self) -> str:
        return "vmail" if os.geteuid() == 0 else getpass.getuser()

    @property
    def mail_uid(self) -> int:
        return pwd.getpwnam(self.mail_user).pw_uid

    @property
    def lmtp(self) -> Path:
        """The socket of the LMTP server."""
        return self.root / "run" / "lmtp"

    @property
    def config(self) -> Path:
        return self.root / "dovecot.conf"

    def stop(self) -> None:
        """End the daemon and all its sessions; accounts stay usable through ``doveadm``."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=20)
            self._process = None

    def account(self, mail: str, *, domain: str = "", **userdb: str) -> Account:
        """A new user whose ``mail_location`` is ``mail``; ``{home}`` in it and in the settings is its home.

        ``userdb`` are settings by their names in Dovecot 2.3: ``zlib_save="gz"``,
        ``mdbox_rotate_size="64k"``.

        :raises ValueError: the installed Dovecot has no such setting.
        """
        self._accounts += 1
        name = f"user{self._accounts}" + (f"@{domain}" if domain else "")
        home = self.root / "home" / name
        home.mkdir(mode=0o700)
        entry = pwd.getpwnam(self.mail_user)
        os.chown(home, entry.pw_uid, entry.pw_gid)
        location = mail.format(home=home)
        settings = {key: value.format(home=home) for key, value in userdb.items()}
        fields = self.dialect.userdb(location, settings)
        extra = " ".join(f"userdb_{key}={value}" for key, value in fields.items())
        line = f"{name}::{entry.pw_uid}:{entry.pw_gid}::{home}::{extra}\n"
        (self.root / "users" / name).write_text(line)
        return Account(self, name, location, home, settings)

    def doveadm(self, *args: str, stdin: bytes = b"") -> bytes:
        """Run ``doveadm`` with this daemon's configuration and return its standard output."""
        # A daemon that runs has parsed its configuration already: 8 ms a command, 25 without.
        settings = self.root / "run" / "config" if self._process is not None else self.config
        command = ["doveadm", "-c", str(settings), *args]
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=300, check=False)
        stderr = done.stderr.decode(errors="replace")
        self._doveadm_log += [line for line in stderr.splitlines() if _LOUD.search(line)]
        if done.returncode != 0:
            raise DoveadmError(f"{' '.join(args)}: status {done.returncode}: {stderr.strip()}")
        return done.stdout

    def log_lines(self) -> list[str]:
        """All warnings and errors so far, of the daemon first, then of ``doveadm``."""
        log = self.root / "dovecot.log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        # Ending the master is how a test run ends, and how a session is cut; clocks that jump are nobody's.
        quiet = ("Killed with signal", "Time moved forwards")
        loud = [line for line in lines if _LOUD.search(line) and not any(part in line for part in quiet)]
        return loud + self._doveadm_log

    def _start(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.config.write_text(self._configuration())
        self._process = subprocess.Popen([dovecot_binary(), "-F", "-c", str(self.config)])
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self._process.poll() is None:
            # The master makes its listeners one after the other, and doveadm needs that of the configuration.
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                with socket.socket(socket.AF_UNIX) as settings:
                    settings.connect(str(self.root / "run" / "config"))
            except OSError:
                time.sleep(0.02)
            else:
                return
        log = self.root / "dovecot.log"
        raise RuntimeError(f"dovecot did not start: {log.read_text() if log.exists() else 'no log'}")

    def _configuration(self) -> str:
        privileged = os.geteuid() == 0
        group = grp.getgrgid(pwd.getpwnam(self.mail_user).pw_gid).gr_name
        # Without privileges all of Dovecot runs as the one user there is.
        instance = Instance(
            self.root,
            self.port,
            self.mail_user,
            group,
            internal_user="dovecot" if privileged else self.mail_user,
            internal_group="dovecot" if privileged else group,
            login_user="dovenull" if privileged else self.mail_user,
            static=self.static,
            namespaces=self.namespaces,
        )
        return self.dialect.configuration(instance)
