"""dbox message files: sans-I/O codecs (bytes in, values out; no files, no clock, no event loop).

The parts of a message on disk, from the outside to the inside:

* :mod:`~dboxfs.dbox.format2`: file header line, message header, metadata magic (format 2, the one Dovecot
  writes; its docstring is the grammar of a whole file),
* :mod:`~dboxfs.dbox.format3`: the same for format 3, dboxfs's own (``FORMAT3.md``);
  :mod:`~dboxfs.dbox.forward`: its bodies as a stream; :mod:`~dboxfs.dbox.recovery`: its records without map,
* :mod:`~dboxfs.dbox.metadata`: the metadata block behind the body, every key,
* :mod:`~dboxfs.dbox.scan`: the records of a file, one after the other,
* :mod:`~dboxfs.dbox.compression`: compressed bodies, decompressed as a stream,
* :mod:`~dboxfs.dbox.stored`: whether a body that begins like a compressed or an encrypted one really is one,
* :mod:`~dboxfs.dbox.attachments`: bodies whose attachments are separate files,
* :mod:`~dboxfs.dbox.describe`: a dbox file as text.

A reader takes these steps: file header, message header (they give the body's place and stored size),
metadata.  ``detect`` on the first bytes of the body says whether to decompress; if the metadata leave that
open, ``Doubt`` decides.  ``plan`` gives the places of attachments.

Parsers return a value, or :class:`NeedMore` when they were given too few bytes, or raise
:class:`~dboxfs.errors.FormatError` with offset and reason.  No input makes them raise anything else.
"""

from __future__ import annotations

from dboxfs.dbox.attachments import (
    ExtRef,
    Segment,
    SegmentPlan,
    encode_base64_range,
    encoded_size,
    parse_ext_refs,
    plan,
    raw_range,
)
from dboxfs.dbox.compression import PREFIX_SIZE, Compression, Decompressor, detect
from dboxfs.dbox.describe import describe
from dboxfs.dbox.format2 import (
    MAX_FILE_HEADER,
    MESSAGE_HEADER_SIZE,
    MESSAGE_HEADER_SIZE_3,
    METADATA_MAGIC,
    Buffer,
    FileHeader,
    MessageHeader,
    NeedMore,
    encode_file_header,
    encode_message_header,
    parse_file_header,
    parse_message_header,
)
from dboxfs.dbox.format3 import (
    MAX_TRAILER,
    OWN_KEYS,
    TRAILER_HEAD_SIZE,
    RecordWriter,
    Trailer,
    begins_trailer,
    check_message_header,
    encode_file_header3,
    encode_message_header3,
    encode_trailer,
    move_trailer,
    parse_last_trailer,
    parse_trailer,
    separator_of,
    trailer_size,
    unreadable_header,
)
from dboxfs.dbox.forward import ForwardParser
from dboxfs.dbox.lineends import LineEnds, bare_line_feeds
from dboxfs.dbox.metadata import Metadata, encode_date, encode_metadata, guid128_of, parse_metadata
from dboxfs.dbox.recovery import FoundRecord, NoRecord, TrailerScan, resolve, scan_file
from dboxfs.dbox.scan import ScannedRecord, find_record, next_record
from dboxfs.dbox.stored import Doubt, is_as_it_is, is_doubtful, is_encrypted

__all__ = [
    "MAX_FILE_HEADER",
    "MAX_TRAILER",
    "MESSAGE_HEADER_SIZE",
    "MESSAGE_HEADER_SIZE_3",
    "METADATA_MAGIC",
    "OWN_KEYS",
    "PREFIX_SIZE",
    "TRAILER_HEAD_SIZE",
    "Buffer",
    "Compression",
    "Decompressor",
    "Doubt",
    "ExtRef",
    "FileHeader",
    "ForwardParser",
    "FoundRecord",
    "LineEnds",
    "MessageHeader",
    "Metadata",
    "NeedMore",
    "NoRecord",
    "RecordWriter",
    "ScannedRecord",
    "Segment",
    "SegmentPlan",
    "Trailer",
    "TrailerScan",
    "bare_line_feeds",
    "begins_trailer",
    "check_message_header",
    "describe",
    "detect",
    "encode_base64_range",
    "encode_date",
    "encode_file_header",
    "encode_file_header3",
    "encode_message_header",
    "encode_message_header3",
    "encode_metadata",
    "encode_trailer",
    "encoded_size",
    "find_record",
    "guid128_of",
    "is_as_it_is",
    "is_doubtful",
    "is_encrypted",
    "move_trailer",
    "next_record",
    "parse_ext_refs",
    "parse_file_header",
    "parse_last_trailer",
    "parse_message_header",
    "parse_metadata",
    "parse_trailer",
    "plan",
    "raw_range",
    "resolve",
    "scan_file",
    "separator_of",
    "trailer_size",
    "unreadable_header",
]
