"""Hooks of mkdocs.yml: pages from their places in the tree, with the files that they link to; lists in docstrings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
STYLE = "docs/site.css"
RELATIVE_LINK = re.compile(r"\]\((?!\w+:|#)([^()\s#]+)")
INTERVALS = re.compile(r"(\d\]) (\[[−+\d])")
COLUMN = re.compile(r"^(\w+(?:, \w+)*) {2,}(?=\S)", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Files of the theme, the pages of the navigation, what these link to, and the style sheet.

    A link to a page outside of the navigation stays broken, which MkDocs reports.
    """
    pages = list(nav_pages(config.nav))
    linked = {path for page in pages for path in linked_files(page)}
    ours = [File.generated(config, p, abs_src_path=str(ROOT / p)) for p in (*pages, *sorted(linked), STYLE)]
    return Files([*(file for file in files if file.src_dir != config.docs_dir), *ours])


def nav_pages(entry: Any) -> Iterator[str]:
    """Paths of all pages of a navigation, or of a part of it."""
    if isinstance(entry, str):
        yield entry
    else:
        for part in entry.values() if isinstance(entry, dict) else entry:
            yield from nav_pages(part)


def linked_files(page: str) -> Iterator[str]:
    """Paths of the files, other than pages, that a page links to."""
    folder = (ROOT / page).parent
    for link in RELATIVE_LINK.findall((ROOT / page).read_text(encoding="utf-8")):
        path = (folder / link).resolve()
        if path.is_file() and path.suffix != ".md":
            yield path.relative_to(ROOT).as_posix()


def on_page_markdown(markdown: str, **_: object) -> str:
    """Two intervals beside each other, ``[0.1, 0.2] [0.3, 0.4]``, are no link, as which mkdocs-autorefs takes them."""
    return INTERVALS.sub(r"\1&#32;\2", markdown)


def on_page_content(html: str, **_: object) -> str:
    """Pictures are loaded when they come into view: the gallery has many."""
    return html.replace("<img ", '<img loading="lazy" ')


class FieldLists(griffe.Extension):
    """Fields in columns, name and meaning, become a list: as Markdown they would be one paragraph."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        if obj.docstring is not None:
            obj.docstring.value = COLUMN.sub(r"- `\1`: ", obj.docstring.value)
