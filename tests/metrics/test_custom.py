"""Metrics of the user: computed beside nuScenes' ones, held to the contract, and part of what uses them alone."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from nuscenes.eval.detection.constants import DETECTION_NAMES
from worlds import smallest_world

from aqr_bench.cli.evaluate import main as evaluate
from aqr_bench.data.infos import open_nuscenes
from aqr_bench.engine.check_configs import check_configs
from aqr_bench.errors import UserError
from aqr_bench.metrics.cross_check import check_submission
from aqr_bench.metrics.custom import check_metric, custom_scores, probe_boxes
from aqr_bench.metrics.detection import evaluated_truth, score_detections
from aqr_bench.records.code_dependencies import code_parts
from aqr_bench.records.record import Record
from aqr_bench.study.load import load_study, load_suite, load_tier
from aqr_bench.study.plan import evaluation_settings
from aqr_bench.study.requirements import require_metrics
from aqr_bench.study.settings import condition_settings, training_settings

COUNTS = """
import numpy as np
def counts(detections, annotations, samples):
    return {"detections": len(detections), "empty": float("nan"), "far": np.float32(samples.offset(annotations).max())}
"""


@pytest.fixture
def project(project):
    (project / "mine.py").write_text(COUNTS)
    return project


def test_its_numbers_go_by_their_names(project):
    assert check_metric("mine.py:counts") == ["detections", "empty", "far"]
    detections, annotations, samples = probe_boxes()
    scores = custom_scores(["mine.py:counts"], detections, annotations, samples)
    assert scores == {"detections": 12.0, "empty": None, "far": pytest.approx(annotations.translation[:, :2].max())}
    assert annotations.score.flags.writeable, "views are read-only, the arrays stay as they were"
    record = Record("evaluate", "ok", "t", condition="clean", suite="s", scores={"mAP": 0.1, "custom": scores})
    again = Record.from_dict(record.to_dict())
    assert again.scores["custom"]["empty"] is None and again.score("mAP") == 0.1
    assert again.score("custom.detections") == 12 and again.score("custom.mAP") is None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 3.0", r"metric 'broken.py:metric' returned float, expected numbers by their names"),
        ("return {'a b': 1.0}", "'a b' is no name"),
        ("return {'a': '1'}", "a is of type str, expected a number"),
        ("return {'a': True}", "a is of type bool, expected a number"),
        ("return {'a': 1 / len(d)}", "fails: ZeroDivisionError"),
        ("d.score[0] = 1; return {'a': 0.0}", "fails: ValueError: .*read-only"),
        ("return {str(len(d)) + 'x' if 0 else 'n%d' % len(d): 0.0}", "gives other names without detections: n0, n12"),
        ("return {'a': np.random.rand()}", "gives another result for the same boxes"),
    ],
)
def test_what_breaks_the_contract_is_one_line(project, body, message):
    (project / "broken.py").write_text(f"import numpy as np\ndef metric(d, a, s): {body}\n")
    with pytest.raises(UserError, match=message):
        check_metric("broken.py:metric")


def test_a_name_that_is_none_and_a_function_of_other_arguments(project):
    (project / "other.py").write_text("def metric(detections): return {}\n")
    with pytest.raises(UserError, match=r"no metric 'recall'\. Name it as"):
        check_metric("recall")
    with pytest.raises(UserError, match=r"is no function \(detections: BoxArrays"):
        check_metric("other.py:metric")
    with pytest.raises(UserError, match="another metric gives 'detections' as well"):
        custom_scores(["mine.py:counts"] * 2, *probe_boxes())


def test_a_study_with_a_number_that_no_metric_gives_is_refused_before_anything_runs(project):
    tier, study = replace(load_tier("smoke"), metrics=("mine.py:counts",)), load_study("smoke")
    with pytest.raises(UserError, match=r"custom.fa: the metrics of tier smoke give no 'fa'; did you mean 'far'"):
        check_configs(tier, [replace(study, metric="custom.fa")])
    require_metrics(tier, [replace(study, metric="custom.far"), study], check_metric("mine.py:counts"))


def test_a_change_of_it_evaluates_again_and_trains_nothing(project):
    tier, suite = load_tier("smoke"), load_suite("missing_sensors")
    metric = replace(tier, metrics=("mine.py:counts",))
    assert training_settings(metric) == training_settings(tier)
    assert "metrics" not in evaluation_settings(tier, suite), "evaluations without one keep their identity"
    settings = condition_settings(metric, suite.conditions[0])
    assert settings["metrics"] == ["mine.py:counts"] == evaluation_settings(metric, suite)["metrics"]
    before = code_parts("evaluate", "cmt_aqr_quick", settings)
    assert "./mine.py" in before and "./mine.py" not in code_parts("evaluate", "cmt_aqr_quick", {"batch_size": 1})
    (project / "mine.py").write_text(COUNTS.replace("max()", "min()"))
    after = code_parts("evaluate", "cmt_aqr_quick", settings)
    assert {name for name in before if before[name] != after[name]} == {"./mine.py"}


def test_boxes_of_the_probe_do_not_change():
    detections, annotations, samples = probe_boxes()
    assert len(detections) == len(annotations) == 12 and len(samples.tokens) == 2
    assert np.array_equal(annotations.translation, probe_boxes()[1].translation)


def test_it_gets_the_boxes_that_nuscenes_counts(project):
    nusc = open_nuscenes(smallest_world() / "world", "v1.0-mini")
    truth = evaluated_truth(nusc)
    first = truth.boxes[:1]
    (project / "mine.py").write_text("def counts(d, a, s): return {'objects': len(a), 'detections': len(d)}\n")
    entry = {"translation": first.translation[0].tolist(), "size": [1, 1, 1], "rotation": [1, 0, 0, 0]}
    entry |= {
        "velocity": [0, 0],
        "detection_name": DETECTION_NAMES[first.label[0]],
        "detection_score": 0.5,
        "attribute_name": "",
    }
    far = {**entry, "translation": [entry["translation"][0] + 200, *entry["translation"][1:]]}
    tokens = truth.samples.tokens
    token = tokens[first.sample[0]]
    boxes = [{**box, "sample_token": token} for box in (entry, far)]
    results = {t: boxes if t == token else [] for t in tokens}
    scores = score_detections("no file", nusc, project, results=results, custom=["mine.py:counts"])
    assert scores["custom"] == {"objects": len(truth.boxes), "detections": 1}
    assert "custom" not in score_detections("no file", nusc, project, results=results)
    submission = project / "results_nusc.json"
    submission.write_text(json.dumps({"meta": {}, "results": results}))
    assert check_submission(submission, scores, nusc).agrees, "the devkit does not know of it"


def test_a_tier_names_its_metrics_itself():
    with pytest.raises(UserError, match=r"--metrics belongs to --config\. A tier names its metrics itself"):
        evaluate(["--tier", "smoke", "--train", "x", "--out", "y", "--metrics", "mine.py:counts"])
