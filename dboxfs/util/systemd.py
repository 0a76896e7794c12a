"""Messages of a service to systemd (sd_notify(3)): lines to the socket in ``NOTIFY_SOCKET``."""

from __future__ import annotations

import os
import socket


def notify(*lines: str) -> bool:
    """Send lines such as ``READY=1`` to the service manager; False: there is none, or it does not listen."""
    name = os.environ.get("NOTIFY_SOCKET", "")
    if not name:
        return False
    address = "\0" + name[1:] if name.startswith("@") else name
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection:
        try:
            connection.sendto("\n".join(lines).encode("utf-8", "backslashreplace"), address)
        except OSError:
            return False
    return True


def watchdog_seconds() -> float | None:
    """The interval at which the service manager expects a message, in seconds; None: it expects none."""
    usec, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not usec.isdigit() or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 2e6
