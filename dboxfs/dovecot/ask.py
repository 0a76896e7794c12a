"""Run ``doveconf`` and ``doveadm user`` of the installed Dovecot and parse their output.

Grammar of ``doveconf -n`` (both versions)::

    # comment
    name = value
    name {            or   name title {
      name = value
    }

A value of 2.4 may stand in double quotes, with ``\\`` before a quote or backslash.  ``doveadm user NAME``
prints ``field`` TAB ``value`` lines (behind a line with these words); variables in them are replaced already.

The programs get no input, the caller's environment, and :data:`PROGRAM_SECONDS` seconds.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator

from msgspec import Struct, field

from dboxfs.errors import NoDovecot, NoSuchUser

PROGRAM_SECONDS = 30.0
"""Seconds that a program may take (a userdb may be a remote database)."""

_PATH = "/usr/sbin:/sbin:/usr/local/sbin:/usr/local/bin"
_NO_USER = 67
"""Exit status of ``doveadm`` for a user that does not exist (EX_NOUSER)."""
_PREFIX = re.compile(r"^(?:dove(?:conf|adm)[^:]*: )?(?:(?:Error|Fatal): )?")
"""The prefix of the programs' error messages."""
_BLOCK = re.compile(r"([^\s{]+)(?:\s+([^{]*?))?\s*\{")
_SETTING = re.compile(r"(\S+) =(?: (.*))?")


class Block(Struct, frozen=True):
    """Settings of one level, and the blocks in it, each with its kind and title."""

    settings: dict[str, str] = field(default_factory=dict)
    blocks: list[tuple[str, str, Block]] = field(default_factory=list)

    def named(self, kind: str) -> Iterator[tuple[str, Block]]:
        """The title and content of each block of that kind (``namespace``, ``plugin`` …)."""
        for found, title, block in self.blocks:
            if found == kind:
                yield title, block


class Installed(Struct, frozen=True):
    """The Dovecot of this machine.

    :ivar version: major and minor number.
    :ivar config: the configuration file; None: Dovecot's default.
    """

    version: tuple[int, int]
    config: str | None = None

    def configuration(self) -> Block:
        """The configuration without defaults (``doveconf -n``).

        :raises NoDovecot: it can't be read.
        """
        done = _run("doveconf", *self._config(), "-n")
        if done.returncode != 0:
            raise NoDovecot(f"doveconf: {_reason(done)}")
        return parse_configuration(done.stdout)

    def secret(self, name: str) -> str:
        """The value of one setting, even if ``doveconf -n`` hides it; for ``<FILE`` the contents of the file.

        :raises NoDovecot: it can't be read.
        """
        done = _run("doveconf", *self._config(), "-P", "-x", "-h", name)
        if done.returncode != 0:
            raise NoDovecot(f"doveconf {name}: {_reason(done)}")
        return done.stdout.strip()

    def user(self, name: str) -> dict[str, str]:
        """The userdb fields of *name* from the running Dovecot (``doveadm user``).

        :raises NoSuchUser: there is no such user.
        :raises NoDovecot: Dovecot doesn't answer.
        """
        done = _run("doveadm", *self._config(), "user", "--", name)
        if done.returncode == _NO_USER:
            raise NoSuchUser(f"{name}: Dovecot has no such user")
        if done.returncode != 0:
            raise NoDovecot(_reason(done))
        rows = (line.partition("\t") for line in done.stdout.splitlines()[1:])
        return {key: value for key, tab, value in rows if tab}

    def users(self, mask: str) -> list[str]:
        """The names of all users that match *mask*, from the running Dovecot (``doveadm user MASK``).

        :raises NoDovecot: Dovecot doesn't answer, or its userdb can't list users.
        """
        done = _run("doveadm", *self._config(), "user", "--", mask)
        if done.returncode != 0:
            raise NoDovecot(f"doveadm user {mask}: {_reason(done)}")
        return [line for line in done.stdout.split("\n") if line]

    def mailboxes(self, name: str) -> list[str]:
        """The full names of all mailboxes that *name* may see, and of parents that are no mailboxes.

        Dovecot opens the user's namespaces for that.

        :raises NoDovecot: Dovecot doesn't answer.
        """
        done = _run("doveadm", *self._config(), "mailbox", "list", "-u", name)
        if done.returncode != 0:
            raise NoDovecot(_reason(done))
        return done.stdout.splitlines()

    def may_read(self, name: str, mailbox: str) -> bool:
        """Whether the rights of *name* in *mailbox* (plugin ``acl``) include reading messages."""
        done = _run("doveadm", *self._config(), "acl", "rights", "-u", name, "--", mailbox)
        return done.returncode == 0 and "read" in " ".join(done.stdout.splitlines()[1:]).split()

    def _config(self) -> list[str]:
        return [] if self.config is None else ["-c", self.config]


def installed(config: str | None = None) -> Installed:
    """The installed Dovecot.

    :raises NoDovecot: there is none, or its version is not supported.
    """
    done = _run("doveconf", *([] if config is None else ["-c", config]), "-n")
    said = re.match(r"# (\d+)\.(\d+)\.", done.stdout)
    if said is None:
        raise NoDovecot(f"doveconf: {_reason(done)}")
    version = (int(said[1]), int(said[2]))
    if version < (2, 3):
        raise NoDovecot(
            f"Dovecot {said[1]}.{said[2]} is installed; dboxfs asks 2.3 and 2.4; give STORE instead"
        )
    return Installed(version, config)


def _run(program: str, *args: str) -> subprocess.CompletedProcess[str]:
    found = shutil.which(program) or shutil.which(program, path=_PATH)
    if found is None:
        raise NoDovecot(f"no Dovecot is installed here ({program} is missing); give STORE instead of a user")
    try:
        return subprocess.run(
            [found, *args], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PROGRAM_SECONDS,
            errors="surrogateescape", env={**os.environ, "LC_ALL": "C"}, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise NoDovecot(f"{program} did not answer within {PROGRAM_SECONDS:.0f} s") from None


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return _PREFIX.sub("", lines[0]) if lines else f"exit status {done.returncode}"


def parse_configuration(text: str) -> Block:
    """Parse the output of ``doveconf -n``.  Lines of an unknown form are ignored."""
    stack = [Block()]
    for line in text.splitlines():
        stripped = line.strip()
        if stripped == "}":
            if len(stack) > 1:
                stack.pop()
        elif (setting := _SETTING.fullmatch(stripped)) is not None:
            stack[-1].settings[setting[1]] = _unquoted(setting[2] or "")
        elif (block := _BLOCK.fullmatch(stripped)) is not None:
            inner = Block()
            stack[-1].blocks.append((block[1], block[2] or "", inner))
            stack.append(inner)
    return stack[0]


def _unquoted(value: str) -> str:
    value = value.strip()
    if len(value) >= 2 and value[0] == value[-1] == '"':
        return re.sub(r"\\(.)", r"\1", value[1:-1])
    return value
