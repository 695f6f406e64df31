"""Differences between what is asked for and what a record has, in words."""

from __future__ import annotations

import pytest

from aqr_bench.records.request import Request, differences

ASKED = Request({"config": {"a": 1}}, {"bias/router.py": "1", "cmt/head.py": "1"}, "infos")


@pytest.mark.parametrize(
    ("settings", "code", "reasons"),
    [
        ({"config": {"a": 1}}, {"bias/router.py": "1", "cmt/head.py": "1"}, []),
        ({"config": {"a": 1}}, {"bias/router.py": "0", "cmt/head.py": "1"}, ["code: bias/router.py changed"]),
        ({"config": {"a": 1}}, {"cmt/head.py": "1"}, ["code: bias/router.py changed"]),
        # Another variant uses other files: that is no change of the code.
        ({"config": {"a": 2}}, {"cmt/head.py": "1", "b.py": "1"}, ["a 2 -> 1"]),
        ({"config": {"a": 2}}, {"cmt/head.py": "0"}, ["a 2 -> 1", "code: cmt/head.py changed"]),
        ({"config": {"a": 1}}, {c: "1" for c in "uvwxyz"}, ["code: u, v, w, x and 4 more changed"]),
        ({"config": {"a": 1}, "sources": {"mine.py": "1"}}, ASKED.code, ["mine.py changed"]),
        ({"config": {"a": 1}, "sources": "a hash"}, ASKED.code, ["files of the custom detector changed"]),
    ],
)
def test_differences_name_keys_and_files(settings, code, reasons):
    assert differences(ASKED, Request(settings, code, "infos")) == reasons
