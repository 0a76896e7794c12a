"""Metrics over HTTP: what is answered, to whom, and how much of it at a time."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from dboxfs.util.addresses import Address
from dboxfs.util.text_endpoint import CLIENT_SECONDS, CONNECTIONS, listen, serve

TEXT = "some_metric 1\n"


@asynccontextmanager
async def served(address: Address) -> AsyncIterator[None]:
    listener = listen(address)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, listener, address, lambda: TEXT)
        yield
        nursery.cancel_scope.cancel()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def asked(path: Path, request: bytes) -> bytes:
    async with await trio.open_unix_socket(path) as stream:
        await stream.send_all(request)
        answer = b""
        while piece := await stream.receive_some():
            answer += piece
        return answer


async def test_curl_gets_the_text_on_a_port_and_on_a_socket_of_its_owner_alone(tmp_path: Path) -> None:
    path, port = tmp_path / "s", free_port()
    unix, tcp = Address("", 0, str(path)), Address("127.0.0.1", port)
    ways: list[list[str]] = [
        ["--unix-socket", str(path), "http://x/metrics"],
        [f"http://127.0.0.1:{port}/metrics?x"],
    ]
    async with served(unix), served(tcp):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        for way in ways:
            done = await trio.run_process(["curl", "-sS", "-i", *way], capture_stdout=True)
            head, _, body = done.stdout.decode().partition("\r\n\r\n")
            assert head.startswith("HTTP/1.1 200 ")
            assert "text/plain; version=0.0.4; charset=utf-8" in head
            assert body == TEXT
    assert not path.exists()
    refused = await trio.run_process(["curl", "-sS", *ways[1]], check=False, stderr=subprocess.DEVNULL)
    assert refused.returncode == 7


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", b"405"),
        (b"GET /metrics HTTP/1.0\r\n\r\n", b"200"),
        (b"HEAD /metrics HTTP/1.0\r\n\r\n", b"200"),
    ],
)
async def test_only_one_path_can_be_read(tmp_path: Path, request_: bytes, status: bytes) -> None:
    path = tmp_path / "s"
    async with served(Address("", 0, str(path))):
        answer = await asked(path, request_)
        assert answer.split(b" ")[1] == status
        assert answer.endswith(TEXT.encode()) == (status == b"200" and request_.startswith(b"GET"))


@pytest.mark.parametrize("nonsense", [b"\0\0\r\n\r\n", b"GET / HTTP/9\r\n\r\n", b"x" * 200_000])
async def test_nonsense_ends_its_connection_and_nothing_else(tmp_path: Path, nonsense: bytes) -> None:
    path = tmp_path / "s"
    async with served(Address("", 0, str(path))):
        with trio.move_on_after(30) as scope:
            with contextlib.suppress(trio.BrokenResourceError):  # it has more to send than anybody reads
                assert await asked(path, nonsense) == b""
        assert not scope.cancelled_caught
        assert (await asked(path, b"GET /metrics HTTP/1.0\r\n\r\n")).endswith(TEXT.encode())


async def test_clients_that_say_nothing_are_sent_away_and_the_next_one_gets_its_turn(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    path = tmp_path / "s"
    async with served(Address("", 0, str(path))):
        silent = [await trio.open_unix_socket(path) for _ in range(CONNECTIONS)]
        await trio.testing.wait_all_tasks_blocked(0.1)
        before = trio.current_time()
        autojump_clock.autojump_threshold = 0.1
        assert (await asked(path, b"GET /metrics HTTP/1.0\r\n\r\n")).endswith(TEXT.encode())
        assert CLIENT_SECONDS - 1 <= trio.current_time() - before <= CLIENT_SECONDS + 1
        for one in silent:
            assert await one.receive_some() == b""
            await one.aclose()


def test_a_socket_that_a_dead_process_has_left_is_replaced_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "s"
    address = Address("", 0, str(path))
    listen(address).close()
    assert path.exists()
    with listen(address), pytest.raises(OSError, match="Address already in use"):
        listen(address)
    path.unlink()
    path.write_text("mail")
    with pytest.raises(FileExistsError):
        listen(address)
    assert path.read_text() == "mail"
    assert os.listdir(tmp_path) == ["s"]
