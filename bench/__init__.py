"""How fast the mount is, beside what else a mailstore's owner could use.

``scripts/bench`` runs :mod:`bench.__main__`.  The parts, in the order in which a run uses them:

* :mod:`bench.mail`: the messages, the same in every run,
* :mod:`bench.stores`, :mod:`bench.giant`: stores of them, made by the real Dovecot (the giant: see there),
* :mod:`bench.subjects`: what is measured: mounts, plain files; ``floor.py`` and ``passthrough.c`` are peers,
* :mod:`bench.clients`: one measured command, caches, counters,
* :mod:`bench.run`: rounds in which all subjects take turns,
* :mod:`bench.single`: scenarios that are no walk over all messages: one large message, a million small ones,
* :mod:`bench.latency`: scenarios on slow storage, which :mod:`bench.slow` mounts,
* :mod:`bench.hotset`: what of the daemon's cache survives a scan, without a mount,
* :mod:`bench.goals`: the rows of the answer, with the goals,
* :mod:`bench.report`, :mod:`bench.plot`: table, JSON, picture.

:mod:`bench.views`, :mod:`bench.restores` and :mod:`bench.site` are programs of their own.

Nothing in here is imported by ``dboxfs``.
"""
