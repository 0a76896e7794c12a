"""Other objects in the place of a file: directories, symbolic links, FIFOs, devices, sockets."""

from __future__ import annotations

import errno

from dboxfs.errors import CorruptFile

_ODD = {
    errno.EISDIR: "a directory stands in the place of the file",
    errno.ELOOP: "a symbolic link stands in the place of the file: links to files are not followed",
    errno.ESPIPE: "a FIFO or a device stands in the place of the file",
    errno.ENXIO: "a socket or a device that isn't there stands in the place of the file",
}


def odd_file(error: OSError, path: str) -> CorruptFile | None:
    """The damage that *error* shows, if *path* is no regular file; None: another error."""
    what = _ODD.get(error.errno or 0)
    return CorruptFile(path, 0, what) if what is not None else None


def why_unreadable(error: OSError) -> str:
    """The reason why a file of messages can't be read, as text."""
    return _ODD.get(error.errno or 0) or error.strerror or str(error)
