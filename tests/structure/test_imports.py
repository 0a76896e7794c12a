"""Each module can be imported first: what modules and packages run at their import has no circle.

``import a.b.c`` runs ``a``, ``a.b`` and ``a.b.c``, so a module stands above the packages of what it imports,
too, except those that it is in itself.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PACKAGE = "dboxfs"


def _modules() -> dict[str, Path]:
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _at_import(body: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports that run when a module is imported: not those of functions, and of type checkers."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.dump(node.test):
            yield from _at_import(node.body + node.orelse)
        elif isinstance(node, ast.Try):
            yield from _at_import(node.body + node.orelse + node.finalbody)
        elif isinstance(node, ast.With | ast.ClassDef):
            yield from _at_import(node.body)


def _imports(source: str) -> set[str]:
    """The names that *source* imports; of ``from a import b`` both ``a`` and ``a.b``."""
    found = set()
    for node in _at_import(ast.parse(source).body):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif node.module is not None and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def _runs(name: str, source: str, modules: set[str]) -> set[str]:
    """The modules that run because *name* is imported: those that it imports, and the packages of these."""
    own = {name.rsplit(".", cut)[0] for cut in range(name.count(".") + 1)}
    wanted = _imports(source)
    packages = {want.rsplit(".", cut)[0] for want in wanted for cut in range(want.count(".") + 1)}
    return (packages & modules) - own


def circle(runs: dict[str, set[str]]) -> list[str]:
    """A circle, beginning and ending with one module; empty: there is none."""
    done: set[str] = set()
    way: list[str] = []

    def walk(name: str) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        way.append(name)
        for other in sorted(runs.get(name, ())):
            if found := walk(other):
                return found
        done.add(way.pop())
        return []

    return next((found for name in sorted(runs) if (found := walk(name))), [])


def test_no_import_goes_round_in_a_circle_so_each_module_can_be_imported_first() -> None:
    modules = _modules()
    assert len(modules) > 300
    runs = {name: _runs(name, path.read_text(), set(modules)) for name, path in modules.items()}
    assert " -> ".join(circle(runs)) == ""


def test_a_circle_through_a_package_is_seen() -> None:
    sources = {"a": "", "a.one": "", "a.one.x": "from a.two.y import z", "a.two": "import a.one.x"}
    sources["a.two.y"] = "def f():\n    import a.one.x"
    runs = {name: _runs(name, source, set(sources)) for name, source in sources.items()}
    assert circle(runs) == ["a.one.x", "a.two", "a.one.x"]
    assert circle(runs | {"a.two": set()}) == []
