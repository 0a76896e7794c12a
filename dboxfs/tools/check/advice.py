"""The advice in a finding: steps, the least risky first.

Each advice is one line.  Steps that only read come first (a copy, ``dboxfs rescue``, a restored file); steps
that change the store follow; ``doveadm force-resync`` comes last, with a word on the data that it drops.
Dovecot repairs damage as soon as it meets it, so the copy must be made before Dovecot opens the store again.

Source for the data that force-resync drops: recovery sections 2 to 4.
"""

from __future__ import annotations

from typing import Final

from dboxfs.store.location import Location

FORCE_RESYNC: Final = "doveadm force-resync"

COPY: Final = "copy the store before Dovecot opens it again"

RESCUE: Final = f"{COPY}; dboxfs rescue STORE DST makes a new store of what is whole"

DROPS_BEHIND: Final = "it can drop every message behind the damage in the same file"
DROPS_DAMAGED: Final = "it drops what it can't read"
DROPS_MISSING: Final = "it drops the records of missing messages, and the next doveadm backup their copies"
DROPS_FLAGS: Final = "it drops flags and keywords that it can't read; an mdbox then gives new uids"
REVIVES: Final = "it brings back expunged messages that were not purged, and drops what it can't read"


def rescue_first(drops: str) -> str:
    """Copy, rescue, and force-resync at the very end; *drops*: the data that force-resync drops, in words."""
    return f"{RESCUE}; {FORCE_RESYNC} only at the very end: {drops}"


def restore_first(what: str, drops: str = DROPS_MISSING) -> str:
    """Restore *what* from a backup before Dovecot's repair; *drops*: the data that the repair drops."""
    return f"restore {what} from a backup before any {FORCE_RESYNC}: {drops}"


def readable_first(error: OSError, what: str) -> str:
    """Make *what*, which *error* keeps from being read, readable for its owner; else restore it."""
    if isinstance(error, PermissionError):
        return "give it to the owner of the store (chown), and check its mode: Dovecot can't read it either"
    return restore_first(what)


def recount(why: str) -> str:
    """Advice where only force-resync helps, and harms nothing once all other errors are mended.

    :param why: the effect of force-resync, in words.
    """
    return (
        f"mend all other errors first, {COPY.removesuffix(' before Dovecot opens it again')}; "
        f"then {FORCE_RESYNC}, which {why}: {DROPS_DAMAGED}"
    )


def elsewhere(location: Location) -> str:
    """Advice for an index that is not where *location* says."""
    if location.index is None:
        return "if the indexes lie elsewhere, give INDEX=DIR (Dovecot 2.4: mail_index_path)"
    return f"see that INDEX={location.index} is right"
