"""Targets of the fuzzer: message files of both formats, metadata, compressed bodies, attachments."""

from __future__ import annotations

import contextlib
import itertools
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

from dboxfs.dbox import (
    METADATA_MAGIC,
    Compression,
    Decompressor,
    Doubt,
    ExtRef,
    FileHeader,
    ForwardParser,
    FoundRecord,
    Metadata,
    NeedMore,
    Segment,
    TrailerScan,
    describe,
    detect,
    encode_base64_range,
    encode_message_header,
    encode_metadata,
    encoded_size,
    find_record,
    is_doubtful,
    next_record,
    parse_ext_refs,
    parse_file_header,
    parse_last_trailer,
    parse_message_header,
    parse_metadata,
    parse_trailer,
    plan,
    raw_range,
    scan_file,
    separator_of,
)
from dboxfs.errors import DboxfsError, FormatError
from dboxfs.fsapi import FileSystem
from dboxfs.fsapi.drivers.memory import MemoryDriver
from dboxfs.store import salvage
from dboxfs.store.backend import OpenRecord
from dboxfs.store.body import open_body, settled
from dboxfs.store.salvage.trailer import read_block
from dboxfs.store.stored_record import LOST_HEADER, TAIL, NeedRange, Record, file_header, parse_record
from tests.dbox import golden3
from tests.dbox.bodies import compress
from tests.dbox.vectors import MDBOX_M1, SDBOX_U1
from tests.fuzz.machine import Target

SAMPLES = Path(__file__).parents[2] / "samples"
BODIES = (
    b"",
    b"Subject: s\n\ntext\n",
    b"line\r\nline\n" * 40,
    MDBOX_M1,
    b"CRYPTED\x03\x07\x02" + bytes(range(90)),
    b"\n\x01\x03\n\n",
    b"x" * 5000 + b"\n",
    *(compress(kind, b"Subject: packed\n\n" + b"text\n" * 30) for kind in Compression),
)
TOKENS = (
    b"2 M1e C6b00ae6d\n", b"3 M13 C6b00a985 K" + b"0" * 32 + b"\n", b"\x01\x02N          ", b"\n", b"\n\n",
    b"\r\n", b"\0" * 30, METADATA_MAGIC, *(encode_message_header(n) for n in (0, 1, 40, 2**40)),
    b"G" + b"ab" * 16 + b"\n", b"R1\n", b"Rffffffffed30b140\n", b"R8000000000000000\n", b"V1\n", b"Z1\n",
    b"Vx\n", b"O99999999999\n", b"BINBOX\n", b"X1 2 B4 a/b\n", b"X0 9999999999 - a/b 5 8 CB76 c/d\n",
    b"K\n", b" \n", b"\x01\x03", b"Cgz\n", b"L0000007c\n\n", b"CRYPTED\x03\x07",
    b"\x1f\x8b\x08\0\0\0\0\0\0\x03", b"BZh9", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd",
    b"Dovecot-LZ4\r\x2a\x9b\xc5\0\1\0\0", *(golden3.separator(n) for n in range(3)),
)  # fmt: skip
LINES = (
    (b"G", b"0123456789abcdef0123456789abcdef"), (b"G", b"1500000000.M1P1.host"), (b"G", b"\xff\xfe"),
    (b"R", b"6b00ae6d"), (b"R", b"ffffffffed30b140"), (b"R", b"7fffffffffffffff"), (b"V", b"51"),
    (b"Z", b"4b"), (b"Z", b"7fffffffffffffff"), (b"P", b"uidl"), (b"O", b"7"), (b"B", b"INBOX"),
    (b"X", b"1 2 - a/b"), (b"X", b"3 76 B76 a/b 90 4 CB4 c/d"), (b"E", b""), (b"q", b"unknown"),
    (b"\r", b"x"), (b"V", b"-1"),
)  # fmt: skip


def samples(pattern: str) -> list[bytes]:
    """Files that Dovecot wrote."""
    found = [path.read_bytes() for path in sorted(SAMPLES.rglob(pattern)) if path.is_file()]
    return [data for data in found if data]


# -- whole files --------------------------------------------------------------------------------------------


def some_lines(random: Random, body: bytes) -> list[tuple[bytes, bytes]]:
    """Metadata lines, some of which are right for *body*."""
    lines = random.sample(LINES, random.randrange(7))
    if random.random() < 0.5:
        lines += [(b"V", b"%x" % (len(body) + body.count(b"\n") - body.count(b"\r\n")))]
    if random.random() < 0.3:
        lines += [(b"Z", b"%x" % random.choice((len(body), 20, 167)))]
    return lines


