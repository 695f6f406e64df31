"""What a source file says, and what is only how it says it."""

from __future__ import annotations

import pytest

from aqr_bench.study.hashes import source_hash

SOURCE = '''"""A module."""
import math  # for pi


class Circle:
    """A circle."""

    def area(self, radius=1.0):
        """Its area."""
        return math.pi * radius**2
'''


@pytest.fixture
def hash_of(tmp_path):
    def hashed(text: str | bytes, name: str = "a.py") -> str:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return source_hash(tmp_path / name)

    return hashed


@pytest.mark.parametrize(
    "change",
    [
        ("  # for pi", ""),
        ("Its area.", "The area of the circle."),
        ('        """Its area."""\n', ""),
        ('"""A module."""\n', "# A module.\n"),
        ("radius=1.0):", "radius = 1.0,\n    ):"),
        ("math.pi * radius**2", "(math.pi\n * (radius ** 2))"),
        ("\n", "\r\n"),
    ],
    ids=lambda change: repr(change[0]),
)
def test_comments_docstrings_and_layout_are_no_change(hash_of, change):
    assert change[0] in SOURCE and hash_of(SOURCE.replace(*change)) == hash_of(SOURCE)


@pytest.mark.parametrize(
    "change",
    [("1.0", "1.5"), ("area", "surface"), ("import math", "import cmath"), ("**2", "**3"), ("return ", "")],
    ids=lambda change: repr(change[0]),
)
def test_statements_are(hash_of, change):
    assert change[0] in SOURCE and hash_of(SOURCE.replace(*change)) != hash_of(SOURCE)


def test_texts_that_are_used_are_no_docstrings(hash_of):
    assert hash_of("x = 'a'\n") != hash_of("x = 'b'\n")
    assert hash_of("def f():\n    return 'a'\n") != hash_of("def f():\n    return 'b'\n")


def test_what_is_no_python_counts_by_its_text(hash_of):
    assert hash_of("a: 1  # one\n", "a.yaml") != hash_of("a: 1\n", "a.yaml")
    assert hash_of("a: 1\n", "a.yaml") == hash_of(b"a: 1\r\n", "a.yaml")
    assert hash_of("def (\n") != hash_of("def (  # broken\n") and hash_of(b"x = '\0'") != hash_of("x = 1\n")
