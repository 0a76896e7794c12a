"""``doveadm`` without a daemon: a configuration of the bench's own, the store given on the command line.

Dovecot keeps no mail as root, so root's stores belong to the user ``vmail`` that ``scripts/setup`` makes.
``mail_fsync = never`` unless a command says otherwise: stores are made faster, and the peer that writes
(``doveadm backup``) is at its best.
"""

from __future__ import annotations

import getpass
import os
import pwd
import subprocess
from pathlib import Path

from bench.errors import BenchError
from tests.live.dialects import Dialect, installed


def dialect_here() -> Dialect:
    """The language of the installed Dovecot.

    :raises BenchError: there is none.
    """
    try:
        return installed()
    except FileNotFoundError as error:
        raise BenchError(str(error)) from None


_USER = "bench"
_FIRST_LINES = {(2, 3): "", (2, 4): "dovecot_config_version = 2.4.0\ndovecot_storage_version = 2.4.0\n"}
_COMPRESSING = {(2, 3): "mail_plugins = zlib\n", (2, 4): "mail_plugins {\n  mail_compress = yes\n}\n"}
_ENVIRONMENT = {(2, 3): "", (2, 4): f"import_environment {{\n  USER = {_USER}\n}}\n"}
"""2.4's ``imap`` sees only variables that are listed there."""
_COMMANDS = frozenset({"backup", "fetch", "import", "purge", "save", "search", "status"})
"""The last word of each command that the bench gives."""


class Doveadm:
    """Commands on the stores below *work*, which is made ready for the user that Dovecot runs as."""

    def __init__(self, work: Path) -> None:
        self.dialect = dialect_here()
        self.config = work / "dovecot.conf"
        self.user = "vmail" if os.geteuid() == 0 else getpass.getuser()
        try:
            self._entry = pwd.getpwnam(self.user)
        except KeyError:
            raise BenchError("no user vmail: run scripts/setup") from None
        self._home = self.directory(work / "home")
        self.config.write_text(self._configuration(work))

    def _configuration(self, work: Path) -> str:
        return f"""\
{_FIRST_LINES[self.dialect.version]}\
base_dir = {work}/run
state_dir = {work}/state
log_path = /dev/stderr
ssl = no
protocols =
mail_uid = {self.user}
mail_gid = {self._entry.pw_gid}
first_valid_uid = 1
mail_home = {self._home}
{_COMPRESSING[self.dialect.version]}\
{_ENVIRONMENT[self.dialect.version]}\
mail_fsync = never
stats_writer_socket_path =
namespace inbox {{
  inbox = yes
  separator = /
}}
"""

    def directory(self, path: Path) -> Path:
        """Make *path*, a directory that Dovecot may write in."""
        path.mkdir(parents=True, exist_ok=True)
        os.chown(path, self._entry.pw_uid, self._entry.pw_gid)
        return path

    def command(self, location: str, *args: str | Path) -> list[str]:
        """The command line of ``doveadm ARGS`` on the store *location*."""
        words = [str(arg) for arg in args]
        if self.dialect.version >= (2, 4):  # which takes no $USER without being told that there is no userdb
            behind = next(n for n, word in enumerate(words) if word in _COMMANDS) + 1
            words.insert(behind, "--no-userdb-lookup")
        return ["doveadm", "-c", str(self.config), *self.dialect.options(location), *words]

    def compressing(self, method: str) -> list[str]:
        """Options in front of a command that stores messages with *method*."""
        name = "plugin/zlib_save" if self.dialect.version < (2, 4) else "mail_compress_write_method"
        return ["-o", f"{name}={method}"]

    def maildir(self, path: Path) -> list[str]:
        """Arguments of ``import`` or ``backup``: the other store, a Maildir of nested directories."""
        if self.dialect.version < (2, 4):
            return [f"maildir:{path}:LAYOUT=fs"]
        return ["-p", "mailbox_list_layout=fs", f"maildir:{path}"]

    def environment(self) -> dict[str, str]:
        """The environment that the command needs: whom it works for."""
        return {**os.environ, "USER": _USER, "HOME": str(self._home), "LC_ALL": "C"}

    def run(self, location: str, *args: str | Path) -> str:
        """Run it to its end; its standard output.  :class:`BenchError` if it fails or complains."""
        try:
            done = subprocess.run(
                self.command(location, *args), env=self.environment(), capture_output=True, text=True,
                check=False,
            )  # fmt: skip
        except FileNotFoundError:
            raise BenchError("doveadm is not installed: run scripts/setup") from None
        if done.returncode or done.stderr:
            raise BenchError(f"doveadm {args[0]}: status {done.returncode}: {done.stderr.strip()[:500]}")
        return done.stdout