def make_format2(random: Random) -> bytes:
    """A file of format 2 whose frames hold."""
    size = random.choice((30, 30, 30, 31, 64))
    data = b"%d M%x C%x\n" % (random.choice((1, 2, 2, 2)), size, random.getrandbits(32))
    for _ in range(random.randrange(5)):
        body = random.choice(BODIES)
        header = encode_message_header(len(body))
        data += header[:-1] + b" " * (size - 30) + b"\n" + body + encode_metadata(some_lines(random, body))
    return data


def make_format3(random: Random) -> bytes:
    """A file of format 3 whose tags hold, whatever is in them."""
    data = golden3.HEADER
    for number in range(random.randrange(5)):
        body = random.choice(BODIES)
        lines = b"".join(
            key + value + b"\n" for key, value in some_lines(random, body) if key not in b"CDKHL"
        )
        lines += random.choice((b"", b"", b"Cgz\n", b"Czstd\n", b"Cnone\n", b"H\n"))
        size = random.choice((-1, -1, -1, 0, 2**62, len(body) + 1))
        offset = random.choice((len(data), len(data), 0))
        separator = golden3.separator(number)
        trailer = golden3.trailer(offset, separator, body, lines, size=size)
        data += b"\x01\x02" + separator + b"\n" + body + trailer
    return data


def values_of(metadata: Metadata) -> None:
    """Ask for every value: each is one, or an error of its own."""
    for name in ("received", "virtual_size", "physical_size", "pop3_order", "guid128", "pop3_uidl"):
        with contextlib.suppress(FormatError):  # of this value alone
            getattr(metadata, name)
    if metadata.ext_refs is not None:
        refs = parse_ext_refs(metadata.ext_refs)
        assert isinstance(plan(refs, 100), tuple)


def run_format2(data: bytes, random: Random) -> None:
    """One record after the other, going on behind damage."""
    header = parse_file_header(data)
    if isinstance(header, NeedMore):
        return
    parse_message_header(data[header.size :], header.message_header_size)
    offset = header.size
    for _ in range(100):
        try:
            found = next_record(data, offset, header)
        except FormatError:
            found = find_record(data, offset + 1, header) or NeedMore(0)
        if isinstance(found, NeedMore):
            break
        assert found.offset + found.size <= len(data)
        assert found.offset >= offset
        offset = found.offset + found.size
        with contextlib.suppress(FormatError):  # of this record alone
            values_of(found.metadata)


def run_format3(data: bytes, random: Random) -> None:
    """Backwards from the end, forwards as a stream in pieces, and all of it without an index."""
    header = parse_file_header(data)
    if isinstance(header, NeedMore):
        return
    outcomes: list[object] = []
    for look in (
        lambda: parse_last_trailer(data, end=len(data)),
        lambda: parse_last_trailer(data[-512:], end=len(data)),
        lambda: separator_of(data[header.size :]),
        lambda: parse_trailer(data[random.randrange(len(data) + 1) :], base=header.size),
        lambda: forward(data[header.size :], header.size, random),
    ):
        with contextlib.suppress(FormatError):  # the others are looked at too
            outcomes.append(look())
    regions = scan_file(data)
    at = header.size if header.version == 3 else 0
    for region in regions:
        assert region.offset == at, "no hole"
        at = region.end
        if isinstance(region, FoundRecord):
            values = region.trailer.metadata
            with contextlib.suppress(FormatError):  # of this record alone
                values_of(values)
    assert not regions or at == len(data)


def forward(data: bytes, offset: int, random: Random) -> int:
    """The first body as a stream."""
    parser = ForwardParser(offset, to_end=True)
    size = 0
    while data and parser.record is None:
        step = random.choice((1, 7, 100, 5000))
        size += len(parser.feed(data[:step]))
        data = data[step:]
    return size + len(parser.finish())


def run_pieces(data: bytes, random: Random) -> None:
    """A scan for trailers that gets its file in pieces finds what one that gets it whole finds."""
    scans = [TrailerScan(), TrailerScan()]
    scans[0].feed(data)
    at = 0
    while at < len(data):
        step = random.choice((1, 50, 1000, 20_000))
        scans[1].feed(data[at : at + step])
        at += step
    assert scans[0].trailers == scans[1].trailers


