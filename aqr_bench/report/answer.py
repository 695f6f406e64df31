"""The answer of a study in one sentence, with its evidence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from aqr_bench.records.record import NOT_APPLICABLE
from aqr_bench.report.collect import Results
from aqr_bench.report.score_statistics import MIN_DIFFERENCE, ScoreDifference, number, phrase, summarise
from aqr_bench.report.tables.cost import latency_ratio
from aqr_bench.report.tables.study import by_seed, differences
from aqr_bench.study.spec import Study


def answer(study: Study, results: Results) -> str:
    """One sentence (with a second one where runs are missing)."""
    wanted = len(study.variants) * len(study.seeds) * len(study.suite.conditions)
    wanted -= int((results.evaluations["status"] == NOT_APPLICABLE).sum())
    ok = int((results.evaluations["status"] == "ok").sum())
    missing = "" if ok == wanted else f" {wanted - ok} of {wanted} evaluations are missing or failed."
    return _sentence(study, results) + missing


def _sentence(study: Study, results: Results) -> str:
    compared = {key: d for key, d in differences(study, results).items() if d is not None}
    if len(study.variants) == 1:
        return _single(study, results)
    if not compared:
        return "No answer yet: no variant can be compared with the baseline, since evaluations are not finished."
    clear = {key: d for key, d in compared.items() if d.beyond_noise}
    unknown = sum(d.low is None for d in compared.values())
    within = len(compared) - len(clear) - unknown
    rest = _rest(within, unknown, _quiet(study, compared))
    if clear:
        ordered = sorted(clear.items(), key=lambda item: -abs(item[1].mean))
        parts = [_difference(study, results, key, d) for key, d in ordered]
        left = len(parts) - 3
        words = "1 more difference is" if left == 1 else f"{left} more differences are"
        more = [f"{words} beyond the noise"] if left > 0 else []
        return "; ".join([*parts[:3], *more, *_corrected(clear), *rest]) + "."
    (variant, condition), delta = max(compared.items(), key=lambda item: abs(item[1].mean))
    evidence = phrase(delta, study.metric)
    largest = (
        f"the largest difference to '{study.compared_with(variant)}' is '{variant}' under '{condition}': {evidence}"
    )
    if not within:
        return f"No answer: with a single seed there is no estimate of the noise; {largest}."
    everywhere = "" if unknown else ", under any condition"
    seeds_missing = f"; {rest[-1]}" if unknown else ""
    return (
        f"No variant differs from '{study.baseline}' beyond the noise{everywhere} ({_why_noise(compared.values())})"
        f"{seeds_missing}; {largest}."
    )


def _why_noise(differences: Iterable[ScoreDifference]) -> str:
    """Why none of them is a finding: an interval contains 0, or it is rounded to 0."""
    tested = [d for d in differences if d.low is not None]
    tiny = any(all(low > 0 or high < 0 for low, high in d.intervals) for d in tested)
    both = any(d.scenes is not None for d in tested)
    why = "of each an interval over seeds or over scenes contains 0" if both else "every 95 % interval contains 0"
    return why + (f" or the difference is below {MIN_DIFFERENCE:g}" if tiny else "")


def _quiet(study: Study, compared: Mapping[tuple[str, str], ScoreDifference]) -> list[str]:
    """Variants all of whose differences have an interval and are within the noise."""
    of = {name: [d for (variant, _), d in compared.items() if variant == name] for name in study.variants}
    return [n for n, deltas in of.items() if deltas and not any(d.low is None or d.beyond_noise for d in deltas)]


def _rest(within: int, unknown: int, quiet: Sequence[str]) -> list[str]:
    """Clauses on the differences of which nothing can be claimed; ``quiet``: variants that have no others."""
    clauses = []
    if within:
        all_of = f", all of {' and of '.join(map(repr, quiet))} among them" if quiet else ""
        words = "1 difference is" if within == 1 else f"{within} differences are"
        clauses.append(f"{words} within the noise{all_of}")
    if unknown:
        rest = "1 difference rests" if unknown == 1 else f"{unknown} differences rest"
        clauses.append(f"{rest} on a single pair of seeds, noise unknown")
    return clauses


def _difference(study: Study, results: Results, key: tuple[str, str], difference: ScoreDifference) -> str:
    variant, condition = key
    word = "better" if (difference.mean > 0) == study.higher_is_better else "worse"
    against, evidence = study.compared_with(variant), phrase(difference, study.metric)
    return f"'{variant}' is {word} than '{against}' under '{condition}' ({evidence}{_cost(study, results, variant)})"


def _cost(study: Study, results: Results, variant: str) -> str:
    """Latency of the variant; nothing where it is compared with another variant than it was measured against."""
    if study.compared_with(variant) != study.baseline:
        return ""
    ratio = latency_ratio(study, results, variant)
    if not math.isfinite(ratio):
        return "; latency not measured"
    percent = round(100 * (ratio - 1))
    return f"; {abs(percent)} % {'less' if percent < 0 else 'more'} latency"


def _corrected(clear: Mapping[tuple[str, str], ScoreDifference]) -> list[str]:
    """A clause on which findings remain after correction for multiple comparisons; none for a single comparison."""
    comparisons = max(d.comparisons for d in clear.values())
    if comparisons < 2:
        return []
    remaining = [f"'{variant}' under '{condition}'" for (variant, condition), d in clear.items() if d.survives]
    after = f"after correction for {comparisons} comparisons (Holm)"
    if len(remaining) == len(clear):
        return [f"still so {after}"]
    if not remaining:
        return [f"within the noise {after}"]
    more = f" and {len(remaining) - 3} more" if len(remaining) > 3 else ""
    return [f"still so {after}: {', '.join(remaining[:3])}{more} only"]


def _single(study: Study, results: Results) -> str:
    reference = study.suite.conditions[0].name
    summary = summarise(list(by_seed(results, study.baseline, reference, study.metric).values()))
    if summary.mean is None:
        return "No answer yet: the study's only variant has no finished evaluation."
    return (
        f"Nothing to compare: '{study.baseline}' is the only variant, with {study.metric} {number(summary.mean)} under "
        f"'{reference}' (n = {summary.n})."
    )


def cost_answer(study: Study, results: Results) -> str:
    """The latencies of a study whose variants were only measured, largest first."""
    measured = results.measures[results.measures["status"] == "ok"]
    ratios = {
        row.variant: row.latency_ratio
        for row in measured.itertuples()
        if row.variant != study.baseline and row.latency_ratio == row.latency_ratio
    }
    missing = len(study.variants) - len(measured)
    unmeasured = f" {missing} of {len(study.variants)} measurements are missing or failed." if missing else ""
    if not ratios:
        return f"No answer yet: no variant has been measured beside the baseline.{unmeasured}"
    ranked = sorted(ratios.items(), key=lambda item: -item[1])
    parts = [f"'{name}' {number(ratio, 2)}" for name, ratio in ranked]
    return (
        f"Latency as a multiple of that of '{study.baseline}': {', '.join(parts)}. Cost alone was measured: no model "
        f"was trained, and no scores were compared.{unmeasured}"
    )
