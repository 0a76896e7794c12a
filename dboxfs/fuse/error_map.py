"""The errno of an error that reaches the kernel, and whether it goes into the log: decided here alone.

================================ ============ ==========================================
error                            errno        log
================================ ============ ==========================================
Refused                          its errno    nothing
CorruptFile, FormatError,        its errno    one line, by the layer that found it
EncryptedMessage
IndexMissing, NoFolderKey        its errno    one line; the same line not again
StoreBusy                        EBUSY        one line
any other DboxfsError            its errno    nothing
OSError: something else stands   EIO          one line
where a file of the store should
OSError                          its errno    one line, except ENOENT; the same line not again
anything else                    EIO          with traceback: a bug in dboxfs
================================ ============ ==========================================
"""

from __future__ import annotations

import errno
import logging
from collections import OrderedDict

from dboxfs.errors import DboxfsError, StoreBusy
from dboxfs.store.write import IndexMissing, NoFolderKey
from dboxfs.vfs.errors import Refused

log = logging.getLogger(__name__)

_ERRORS_KEPT = 1000
_ODD = frozenset((errno.EISDIR, errno.ELOOP, errno.ESPIPE, errno.ENXIO))


class ErrorMap:
    """The table above; remembers the last errors that are in the log already.  One for each mount."""

    def __init__(self) -> None:
        self._logged: OrderedDict[tuple[int, object], None] = OrderedDict()

    def _is_new(self, error: tuple[int, object]) -> bool:
        known = error in self._logged
        self._logged[error] = None
        self._logged.move_to_end(error)
        if len(self._logged) > _ERRORS_KEPT:
            self._logged.popitem(last=False)
        return not known

    def errno_of(self, error: Exception, what: str) -> int:
        """The errno for *error* of the request *what*; writes the log line."""
        match error:
            case StoreBusy():
                log.warning("%s: %s", what, error)
                return error.errno
            case IndexMissing() | NoFolderKey():
                if self._is_new((error.errno, str(error))):
                    log.error("%s: %s", what, error)
                return error.errno
            case DboxfsError() | Refused():
                return error.errno
            case OSError():
                number = error.errno or errno.EIO
                if number != errno.ENOENT and self._is_new((number, error.filename)):
                    log.error("%s: %s", what, error)
                return errno.EIO if number in _ODD else number
            case _:
                log.error("%s: unexpected %r", what, error, exc_info=error)
                return errno.EIO
