"""``scripts/restores``: a large store of the real Dovecot is backed up and put back with every program.

2,000 messages in 12 mailboxes, with flags, keywords, copies, dates from 1960 to 2110, names in several
scripts, one message of 30 MB.  Each program backs up a mount of it and puts that back through ``-o restore``
into an empty store of each format; ``doveadm fetch`` of both has to say the same, ``dboxfs check`` and
``doveadm force-resync`` must find nothing, each message has to be stored once.  Exit status 1 if not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from tests.live.dovecot import Dovecot
from tests.live.mounts import Mounts
from tests.restores.filling import fill
from tests.restores.programs import FILES_ONLY, PLAIN, PROGRAMS, runner
from tests.restores.proof import Portrait, damage, differences, plain_differences, put_back

RESYNC = ("ebuilding index", "fscking index file")
"""What Dovecot says whenever it is told to ``force-resync``."""


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/restores", description=(__doc__ or "").partition(": ")[2])
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--large", type=int, default=30, help="MB of the large message (default 30)")
    parser.add_argument("--source", choices=("sdbox", "mdbox"), default="mdbox", help="default mdbox")
    parser.add_argument("--format", choices=("sdbox", "mdbox"), action="append", help="default: both")
    names = [*PROGRAMS, "plain"]
    parser.add_argument("--program", choices=names, action="append", help="default: all")
    given = parser.parse_args()
    bad = 0
    with Dovecot() as dovecot, tempfile.TemporaryDirectory(prefix="dboxfs-restores.") as top:
        with Mounts(Path(top)) as mounts:
            account = dovecot.account(f"{given.source}:{{home}}/mail")
            fill(account, given.messages, given.large << 20)
            before = Portrait.of(account)
            print(f"{given.source}: {before.count} messages, {len(before.messages)} mailboxes", flush=True)
            for program in given.program or names:
                keep, back = PROGRAMS.get(program, PLAIN)
                (kept := Path(top, program)).mkdir()
                run = runner(kept, seconds=3600)
                mnt, start = mounts.mount(account.location), time.monotonic()
                keep(run, mnt, kept)
                kept_in = time.monotonic() - start
                mounts.umount(mnt)
                for driver in given.format or ["sdbox", "mdbox"]:
                    other = dovecot.account(f"{driver}:{{home}}/mail")
                    start = time.monotonic()
                    said = put_back(other, mounts, partial(back, run, kept=kept))
                    seconds, after = time.monotonic() - start, Portrait.of(other)
                    if program == "plain":
                        wrong = plain_differences(before, after)
                    else:
                        wrong = differences(before, after, directories=program not in FILES_ONLY)
                    wrong += damage(other, after)
                    bad += bool(wrong)
                    how = "all is what it was" if not wrong else "NOT WHAT IT WAS"
                    times = f"backup {kept_in:.1f} s, back {seconds:.1f} s"
                    print(f"{program:7} {given.source} -> {driver}: {times}: {how}; {said}", flush=True)
                    for line in wrong:
                        print(f"    {line[:2000]}", flush=True)
        loud = [line for line in dovecot.log_lines() if not any(word in line for word in RESYNC)]
    for line in loud:
        print(f"Dovecot: {line}")
    return int(bool(bad or loud))


sys.exit(main())
