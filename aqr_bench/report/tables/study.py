"""Tables of a study: scores with their differences, all metrics, router weights, classes, runs and failures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from aqr_bench.records.record import NOT_APPLICABLE
from aqr_bench.report.collect import BASE, Results
from aqr_bench.report.rows import METRICS
from aqr_bench.report.score_statistics import (
    FEW_SEEDS,
    MIN_DIFFERENCE,
    ScoreDifference,
    correct,
    corrected_verdict,
    difference_data,
    difference_text,
    number,
    paired_difference,
    summarise,
    verdict,
)
from aqr_bench.report.tables.table import CellStyle, ReportTable, Row, make_table
from aqr_bench.study.spec import CUSTOM, Study

NOT_APPLICABLE_TEXT = "not applicable"  # the condition changes a sensor that the model does not use
SEEDS_INTERVAL, SCENES_INTERVAL, HOLM_VERDICT = "95 %, seeds", "95 %, scenes", "Corrected"  # columns
FINDINGS = ("better", "worse")  # verdicts that the correction can revoke
HINTS = ("sd", "Difference", SEEDS_INTERVAL, SCENES_INTERVAL, "Verdict", HOLM_VERDICT, "Runs")  # of a mean, on hover
MAX_SHADE = 0.45  # of a cell's ground: text remains readable, on light and on dark


def by_seed(results: Results, variant: str, condition: str, metric: str) -> dict[int, float]:
    """Score per seed of the evaluations that are ok and have one."""
    if metric not in results.evaluations:  # a custom metric, and no evaluation is ok
        return {}
    rows = results.ok_rows(variant, condition)
    seeds, scores = (results.evaluations[name].to_numpy()[rows] for name in ("seed", metric))
    return {int(seed): float(score) for seed, score in zip(seeds, scores, strict=True) if score == score}


def differences(study: Study, results: Results) -> dict[tuple[str, str], ScoreDifference | None]:
    """Paired difference to the baseline for every (variant, condition) but the baseline.

    Its p-values are corrected for the number of comparisons: all of the study's, in its metric.
    """
    deltas: dict[tuple[str, str], ScoreDifference | None] = {}
    for condition in study.suite.conditions:
        for name in study.variants:
            if name != study.baseline:
                scores = by_seed(results, name, condition.name, study.metric)
                baseline = by_seed(results, study.compared_with(name), condition.name, study.metric)
                delta, scenes = paired_difference(scores, baseline), results.scenes.get((name, condition.name))
                same = delta is not None and scenes is not None and scenes.seeds == delta.n
                deltas[name, condition.name] = replace(delta, scenes=scenes) if same else delta
    return correct(deltas)


def scores_table(study: Study, results: Results) -> ReportTable:
    """Variant by condition: finished runs, mean, standard deviation, and the paired difference to the baseline."""
    deltas = differences(study, results)
    rows = [
        _score_row(study, results, condition.name, variant, deltas.get((variant, condition.name)))
        for condition in study.suite.conditions
        for variant in study.variants
    ]
    note = noise_note(
        study,
        any(d is not None and d.scenes is not None for d in deltas.values()),
        max((d.comparisons for d in deltas.values() if d is not None and d.p is not None), default=0),
    )
    numeric = [study.metric, "sd", "Difference", "p, Holm", SEEDS_INTERVAL, SCENES_INTERVAL]
    return make_table(f"{study.name}_scores", f"{study.metric} by condition and variant", rows, note, numeric)


def _score_row(study: Study, results: Results, condition: str, variant: str, delta: ScoreDifference | None) -> Row:
    metric, wanted = study.metric, len(study.seeds)
    summary = summarise(list(by_seed(results, variant, condition, metric).values()))
    not_applicable = results.not_applicable(variant, condition)
    if not_applicable:
        single = corrected = NOT_APPLICABLE_TEXT
    elif variant == study.baseline:
        single = corrected = "baseline"
    else:
        single, corrected = (rule(delta, study.higher_is_better) for rule in (verdict, corrected_verdict))
    scenes = delta.scenes if delta else None
    difference, over_seeds, over_scenes, p = difference_text(delta)
    data = {
        "condition": condition,
        "variant": variant,
        "ok": summary.n,
        "wanted": 0 if not_applicable else wanted,
        f"{metric}_mean": summary.mean,
        f"{metric}_sd": summary.sd,
        **difference_data(delta),
        "scenes": scenes.scenes if scenes else None,
        "pairs": delta.n if delta else None,
        "p_seeds": delta.p_seeds if delta else None,
        "p_scenes": delta.p_scenes if delta else None,
        "p_holm": delta.p_holm if delta else None,
        "verdict": single,
        "verdict_holm": corrected,
    }
    text = {
        "Condition": condition,
        "Variant": variant,
        metric: number(summary.mean),
        "Difference": difference,
        "Verdict": single,
        HOLM_VERDICT: corrected if single in FINDINGS else "–",
        "p, Holm": p,
        SEEDS_INTERVAL: over_seeds,
        SCENES_INTERVAL: over_scenes,
        "sd": number(summary.sd),
        "Runs": "–" if not_applicable else _runs(summary.n, wanted, delta),
    }
    return Row(data, text, summary.n < wanted and not not_applicable)


def score_hints(study: Study, scores: ReportTable) -> dict[tuple[str, str], str]:
    """What the page says of a mean on hover: value, difference, intervals and runs, by (variant, condition).

    As the rows of ``scores_table`` have them; none where there is no value.
    """
    hints = {}
    means = scores.data[f"{study.metric}_mean"].astype(float)
    for mean, (_, text) in zip(means, scores.text.iterrows(), strict=True):
        if mean == mean:
            facts = ". ".join(f"{c}: {text[c]}" for c in HINTS if text[c] not in ("–", "baseline"))
            variant, condition = text["Variant"], text["Condition"]
            hints[variant, condition] = f"{variant}, {condition}: {study.metric} {text[study.metric]}. {facts}"
    return hints


def by_condition_table(study: Study, scores: ReportTable) -> ReportTable:
    """Mean score, one row per condition and one column per variant: the rows of ``scores_table`` side by side.

    On the page a better cell has more colour, and every one has interval and runs on hover.
    """
    means = scores.data[f"{study.metric}_mean"].astype(float)
    best, worst = (means.max(), means.min()) if study.higher_is_better else (means.min(), means.max())
    rows: dict[str, tuple[dict, dict]] = {}
    styles, hints = {}, score_hints(study, scores)
    for mean, (_, text) in zip(means, scores.text.iterrows(), strict=True):
        condition, variant = text["Condition"], text["Variant"]
        new = {"condition": condition}, {"Condition": condition}
        data, display = rows.setdefault(condition, new)
        data[variant], display[variant] = mean, text[study.metric]
        if mean == mean:
            share = (mean - worst) / (best - worst) if best != worst else 0.0
            styles[len(rows) - 1, variant] = CellStyle(hints[variant, condition], shade=MAX_SHADE * share)
    table = make_table(
        f"{study.name}_by_condition",
        f"Mean {study.metric}, condition by variant",
        [Row(data, text) for data, text in rows.values()],
        f"More colour is better, from {number(worst)} to {number(best)}." if styles else "",
        study.variants,
        (["condition", *study.variants], ["Condition", *study.variants]),
    )
    return replace(table, styles=styles)


def _runs(finished: int, wanted: int, delta: ScoreDifference | None) -> str:
    """``2 of 3, 1 paired, fewer than three``: the runs behind a mean and its difference."""
    pairs = finished if delta is None else delta.n
    words = [f"{finished} of {wanted}", *([f"{pairs} paired"] if pairs < finished else [])]
    return ", ".join([*words, *(["fewer than three"] if pairs < FEW_SEEDS else [])])


def comparison_target(study: Study) -> str:
    """What the variants are compared with: the baseline, and those that a variant names instead."""
    others = [f"{name}: '{v.against}'" for name, v in study.variants.items() if v.against]
    return f"'{study.baseline}'" + (f" ({', '.join(others)})" if others else "")


def noise_note(study: Study, over_scenes: bool = False, comparisons: int = 0) -> str:
    """How to read the differences, and how far to trust them with so many seeds and ``comparisons`` tested."""
    n = len(study.seeds)
    better = "higher" if study.higher_is_better else "lower"
    text = f"{study.metric}: {better} is better. sd is over seeds. "
    text += f"Differences are to {comparison_target(study)}, paired by seed"
    if n == 1:
        return f"{text}. One seed: fewer than three, and no estimate of the noise at all."
    if over_scenes:
        text += (
            ", with a Student t interval over seeds and a bootstrap interval over scenes (same trained models, other "
            "scenes); a difference is called within the noise if either contains 0."
        )
    else:
        text += ", with a Student t interval; one that contains 0 is called within the noise."
    if n < FEW_SEEDS:
        text += f" {n} seeds are fewer than three, so the intervals are very wide."
    if comparisons > 1:
        text += (
            f" {comparisons} comparisons are made, each at 95 % by itself. p, Holm: two-sided p-value "
            f"({'the larger of that over seeds and that over scenes' if over_scenes else 'paired t-test over seeds'}), "
            "corrected for their number. Corrected: findings that remain, so that all of them together have "
            "a chance of 5 % at most of a single false one."
        )
    return f"{text} A difference below {MIN_DIFFERENCE:g} counts as noise." if len(study.variants) > 1 else text


def metrics_table(study: Study, results: Results) -> ReportTable:
    """All detection metrics, mean over seeds, per condition and variant."""
    keys = [(c.name, v) for c in study.suite.conditions for v in study.variants]
    return _means(f"{study.name}_metrics", "All metrics, mean over seeds", results, keys, len(study.seeds))


def base_table(suite_conditions: Sequence[str], results: Results) -> ReportTable:
    """Metrics of the base models per condition, mean over seeds."""
    wanted = results.trainings["seed"].nunique()
    table = _means("base", "Base model", results, [(c, BASE) for c in suite_conditions], wanted)
    return replace(
        table,
        data=table.data.drop(columns="variant"),
        text=table.text.drop(columns="Variant"),
        note="The model every variant starts from, before its own training. Mean over seeds.",
    )


def _means(name: str, title: str, results: Results, keys: Sequence[tuple[str, str]], wanted: int) -> ReportTable:
    rows, names = [], [name for name in results.evaluations if name.startswith(CUSTOM)]
    for condition, variant in keys:
        summaries = {
            m.removeprefix(CUSTOM): summarise(list(by_seed(results, variant, condition, m).values()))
            for m in (*METRICS, *names)
        }
        n = max(s.n for s in summaries.values())
        not_applicable = results.not_applicable(variant, condition)
        data = {
            "condition": condition,
            "variant": variant,
            "ok": n,
            "wanted": 0 if not_applicable else wanted,
            **{m: s.mean for m, s in summaries.items()},
            **{f"{m}_sd": s.sd for m, s in summaries.items()},
        }
        text = {
            "Condition": condition,
            "Variant": variant,
            "Runs": NOT_APPLICABLE_TEXT if not_applicable else f"{n} of {wanted}",
            **{m: number(s.mean) for m, s in summaries.items()},
        }
        rows.append(Row(data, text, n < wanted and not not_applicable))
    note = "mAP and NDS: higher is better. mATE (m), mASE, mAOE (rad), mAVE (m/s), mAAE: lower is better."
    names = [name.removeprefix(CUSTOM) for name in names]
    if names:
        note += f" Metrics of the user: {', '.join(names)}."
    return make_table(name, title, rows, note, [*METRICS, *names])


def router_table(study: Study, results: Results) -> ReportTable:
    """The router's weights by condition and variant: mean over seeds, and the spread over queries."""
    frame, data, text = results.routers, [], []
    for condition, variant in [(c.name, v) for c in study.suite.conditions for v in study.variants]:
        rows = frame[(frame["condition"] == condition) & (frame["variant"] == variant)]
        groups = {
            g: rows[rows["group"] == g].drop(columns=["variant", "condition", "group"]) for g in ("all", "confident")
        }
        if groups["all"].empty:
            continue
        key = {"condition": condition, "variant": variant}
        data += [{**key, "group": g, "runs": len(part), **part.mean().drop("seed")} for g, part in groups.items()]
        text.append({"Condition": condition, "Variant": variant, **_weights(groups)})
    columns = ["condition", "variant", "group", "runs", *frame.columns[4:]]
    return ReportTable(
        f"{study.name}_router",
        "What the router does",
        pd.DataFrame(data, columns=columns),
        pd.DataFrame(text),
        "Weights in [-1, 1], mean over seeds and over all queries of all frames, and standard deviation over queries. "
        "Confident: queries with a score of 0.3 or more.",
        numeric=frozenset(text[0]) - {"Condition", "Variant"} if text else frozenset(),
    )


