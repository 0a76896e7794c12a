"""A server that fails: what can be repeated is, in bounds, and nothing is written by half."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from msgspec.structs import replace

from dboxfs.fsapi.drivers.object_access import Access
from dboxfs.fsapi.drivers.object_client import LARGE, Objects, connect, may_pass
from tests.fsapi.certificates import make_certificates
from tests.fsapi.s3_server import FAULTS, Answer, FaultyServer, InMemory, endpoint, served

OLD, NEW = os.urandom(100_000), os.urandom(90_000)
RETRIES = 1
TWICE = 3
"""Tries again where a try may also find a connection of another call, which the server has ended."""
PATIENT = Access(timeout=5, retries=TWICE)
HASTY = Access(timeout=0.3, retries=RETRIES)


def calls(store: Objects) -> dict[str, Callable[[], object]]:
    """Each call, on objects of its own; those that read give the same whenever they work."""
    return {
        "head": lambda: store.head("x/head").size,
        "get": lambda: store.get("x/get", 5, 90_000) == OLD[5:90_000],
        "whole": lambda: store.get_whole("x/whole") == OLD,
        "list": lambda: sorted(info.key for info in store.list_all("list")),
        "level": lambda: store.list_level("level")[0],
        "create": lambda: store.put("x/create", NEW, create=True),
        "replace": lambda: store.put("x/replace", NEW, create=False),
        "delete": lambda: store.delete("x/delete"),
    }


WORKS = {
    "head": len(OLD), "get": True, "whole": True, "list": ["list/a", "list/b/c"], "level": ["b"],
    "create": None, "replace": None, "delete": None,
}  # fmt: skip


def fill(store: Objects) -> None:
    for key in ("x/head", "x/get", "x/whole", "x/replace", "x/delete", "list/a", "list/b/c", "level/b/c"):
        store.put(key, OLD, create=False)


def outcome(call: Callable[[], object]) -> object:
    """What came of it; of an error its errno and text."""
    try:
        return call()
    except OSError as error:
        return error.errno, error.strerror


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_passes_is_not_noticed(server: FaultyServer, fault: str) -> None:
    store = connect("s3://bucket", replace(PATIENT, timeout=0.3) if fault in ("stall", "halt") else PATIENT)
    fill(store)
    seen = set()

    def once(number: int, method: str, path: str) -> str | None:
        kind = (
            "delete" if "delete" in path else method + path.partition("?")[0] + path.partition("prefix=")[2]
        )
        first = kind not in seen
        seen.add(kind)
        return fault if first else None

    server.fault = once
    with ThreadPoolExecutor(8) as pool:
        found = dict(zip(WORKS, pool.map(outcome, calls(store).values()), strict=True))
    assert found == WORKS
    there = server.bucket
    assert (there["x/create"], there["x/replace"]) == (NEW, NEW)
    assert "x/delete" not in there


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_stays_is_one_error_after_bounded_tries_and_nothing_is_half_written(
    server: FaultyServer, fault: str
) -> None:
    store = connect("s3://bucket", HASTY)
    fill(store)
    server.asked.clear()
    before = sum(store.cost.requests.values())
    server.fault = lambda number, method, path: fault
    with ThreadPoolExecutor(8) as pool:
        found = dict(zip(WORKS, pool.map(outcome, calls(store).values()), strict=True))
    harmless = {"head", "create", "replace"} if fault in ("cut", "halt") else set()  # answers without a body
    for name, came in found.items():
        if name in harmless:
            assert came == WORKS[name]
            continue
        assert isinstance(came, tuple), name
        assert came[0] == errno.EIO
        assert "\n" not in came[1]
        assert (
            f"answers {fault}" in came[1]
            or "no answer in time" in came[1]
            or "middle of the answer" in came[1]
        )
    most = (len(WORKS) + 1) * (RETRIES + 1)  # a create also looks whether it has happened
    tried = sum(store.cost.requests.values()) - before
    assert len(server.asked) <= tried <= most  # a try on a connection that has ended does not come here
    there = server.bucket
    assert there.get("x/create", NEW) == NEW
    assert there["x/replace"] in (OLD, NEW)
    assert there.get("x/delete", OLD) == OLD


def test_a_large_put_has_more_time(server: FaultyServer) -> None:
    store = connect("s3://bucket", Access(timeout=0.2, retries=0))
    upstream = server.upstream

    def slow(method: str, path: str, headers: object, body: bytes) -> object:
        server.over.wait(0.5)
        return upstream(method, path, headers, body)  # type: ignore[arg-type]

    server.upstream = slow  # type: ignore[assignment]
    with pytest.raises(OSError, match="no answer in time"):
        store.put("small", b"x", create=False)
    data = bytes(LARGE + 1)
    store.put("large", data, create=False)
    assert upstream.objects["large"] == data  # type: ignore[attr-defined]


def test_what_does_not_pass_is_not_tried_again() -> None:
    answer = "Server returned non-2xx status code: {}: <Error>"
    assert all(may_pass(answer.format(status), errno.EIO) for status in (408, 429, 500, 502, 503, 504))
    assert not any(may_pass(answer.format(status), errno.EIO) for status in (400, 404, 409, 411, 416))
    assert not may_pass("InvalidCertificate(\n    UnknownIssuer,\n)", errno.EIO)
    assert not may_pass("status code: 500", errno.EACCES)


def test_a_certificate_is_trusted_if_its_ca_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: FaultyServer
) -> None:
    ca_file, certificate = make_certificates(tmp_path)
    (tmp_path / "empty").write_bytes(b"")
    with served(certificate=certificate) as secure:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint(secure, scheme="https"))
        store = connect("s3://bucket", PATIENT)
        with pytest.raises(
            OSError, match=r"certificate is not trusted \(UnknownIssuer\); --ca-file FILE"
        ) as caught:
            store.put("a", OLD, create=True)
        assert caught.value.errno == errno.EIO
        assert store.cost.requests["PUT"] == 1
        assert secure.asked == []
        connect("s3://bucket", Access(ca_file)).put("a", OLD, create=True)
        monkeypatch.setenv("AWS_CA_BUNDLE", ca_file)
        assert connect("s3://bucket", PATIENT).get_whole("a") == OLD
        with pytest.raises(OSError, match="it has no certificate"):
            connect("s3://bucket", Access(str(tmp_path / "empty")))
        with pytest.raises(FileNotFoundError):
            connect("s3://bucket", Access(str(tmp_path / "none")))


def test_a_bucket_that_is_not_there_is_named_as_that(server: FaultyServer) -> None:
    store = connect("s3://none", PATIENT)
    for call in (
        lambda: store.put("a", NEW, create=True),
        lambda: store.get_whole("a"),
        lambda: list(store.list_all("a")),
    ):
        assert outcome(call) == (errno.ENOENT, "there is no such bucket")
    assert len(server.asked) == 3


class _AsAzure(InMemory):
    """A deleted object has another etag, says this server."""

    def __call__(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        found = super().__call__(method, path, headers, body)
        return Answer(412) if found.status == 404 and "if-match" in headers else found


def test_a_read_of_an_object_that_was_deleted_says_so_whatever_the_server_says(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(_AsAzure()) as azure:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint(azure))
        store = connect("s3://bucket", PATIENT)
        store.put("a", OLD, create=True)
        etag = store.head("a").etag
        assert store.get("a", 0, 5, etag) == OLD[:5]
        store.put("a", NEW, create=False)
        replaced = outcome(lambda: store.get("a", 0, 5, etag))
        assert isinstance(replaced, tuple)
        assert replaced[0] == errno.ESTALE
        store.delete("a")
        with pytest.raises(FileNotFoundError):
            store.get("a", 0, 5, etag)
