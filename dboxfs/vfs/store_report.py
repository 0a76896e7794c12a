"""The files of the control directory about one store: ``stats.json``, ``metrics``, ``store.json`` and
``locks`` (:mod:`dboxfs.vfs.control`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import trio

from dboxfs import __version__
from dboxfs.store import Mailbox, Store
from dboxfs.store.mail_settings import mail_location
from dboxfs.util.held_locks import held_locks
from dboxfs.vfs.control import Maker
from dboxfs.vfs.metrics import health, metrics
from dboxfs.vfs.observed import Observed


class StoreReport:
    """Makes the files.

    :param requests: the counters of the kernel's requests, by operation.
    :ivar more: functions that give further parts of stats.json.
    :ivar view: the name of the view.
    :ivar mounted_at: seconds since the epoch.
    """

    def __init__(self, store: Store, requests: Mapping[str, int], observed: Observed) -> None:
        self._store = store
        self._observed = observed
        self._requests = requests
        self.more: list[Callable[[], Mapping[str, object]]] = []
        self._started = trio.current_time()
        self.mounted_at = int(time.time())
        self.view = "eml"

    def makers(self) -> dict[bytes, Maker]:
        """The files, by name."""
        return {
            b"stats.json": self._stats, b"store.json": self._describe, b"metrics": self.metrics,
            b"locks": held_locks,
        }  # fmt: skip

    def metrics(self) -> str:
        """The content of ``metrics``."""
        return metrics(self._counters(), self._observed)

    def _stats(self) -> dict[str, object]:
        counters = self._counters()
        durations = {"durations_by_powers_of_two_ns": self._observed.counts()}
        return {"health": health(counters, self._observed), **counters, **durations}

    def _counters(self) -> dict[str, object]:
        store = self._store
        more = {key: value for part in self.more for key, value in part().items()}
        boxes = [folder.mailbox for folder in store.folders.values() if folder.mailbox is not None]
        return {
            "version": __version__,
            "uptime_seconds": round(trio.current_time() - self._started, 3),
            "requests": dict(self._requests),
            "mailboxes": len(boxes),
            "messages": sum(len(box) for box in boxes),
            "messages_not_looked_at_yet": sum(box.facts.unknown for box in boxes),
            "scans_running": sum(box.scanning for box in boxes),
            **_progress(boxes),
            "brought_ahead": store.ahead.stats(),
            **more,
            "location_table": store.records.stats(),
            "size_table": store.sizes.stats() if store.sizes is not None else None,
            "damaged_messages": store.damaged_messages,
            "index_errors": len(store.index_errors),
            "refreshes": store.refreshes,
            "directories_watched": store.changes.watches,
            "files": store.fs.stats(),
        }

    def _describe(self) -> dict[str, object]:
        store, location = self._store, self._store.location
        return {
            "format": location.kind.value,
            "dbox_version": store.dbox_version,
            "mail_location": mail_location(location),
            "view": self.view,
            "root": location.root,
            "index": location.index,
            "control": location.control,
            "alt": location.alt,
            "attachments": location.attachments,
            "folders": [
                {
                    "mailbox": store.display_name(folder),
                    "storage_name": folder.name.encode("utf-8", "backslashreplace").decode(),
                    "selectable": folder.mailbox is not None,
                    **({} if folder.mailbox is None else _mailbox(folder.mailbox)),
                    "error": store.index_errors.get(folder.name),
                }
                for folder in sorted(store.folders.values(), key=lambda folder: folder.name)
                if folder.parent is not None
            ],
        }


def _progress(boxes: list[Mailbox]) -> dict[str, object]:
    """The speed of the running scans, and the seconds that they still need at this speed."""
    running = [box for box in boxes if box.scanning]
    rate = sum(box.scan_rate for box in running)
    left = sum(box.facts.unknown for box in running)
    return {
        "messages_scanned_per_second": round(rate, 1),
        "scan_seconds_left": round(left / rate, 1) if rate else None,
    }


def _mailbox(box: Mailbox) -> dict[str, object]:
    return {
        "guid": box.guid.hex() if box.guid is not None else None,
        "uidvalidity": box.uid_validity,
        "uidnext": box.uid_next,
        "messages": len(box),
        "unseen": box.unseen,
        "highestmodseq": box.highest_modseq,
    }
