"""What a mount may be told with ``-o``: how the tree is shown, to whom."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ViewOptions:
    """How files are shown.  ``uid``, ``gid``: owner, None: the store's.

    ``umask``: permission bits taken away.  ``separator``: between the parts of ``user.dbox.mailbox``.
    ``writable``: the modes allow the owner to write.
    """

    uid: int | None = None
    gid: int | None = None
    umask: int = 0
    writable: bool = False
    separator: str = "/"
