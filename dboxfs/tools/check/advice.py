"""What a finding advises: steps in the order of what they can cost.

Each advice is one line.  What only reads comes first (a copy, ``dboxfs rescue``, a restored file); what
changes the store comes behind it; ``doveadm force-resync`` comes last, with what it drops.  Dovecot repairs
what it stumbles over without being asked, so the copy has to be made before Dovecot opens the store again.

Source of what force-resync drops: recovery sections 2 to 4.
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
    """Copy, rescue, and at the very end force-resync, which *drops* something."""
    return f"{RESCUE}; {FORCE_RESYNC} only at the very end: {drops}"


def restore_first(what: str, drops: str = DROPS_MISSING) -> str:
    """Restore *what* from a backup, before Dovecot's repair *drops* something for good."""
    return f"restore {what} from a backup before any {FORCE_RESYNC}: {drops}"


def recount(why: str) -> str:
    """Only force-resync mends it, and it is harmless where nothing else is wrong; *why*: what it does."""
    return (
        f"mend all other errors first, {COPY.removesuffix(' before Dovecot opens it again')}; "
        f"then {FORCE_RESYNC}, which {why}: {DROPS_DAMAGED}"
    )


def elsewhere(location: Location) -> str:
    """Where an index may be that isn't where the location says."""
    if location.index is None:
        return "if the indexes lie elsewhere, give INDEX=DIR (Dovecot 2.4: mail_index_path)"
    return f"see that INDEX={location.index} is right"
