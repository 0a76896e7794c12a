"""Lay out the pages of the documentation site: ``python docs/stage.py DIR`` (scripts/docs does).

What stands in the repository is taken from there, so that nothing is written twice: the sections of the
README become pages, the other pages are copied, and reference pages are made of the program itself: options
of its parsers, metrics of its table, messages of its source.
"""

from __future__ import annotations

import ast
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from dboxfs.cli.configuration import options_of
from dboxfs.cli.main import COMMANDS, command_parsers
from dboxfs.cli.mount_options import OPTIONS_HELP
from dboxfs.vfs.metrics import GAUGES

ROOT = Path(__file__).resolve().parent.parent
COPIED = (
    "SEMANTICS.md", "GLOSSARY.md", "CHANGELOG.md", "ARCHITECTURE.md", "CONTRIBUTING.md",
    "dboxfs/store/write/PROTOCOL.md", "dboxfs/dbox/FORMAT3.md", "dboxfs/tools/archive/ARCHIVE.md",
    "dboxfs/vfs/CONCURRENCY.md",
)  # fmt: skip
API = ("dboxfs.fsapi", "dboxfs.store", "dboxfs.store.write")
FORMATS = (
    "dboxfs.dbox.format2", "dboxfs.dbox.format3", "dboxfs.dbox.metadata", "dboxfs.dbox.compression",
    "dboxfs.dbox.attachments", "dboxfs.index.base", "dboxfs.index.log", "dboxfs.index.mapindex",
    "dboxfs.index.cachefile",
)  # fmt: skip
_USERS_ERRORS = frozenset(
    {"UsageError", "MountError", "NoSuchStore", "NoDovecot", "NoSuchUser", "Unsupported", "StoreBusy"}
)


def slug(title: str) -> str:
    """The name of a page, and the anchor that Markdown gives its heading."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def sections(text: str) -> Iterator[tuple[str, str]]:
    """The sections of the README: title, text.  The first one has no title."""
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    yield "", parts[0]
    yield from zip(parts[1::2], parts[2::2], strict=True)


def readme_pages() -> dict[str, str]:
    """A page for each section of the README."""
    found = {}
    for title, text in sections((ROOT / "README.md").read_text()):
        name = slug(title) if title else "index"
        found[f"{name}.md"] = (f"# {title}\n" if title else "") + text
    return found


def linked(text: str, pages: set[str]) -> str:
    """Links between files of the repository, and to sections of the README, as links between pages."""

    def link(match: re.Match[str]) -> str:
        target = match[1]
        if target.startswith("#") and f"{target[1:]}.md" in pages:
            return f"]({target[1:]}.md)"
        name, hash_, anchor = target.partition("#")
        if name.endswith("README.md"):
            section = f"{anchor}.md" if f"{anchor}.md" in pages else "index.md"
            return f"]({'packaging.md' if 'packaging' in name else section})"
        page = name.rpartition("/")[2]
        return f"]({page}{hash_}{anchor})" if page in pages else match[0]

    return re.sub(r"\]\(([^)\s]+)\)", link, text)


def options() -> str:
    """Every command with its options."""
    lines = ["# Commands and options", "", "Made of what `--help` says.", ""]
    for name, parser in command_parsers().items():
        usage = parser.format_usage().strip()
        lines += [f"## {name}", "", f"{COMMANDS[name][2]}.", "", "```text", usage, "```", ""]
        lines += ["| option | |", "|---|---|"]
        for action in parser._actions:  # noqa: SLF001 (argparse has no other way to ask)
            if action.help and action.help != "==SUPPRESS==":
                choices = f"{{{','.join(map(str, action.choices))}}}" if action.choices else ""
                metavar = str(action.metavar or choices)
                called = f"{', '.join(action.option_strings)} {metavar}".strip() or action.dest
                lines.append(f"| `{called}` | {cell(action.help)} |")
        lines.append("")
    return "\n".join([*lines, "## Options of a mount", "", "```text", OPTIONS_HELP.rstrip(), "```", ""])


def cell(text: str) -> str:
    """Text of a table's cell."""
    return text.replace("%%", "%").replace("|", "\\|").replace("\n", " ")


