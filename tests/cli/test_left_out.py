"""Messages that a copy leaves out are told, a line each: which one, and why."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dboxfs.cli.main import main
from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store import Kind, Location
from dboxfs.store.write import Neighbour, NewMessage, StoreWriter, WriteOptions, init_store

LIKE_GZIP = b"\x1f\x8b text"


async def made(root: Path, text: bytes) -> Path:
    """An sdbox with two messages, the second one with this text."""
    location = Location(Kind.SDBOX, str(root))
    async with FileSystem(ThreadsDriver(2)) as fs:
        await init_store(fs, location)
        writer = StoreWriter(fs, location, root.stat(), WriteOptions(Neighbour.ALONE))
        await writer.save("INBOX", [NewMessage(b"Subject: a\n\na\n"), NewMessage(text)])
    return root


async def told(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, list[str]]:
    """The exit status of a command, and its lines on stderr."""
    status = await trio.to_thread.run_sync(main, [str(word) for word in words])
    return status, capsys.readouterr().err.splitlines()


async def test_a_header_without_an_end_has_no_place_in_an_mbox(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = await made(tmp_path / "s", b"X" * (17 << 20))
    status, lines = await told(capsys, "export", "-q", root, tmp_path / "new", "--format", "mbox")
    assert status == 1, lines
    assert [line for line in lines if "INBOX: uid 2" in line and "its header has more than " in line], lines


async def test_a_text_like_a_compressed_one_is_not_encrypted_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (tmp_path / "key").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "public").write_bytes(public)
    (tmp_path / "tree/INBOX").mkdir(parents=True)
    (tmp_path / "tree/INBOX/1.eml").write_bytes(LIKE_GZIP)
    status, lines = await told(
        capsys, "import", "-q", tmp_path / "tree", tmp_path / "new", "--format", "sdbox", "--encrypt",
        tmp_path / "public", "--crypt-key", tmp_path / "key",
    )  # fmt: skip
    assert status == 1, lines
    assert [
        line for line in lines if "begins like a compressed message; with --compress zstd it can" in line
    ], lines
