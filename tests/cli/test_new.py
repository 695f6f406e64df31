"""aqr-bench new: templates that work as written, with tests that pass as written."""

from __future__ import annotations

import ast
import sys
import types

import pytest

from aqr_bench.cli.new import FILES, main, write_template
from aqr_bench.errors import UserError
from aqr_bench.study.load import load_study, load_suite, load_tier
from aqr_bench.study.model_files import own_sources


def run_tests(path) -> int:
    """Run the tests of a file in this process; returns how many."""
    module = types.ModuleType(path.stem)
    exec(compile(path.read_text(), str(path), "exec"), module.__dict__)
    tests = [test for name, test in vars(module).items() if name.startswith("test_")]
    for test in tests:
        test()
    return len(tests)


@pytest.mark.parametrize(("kind", "tests"), [("metric", 2), ("world_class", 1)])
def test_the_tests_of_a_metric_and_of_an_object_class_pass_as_written(project, kind, tests):
    write_template(kind, "my_own", project)
    assert run_tests(project / "tests" / f"test_{kind}_my_own.py") == tests


@pytest.mark.parametrize("kind", ["router", "corruption"])
def test_the_tests_of_a_template_pass_as_written_and_fail_on_a_mistake(project, kind, capsys):
    assert main([kind, "near_first"]) == 0
    printed = capsys.readouterr().out.splitlines()
    file, test = project / f"{kind}s" / "near_first.py", project / "tests" / f"test_{kind}_near_first.py"
    assert printed[0] == f"{kind}s/near_first.py" and f"tests/test_{kind}_near_first.py" in printed
    assert run_tests(test) == 2
    broken = {".tanh()": " * 0 + 3", "rng.random(len(near))": "np.random.rand(len(near))"}
    text = file.read_text()
    for right, wrong in broken.items():
        text = text.replace(right, wrong)
    file.write_text(text)
    for name in [name for name in sys.modules if name.startswith("aqr_plugin_near_first")]:
        del sys.modules[name]
    with pytest.raises(UserError, match=r"a weight of 3|another result with the same seed"):
        run_tests(test)


def test_the_suite_of_a_corruption_names_it(project):
    write_template("corruption", "dust", project)
    suite = load_suite(project / "ablations/conditions/dust.yaml")
    assert [str(c.corruption) for c in suite.conditions] == ["clean", *(f"custom.dust@{s}" for s in (1, 2, 3))]


def test_the_study_of_a_router_compares_it_with_the_learned_one(project):
    write_template("router", "near_first", project)
    study = load_study(project / "ablations/near_first.yaml")
    routers = {name: v.config["model.pts_bbox_head.aqr"]["router"] for name, v in study.variants.items()}
    assert routers == {"learned": "learned", "near_first": "routers/near_first.py:NearFirst"}


def test_a_study_and_a_tier_can_be_loaded(project):
    write_template("study", "my_study", project)
    write_template("tier", "my_tier", project)
    study, tier = load_study(project / "ablations/my_study.yaml"), load_tier(project / "ablations/tiers/my_tier.yaml")
    assert set(study.variants) == {"narrow", "wide"} and tier.model == "cmt_aqr_quick"


def test_the_test_of_a_detector_is_none_of_its_sources(project):
    written = write_template("detector", "careful", project)
    config = project / "detectors" / "careful.py"
    assert set(own_sources(str(config))) == set(written[:2]) and "class Careful(CenterPoint)" in written[1].read_text()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["study", "tier", "detector"])
def test_the_tests_of_the_other_templates_pass_as_written(project, kind):
    write_template(kind, "written", project)
    assert run_tests(project / "tests" / f"test_{kind}_written.py") == 1


@pytest.mark.parametrize("kind", FILES)
def test_every_template_is_python_or_yaml_with_the_name_in_it(project, kind):
    for path in write_template(kind, "a_name", project):
        text = path.read_text()
        assert "a_name" in text and "$" not in text and max(map(len, text.splitlines())) <= 120
        if path.suffix == ".py":
            ast.parse(text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["router", "My-Router"], "'My-Router' is no name: lower-case letters"),
        (["router", "class"], "'class' is a keyword of Python"),
        (["study", "report"], "'report' is reserved"),
        (["router", "base"], "'base' is reserved"),
        (["study", "no"], "'no' is false"),
        (["tier", "there"], "there.yaml is there already"),
    ],
)
def test_mistakes(project, words, message):
    write_template("tier", "there", project)
    with pytest.raises(UserError, match=message):
        main(words)
