"""Makes the view that a mount asks for."""

from __future__ import annotations

from dboxfs.store.names.read import NameReader
from dboxfs.vfs.options import ViewOptions
from dboxfs.vfs.readonly import ReadOnlyVfs
from dboxfs.vfs.views.layout import Layout
from dboxfs.vfs.views.maildir import MaildirView
from dboxfs.vfs.views.told_names import ViewKernel


def maildir_view(
    vfs: ReadOnlyVfs, options: ViewOptions, kernel: ViewKernel, names: NameReader
) -> MaildirView:
    """The Maildir view of what *vfs* shows.

    :param kernel: that *vfs* tells of its changes.  :param names: has read the written names.
    """
    layout = Layout(vfs.store, options.nesting, options.charset)
    return MaildirView(vfs, vfs, layout, kernel, names)
