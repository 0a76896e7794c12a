"""IMAP sessions that stay open while the store is written through the mount."""

from __future__ import annotations

import re
import threading
import time

from tests.live.dovecot import Account

_NOTICE = re.compile(rb"\* (\d+) (EXISTS|EXPUNGE|FETCH)")


class Idle(threading.Thread):
    """A session in IDLE (RFC 2177) that counts what it is told.  Use it as a context manager.

    :ivar count: how many messages there are, by the notices alone.
    :ivar notices: how many there were of each kind.
    """

    def __init__(self, account: Account, mailbox: str = "INBOX") -> None:
        super().__init__(daemon=True)
        self._client = account.imap()
        self.count = int(self._client.select(mailbox)[1][0] or 0)
        self.notices = {"EXISTS": 0, "EXPUNGE": 0, "FETCH": 0}
        self.wrong: list[str] = []

    def __enter__(self) -> Idle:
        self._client.send(b"I IDLE\r\n")
        assert self._client.readline().startswith(b"+ ")
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.send(b"DONE\r\n")
        self.join(20)
        self._client.shutdown()

    def run(self) -> None:
        while (line := self._client.readline()) and not line.startswith(b"I "):
            found = _NOTICE.match(line)
            if found is None:
                continue
            number, kind = int(found[1]), found[2].decode()
            self.notices[kind] += 1
            if kind == "EXISTS":
                if number < self.count:
                    self.wrong.append(f"{number} EXISTS after {self.count}")
                self.count = number
            elif kind == "EXPUNGE":
                if not 1 <= number <= self.count:
                    self.wrong.append(f"{number} EXPUNGE of {self.count}")
                self.count -= 1

    def hears(self, count: int, seconds: float = 15.0) -> bool:
        """Whether soon there are *count* messages, as far as this session was told."""
        deadline = time.monotonic() + seconds
        while self.count != count and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.count == count
