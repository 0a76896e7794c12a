"""Rules of structure that no linter has: each function gives what breaks one, a line each.

``scripts/lint`` runs them all (``python -m tests.structure``).
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import grimp

LONGEST_MODULE = 450
"""Lines of a module, at most."""

PAGES = (
    "README.md",
    "SEMANTICS.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "GLOSSARY.md",
    "dboxfs/store/write/PROTOCOL.md",
    "docs/use.md",
    "docs/as-a-library.md",
)
"""Pages that name modules and classes."""

_CODE = re.compile(r"`([^`\n]+)`")
_FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
_PATH = re.compile(r"[\w.]+(?:/[\w.]*)+|\w+\.(?:py|md)")
_MODULE_IN_TEXT = re.compile(r"``([\w/]+\.(?:py|md))``")
_REFERENCE = re.compile(r":(?:class|func|meth|mod|data|attr):`~?(dboxfs[\w.]+)`")
_POINTER = re.compile(r'"""See the module')
_CLASS_MEMBER = re.compile(r"([A-Z][a-z]\w*)\.(\w+)")
_DIAGRAM_FOLDER = re.compile(r"(?:^|[ +-])([a-z_]+)/(?=\s)")


def modules(root: Path) -> list[Path]:
    """Every module of the program below *root*."""
    return sorted((root / "dboxfs").rglob("*.py"))


def long_modules(root: Path, limit: int = LONGEST_MODULE) -> list[str]:
    """Modules of more than *limit* lines."""
    found = []
    for path in modules(root):
        name, lines = str(path.relative_to(root)), len(path.read_text().splitlines())
        if lines > limit:
            found.append(f"{name}: {lines} lines, at most {limit}: cut it by what its parts are")
    return found


def import_circles(package: str = "dboxfs") -> list[str]:
    """Modules that import each other, directly or by way of others."""
    graph = grimp.build_graph(package, cache_dir=None)
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    return [f"import circle: {', '.join(sorted(circle))}" for circle in circles(imports)]


def circles(imports: Mapping[str, Iterable[str]]) -> list[set[str]]:
    """The strongly connected parts of a graph that have more than one member."""
    return [
        group for group in _groups(imports) if len(group) > 1 or any(name in imports[name] for name in group)
    ]


def _groups(imports: Mapping[str, Iterable[str]]) -> list[set[str]]:
    """Kosaraju: the order in which a walk ends, then walks against the arrows in the opposite order."""
    order: list[str] = []
    seen: set[str] = set()
    for start in sorted(imports):
        order += _walk(start, imports, seen)
    back: dict[str, list[str]] = defaultdict(list)
    for name, others in imports.items():
        for other in others:
            back[other].append(name)
    seen = set()
    walks = (set(_walk(start, back, seen)) for start in reversed(order))
    return [group for group in walks if group]


def _walk(start: str, arrows: Mapping[str, Iterable[str]], seen: set[str]) -> list[str]:
    """What can be reached from *start* and was not *seen*, each behind what it reaches."""
    ended: list[str] = []
    if start in seen:
        return ended
    seen.add(start)
    todo = [(start, iter(sorted(arrows.get(start, ()))))]
    while todo:
        name, others = todo[-1]
        for other in others:
            if other not in seen:
                seen.add(other)
                todo.append((other, iter(sorted(arrows.get(other, ())))))
                break
        else:
            todo.pop()
            ended.append(name)
    return ended


def ambiguous_names(root: Path) -> list[str]:
    """Public classes of one name in two modules, and constants of one name with two meanings.

    A constant without an underscore has one place; one with an underscore may stand in several modules if
    its value is the same.  Numbers only: a pattern or a struct that is called ``_HEADER`` is that of its
    module's format.
    """
    classes: dict[str, list[str]] = defaultdict(list)
    constants: dict[str, dict[str, str]] = defaultdict(dict)
    for path in modules(root):
        where = str(path.relative_to(root))
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                classes[node.name].append(where)
            for name, value in _numbers(node):
                constants[name][where] = value
    found = [
        f"class {name} means {len(places)} things: {', '.join(places)}"
        for name, places in classes.items()
        if len(places) > 1
    ]
    for name, values in constants.items():
        if len(values) > 1 and (not name.startswith("_") or len(set(values.values())) > 1):
            found.append(f"constant {name} means {len(values)} things: {', '.join(values)}")
    return sorted(found)


def _numbers(node: ast.stmt) -> Iterable[tuple[str, str]]:
    """The constants that a statement of a module makes, if they are made of numbers."""
    if isinstance(node, ast.AnnAssign):
        targets: list[ast.expr] = [node.target]
    elif isinstance(node, ast.Assign):
        targets = node.targets
    else:
        return
    if node.value is None or not all(
        isinstance(part, ast.BinOp | ast.UnaryOp | ast.operator | ast.unaryop | ast.Tuple | ast.Load)
        or (isinstance(part, ast.Constant) and isinstance(part.value, int | float))
        for part in ast.walk(node.value)
    ):
        return
    for target in targets:
        if isinstance(target, ast.Name) and target.id.isupper():
            yield target.id, ast.unparse(node.value)


def stale_pages(root: Path, pages: Iterable[str] = PAGES) -> list[str]:
    """What a page names in code type and the tree doesn't have: a path, a module, a member of a class."""
    tree = _Tree(root)
    found = []
    for page in pages:
        text = _FENCE.sub("", (root / page).read_text())
        for line, words in enumerate(text.splitlines(), 1):
            for quoted in _CODE.findall(words):
                if (wrong := tree.is_wrong(quoted, (root / page).parent)) is not None:
                    found.append(f"{page}:{line}: `{quoted}`: {wrong}")
    return found


