"""Operations through Dovecot: IMAP sessions and LMTP deliveries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from tests.stress import texts
from tests.stress.clients import Fault, deliver, gone, soon, visible, words
from tests.stress.journal import Item
from tests.stress.mounting import FLAGS, KEYWORDS
from tests.stress.texts import Text
from tests.stress.worker import Own, Worker


def kinds(worker: Worker) -> list[tuple[Callable[[], None], int]]:
    """All operations, with how often each is wanted."""
    does = Serving(worker)
    return [
        (does.imap_append, 6),
        (does.lmtp, 5),
        (does.store, 5),
        (does.imap_copy, 4),
        (does.imap_move, 4),
        (does.expunge, 5),
        (does.rename_mailbox, 1),
    ]


class Serving:
    """The operations of one worker."""

    def __init__(self, worker: Worker) -> None:
        self.w = worker
        self.rng = worker.rng

    def imap_append(self) -> None:
        w = self.w
        store, box, ident = w.store(), w.box(), w.ident()
        flags = words(self.rng.choice(FLAGS), self.rng.choice(KEYWORDS))
        item = Item(store, box, "", str(Text("", (ident,))), flags)
        data = texts.first(ident, w.size()).replace(b"\n", b"\r\n")
        with w.operation("imap_append", [], [item]):
            uid = w.sessions[store].append(box, data, flags)
        w.own.append(Own(item, uid))

    def lmtp(self) -> None:
        """A delivery, whose text is what the server made of it."""
        w = self.w
        store, ident = w.store(), w.ident()
        server = w.config.servers[store]
        data = texts.first(ident, w.size())
        item = Item(store, "INBOX", "", str(Text("", (ident,))))
        with w.operation("lmtp", [], [item]) as end:
            deliver(server.lmtp, server.user, data.replace(b"\n", b"\r\n"))
            uids = w.sessions[store].find("INBOX", ident)
            if len(uids) != 1:
                raise Fault(f"{ident} was delivered, and is there {len(uids)} times")
            stored = w.sessions[store].fetch("INBOX", uids[0])
            item = replace(item, text=str(texts.parse(stored)))
            end.after = [item]
        w.own.append(Own(item, uids[0]))

    def store(self) -> None:
        w = self.w
        if (own := w.some()) is None:
            return
        uid = w.uid(own)
        flags = words(self.rng.choice(FLAGS), self.rng.choice(KEYWORDS))
        item = replace(own.item, flags=flags)
        with w.operation("store", [own.item], [item]):
            w.sessions[own.item.store].store(own.item.box, uid, flags)
        own.item, own.flagged = item, None

    def imap_copy(self) -> None:
        w = self.w
        if (own := w.some()) is None:
            return
        uid = w.uid(own)
        item = replace(own.item, box=w.box(), name="")
        with w.operation("imap_copy", [], [item]):
            new = w.sessions[own.item.store].copy(own.item.box, uid, item.box)
        w.own.append(Own(item, new))

    def imap_move(self) -> None:
        w = self.w
        if (own := w.loose()) is None:
            return
        uid = w.uid(own)
        box = self.rng.choice(
            [box for box in ("INBOX", "Work", f"Box{w.config.worker}") if box != own.item.box]
        )
        item = replace(own.item, box=box, name="")
        with w.operation("imap_move", [own.item], [item]):
            new = w.sessions[own.item.store].move(own.item.box, uid, box)
        self._vanishes(own)
        w.change(own, item, None, new)

    def expunge(self) -> None:
        w = self.w
        if (own := w.loose()) is None:
            return
        uid = w.uid(own)
        session = w.sessions[own.item.store]
        marked = replace(own.item, flags=words(own.item.flags, r"\Deleted"))
        with w.operation("deleted", [own.item], [marked]):
            session.store(own.item.box, uid, marked.flags)
        own.item = marked
        with w.operation("expunge", [marked], []):
            session.expunge(own.item.box, uid)
        w.own.remove(own)
        self._vanishes(own)
        if uid in session.find(own.item.box, Text.of(own.item.text).segments[0]):
            raise Fault(f"{own.item}: uid {uid} was expunged, and is there")

    def _vanishes(self, own: Own) -> None:
        """Sometimes: a name that the mounts had shown goes there, too."""
        if self.rng.random() < 0.3:
            for mount in own.seen:
                path = self.w.directory(mount, own.item.box) / own.item.name
                self.w.delayed(soon(f"{path}, removed by Dovecot", partial(gone, path)))

    def rename_mailbox(self) -> None:
        """The worker's own mailbox gets another name, and its old one back."""
        w = self.w
        store = w.store()
        box = f"Box{w.config.worker}"
        inside = [own for own in w.own if (own.item.store, own.item.box) == (store, box)]
        for old, new in ((box, f"{box}r"), (f"{box}r", box)):
            before = [own.item for own in inside]
            after = [replace(item, box=new) for item in before]
            with w.operation("rename_mailbox", before, after):
                w.sessions[store].rename(old, new)
            for number, mount in enumerate(w.config.mounts):
                if mount.store == store:  # a write into it before that would be refused, rightly
                    path = w.directory(number, new)
                    w.delayed(soon(f"{path}, renamed by Dovecot", partial(visible, path)))
            for own, item in zip(inside, after, strict=True):
                w.change(own, item, None, own.uid)