def run_describe(data: bytes, random: Random) -> None:
    """Words for every file; never an error."""
    try:
        lines = list(describe(data))
    except DboxfsError as error:
        raise AssertionError("describe never raises") from error
    assert lines[-1].startswith("end: ")
    assert all(line.isprintable() for line in lines)


# -- metadata, attachments ----------------------------------------------------------------------------------


def run_metadata(data: bytes, random: Random) -> None:
    """A block, also in a view and within a limit; what check and rescue make of it."""
    limit = random.choice((None, None, len(data), 10, 100))
    read_block(data, random.choice((0, 1000)), to_the_end=random.random() < 0.5)
    found = parse_metadata(memoryview(data), limit=limit)
    if isinstance(found, Metadata):
        assert found.size <= len(data)
        assert encode_metadata(found.items).startswith(METADATA_MAGIC)
        values_of(found)


def make_metadata(random: Random) -> bytes:
    return encode_metadata(random.choices(LINES, k=random.randrange(12)))


def run_attachments(data: bytes, random: Random) -> None:
    """An X line: where the parts of a message come from, in order, without holes."""
    refs = parse_ext_refs(data)
    body_size = random.choice((0, 10, 100, 10_000))
    segments = plan(refs, body_size)
    at = 0
    for segment in itertools.islice(segments, 1000):
        assert isinstance(segment, Segment)
        assert segment.out_start == at
        at += segment.size
    for ref in refs[:20]:
        check_ref(ref, random)


def check_ref(ref: ExtRef, random: Random) -> None:
    """A part of an attachment, encoded again, has exactly its bytes."""
    raw_size = random.choice((0, 1, 57, 1000))
    if ref.line_length is None or ref.line_length > 10_000:
        return
    size = encoded_size(raw_size, ref.line_length, ref.crlf)
    start, end = sorted((random.randrange(size + 1), random.randrange(size + 1)))
    first, last = raw_range(start, end, ref.line_length, ref.crlf, raw_size)
    raw = bytes(range(256)) * 4
    part = encode_base64_range(raw[first:last], start, end, ref.line_length, ref.crlf)
    assert len(part) == end - start
    with contextlib.suppress(FormatError):  # it says otherwise
        ref.check_raw_size(raw_size)


# -- bodies -------------------------------------------------------------------------------------------------


def run_decoder(kind: Compression) -> Callable[[bytes, Random], None]:
    """Decompress in pieces; what a few bytes can claim need not be read to its end."""

    def run(data: bytes, random: Random) -> None:
        decoder, at, total = Decompressor(kind), 0, 0
        while not decoder.eof and total < 1 << 22:
            if decoder.needs_input:
                step = random.choice((1, 16, 1000, 1 << 16))
                if at < len(data):
                    decoder.feed(data[at : at + step])
                    at += step
                else:
                    decoder.finish()
            wanted = random.choice((1, 100, 1 << 16))
            piece = decoder.read(wanted)
            assert len(piece) <= wanted
            total += len(piece)

    return run


def make_compressed(kind: Compression) -> Callable[[Random], bytes]:
    """Bodies that hold, also of zeros, also with something behind."""

    def make(random: Random) -> bytes:
        plain = random.choice((b"", b"text\n" * 50, bytes(200_000), random.randbytes(300)))
        parts = [compress(kind, plain) for _ in range(random.choice((1, 1, 2, 5)))]
        return b"".join(parts) + random.choice((b"", b"", b"\0" * 8, b"\n", parts[0][:10]))

    return make


def run_doubt(data: bytes, random: Random) -> None:
    """Whether a body is what it begins like."""
    metadata = Metadata(tuple(some_lines(random, data)), 0)
    with contextlib.suppress(FormatError):  # it is damaged
        is_doubtful(metadata)
    doubt = Doubt(detect(data), len(data), metadata)
    for at in range(0, len(data), 997):
        doubt.feed(data[at : at + 997])
    doubt.plain()


# -- records as a reader sees them, and as a rescue does ----------------------------------------------------


