"""The tables of the report: numbers for a program (CSV) and the same, rounded, for people (Markdown, the page)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from aqr_bench.atomic import write_text
from aqr_bench.records.record import NOT_APPLICABLE
from aqr_bench.report.collect import BASE, METRICS, Results
from aqr_bench.report.foot import foot
from aqr_bench.report.statistics import (
    FEW,
    RESOLUTION,
    Difference,
    correct,
    corrected_verdict,
    number,
    p_text,
    paired_difference,
    span,
    summarise,
    verdict,
)
from aqr_bench.report.tables.latex import latex_table
from aqr_bench.study.spec import Study

NOT_CONCERNED = "not applicable"  # the condition changes a sensor that the model does not use
SEEDS_INTERVAL, SCENES_INTERVAL, HOLM_VERDICT = "95 %, seeds", "95 %, scenes", "Corrected"  # columns
FINDINGS = ("better", "worse")  # verdicts that a correction can take away


@dataclass(frozen=True)
class Table:
    """``data`` holds full precision, ``shown`` the same rows as text; ``marked`` are rows to set apart."""

    name: str
    title: str
    data: pd.DataFrame
    shown: pd.DataFrame
    note: str = ""
    marked: frozenset[int] = frozenset()
    numeric: frozenset[str] = frozenset()

    def markdown(self) -> str:
        """A Markdown table of the shown rows, with title and note."""
        head = [str(c) for c in self.shown.columns]
        rule = ["---:" if c in self.numeric else "---" for c in head]
        rows = [[_cell(v) for v in row] for row in self.shown.itertuples(index=False)]
        lines = ["| " + " | ".join(cells) + " |" for cells in [[_cell(c) for c in head], rule, *rows]]
        below = [line for text in (self.note, foot()) if text for line in (text, "")]
        return "\n".join([f"### {self.title}", "", *lines, "", *below])

    def latex(self) -> str:
        """The shown rows for LaTeX with booktabs."""
        return latex_table(self.shown, self.numeric, self.title, self.note, self.name, foot())

    def write(self, folder: Path) -> None:
        """Write ``<name>.csv``, ``<name>.md`` and ``<name>.tex``."""
        write_text(folder / f"{self.name}.csv", self.data.to_csv(index=False, lineterminator="\n"))
        write_text(folder / f"{self.name}.md", self.markdown())
        write_text(folder / f"{self.name}.tex", self.latex())


def _cell(value: object) -> str:
    return str(value).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def by_seed(results: Results, variant: str, condition: str, metric: str) -> dict[int, float]:
    """Score per seed of the evaluations that are ok and have one."""
    rows = results.evaluations
    rows = rows[(rows["variant"] == variant) & (rows["condition"] == condition) & (rows["status"] == "ok")]
    return {int(seed): float(value) for seed, value in zip(rows["seed"], rows[metric], strict=True) if value == value}


def differences(study: Study, results: Results) -> dict[tuple[str, str], Difference | None]:
    """Paired difference to the baseline for every (variant, condition) but the baseline's own.

    Its p-values are corrected for the number of comparisons: all of the study's, in its metric.
    """
    found: dict[tuple[str, str], Difference | None] = {}
    for condition in study.suite.conditions:
        for name in study.variants:
            if name != study.baseline:
                scores = by_seed(results, name, condition.name, study.metric)
                baseline = by_seed(results, study.compared_with(name), condition.name, study.metric)
                delta, scenes = paired_difference(scores, baseline), results.scenes.get((name, condition.name))
                same = delta is not None and scenes is not None and scenes.seeds == delta.n
                found[name, condition.name] = replace(delta, scenes=scenes) if same else delta
    return correct(found)


def scores_table(study: Study, results: Results) -> Table:
    """Variant by condition: finished runs, mean, standard deviation, and the paired difference to the baseline."""
    deltas = differences(study, results)
    metric, wanted = study.metric, len(study.seeds)
    rows, shown, marked = [], [], set()
    for condition in study.suite.conditions:
        for name in study.variants:
            summary = summarise(list(by_seed(results, name, condition.name, metric).values()))
            delta = deltas.get((name, condition.name))
            is_baseline = name == study.baseline
            said, corrected = (
                ("baseline", "baseline")
                if is_baseline
                else (rule(delta, study.higher_is_better) for rule in (verdict, corrected_verdict))
            )
            no_question = results.not_applicable(name, condition.name)
            if no_question:
                said = corrected = NOT_CONCERNED
            if summary.n < wanted and not no_question:
                marked.add(len(rows))
            rows.append(
                {
                    "condition": condition.name,
                    "variant": name,
                    "ok": summary.n,
                    "wanted": 0 if no_question else wanted,
                    f"{metric}_mean": summary.mean,
                    f"{metric}_sd": summary.sd,
                    "difference": delta.mean if delta else None,
                    "low95": delta.low if delta else None,
                    "high95": delta.high if delta else None,
                    "scenes_low95": delta.scenes.low if delta and delta.scenes else None,
                    "scenes_high95": delta.scenes.high if delta and delta.scenes else None,
                    "scenes": delta.scenes.scenes if delta and delta.scenes else None,
                    "pairs": delta.n if delta else None,
                    "p_seeds": delta.p_seeds if delta else None,
                    "p_scenes": delta.p_scenes if delta else None,
                    "p_holm": delta.p_holm if delta else None,
                    "verdict": said,
                    "verdict_holm": corrected,
                }
            )
            over_scenes = delta.scenes if delta else None
            shown.append(
                {
                    "Condition": condition.name,
                    "Variant": name,
                    metric: number(summary.mean),
                    "Difference": number(delta.mean, sign=True) if delta else "–",
                    "Verdict": said,
                    HOLM_VERDICT: corrected if said in FINDINGS else "–",
                    "p, Holm": p_text(delta.p_holm) if delta else "–",
                    SEEDS_INTERVAL: span(delta.low, delta.high) if delta else "–",
                    SCENES_INTERVAL: span(over_scenes.low, over_scenes.high) if over_scenes else "–",
                    "sd": number(summary.sd),
                    "Runs": "–" if no_question else _runs(summary.n, wanted, delta),
                }
            )
    return Table(
        f"{study.name}_scores",
        f"{metric} by condition and variant",
        pd.DataFrame(rows),
        pd.DataFrame(shown),
        noise_note(
            study,
            any(d is not None and d.scenes is not None for d in deltas.values()),
            max((d.comparisons for d in deltas.values() if d is not None and d.p is not None), default=0),
        ),
        frozenset(marked),
        frozenset([metric, "sd", "Difference", "p, Holm", SEEDS_INTERVAL, SCENES_INTERVAL]),
    )


def _runs(finished: int, wanted: int, delta: Difference | None) -> str:
    """``2 of 3, 1 paired, fewer than three``: what a mean and its difference stand on."""
    pairs = finished if delta is None else delta.n
    words = [f"{finished} of {wanted}", *([f"{pairs} paired"] if pairs < finished else [])]
    return ", ".join([*words, *(["fewer than three"] if pairs < FEW else [])])


def opponents(study: Study) -> str:
    """What the variants are compared with: the baseline, and those that a variant names instead."""
    others = [f"{name}: '{v.against}'" for name, v in study.variants.items() if v.against]
    return f"'{study.baseline}'" + (f" ({', '.join(others)})" if others else "")


def noise_note(study: Study, over_scenes: bool = False, comparisons: int = 0) -> str:
    """How to read the differences, and how far to trust them with so many seeds and ``comparisons`` tested."""
    n = len(study.seeds)
    better = "higher" if study.higher_is_better else "lower"
    text = (
        f"{study.metric}: {better} is better. sd is over seeds. Differences are to {opponents(study)}, paired by seed"
    )
    if n == 1:
        return f"{text}. One seed: fewer than three, and no estimate of the noise at all."
    if over_scenes:
        text += (
            ", with a Student t interval over seeds and a bootstrap interval over scenes (same trained models, other "
            "scenes); a difference is called within the noise if either contains 0."
        )
    else:
        text += ", with a Student t interval; one that contains 0 is called within the noise."
    if n < FEW:
        text += f" {n} seeds are fewer than three, so the intervals are very wide."
    if comparisons > 1:
        text += (
            f" {comparisons} comparisons are made, each at 95 % by itself. p, Holm: two-sided p-value "
            f"({'the larger of that over seeds and that over scenes' if over_scenes else 'paired t-test over seeds'}), "
            "corrected for their number. Corrected: what is left of a finding by it, so that all of them together have "
            "a chance of 5 % at most of a single false one."
        )
    return f"{text} A difference below {RESOLUTION:g} counts as noise." if len(study.variants) > 1 else text


def metrics_table(study: Study, results: Results) -> Table:
    """All detection metrics, mean over seeds, per condition and variant."""
    keys = [(c.name, v) for c in study.suite.conditions for v in study.variants]
    return _means(f"{study.name}_metrics", "All metrics, mean over seeds", results, keys, len(study.seeds))


def base_table(suite_conditions: Sequence[str], results: Results) -> Table:
    """Metrics of the base models per condition, mean over seeds."""
    wanted = results.trainings["seed"].nunique()
    table = _means("base", "Base model", results, [(c, BASE) for c in suite_conditions], wanted)
    return Table(
        table.name,
        table.title,
        table.data.drop(columns="variant"),
        table.shown.drop(columns="Variant"),
        "The model every variant starts from, before its own training. Mean over seeds.",
        table.marked,
        table.numeric,
    )


def _means(name: str, title: str, results: Results, keys: Sequence[tuple[str, str]], wanted: int) -> Table:
    rows, shown, marked = [], [], set()
    for condition, variant in keys:
        summaries = {m: summarise(list(by_seed(results, variant, condition, m).values())) for m in METRICS}
        n = max(s.n for s in summaries.values())
        no_question = results.not_applicable(variant, condition)
        if n < wanted and not no_question:
            marked.add(len(rows))
        rows.append(
            {
                "condition": condition,
                "variant": variant,
                "ok": n,
                "wanted": 0 if no_question else wanted,
                **{m: s.mean for m, s in summaries.items()},
                **{f"{m}_sd": s.sd for m, s in summaries.items()},
            }
        )
        shown.append(
            {
                "Condition": condition,
                "Variant": variant,
                "Runs": "not applicable" if no_question else f"{n} of {wanted}",
                **{m: number(s.mean) for m, s in summaries.items()},
            }
        )
    note = "mAP and NDS: higher is better. mATE (m), mASE, mAOE (rad), mAVE (m/s), mAAE: lower is better."
    return Table(name, title, pd.DataFrame(rows), pd.DataFrame(shown), note, frozenset(marked), frozenset(METRICS))


def router_table(study: Study, results: Results) -> Table:
    """The router's weights by condition and variant: mean over seeds, and the spread over queries."""
    frame, rows, shown = results.routers, [], []
    order = [(c.name, v) for c in study.suite.conditions for v in study.variants]
    for condition, variant in order:
        here = frame[(frame["condition"] == condition) & (frame["variant"] == variant)]
        means = {
            g: here[here["group"] == g].drop(columns=["variant", "condition", "group"]) for g in ("all", "confident")
        }
        if means["all"].empty:
            continue
        for group, part in means.items():
            mean = part.mean()
            rows.append(
                {"condition": condition, "variant": variant, "group": group, "runs": len(part), **mean.drop("seed")}
            )
        shown.append({"Condition": condition, "Variant": variant, **_weights(means)})
    columns = ["condition", "variant", "group", "runs", *frame.columns[4:]]
    return Table(
        f"{study.name}_router",
        "What the router does",
        pd.DataFrame(rows, columns=columns),
        pd.DataFrame(shown),
        "Weights in [-1, 1], mean over seeds and over all queries of all frames, and standard deviation over queries. "
        "Confident: queries with a score of 0.3 or more.",
        numeric=frozenset(shown[0]) - {"Condition", "Variant"} if shown else frozenset(),
    )


