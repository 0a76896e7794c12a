"""``scripts/kills``: see :mod:`tests.kills.kills`.  Exit status 1 if anything hung, was lost, undone or
doubled, or a client failed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from dboxfs.vfs.options import Entries
from tests.kills.kills import Kills, empty
from tests.live.dovecot import Dovecot


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/kills", description=__doc__)
    parser.add_argument("--rounds", type=int, default=200, help="of each format and way (default 200)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="of each format and way, at most")
    parser.add_argument("--seed", type=int, default=1, help="default 1")
    parser.add_argument("--format", choices=("sdbox", "mdbox"), action="append", help="default: both")
    ways = [means.value for means in Entries if means is not Entries.AUTO]
    parser.add_argument(
        "--entries", choices=ways, action="append", help="-o entries= (default: epoch and companion)"
    )
    parser.add_argument("--keep", type=Path, help="directory for stores and journals of rounds with faults")
    given = parser.parse_args()
    bad = False
    with Dovecot() as dovecot, tempfile.TemporaryDirectory(prefix="dboxfs-kills.") as top:
        for driver in given.format or ["sdbox", "mdbox"]:
            for entries in given.entries or ["epoch", "companion"]:
                account = dovecot.account(f"{driver}:{{home}}/mail")
                account.doveadm("mailbox create", "Work")
                account.save(b"Subject: first\n\ntext\n")
                kills = Kills(
                    account, entries, empty(Path(top, f"{driver}-{entries}")), given.seed, given.keep
                )
                tally = kills.run(given.rounds, given.seconds)
                print(f"{driver}, entries={entries}: {tally}", flush=True)
                for line in tally.faults:
                    print(f"  {line}", flush=True)
                bad |= bool(tally.faults)
    return int(bad)


sys.exit(main())
