"""The counters of a mount in the text format of Prometheus (version 0.0.4), and its health, for people.

Neither contains text of a message, or a name of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct

from dboxfs.vfs.observed import Observed

GAUGES = {
    "uptime_seconds": "seconds since the mount was made",
    "mailboxes": "mailboxes of the store",
    "messages": "messages of the store",
    "messages_not_looked_at_yet": "messages whose size nobody has read yet",
    "damaged_messages": "messages that can't be read",
    "index_errors": "mailboxes whose index can't be read",
    "directories_watched": "directories that inotify watches",
    "refreshes": "how often mailboxes were read again",
}
"""Numbers of stats.json -> their meaning."""


class _Family(Struct, frozen=True):
    """Samples of one name: (labels, value) of each."""

    name: str
    kind: str
    text: str
    samples: Iterable[tuple[str, float]]

    def lines(self) -> Iterable[str]:
        yield f"# HELP dboxfs_{self.name} {self.text}"
        yield f"# TYPE dboxfs_{self.name} {self.kind}"
        for labels, value in self.samples:
            yield (
                f"dboxfs_{self.name}{labels} {value:g}"
                if value % 1
                else f"dboxfs_{self.name}{labels} {value:.0f}"
            )


def metrics(stats: Mapping[str, object], observed: Observed) -> str:
    """The text of the metrics.

    :param stats: the content of stats.json.
    """
    families = [
        _Family(name, "gauge", text, [("", _number(stats.get(name)))]) for name, text in GAUGES.items()
    ]
    families += [
        _Family("requests_total", "counter", "requests of the kernel", _by("op", stats.get("requests"))),
        _Family("errors_total", "counter", "requests that ended with an error", _errors(observed)),
        _Family("changes_total", "counter", "changes of the store", _by("kind", stats.get("written"))),
        _Family("files", "gauge", "what the file layer counts", _by("what", stats.get("files"))),
    ]
    lines = [line for family in families for line in family.lines()]
    return "\n".join([*lines, *_durations(observed), ""])


def _by(label: str, values: object) -> list[tuple[str, float]]:
    if not isinstance(values, Mapping):
        return []
    return [
        (f'{{{label}="{name}"}}', float(value))
        for name, value in values.items()
        if isinstance(value, int | float)
    ]


def _errors(observed: Observed) -> list[tuple[str, float]]:
    return [(f'{{op="{op}",errno="{name}"}}', count) for (op, name), count in sorted(observed.errors.items())]


def _durations(observed: Observed) -> Iterable[str]:
    name = "dboxfs_request_duration_seconds"
    yield f"# HELP {name} how long requests take"
    yield f"# TYPE {name} histogram"
    for op, buckets, total in observed.histogram():
        for end, count in buckets:
            yield f'{name}_bucket{{op="{op}",le="{end:.9g}"}} {count}'
        yield f'{name}_bucket{{op="{op}",le="+Inf"}} {buckets[-1][1]}'
        yield f'{name}_sum{{op="{op}"}} {total:.9f}'
        yield f'{name}_count{{op="{op}"}} {buckets[-1][1]}'


def health(stats: Mapping[str, object], observed: Observed) -> dict[str, object]:
    """A summary: damage, errors, latencies in ms, and hit rates of the caches."""
    damaged, unreadable = _number(stats.get("damaged_messages")), _number(stats.get("index_errors"))
    errors = observed.by_errno()
    return {
        "ok": not (damaged or unreadable or errors),
        "damaged_messages": int(damaged),
        "mailboxes_that_cannot_be_read": int(unreadable),
        "errors": errors,
        "latency_ms": observed.latencies(),
        "hit_rates": _hit_rates(stats),
    }


def _hit_rates(stats: Mapping[str, object]) -> dict[str, float]:
    """The share of hits (0 to 1) of each cache that was used."""
    files = stats.get("files")
    tables = {
        "records": stats.get("location_table"),
        "pages": {
            name: files.get(f"cache_{name}") for name in ("hits", "misses")
        } if isinstance(files, Mapping) else None,
    }  # fmt: skip
    found = {}
    for name, table in tables.items():
        if isinstance(table, Mapping):
            hits, misses = _number(table.get("hits")), _number(table.get("misses"))
            if hits + misses:
                found[name] = round(hits / (hits + misses), 3)
    return found


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