def stale_docstrings(root: Path) -> list[str]:
    """Docstrings that only point to the module's, and modules that a comment or docstring names and that are
    not there: as ``name.py``, or by a reference.
    """
    tree = _Tree(root)
    found = []
    for path in modules(root):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if _POINTER.search(line):
                found.append(f"{path.relative_to(root)}:{number}: a docstring that only points elsewhere")
            names = [name for name in _MODULE_IN_TEXT.findall(line) if not tree.has_path(name, path.parent)]
            names += [name for name in _REFERENCE.findall(line) if not tree.has_dotted(name)]
            found += [f"{path.relative_to(root)}:{number}: {name} is not there" for name in names]
    return found


def stale_diagram(root: Path, page: str = "ARCHITECTURE.md") -> list[str]:
    """Packages that the first diagram of a page leaves out, or that it has and the tree hasn't."""
    text = (root / page).read_text()
    diagram = text.split("```")[1]
    drawn = set(_DIAGRAM_FOLDER.findall(diagram))
    there = {path.parent.name for path in (root / "dboxfs").glob("*/__init__.py")}
    return [f"{page}: the diagram leaves out {name}/" for name in sorted(there - drawn)] + [
        f"{page}: the diagram has {name}/, and the tree has not" for name in sorted(drawn - there)
    ]


class _Tree:
    """What is there, to be named."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._members: dict[str, set[str]] = defaultdict(set)
        self._dotted: set[str] = set()
        self._paths = {str(path.relative_to(root)) for path in modules(root)}
        for path in modules(root):
            module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
            self._dotted.add(module)
            for node in ast.parse(path.read_text()).body:
                self._add(module, node)

    def _add(self, module: str, node: ast.stmt) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            self._dotted.add(f"{module}.{node.name}")
        if isinstance(node, ast.ImportFrom):
            self._dotted |= {f"{module}.{alias.asname or alias.name}" for alias in node.names}
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            self._dotted |= {f"{module}.{one.id}" for one in targets if isinstance(one, ast.Name)}
        if isinstance(node, ast.ClassDef):
            for part in ast.walk(node):
                if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    self._members[node.name].add(part.name)
                elif isinstance(part, ast.Attribute | ast.Name):
                    self._members[node.name].add(part.attr if isinstance(part, ast.Attribute) else part.id)
            self._dotted |= {f"{module}.{node.name}.{member}" for member in self._members[node.name]}

    def has_path(self, name: str, beside: Path) -> bool:
        """Whether there is a file or directory *name*: from the root, beside, or in any package."""
        places = [self._root, self._root / "dboxfs", beside, beside.parent]
        return any((place / name).exists() for place in places) or any(
            f"/{path}".endswith(f"/{name}") for path in self._paths
        )

    def has_dotted(self, name: str) -> bool:
        """Whether a dotted name is a module, or what a module or class defines."""
        above, _, member = name.rpartition(".")
        return name in self._dotted or (
            above in self._dotted and member in self._members[above.split(".")[-1]]
        )

    def is_wrong(self, quoted: str, beside: Path) -> str | None:
        """Why a quoted name is wrong; None: it is right, or names nothing of the tree."""
        word = quoted.split()[0].split("::")[0].rstrip(",.;:")
        first = word.split("/")[0]
        packages = {path.name for path in (self._root / "dboxfs").iterdir() if path.is_dir()}
        ours = packages | {"dboxfs", "tests", "scripts", "packaging", "findings", "samples", "bench"}
        if _PATH.fullmatch(word) and (first in ours or word.endswith(".py")):
            return None if self.has_path(word, beside) else "no such file or directory"
        member = _CLASS_MEMBER.fullmatch(word.removesuffix("()"))
        if member is not None and member[1] in self._members and member[2] not in self._members[member[1]]:
            return f"{member[1]} has no {member[2]}"
        if member is not None and member[1] not in self._members and member[2].islower():
            return f"no class {member[1]}"
        dotted = word.startswith("dboxfs.") and word.split(".")[1] in packages
        if dotted and not self.has_dotted(word) and not self.has_path(word, beside):
            return "no such module or name"
        return None


_ADVICE = re.compile(r"\b(?:dboxfs [a-z]+|mkdir|chmod|chown|cd) (?!.*[;:,)])[^;:,)]*$")
"""The end of a text after which a value is a word of a command that the reader may paste into a shell."""
_PATHS = ("root", "path", "point", "mountpoint", "above", "directory")
"""Names of values that are paths."""


def unquoted_advice(root: Path) -> list[str]:
    """Commands in messages with a path that is not quoted for a shell: it may have a space in it."""
    found = []
    for path in modules(root):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.JoinedStr):
                continue
            before = ""
            for part in node.values:
                if isinstance(part, ast.Constant):
                    before += str(part.value)
                elif isinstance(part, ast.FormattedValue):
                    if _ADVICE.search(before) and _is_path(part.value):
                        where = f"{path.relative_to(root)}:{node.lineno}"
                        found.append(
                            f"{where}: {ast.unparse(part.value)} in a command is not quoted: use quote()"
                        )
                    before += "x"
    return found


def _is_path(value: ast.expr) -> bool:
    return isinstance(value, ast.Name | ast.Attribute) and ast.unparse(value).rpartition(".")[2] in _PATHS
