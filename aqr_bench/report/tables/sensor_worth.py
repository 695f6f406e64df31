"""The table of what each sensor is worth to each variant, under each condition that was evaluated without it, too."""

from __future__ import annotations

from collections.abc import Sequence

from aqr_bench.corruptions.suites.missing_sensors import ZERO
from aqr_bench.report.score_statistics import ScoreDifference, corrected_verdict, number, p_text, span, verdict
from aqr_bench.report.sensor_worth import DECORATIVE, SENSOR_NAMES, WorthRow
from aqr_bench.report.tables.study import HOLM_VERDICT, SCENES_INTERVAL, SEEDS_INTERVAL
from aqr_bench.report.tables.table import ReportTable, Row, make_table

RULE = (
    "Worth: score under the condition minus that without the sensor, paired by seed and by scene. "
    f"{DECORATIVE.capitalize()}: nothing beyond the noise is lost with it (where the interval is wide, there are too "
    "few seeds to tell). Change: worth to this variant minus worth to the one that it is compared with. Single-sensor "
    "model: score of the variant that never has the sensor, on the same input; empty where there is none."
)
SAME_INPUT = (
    "What a corruption does to a sensor that is then removed is no part of the input: without the LiDAR, few beams are "
    "no LiDAR."
)


def worth_table(name: str, metric: str, rows: Sequence[WorthRow], note: str = "", who: str = "Variant") -> ReportTable:
    """A row for each condition, sensor and model. ``note``: what they are of; ``who``: heading of the models."""
    table_rows = [_row(row, metric, who) for row in rows]
    texts = {"Condition", "Sensor", who, "Verdict", "Change, verdict", HOLM_VERDICT}
    numeric = [column for column in (table_rows[0].text if table_rows else ()) if column not in texts]
    title = "What a sensor is worth"
    return make_table(name, title, table_rows, " ".join(filter(None, [note, RULE, SAME_INPUT])), numeric)


def _row(row: WorthRow, metric: str, who: str) -> Row:
    worth, change = row.worth, row.change
    single, corrected = (rule(change, True) if change else "–" for rule in (verdict, corrected_verdict))
    direction = {"better": "more", "worse": "less"}
    single, corrected = direction.get(single, single), direction.get(corrected, corrected)
    floor_model, floor = row.floor or ("", None)
    data = {
        "condition": row.condition,
        "sensor": row.sensor,
        "form": row.form,
        who.lower(): row.model,
        f"{metric}_mean": row.score.mean,
        f"{metric}_without": row.without.mean,
        "worth": worth.mean,
        "worth_sd": worth.sd,
        "seeds": worth.n,
        **_interval("worth", worth),
        "verdict": row.verdict,
        "change": change.mean if change else None,
        **_interval("change", change),
        "change_p_holm": change.p_holm if change else None,
        "change_verdict": single,
        "change_verdict_holm": corrected,
        "single_sensor_model": floor_model,
        "single_sensor_mean": floor.mean if floor else None,
        "single_sensor_seeds": floor.n if floor else None,
    }
    sensor = SENSOR_NAMES[row.sensor]
    text = {
        "Condition": row.condition,
        "Sensor": sensor if row.form == ZERO else f"{sensor} ({row.form})",
        who: row.model,
        metric: number(row.score.mean),
        "Without": number(row.without.mean),
        "Worth": number(worth.mean, sign=True),
        SEEDS_INTERVAL: span(worth.low, worth.high),
        SCENES_INTERVAL: span(worth.scenes.low, worth.scenes.high) if worth.scenes else "–",
        "Verdict": row.verdict,
        "Change": number(change.mean, sign=True) if change else "–",
        f"Change, {SEEDS_INTERVAL}": span(change.low, change.high) if change else "–",
        f"Change, {SCENES_INTERVAL}": span(change.scenes.low, change.scenes.high) if change and change.scenes else "–",
        "Change, verdict": single,
        HOLM_VERDICT: corrected if single in direction.values() else "–",
        "p, Holm": p_text(change.p_holm) if change else "–",
        "Single-sensor model": f"{number(floor.mean)} ({floor_model})" if floor else "",
        "Seeds": str(worth.n),
    }
    return Row(data, text)


def _interval(prefix: str, difference: ScoreDifference | None) -> dict[str, float | None]:
    """95 % intervals over seeds and over scenes, as columns."""
    scenes = difference.scenes if difference else None
    return {
        f"{prefix}_low95": difference.low if difference else None,
        f"{prefix}_high95": difference.high if difference else None,
        f"{prefix}_scenes_low95": scenes.low if scenes else None,
        f"{prefix}_scenes_high95": scenes.high if scenes else None,
    }
