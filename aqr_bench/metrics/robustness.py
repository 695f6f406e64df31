"""Robustness scores: from scores by corruption and severity to RA, RRA, CE and their means mRA, mRRA, mCE.

M(c, s) is the score of a model (NDS or mAP) under corruption c at severity s, M(clean) its score without corruption,
M_b that of a baseline model, S the number of severities.

    RA(c, s) = M(c, s) / M(clean)                                          1: no loss
    RA(c)    = mean over s of RA(c, s)
    RRA(c)   = (sum over s of M(c, s) / sum over s of M_b(c, s) - 1) x 100 %   0: like the baseline
    CE(c)    = sum over s of (1 - M(c, s)) / sum over s of (1 - M_b(c, s))     1: like the baseline, lower is better
    mRA, mRRA, mCE: means over c, every corruption with the same weight

Sources: RA, mRA, RRA, mRRA: MultiCorrupt (arXiv:2402.11677), README.md of ika-rwth-aachen/MultiCorrupt, where the
baseline is BEVFusion and M is NDS. CE, mCE: RoboBEV, docs/RESULTS.md of Daniel-xsy/RoboBEV (baseline DETR3D), and
Robo3D, README.md of ldkong1205/Robo3D (baselines CenterPoint and MinkUNet-18).

RoboBEV's resilience rate, RR(c) = sum over s of M(c, s) / (S x M(clean)), is the same number as RA(c), and mRR the same
as mRA; so they have no functions here. RCE of arXiv:2303.11040 is left out: its definition could not be
read at the source.

A score that is missing (None or NaN) is never skipped: what depends on it is NaN, with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

CLEAN = "clean"
Severity = int | str
Scores = Mapping[Severity, Any]  # severity -> score; None or NaN where there is none
CORRUPTION_COLUMNS = ("model", "corruption", "severities", "score", "RA", "RRA", "CE", "reason")
MODEL_COLUMNS = ("model", "clean", "mRA", "mRRA", "mCE", "reason")


@dataclass(frozen=True)
class Value:
    """A number, or NaN with the ``reasons`` why it is undefined."""

    value: float
    reasons: tuple[str, ...] = ()


# ---------------------------------------------------------------- one corruption


def severity_mean(scores: Scores) -> Value:
    """Mean of M(c, s) over severities; NaN where one is missing.

    Raises:
        ValueError: a score that is negative or infinite. So do all functions here.
    """
    values, reasons = _complete(scores)
    return _undefined(reasons) if reasons else Value(math.fsum(values.values()) / len(values))


def resistance_ability(scores: Scores, clean: Any) -> Value:
    """RA(c), the share of the clean score that is left: mean over severities of M(c, s) / M(clean).

    RoboBEV calls it resilience rate, RR(c). Source: MultiCorrupt, README.md.

    Args:
        scores: M(c, s) by severity, every severity that was asked for.
        clean: M(clean) of the same model, in the same unit; NaN where it is missing or 0.
    """
    mean, base = severity_mean(scores), _number(clean)
    if base is None:
        return _undefined([*mean.reasons, f"{CLEAN}: no score"])
    if base == 0:
        return _undefined([*mean.reasons, f"{CLEAN}: score is 0"])
    return Value(mean.value / base, mean.reasons)


def relative_resistance(scores: Scores, baseline: Scores) -> Value:
    """RRA(c) in percent: how much more of its score the model has than the baseline, summed over severities.

    Source: MultiCorrupt, README.md. A weak baseline inflates it, so look at the scores themselves beside it.

    Args:
        scores, baseline: M(c, s) and M_b(c, s) by severity, in the same unit; both need the same severities.
    """
    values, base, reasons = _pair(scores, baseline)
    if not reasons and math.fsum(base.values()) == 0:
        reasons = ["baseline: all scores are 0"]
    return _undefined(reasons) if reasons else Value((math.fsum(values.values()) / math.fsum(base.values()) - 1) * 100)


def corruption_error(scores: Scores, baseline: Scores) -> Value:
    """CE(c): what is missing to a perfect score, relative to the baseline; below 1 is better than it.

    Source: RoboBEV, docs/RESULTS.md (printed there in percent); here a fraction.

    Args:
        scores, baseline: M(c, s) and M_b(c, s) by severity, as fractions of 1; both need the same severities.
    Raises:
        ValueError: a score above 1, so in percent.
    """
    values, base, reasons = _pair(scores, baseline)
    for value in (*values.values(), *base.values()):
        if value > 1:
            raise ValueError(f"score {value}: the corruption error needs scores from 0 to 1, not percent")
    if reasons:
        return _undefined(reasons)
    base_error = math.fsum(1 - v for v in base.values())
    if base_error == 0:
        return _undefined(["baseline: all scores are 1"])
    return Value(math.fsum(1 - v for v in values.values()) / base_error)


# ---------------------------------------------------------------- all corruptions


def corruption_mean(values: Mapping[str, Value]) -> Value:
    """mRA, mRRA or mCE: mean over corruptions; NaN where one is, with its name before its reasons.

    Source: MultiCorrupt, README.md; RoboBEV, docs/RESULTS.md.
    """
    reasons = [f"{name}: {reason}" for name, value in values.items() for reason in value.reasons]
    if not values:
        reasons = ["no corruption"]
    return _undefined(reasons) if reasons else Value(math.fsum(v.value for v in values.values()) / len(values))


def robustness(scores: pd.DataFrame, baseline: str | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """RA, RRA and CE of every model and corruption, and their means for every model.

    Every model is held to every corruption and severity that any of them was given: a row that a model lacks counts
    as a missing score.

    Args:
        scores: columns ``model``, ``corruption`` (``clean`` for the clean score), ``severity`` (anything for clean)
            and ``score`` (a fraction of 1; NaN: failed).
        baseline: model that RRA and CE are relative to; None leaves them NaN.
    Returns:
        one row per model and corruption (CORRUPTION_COLUMNS): number of severities, mean score over them, RA, RRA in
        percent, CE; and one row per model (MODEL_COLUMNS). ``reason`` says why a number of the row is NaN, else "".
    Raises:
        ValueError: two scores for the same model, corruption and severity.
    """
    models, corruptions, cells, clean = _grid(scores)
    rows, totals = [], []
    for model in models:
        by_metric: dict[str, dict[str, Value]] = {"RA": {}, "RRA": {}, "CE": {}}
        for name, severities in corruptions.items():
            values, base = ({s: cells.get((m, name, s)) for s in severities} for m in (model, baseline))
            by_metric["RA"][name] = resistance_ability(values, clean.get(model))
            by_metric["RRA"][name] = relative_resistance(values, base) if baseline in models else _no_baseline(baseline)
            by_metric["CE"][name] = corruption_error(values, base) if baseline in models else _no_baseline(baseline)
            here = {key: by_corruption[name] for key, by_corruption in by_metric.items()}
            mean = severity_mean(values)
            numbers = {"score": mean.value, **{key: value.value for key, value in here.items()}}
            reason = _joined([mean, *here.values()])
            rows.append(
                {"model": model, "corruption": name, "severities": len(severities), **numbers, "reason": reason}
            )
        means = {f"m{key}": corruption_mean(by_corruption) for key, by_corruption in by_metric.items()}
        base_score = _number(clean.get(model))
        totals.append(
            {
                "model": model,
                "clean": math.nan if base_score is None else base_score,
                **{key: value.value for key, value in means.items()},
                "reason": _joined([*means.values()]),
            }
        )
    return pd.DataFrame(rows, columns=list(CORRUPTION_COLUMNS)), pd.DataFrame(totals, columns=list(MODEL_COLUMNS))


def _grid(scores: pd.DataFrame) -> tuple[list[str], dict[str, list[Severity]], dict, dict[str, float]]:
    """Models, severities by corruption, scores by (model, corruption, severity), clean scores by model."""
    models = list(dict.fromkeys(scores["model"]))
    corruptions: dict[str, list[Severity]] = {}
    cells: dict[tuple[str, str, Severity], float] = {}
    clean: dict[str, float] = {}
    columns = (scores[name] for name in ("model", "corruption", "severity", "score"))
    for model, corruption, severity, score in zip(*columns, strict=True):
        if isinstance(severity, float) and severity.is_integer():
            severity = int(severity)  # a column with gaps is read as floating point
        if corruption == CLEAN:
            twice = model in clean
            clean[model] = score
        else:
            twice = (model, corruption, severity) in cells
            cells[model, corruption, severity] = score
            severities = corruptions.setdefault(corruption, [])
            if severity not in severities:
                severities.append(severity)
        if twice:
            raise ValueError(f"model '{model}', corruption '{corruption}', severity {severity}: two scores")
    return models, corruptions, cells, clean


# ---------------------------------------------------------------- missing scores


def _number(value: Any) -> float | None:
    """The score, None where it is missing."""
    if pd.isna(value):
        return None
    value = float(value)
    if value < 0 or math.isinf(value):
        raise ValueError(f"score {value}: a score is finite and not negative")
    return value


def _complete(scores: Scores) -> tuple[dict[Severity, float], list[str]]:
    """The scores there are, and a reason for each that is missing."""
    values = {severity: _number(score) for severity, score in scores.items()}
    reasons = [f"severity {severity}: no score" for severity, value in values.items() if value is None]
    return {s: v for s, v in values.items() if v is not None}, reasons if scores else ["no severity"]


def _pair(scores: Scores, baseline: Scores) -> tuple[dict[Severity, float], dict[Severity, float], list[str]]:
    """``_complete`` of a model and its baseline over the severities of both."""
    every = dict.fromkeys([*scores, *baseline])
    values, reasons = _complete({s: scores.get(s) for s in every})
    base, base_reasons = _complete({s: baseline.get(s) for s in every})
    return values, base, [*reasons, *(f"baseline, {reason}" for reason in base_reasons)] if every else reasons


def _undefined(reasons: list[str]) -> Value:
    return Value(math.nan, tuple(reasons))


def _no_baseline(baseline: str | None) -> Value:
    return _undefined(["no baseline" if baseline is None else f"baseline '{baseline}': no scores"])


def _joined(values: list[Value]) -> str:
    return "; ".join(dict.fromkeys(reason for value in values for reason in value.reasons))