def _weights(groups: Mapping[str, pd.DataFrame]) -> dict[str, str]:
    weights = {}
    for sensor, name in (("lidar", "LiDAR"), ("camera", "Camera")):
        weights[f"{name} weight"] = number(groups["all"][f"{sensor}_mean"].mean(), 2, sign=True)
        weights[f"{name} sd"] = number(groups["all"][f"{sensor}_sd"].mean(), 3)
        weights[f"{name}, confident"] = number(groups["confident"][f"{sensor}_mean"].mean(), 2, sign=True)
    return weights


def classes_table(study: Study, results: Results) -> ReportTable:
    """AP per class: mean over seeds, one column per variant."""
    rows = []
    for condition in study.suite.conditions:
        scores = results.classes[results.classes["condition"] == condition.name]
        for name in dict.fromkeys(scores["class_name"]):
            class_rows = scores[scores["class_name"] == name]
            means = {v: summarise(list(class_rows[class_rows["variant"] == v]["AP"])).mean for v in study.variants}
            text = {"Condition": condition.name, "Class": name, **{v: number(m) for v, m in means.items()}}
            rows.append(Row({"condition": condition.name, "class": name, **means}, text))
    columns = ["condition", "class", *study.variants], ["Condition", "Class", *study.variants]
    return make_table(
        f"{study.name}_classes", "AP by class, mean over seeds", rows, numeric=study.variants, columns=columns
    )


def runs_table(study: Study, results: Results) -> ReportTable:
    """Every evaluation by itself, unrounded in the CSV."""
    frame = results.evaluations
    text = pd.DataFrame({name: frame[name.lower()].map(str) for name in ("Variant", "Seed", "Condition", "Status")})
    for metric in METRICS:
        text[metric] = [number(v) for v in frame[metric]]
    marked = frozenset(i for i, status in enumerate(frame["status"]) if status not in ("ok", NOT_APPLICABLE))
    return ReportTable(f"{study.name}_runs", "All runs", frame, text, "", marked, frozenset(METRICS))


def problems_table(name: str, results: Results) -> ReportTable:
    """Runs that failed or are missing, with the reason."""
    frame = results.problems
    text = frame.map(lambda v: "–" if v is None or v != v else str(v))
    # A seed column with missing values is of type float.
    text["seed"] = ["–" if s is None or s != s else str(int(s)) for s in frame["seed"]]
    text.columns = [c.capitalize() for c in text.columns]
    return ReportTable(f"{name}_problems", "Runs that are not ok", frame, text)
