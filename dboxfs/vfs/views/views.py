"""Makes the view that a mount asks for."""

from __future__ import annotations

import os

from dboxfs.store.names.read import NameReader
from dboxfs.vfs.file_system import ReadableFileSystem, WritableFileSystem
from dboxfs.vfs.options import ViewOptions
from dboxfs.vfs.readonly import ReadOnlyVfs
from dboxfs.vfs.views.foreign import DIRECTORY, Foreign
from dboxfs.vfs.views.layout import Layout
from dboxfs.vfs.views.maildir import MaildirView
from dboxfs.vfs.views.told_names import ViewKernel
from dboxfs.vfs.views.writing import WritableMaildirView
from dboxfs.vfs.writable import WritableVfs


def maildir_view(
    reading: ReadOnlyVfs,
    inner: ReadableFileSystem,
    options: ViewOptions,
    kernel: ViewKernel,
    names: NameReader,
) -> MaildirView:
    """The Maildir view of what *reading* shows, to be read.

    :param inner: answers what is about inodes.
    :param kernel: that *reading* tells of its changes.  :param names: has read the written names.
    """
    layout = Layout(reading.store, options.nesting, options.charset)
    return MaildirView(reading, inner, layout, kernel, names)


def writable_maildir_view(
    view: MaildirView, inner: WritableVfs, directory: str | None = None
) -> WritableFileSystem:
    """The same, to be written.

    :param directory: where foreign files are kept; None: in the control directory of the store.
    """
    reading = view.reading
    store = reading.store
    where = directory if directory is not None else os.path.join(store.location.control_dir, DIRECTORY)
    owner = store.owner.st_uid, store.owner.st_gid
    foreign = Foreign(where, reading.inodes, reading.attributes, owner)
    return WritableMaildirView(view, inner, foreign)
