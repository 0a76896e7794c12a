"""Comparisons of whole stores say what differs."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tests.tools.convert.showing")
