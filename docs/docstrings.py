"""Docstrings as mkdocstrings understands them: an error a line, roles as code (for griffe)."""

import re
from typing import Any

import griffe

_RAISES = re.compile(r"^( *):raises (\w+(?:, \w+)+):(.*)$", re.MULTILINE)
_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr|exc):`~?(?:dboxfs[\w.]*\.)?([^`]+)`")


class Docstrings(griffe.Extension):
    """Rewrites docstrings before they are parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for each module, class and function."""
        if obj.docstring is not None:
            text = _RAISES.sub(_each, obj.docstring.value)
            obj.docstring.value = _ROLE.sub(r"`\1`", text)


def _each(match: re.Match[str]) -> str:
    return "\n".join(f"{match[1]}:raises {name}:{match[3]}" for name in match[2].split(", "))
