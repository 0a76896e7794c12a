"""Each rule of structure finds what breaks it in a tree that was made up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.structure import messages, rules

Files = dict[str, str]


@pytest.fixture
def made(tmp_path: Path) -> Callable[[Files], Path]:
    """Makes a tree of files with these texts; gives its root."""

    def make(files: Files) -> Path:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


def test_a_module_of_more_lines_than_the_limit_is_found(made: Callable[[Files], Path]) -> None:
    root = made({"dboxfs/long.py": "a = 1\n" * 5, "dboxfs/short.py": "a = 1\n" * 4})
    assert rules.long_modules(root, limit=4) == [
        "dboxfs/long.py: 5 lines, at most 4: cut it by what its parts are"
    ]


def test_modules_that_import_each_other_by_way_of_others_are_found() -> None:
    imports = {"a": ["b"], "b": ["c"], "c": ["a", "d"], "d": ["e"], "e": [], "f": ["a"]}
    assert rules.circles(imports) == [{"a", "b", "c"}]
    assert rules.circles({**imports, "c": ["d"]}) == []


def test_a_class_or_constant_of_one_name_in_two_modules_is_found(made: Callable[[Files], Path]) -> None:
    common = "class Place: ...\nclass _Part: ...\nMOST = 1\n_SAME = 3\n"
    root = made(
        {
            "dboxfs/one.py": f"{common}_PIECE = 1 << 20\n_HEAD = f()\n",
            "dboxfs/two.py": f"{common}_PIECE = 2 << 20\n_HEAD = g()\n",
        }
    )
    assert rules.ambiguous_names(root) == [
        "class Place means 2 things: dboxfs/one.py, dboxfs/two.py",
        "constant MOST means 2 things: dboxfs/one.py, dboxfs/two.py",
        "constant _PIECE means 2 things: dboxfs/one.py, dboxfs/two.py",
    ]


def test_a_page_that_names_what_is_not_there_is_found(made: Callable[[Files], Path]) -> None:
    root = made(
        {
            "dboxfs/vfs/draft.py": "class Draft:\n    def commit(self): ...\n",
            "PAGE.md": "`vfs/draft.py` `vfs/upload.py` `Draft.commit`\n`Draft.save` `Upload.lock` `/etc`\n",
        }
    )
    assert rules.stale_pages(root, ["PAGE.md"]) == [
        "PAGE.md:1: `vfs/upload.py`: no such file or directory",
        "PAGE.md:2: `Draft.save`: Draft has no save",
        "PAGE.md:2: `Upload.lock`: no class Upload",
    ]


def test_a_docstring_that_names_a_module_that_is_not_there_is_found(made: Callable[[Files], Path]) -> None:
    root = made(
        {
            "dboxfs/a.py": '"""See ``b.py`` and :func:`dboxfs.b.f`."""\n',
            "dboxfs/b.py": '"""See ``c.py`` and :func:`dboxfs.a.g`."""\ndef f():\n """See the module."""\n',
        }
    )
    assert rules.stale_docstrings(root) == [
        "dboxfs/b.py:1: c.py is not there",
        "dboxfs/b.py:1: dboxfs.a.g is not there",
        "dboxfs/b.py:3: a docstring that only points elsewhere",
    ]


def test_a_diagram_that_is_not_the_tree_is_found(made: Callable[[Files], Path]) -> None:
    root = made(
        {
            "dboxfs/cli/__init__.py": "",
            "dboxfs/vfs/__init__.py": "",
            "PAGE.md": "# A page\n\n```\n cli/   the command line\n  |\n +-- fuse/   the kernel\n```\n",
        }
    )
    assert rules.stale_diagram(root, "PAGE.md") == [
        "PAGE.md: the diagram leaves out vfs/",
        "PAGE.md: the diagram has fuse/, and the tree has not",
    ]


def test_a_path_in_a_command_that_is_not_quoted_is_found(made: Callable[[Files], Path]) -> None:
    bad = 'what = f"{path}: gone; mkdir -p {path}"\nmore = f"dboxfs check {store.root} says why"\n'
    good = 'what = f"{path}: gone; mkdir -p {quote(path)}"\nmore = f"dboxfs convert ended; {path} stays"\n'
    root = made({"dboxfs/bad.py": bad, "dboxfs/good.py": good})
    assert rules.unquoted_advice(root) == [
        "dboxfs/bad.py:1: path in a command is not quoted: use quote()",
        "dboxfs/bad.py:2: store.root in a command is not quoted: use quote()",
    ]


def test_no_module_of_the_program_imports_itself_by_way_of_others() -> None:
    assert rules.import_circles() == []


def test_a_message_that_no_test_expects_is_found(made: Callable[[Files], Path]) -> None:
    root = made(
        {
            "dboxfs/errors.py": "class DboxfsError(Exception): ...\nclass Busy(DboxfsError): ...\n",
            "dboxfs/a.py": "raise Busy(f'{path}: another program writes; wait for its end')\n"
            "raise Busy('another program reads; wait for its end')\n"
            "parser.error('no such command' if command else 'give a command')\n"
            "log.error('a line of the log')\nraise ValueError('a text for nobody')\n",
            "tests/test_a.py": "match=r'another program reads; wait for'\n'give a '\n'command'\n",
        }
    )
    assert messages.unexpected_messages(root) == [
        "dboxfs/a.py:1: no test expects: : another program writes; wait for its end",
        "dboxfs/a.py:3: no test expects: no such command",
    ]