def configuration() -> str:
    """The tables of the configuration file."""
    lines = [
        "# Configuration", "",
        "`/etc/dboxfs/dboxfs.toml`, then `~/.config/dboxfs/dboxfs.toml`, then the environment "
        "(`DBOXFS_MOUNT_CACHE_SIZE`), then the command line; what comes later wins. `dboxfs config COMMAND` "
        "shows what is in force, and where each value came from.",
        "", "```toml", "[mount]", 'options = "allow_other,gid=8,fmode=0440"', 'cache-size = "256M"', "```",
        "",
        "| table | keys |", "|---|---|",
    ]  # fmt: skip
    for name, parser in command_parsers().items():
        if keys := options_of(parser):
            lines.append(f"| `[{name}]` | {', '.join(f'`{key}`' for key in keys)} |")
    return "\n".join([*lines, ""])


def metrics() -> str:
    """What `.dboxfs/metrics` tells."""
    where = "`.dboxfs/metrics` of a mount, and `-o metrics=`, in the text format of Prometheus."
    lines = ["# Metrics", "", where, ""]
    lines += ["| metric | what it is |", "|---|---|"]
    lines += [f"| `dboxfs_{name}` | {text} |" for name, text in GAUGES.items()]
    rest = {
        "requests_total{op}": "requests of the kernel",
        "errors_total{op,errno}": "requests that ended with an error",
        "changes_total{kind}": "changes of the store", "files{what}": "what the file layer counts",
        "request_duration_seconds{op,le}": "how long requests take, a histogram",
    }  # fmt: skip
    lines += [f"| `dboxfs_{name}` | {text} |" for name, text in rest.items()]
    lines += ["", "`packaging/grafana-dashboard.json` shows them in Grafana.", ""]
    return "\n".join(lines)


def messages() -> str:
    """Every message of an error that users can make, as the source has it."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / "dboxfs").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            call = node.exc if isinstance(node, ast.Raise) else None
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.args:
                text = shown(call.args[0])
                if call.func.id in _USERS_ERRORS and len(text) > 15:
                    found.setdefault(text, call.func.id)
    lines = [
        "# Messages and what to do", "",
        "What dboxfs says when something is in the way; … stands for a name or a value. Each line says what, "
        "where, and, behind the last semicolon or colon, what to do. `dboxfs doctor [STORE]` looks for most "
        "of it beforehand.", "",
    ]  # fmt: skip
    kinds = {"UsageError": "The command line", "MountError": "The mountpoint, FUSE, or the mount"}
    for title in ("The command line", "The mountpoint, FUSE, or the mount", "The store"):
        lines += [f"## {title}", ""]
        here = [text for text, kind in sorted(found.items()) if kinds.get(kind, "The store") == title]
        lines += [f"* {text}" for text in here]
        lines.append("")
    return "\n".join(lines)


def shown(node: ast.expr) -> str:
    """The text of a message, with … for what is put into it."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
    if isinstance(node, ast.BinOp):
        return shown(node.left) + shown(node.right)
    return ""


def api() -> str:
    """The API, of the docstrings."""
    return "\n".join(["# API", "", *(f"::: {name}\n" for name in API)])


def formats() -> str:
    """The formats, of the docstrings of their codecs."""
    parts = ["# Formats", "", "What is on disk, as the codecs say it. Format 3: [FORMAT3](FORMAT3.md).", ""]
    for name in FORMATS:
        source = (ROOT / (name.replace(".", "/") + ".py")).read_text()
        text = ast.get_docstring(ast.parse(source)) or ""
        parts += [f"## `{name}`", "", "```text", text, "```", ""]
    return "\n".join(parts)


def stage(to: Path) -> None:
    """Write all pages into *to*."""
    pages = readme_pages()
    pages |= {Path(name).name: (ROOT / name).read_text() for name in COPIED}
    pages["packaging.md"] = (ROOT / "packaging/README.md").read_text()
    pages |= {path.name: path.read_text() for path in (ROOT / "docs").glob("*.md")}
    pages |= {"options.md": options(), "configuration.md": configuration(), "metrics.md": metrics()}
    pages |= {"messages.md": messages(), "api.md": api(), "formats.md": formats()}
    shutil.rmtree(to, ignore_errors=True)
    (to / "pages").mkdir(parents=True)
    for name, text in pages.items():
        (to / "pages" / name).write_text(linked(text, set(pages)))
    shutil.copy(ROOT / "docs/extra.css", to / "pages")
    settings = (ROOT / "docs/mkdocs.yml").read_text().replace("@ROOT@", str(ROOT))
    (to / "mkdocs.yml").write_text(settings + "docs_dir: pages\nsite_dir: site\n")


if __name__ == "__main__":
    stage(Path(sys.argv[1]))
