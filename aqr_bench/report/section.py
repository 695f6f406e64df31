"""Parts of the page besides studies: sections of other modules, figures with captions, output folders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aqr_bench.report.stale import StaleRecords
from aqr_bench.report.tables.table import ReportTable
from aqr_bench.study.spec import Study, Tier


@dataclass(frozen=True)
class Output:
    """Folders that a report writes tables and figures to.

    ``footer``: where the numbers come from, in one line; ``stale``: the records that tables mark as such.
    """

    tables: Path
    figures: Path
    footer: str = ""
    stale: StaleRecords = field(default_factory=StaleRecords)


@dataclass(frozen=True)
class ReportFigure:
    """A figure of the page: caption and PNG file; ``lead``: among the few that are not folded."""

    caption: str
    path: Path
    lead: bool = False


@dataclass(frozen=True)
class ReportSection:
    """A part of the page that belongs to no study: ``name`` is its anchor."""

    name: str
    title: str
    text: str
    tables: tuple[ReportTable, ...] = ()
    figures: tuple[ReportFigure, ...] = ()


# Makes sections from tier, studies and results folder.
SectionBuilder = Callable[[Tier, Sequence[Study], Path], Sequence[ReportSection]]
