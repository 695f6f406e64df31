"""The README of a published folder: a data card with front matter as the Hugging Face Hub reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import yaml

from aqr_bench.records.record import NOT_APPLICABLE, Record, ok_of
from aqr_bench.report.provenance_rows import provenance_rows
from aqr_bench.report.tables.table import markdown_cell
from aqr_bench.study.spec import Study, Tier

# Upper ends of the Hub's size categories (hub-docs, datasetcard.md); larger tables come under the last one.
SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
TAGS = ("3d-object-detection", "lidar", "camera", "sensor-fusion", "robustness", "benchmark", "aqr-bench")
TEXT = """\
# {title}

Results of [aqr-bench](index.html): {counts}. `index.html` is the report, with its `tables/` and `figures/`.

{cautions}| study | question |
|---|---|
{studies}

## Contents

| file | what |
|---|---|
{files}
| `records/` | of each training, evaluation and measurement: one JSON object a line, with its provenance |
| `tables/`, `figures/` | of the report: CSV, Markdown and LaTeX; PNG, PDF and SVG; `viewers/`: samples in 3D |
| `SHA256SUMS` | of all files: `sha256sum --check --quiet SHA256SUMS` |

A row of the numbers is one of a record: `metric`, `class`, `distance_m`, `value`, the run (`kind`, `tier`, `study`,
`variant`, `seed`, `suite`, `condition`), its `status` and `reason`, and the hashes of what it depends on. Data set,
checkpoints and detections are not included.

## Provenance

{provenance}
"""


@dataclass(frozen=True)
class CardFacts:
    """What a card says beside what the records have.

    license   identifier of the licence of these results, as the Hub has it
    cautions  what is stale or mixed in them
    numbers   paths of the exported tables, the best one first; ``rows``: of one of them
    """

    title: str
    license: str
    cautions: Sequence[str]
    numbers: Sequence[str]
    rows: int


def data_card(facts: CardFacts, tier: Tier, studies: Sequence[Study], records: Sequence[Record]) -> str:
    """The card, as Markdown with YAML front matter."""
    front = {
        "license": facts.license,
        "pretty_name": facts.title,
        "task_categories": ["object-detection"],
        "tags": list(TAGS),
        "size_categories": [size_category(facts.rows)],
        "configs": [{"config_name": "default", "data_files": facts.numbers[0]}],
    }
    cautions = [f"- {markdown_cell(line)}" for line in facts.cautions]
    files = [f"| `{path}` | all numbers, {facts.rows} rows |" for path in facts.numbers]
    facts_of_runs = provenance_rows(tier, [_with_seeds(study, records) for study in studies], records)
    provenance = [f"| {label} | {markdown_cell(value)} |" for label, value in facts_of_runs]
    text = TEXT.format(
        title=facts.title,
        counts=counts(records),
        cautions="\n".join(["**Compare these numbers with caution:**", "", *cautions, "", ""]) if cautions else "",
        studies="\n".join(f"| [{s.name}]({s.name}/index.html) | {markdown_cell(s.question)} |" for s in studies),
        files="\n".join(files),
        provenance="\n".join(["| | |", "|---|---|", *provenance]),
    )
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n\n{text}"


def counts(records: Sequence[Record]) -> str:
    """``7 of 8 records ok``."""
    not_applicable = sum(record.status == NOT_APPLICABLE for record in records)
    return ok_of(sum(record.ok for record in records), len(records) - not_applicable, not_applicable)


def size_category(rows: int) -> str:
    """The Hub's size category of a table."""
    return next((name for limit, name in SIZES if rows < limit), "10M<n<100M")


def _with_seeds(study: Study, records: Sequence[Record]) -> Study:
    """The study with the seeds that it was run with."""
    seeds = sorted({r.seed for r in records if r.study == study.name and r.seed is not None})
    return replace(study, seeds=tuple(seeds))
