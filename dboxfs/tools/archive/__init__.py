"""Archives of stores on an object store: ``ARCHIVE.md`` says what is written, and in which order."""

from dboxfs.tools.archive.archiver import Archived, ArchiveOptions, Archiver
from dboxfs.tools.archive.repository import Repository
from dboxfs.tools.archive.view import ArchiveView, parse_at, store_files

__all__ = [
    "ArchiveOptions",
    "ArchiveView",
    "Archived",
    "Archiver",
    "Repository",
    "parse_at",
    "store_files",
]
