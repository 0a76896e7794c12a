"""On which kernels a mount may do without OPEN.

Linux commit e26ee4efbc79 ("fuse: allocate ff->release_args only if release is needed") no longer holds the
inode of a file that was opened without an OPEN while a readahead of it is in flight. If the last close comes
meanwhile, the end of the readahead releases the inode, in a place where memory reclaim can wait for it for
ever: a client hangs. Commit bd5603eaae0a ("fuse: fix readahead reclaim deadlock", CVE-2025-68821) mended it.

========  =====================  ====================================================================
branch    has the fault          source
========  =====================  ====================================================================
5.4       never                  shortlogs of 5.4.301 and later don't have the first commit
5.10      never                  shortlogs of 5.10.246 and later don't have it
5.15      5.15.196 to 5.15.197   shortlogs of Linux 5.15.196 (2025-10-29) and 5.15.198 (2026-01-19)
6.1       6.1.158 to 6.1.159     shortlogs of Linux 6.1.158 (2025-10-29) and 6.1.160-rc1 (2026-01)
6.6       6.6.115 to 6.6.119     shortlogs of Linux 6.6.115 (2025-10-29) and 6.6.120 (2026-01-11)
6.9-6.11  always                 the first commit came with 6.9; these branches ended before the second
6.12      up to 6.12.63          shortlog of Linux 6.12.64 (2026-01-08)
6.13-17   always                 as 6.9; 6.17.13 (2025-12-18) was the last of them
6.18      up to 6.18.2           shortlog of Linux 6.18.3 (2026-01-02)
6.19      never                  "fuse update for 6.19" (2025-12-04) has the second commit
========  =====================  ====================================================================

A release string tells the stable version of a kernel that was built from one of these branches. Distributors
that give their kernels numbers of their own (``5.14.0-503.el9``, ``6.8.0-40-generic``) take commits from
everywhere; only Debian says in ``uname -v`` from which release its ``6.1.0-43-amd64`` was built. A kernel
that this module can't place counts as not safe: the mount then works as ever, only with more requests.
"""

from __future__ import annotations

import re

_SAFE_SINCE = (6, 19)
"""Every kernel from this version on has had the mend from its first release."""

_BRANCHES: dict[tuple[int, int], tuple[int, int]] = {
    (5, 4): (0, 0),
    (5, 10): (0, 0),
    (5, 15): (196, 198),
    (6, 1): (158, 160),
    (6, 6): (115, 120),
    (6, 12): (0, 64),
    (6, 18): (0, 3),
}
"""Branch -> the first of its versions with the fault, and the first with the mend."""

_NUMBERS = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")
_DEBIAN = re.compile(r"\bDebian (\d+\.\d+\.\d+)-")


def why_not_safe(release: str, version: str) -> str:
    """Why a mount should not do without OPEN on this kernel, in words; empty: it may.

    :param release: the output of ``uname -r``.
    :param version: the output of ``uname -v``.
    """
    debian = _DEBIAN.search(version)
    found = _NUMBERS.match(debian.group(1) if debian else release)
    if found is None:
        return f"nothing is known of the kernel {release}"
    branch, patch = (int(found[1]), int(found[2])), int(found[3] or 0)
    if branch >= _SAFE_SINCE:
        return ""
    if debian is None and patch == 0 and "-" in release and "-rc" not in release:
        return f"the release {release} does not tell what this kernel was built from"
    if branch not in _BRANCHES and branch < (6, 9):
        return f"nothing is known of kernels of the branch {branch[0]}.{branch[1]}"
    first, mended = _BRANCHES.get(branch, (0, 1 << 31))
    if first <= patch < mended:
        return f"the kernel {found[0]} may hang when memory is short (mended in {_mended_in(branch)})"
    return ""


def _mended_in(branch: tuple[int, int]) -> str:
    if branch in _BRANCHES:
        return f"{branch[0]}.{branch[1]}.{_BRANCHES[branch][1]}"
    return f"{_SAFE_SINCE[0]}.{_SAFE_SINCE[1]}"