def _weights(groups: Mapping[str, pd.DataFrame]) -> dict[str, str]:
    found = {}
    for sensor, name in (("lidar", "LiDAR"), ("camera", "Camera")):
        found[f"{name} weight"] = number(groups["all"][f"{sensor}_mean"].mean(), 2, sign=True)
        found[f"{name} sd"] = number(groups["all"][f"{sensor}_sd"].mean(), 3)
        found[f"{name}, confident"] = number(groups["confident"][f"{sensor}_mean"].mean(), 2, sign=True)
    return found


def classes_table(study: Study, results: Results) -> Table:
    """AP per class: mean over seeds, one column per variant."""
    frame = results.classes
    rows, shown = [], []
    for condition in study.suite.conditions:
        here = frame[frame["condition"] == condition.name]
        for name in dict.fromkeys(here["class"]):
            one = here[here["class"] == name]
            means = {v: summarise(list(one[one["variant"] == v]["AP"])).mean for v in study.variants}
            rows.append({"condition": condition.name, "class": name, **means})
            shown.append({"Condition": condition.name, "Class": name, **{v: number(m) for v, m in means.items()}})
    columns = ["condition", "class", *study.variants]
    return Table(
        f"{study.name}_classes",
        "AP by class, mean over seeds",
        pd.DataFrame(rows, columns=columns),
        pd.DataFrame(shown, columns=["Condition", "Class", *study.variants]),
        numeric=frozenset(study.variants),
    )


def runs_table(study: Study, results: Results) -> Table:
    """Every evaluation by itself, unrounded in the CSV."""
    frame = results.evaluations
    show: Mapping[str, Callable] = {"Variant": str, "Seed": str, "Condition": str, "Status": str}
    shown = pd.DataFrame({name: frame[name.lower()].map(how) for name, how in show.items()})
    for metric in METRICS:
        shown[metric] = [number(v) for v in frame[metric]]
    marked = frozenset(i for i, status in enumerate(frame["status"]) if status not in ("ok", NOT_APPLICABLE))
    return Table(f"{study.name}_runs", "All runs", frame, shown, "", marked, frozenset(METRICS))


def problems_table(name: str, results: Results) -> Table:
    """Runs that failed or are missing, with the reason."""
    frame = results.problems
    shown = frame.map(lambda v: "–" if v is None or v != v else str(v))
    # A seed column with gaps is read as floating point.
    shown["seed"] = ["–" if s is None or s != s else str(int(s)) for s in frame["seed"]]
    shown.columns = [c.capitalize() for c in shown.columns]
    return Table(f"{name}_problems", "Runs that are not ok", frame, shown)
