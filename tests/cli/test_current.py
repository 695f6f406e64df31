"""What is to be made again beside the records: info files, by what they were made with."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

from aqr_bench.cli.current import _data_reasons, prepare_code
from aqr_bench.study.layout import RunLayout
from aqr_bench.study.load import load_tier
from aqr_bench.study.vocabulary import Vocabulary


def test_info_files_are_made_again_for_another_mapping_of_names(tmp_path):
    tier = replace(load_tier("smoke"), kind="nuscenes", data_root=tmp_path / "root")
    layout = RunLayout(tier.name, tmp_path)
    layout.info_summary.parent.mkdir(parents=True)
    layout.info_summary.write_text(json.dumps({"code": prepare_code()}))  # of a data set with nuScenes' names
    mapped = replace(tier, vocabulary=Vocabulary({"car": "vehicle.car"}))
    assert _data_reasons(SimpleNamespace(tier=tier), layout) == {}
    reasons = _data_reasons(SimpleNamespace(tier=mapped), layout)
    assert reasons == {layout.info_summary: "data.categories or data.attributes of the tier changed"}
    layout.info_summary.write_text(json.dumps({"code": prepare_code(), "vocabulary": mapped.vocabulary.as_dict()}))
    assert _data_reasons(SimpleNamespace(tier=mapped), layout) == {}
