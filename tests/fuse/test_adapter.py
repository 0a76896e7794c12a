"""What the adapter answers to requests that a read-only mount has nothing to do for."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import Any, cast

import pyfuse3
import pytest
from pyfuse3 import FUSEError

from dboxfs.fuse.adapter import READING, WRITING, Adapter
from dboxfs.vfs.file_system import ReadableFileSystem


def adapter() -> Adapter:
    """Of a read-only mount that nothing else asks."""
    return Adapter(cast(ReadableFileSystem, None), {})


@pytest.mark.parametrize("name", ["flush", "fsync", "fsyncdir"])
async def test_nothing_is_to_be_synced_in_a_read_only_mount_and_the_kernel_does_not_ask_again(
    name: str,
) -> None:
    asked = adapter()
    arguments = (pyfuse3.FileHandleT(0),) if name == "flush" else (pyfuse3.FileHandleT(0), False)
    with pytest.raises(FUSEError) as caught:
        await getattr(asked, name)(*arguments)
    assert caught.value.errno == errno.ENOSYS
    assert asked.requests[name] == 1


@pytest.mark.expected_log(".")
@pytest.mark.parametrize("name", READING + WRITING)
async def test_no_request_is_answered_with_another_error_than_the_kernel_s(name: str) -> None:
    """Any other exception would end the daemon: also that of a request that nobody thought to count."""
    asked: Any = adapter()
    asked.requests.clear()
    method = getattr(asked, name)
    count = method.__wrapped__.__code__.co_argcount - 1
    with pytest.raises(FUSEError):
        await method(*[SimpleNamespace(pid=1)] * count)
    assert asked.requests == {name: 1}
