"""Addresses that a server listens on, as text."""

from __future__ import annotations

import ipaddress
import os

from msgspec import Struct

_UNIX = "unix:"


class Address(Struct, frozen=True):
    """An address to listen on.

    :ivar host: an IP address; empty: ``path`` is a Unix socket.
    """

    host: str
    port: int
    path: str = ""

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        return not self.host or ipaddress.ip_address(self.host).is_loopback

    def __str__(self) -> str:
        if not self.host:
            return _UNIX + self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """``PORT``, ``ADDRESS:PORT``, ``[ADDRESS]:PORT``, ``unix:PATH``.

    :raises ValueError: *text* has none of these forms.
    """
    if text.startswith(_UNIX):
        path = text.removeprefix(_UNIX)
        if not path:
            raise ValueError(text)
        return Address("", 0, os.path.abspath(os.path.expanduser(path)))
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
        raise ValueError(text)
    return Address(str(ipaddress.ip_address(host)) if host else "127.0.0.1", int(port))
