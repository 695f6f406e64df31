"""Results lie in folders by name: those of another file of the same name are neither overwritten nor mixed in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from aqr_bench.errors import UserError
from aqr_bench.records.provenance import file_facts
from aqr_bench.study.layout import RunLayout
from aqr_bench.study.plan import Selection


def raise_if_other_file(selection: Selection, results: Path) -> None:
    """UserError where results of the tier, of a study or of a suite were made from another file of that name.

    The same file, moved or edited, is no other one: it differs in path and in contents. Records without their files
    (of older versions) are taken for those of the file that is asked for.
    """
    layout = RunLayout(selection.tier.name, results)
    named = [("tier", selection.tier.path, _tier_records(selection, layout))]
    named += [("study", study.path, _study_records(selection, layout, study.name)) for study in selection.studies]
    for suite in selection.chosen_suites:
        named.append(("suite", suite.path, (layout.evaluate(run, suite.name) for run in selection.runs)))
    for role, path, records in named:
        made_from = next((facts for record in records if (facts := _recorded_file(record, role))), None)
        asked = file_facts(path.absolute())
        if made_from and made_from["path"] != asked["path"] and made_from["sha256"] != asked["sha256"]:
            raise UserError(
                f"{role} '{path.stem}': {layout.root} holds results of {made_from['path']}, another file of that name "
                f"than {path}",
                "Rename the file and the name in it, or move these results away.",
            )


def _tier_records(selection: Selection, layout: RunLayout) -> Iterable[Path]:
    yield from map(layout.train, selection.runs)
    yield from (layout.measure(study.name, v) for study in selection.studies for v in study.variants)


def _study_records(selection: Selection, layout: RunLayout, study: str) -> Iterator[Path]:
    """Its measurements first: every study has some."""
    yield from sorted((layout.root / study).glob("*/measure.jsonl"))
    yield from (layout.train(run) for run in selection.runs if run.study == study)


def _recorded_file(record: Path, role: str) -> Mapping[str, Any] | None:
    """Path and SHA-256 of the file of that role, by the first line of a record file; None if there is none."""
    try:
        with open(record, encoding="utf-8") as file:
            facts = json.loads(file.readline())["provenance"]["files"][role]
        return facts if facts["path"] and facts["sha256"] else None
    except (OSError, ValueError, LookupError, TypeError):
        return None