def read_record(data: bytes, random: Random) -> Record | None:
    """As a mailbox does: by the two ends of the file, or of what the map says."""
    try:
        header: FileHeader = file_header(data[:96])
    except FormatError:
        header = LOST_HEADER
    offset = header.size
    whole = random.random() < 0.5
    end = random.choice((len(data), len(data), random.randrange(len(data) + 1)))
    if end < offset:
        return None
    tail_offset = max(offset, end - TAIL)
    head, tail = memoryview(data)[offset : offset + 45], memoryview(data)[tail_offset:end]
    for _ in range(5):
        found = parse_record(head, tail, tail_offset, offset, end, header=header, whole=whole)
        if not isinstance(found, NeedRange):
            _ = found.facts(0)
            return found
        assert found.offset < found.end <= end
        tail_offset, tail = found.offset, memoryview(data)[found.offset : found.end]
    raise AssertionError("it asks for another range again and again")


async def run_body(data: bytes, random: Random) -> None:
    """The bytes of a message, whatever it is stored as: as many as its size says, or an error."""
    found = read_record(data, random)
    if found is None:
        return
    driver = MemoryDriver(nowait=True)
    driver.make_dirs("/m")
    driver.put("/m/u.1", data)
    async with FileSystem(driver) as fs:
        handle = fs.open("/m/u.1")
        await handle.wait_open()
        opened = await settled(OpenRecord(handle, "/m/u.1", found, handle.close))
        body = open_body(fs, opened, "/m", "-x")
        try:
            at = 0
            while at < min(body.size, 1 << 21):
                wanted = random.choice((100, 65536, 1 << 20))
                piece = await body.read(wanted, at)
                assert len(piece) == min(wanted, body.size - at)
                at += len(piece)
        finally:
            body.close()


async def run_salvage(data: bytes, random: Random) -> None:
    """Every message of a file, and what is between them: in order, each byte once."""
    driver = MemoryDriver(nowait=True)
    driver.make_dirs("/m")
    driver.put("/m/m.1", data)
    places = [
        salvage.MapPlace(random.randrange(len(data) + 1), random.randrange(400))
        for _ in range(random.randrange(4))
    ]
    single = random.random() < 0.5
    async with FileSystem(driver) as fs, salvage.open_window(fs, "/m/m.1") as window:
        at = 0
        async for item in salvage.scan_file(
            window,
            [] if single else sorted(places, key=lambda p: p.offset),
            single=single,
            texts=random.random() < 0.8,
        ):
            assert item.offset <= item.end <= len(data)
            if isinstance(item, salvage.Gap) or not item.inside:
                assert item.offset >= at, "in the order of the file"
                at = item.end


def targets() -> list[Target]:
    """All of them."""
    format2 = [SDBOX_U1, MDBOX_M1, *samples("u.*"), *samples("m.*")]
    format3 = [
        golden3.file_of(list(bodies))[0]
        for bodies in (BODIES[:1], BODIES[:4], BODIES, [golden3.page_example()])
    ]
    blocks = [data[data.find(METADATA_MAGIC) :] for data in format2]
    lines = [b"1 2 - a/b", b"3 76 B76 a/b 90 4 CB4 c/d", b"0 1 - aa/bb/" + b"0" * 40 + b"-" + b"1" * 32]
    decoders = [
        Target(
            f"decoder-{kind.value}", [compress(kind, body) for body in (b"", *BODIES[:3])], run_decoder(kind),
            TOKENS, make_compressed(kind), 6, output=160 << 20,
        )
        for kind in Compression
    ]  # fmt: skip
    coded = [*BODIES, *(zlib.compress(b"no format of dovecot"),)]
    both, make = format2 + format3, (make_format2, make_format3)
    return [
        Target("format2", format2, run_format2, TOKENS, make_format2, 14),
        Target("format3", format3, run_format3, TOKENS, make_format3, 14),
        Target("recovery", format3, run_pieces, TOKENS, make_format3, 6),
        Target("describe", both, run_describe, TOKENS, lambda random: random.choice(make)(random), 8),
        Target("metadata", blocks, run_metadata, TOKENS, make_metadata, 12),
        Target(
            "attachments", lines, run_attachments, (b" ", b"-", b"B4", b"CB76", b"..", b"/", b"0"), None, 8
        ),
        *decoders,
        Target("doubt", coded, run_doubt, TOKENS, None, 6),
        Target(
            "body", both, run_body, TOKENS, lambda random: random.choice(make)(random), 6, output=200 << 20
        ),
        Target(
            "salvage",
            both,
            run_salvage,
            TOKENS,
            lambda random: random.choice(make)(random),
            6,
            output=64 << 20,
        ),
    ]
