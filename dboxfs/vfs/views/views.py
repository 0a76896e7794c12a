"""Makes the view that a mount asks for."""

from __future__ import annotations

import os

from dboxfs.store.names.read import NameReader
from dboxfs.vfs.file_system import ReadableFileSystem, WritableFileSystem
from dboxfs.vfs.options import Charset, Nesting, View, ViewOptions
from dboxfs.vfs.readonly import ReadOnlyVfs
from dboxfs.vfs.views.foreign import MAILDIR_DIRECTORY, MH_DIRECTORY, Foreign
from dboxfs.vfs.views.layout import Layout
from dboxfs.vfs.views.maildir import MaildirView
from dboxfs.vfs.views.mh import MhView, is_reserved
from dboxfs.vfs.views.mh_writing import WritableMhView
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

    :param inner: answers the requests about inodes.
    :param kernel: told by *reading* of its changes.  :param names: has read the written names.
    """
    layout = Layout(reading.store, options.nesting, options.charset)
    return MaildirView(reading, inner, layout, kernel, names)


def mh_view(reading: ReadOnlyVfs, inner: ReadableFileSystem, kernel: ViewKernel) -> MhView:
    """The MH view of what *reading* shows, to be read; parameters as of :func:`maildir_view`."""
    layout = Layout(reading.store, Nesting.VERBATIM, Charset.UTF8, is_reserved)
    return MhView(reading, inner, layout, kernel)


def _foreign(reading: ReadOnlyVfs, name: str, directory: str | None) -> Foreign:
    store = reading.store
    where = directory if directory is not None else os.path.join(store.location.control_dir, name)
    return Foreign(where, reading.inodes, reading.attributes, (store.owner.st_uid, store.owner.st_gid))


def writable_maildir_view(
    view: MaildirView, inner: WritableVfs, directory: str | None = None
) -> WritableFileSystem:
    """The same, to be written.

    :param directory: that of foreign files; None: in the control directory of the store.
    """
    return WritableMaildirView(view, inner, _foreign(view.reading, MAILDIR_DIRECTORY, directory))


def writable_mh_view(view: MhView, inner: WritableVfs, directory: str | None = None) -> WritableFileSystem:
    """The same of the MH view."""
    return WritableMhView(view, inner, _foreign(view.reading, MH_DIRECTORY, directory))


def shown(
    vfs: ReadOnlyVfs | WritableVfs, options: ViewOptions, kernel: ViewKernel, names: NameReader
) -> tuple[MaildirView | MhView, WritableFileSystem | None]:
    """The view of a mount to be read, and, in a writable mount, the one that answers all requests.

    :param kernel: told by *vfs* of its changes.  :param names: has read the written names.
    """
    reading = vfs.reading if isinstance(vfs, WritableVfs) else vfs
    view: MaildirView | MhView
    written: WritableFileSystem | None = None
    if options.view is View.MH:
        view = mh_view(reading, vfs, kernel)
        written = writable_mh_view(view, vfs) if isinstance(vfs, WritableVfs) else None
    else:
        view = maildir_view(reading, vfs, options, kernel, names)
        written = writable_maildir_view(view, vfs) if isinstance(vfs, WritableVfs) else None
    return view, written
