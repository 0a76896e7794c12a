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


class Doveadm:
    """Commands on the stores below *work*, which is made ready for the user that Dovecot runs as."""

    def __init__(self, work: Path) -> None:
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
base_dir = {work}/run
state_dir = {work}/state
log_path = /dev/stderr
ssl = no
protocols =
mail_uid = {self.user}
mail_gid = {self._entry.pw_gid}
first_valid_uid = 1
mail_home = {self._home}
mail_plugins = zlib
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
        return ["doveadm", "-c", str(self.config), "-o", f"mail_location={location}", *map(str, args)]

    def environment(self) -> dict[str, str]:
        """The environment that the command needs: whom it works for."""
        return {**os.environ, "USER": "bench", "HOME": str(self._home), "LC_ALL": "C"}

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
