"""A result depends on the code that its job uses: all of that, by another reader of the imports, and nothing else."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator

import pytest

from aqr_bench.errors import UserError
from aqr_bench.records import code_dependencies, imports
from aqr_bench.records.code_dependencies import (
    ENTRIES,
    HASHED_EXCEPTIONS,
    NOT_HASHED,
    OPTIONAL,
    PACKAGE,
    SUITES,
    WITH_MODEL,
    code_hash,
    code_hash_for,
    code_parts,
)
from aqr_bench.records.imports import is_part_of
from aqr_bench.records.request import evaluation_requests, measurement_request, training_request
from aqr_bench.study import model_files
from aqr_bench.study.load import load_study, load_suite, load_tier

TIER, STUDY = load_tier("smoke"), load_study("smoke")
CACHES = (code_dependencies._hashes, code_dependencies._entries_of_shipped_model)
ROUTERS = {f"bias/{name}.py" for name in ("generator", "router", "expert_routing", "custom_router")}
OF_SUITES = ("corruptions/suites", "corruptions/image", "corruptions/lidar")


def training(variant: str | None, pretrain: str | None = None) -> set[str]:
    return set(training_request(TIER, STUDY if variant else None, variant, pretrain, "infos").code)


def evaluation(suite: str, condition: str, variant: str = "none") -> set[str]:
    return set(evaluation_requests(TIER, load_suite(suite), STUDY, variant, "infos", "weights")[condition].code)


def corruptions_in(files: set[str]) -> set[str]:
    return {file for file in files if is_part_of(file, OF_SUITES)}


# ---------------------------------------------------------------- nothing is left out


@functools.cache
def graph():
    grimp = pytest.importorskip("grimp", reason="import-linter is not installed (pip install -e .[dev])")
    return grimp.build_graph("aqr_bench", exclude_type_checking_imports=True, cache_dir=None)


def file_of(module: str) -> str:
    path = PACKAGE.joinpath(*module.split(".")[1:])
    file = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
    return file.relative_to(PACKAGE).as_posix()


NAMED_IN_CONFIGS = (  # which no import statement shows
    *("cmt", "engine.hooks", "data.transforms", "data.conditions"),
    *("data.gt_sampling", "data.cbgs", "data.bev_image_augmentation"),
)


def imported_by(step: str) -> set[str]:
    """Files below aqr_bench/ of what a step imports, also inside of functions; what is not hashed leads no further."""
    waiting = [entry.removesuffix(".py").replace("/", ".") for entry in ENTRIES[step] if entry.endswith(".py")]
    waiting += NAMED_IN_CONFIGS if step in WITH_MODEL else ()
    modules, stops = {f"aqr_bench.{name}" for name in waiting}, [*NOT_HASHED, *([] if step in WITH_MODEL else OPTIONAL)]
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        file = file_of(module)
        if file in HASHED_EXCEPTIONS or not is_part_of(file, stops):
            new = graph().find_modules_directly_imported_by(module) - modules
            modules |= new
            waiting += new
    return {file_of(module) for module in modules}


@pytest.mark.parametrize("step", ENTRIES)
def test_every_import_of_a_step_is_hashed_or_has_a_reason(step):
    hashed = set(code_parts(step))
    if step == "pictures":  # are of the records of one model, which have the code of that
        hashed |= set(code_parts("train"))
    left_out = [*NOT_HASHED, *([] if step in WITH_MODEL else OPTIONAL)]
    files = {file for file in imported_by(step) - hashed if not is_part_of(file, left_out)}
    missing = {file for file in files if not file.endswith("__init__.py")}
    assert not missing, f"a change to {sorted(missing)} would leave results of '{step}' called up to date"


def test_what_is_left_out_is_imported_by_some_step():
    files = set().union(*map(imported_by, ENTRIES))
    assert all(any(is_part_of(file, [part]) for file in files) for part in [*NOT_HASHED, *OPTIONAL])
    assert set(HASHED_EXCEPTIONS) <= set(code_parts("train"))


def test_all_data_of_the_package_belongs_to_a_step():
    kinds = code_dependencies._SOURCE_SUFFIXES - {".py"}
    data = [path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*") if path.suffix in kinds]
    assert data and all(any(is_part_of(file, entries) for entries in ENTRIES.values()) for file in data)


def test_the_weight_loader_counts_for_evaluations():
    assert "engine/weights.py" in evaluation("missing_sensors", "clean")


def test_the_head_counts_for_every_model():
    assert "cmt/head.py" in training("none") & training("cross") & training(None) & evaluation(
        "missing_sensors", "clean"
    )


def test_in_doubt_everything_counts():
    everything = set(code_parts("train"))
    assert ROUTERS | training("cross") < everything and set(OPTIONAL) <= everything
    assert {f"cmt/configs/{name}.py" for name in ("cmt_aqr_quick", "_base_/model")} <= everything
    assert len(code_hash_for("train")) == 64 and code_hash_for("train") != code_hash_for("evaluate")
    assert code_hash_for("train", TIER.model, {}) != code_hash_for("train")


# ---------------------------------------------------------------- and what is not used does not count


def test_routers_count_for_variants_with_a_bias_alone():
    plain, biased = training("none"), training("cross")
    assert biased - plain == ROUTERS and plain <= biased
    assert training(None) == plain and not ROUTERS & evaluation("missing_sensors", "clean")
    assert evaluation("missing_sensors", "clean", "cross") > ROUTERS
    of_measurements = [set(measurement_request(TIER, STUDY, name, "infos").code) for name in ("none", "cross")]
    assert of_measurements[1] - of_measurements[0] == ROUTERS


def test_the_head_of_mome_counts_for_models_that_name_it():
    mome = {"cmt/multi_expert_head.py", "cmt/multi_expert.py", "bias/expert_windows.py"}
    assert mome <= set(code_parts("train", "mome", {"config": {}})) and mome <= set(code_parts("train"))
    assert mome <= set(code_parts("train", "moad_voxel0075_vov_1600x640_cbgs", {"config": {}}))
    named = {"config": {"model.pts_bbox_head.type": "MultiExpertDecoding"}}
    assert not mome & training("cross") and mome <= set(code_parts("train", TIER.model, named))


def test_corruptions_count_for_the_conditions_that_use_them():
    assert not corruptions_in(training("cross")) and SUITES not in training("cross")
    assert corruptions_in(evaluation("missing_sensors", "no_lidar")) == {"corruptions/suites/missing_sensors.py"}
    fog = next(name for name in (c.name for c in load_suite("multicorrupt").conditions) if "fog" in name)
    of_fog = evaluation("multicorrupt", fog)
    assert {"corruptions/suites/multicorrupt.py", "corruptions/lidar/fog.py"} < of_fog and SUITES not in of_fog
    assert not [file for file in corruptions_in(of_fog) if "nuscenes_" in file]


def test_a_training_under_corruption_depends_on_its_suite():
    steps = [{"type": "RandomCondition", "names": ["multicorrupt.fog@2"]}]
    files = set(code_parts("train", TIER.model, {"config": {"train_dataloader.dataset.pipeline": steps}}))
    assert "corruptions/suites/multicorrupt.py" in files
    assert not [file for file in corruptions_in(files) if "nuscenes_" in file]


def test_a_config_depends_on_its_own_chain_alone():
    quick, paper = training(None), set(code_parts("train", "cmt_voxel0100_r50_800x320_cbgs", {}))
    assert "cmt/configs/cmt_aqr_quick.py" in quick - paper
    assert {"cmt/configs/_base_/nuscenes.py", "data/gt_sampling.py"} <= paper - quick


def test_a_custom_model_depends_on_what_its_modules_import(tmp_path):
    config, module = tmp_path / "mine.py", tmp_path / "my_head.py"
    config.write_text('_base_ = ["mmdet3d::x.py"]\ncustom_imports = dict(imports=["my_head"])\n')
    module.write_text("from aqr_bench.data.cbgs import BalancedDataset\n")
    plain, hashed = set(code_parts("train", str(config), {})), code_hash_for("train", str(config), {})
    assert "data/cbgs.py" in plain and not ROUTERS & plain and SUITES not in plain
    module.write_text(
        "from aqr_bench.bias.arguments import attention_bias\nfrom aqr_bench.corruptions import corrupt\n"
    )
    assert set(code_parts("train", str(config), {})) > ROUTERS | {SUITES}
    assert code_hash_for("train", str(config), {}) != hashed
    # Of a package that is neither ours nor mmdet3d nothing is known.
    assert set(code_parts("train", "another::model.py", {})) > ROUTERS
    assert not ROUTERS & set(code_parts("train", "mmdet3d::model.py", {}))


# ---------------------------------------------------------------- code of the user


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a router that imports a module beside it, a corruption that uses one of ours, and another one."""
    files = {
        "my_router.py": "import helper\nclass MyRouter: ...\n",
        "helper.py": "SCALE = 1\n",
        "dust.py": "from aqr_bench.corruptions.lidar.fog import add_fog\ndef near_dust(f, s, p): ...\n",
        "mud.py": "def mud(f, s, p): ...\n",
        "unused.py": "",
        "plug/__init__.py": "",
        "plug/dust.py": "from . import physics\ndef dust(f, s, p): ...\n",
        "plug/physics.py": "",
    }
    for folder in ("ablations", "config"):
        (tmp_path / folder).mkdir()
    (tmp_path / "config/config.yaml").touch()
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def of_user(files: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in files.items() if name.startswith("./")}


def under(corruption: str) -> dict[str, str]:
    return code_parts("evaluate", TIER.model, {"condition": {"name": "x", "corruption": corruption}})


def with_router(router: str) -> dict[str, str]:
    return code_parts("train", TIER.model, {"config": {"model.pts_bbox_head.aqr": {"site": "cross", "router": router}}})


def test_a_router_of_the_user_counts_with_what_it_imports_for_its_variants_alone(project):
    before, plain = with_router("my_router.py:MyRouter"), with_router("learned")
    assert set(of_user(before)) == {"./my_router.py", "./helper.py"} and not of_user(plain)
    (project / "helper.py").write_text("SCALE = 1  # a comment\n")
    assert with_router("my_router.py:MyRouter") == before
    (project / "helper.py").write_text("SCALE = 2\n")
    after = with_router("my_router.py:MyRouter")
    assert {name for name in after if after[name] != before.get(name)} == {"./helper.py"}
    assert with_router("learned") == plain and not of_user(code_parts("train", TIER.model, {}))


def test_a_corruption_of_the_user_counts_for_the_evaluations_under_it_alone(project):
    dust, mud = under("dust.py:near_dust"), under("mud.py:mud")
    assert set(of_user(dust)) == {"./dust.py"} and set(of_user(mud)) == {"./mud.py"}
    assert "corruptions/lidar/fog.py" in dust and "corruptions/lidar/fog.py" not in mud
    assert "corruptions/suites/multicorrupt.py" not in dust
    (project / "dust.py").write_text("def near_dust(f, s, p): return f\n")
    assert under("dust.py:near_dust")["./dust.py"] != dust["./dust.py"] and under("mud.py:mud") == mud
    assert set(of_user(under("plug.dust:dust"))) == {"./plug/__init__.py", "./plug/dust.py", "./plug/physics.py"}
    steps = [{"type": "RandomCondition", "names": ["mud.py:mud@2"]}]
    trained = code_parts("train", TIER.model, {"config": {"train_dataloader.dataset.pipeline": steps}})
    assert of_user(trained) == of_user(mud)
    assert not of_user(under("no_such.py:mud")) and not of_user(under("no_such_package.dust:mud"))
    report = code_parts("report", settings={"conditions": [{"name": "x", "corruption": "mud.py:mud"}]})
    assert of_user(report) == of_user(mud)


def test_hashes_do_not_depend_on_where_the_project_lies(project, tmp_path_factory, monkeypatch):
    here = with_router("my_router.py:MyRouter")
    copy = tmp_path_factory.mktemp("copy") / "deeper"
    shutil.copytree(project, copy)
    monkeypatch.chdir(copy)
    assert with_router("my_router.py:MyRouter") == here
    (copy / "sub").mkdir()
    monkeypatch.chdir(copy / "sub")  # paths count from the project folder
    assert with_router("my_router.py:MyRouter") == here


# ---------------------------------------------------------------- a package that changes


@pytest.fixture
def package(tmp_path, monkeypatch) -> Iterator:
    """A copy of the package, to be changed."""
    caches = (*CACHES, imports.imported_files, imports._re_exports)
    copy = tmp_path / PACKAGE.name
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for module in (code_dependencies, imports):
        monkeypatch.setattr(module, "PACKAGE", copy)
    monkeypatch.setattr(model_files, "CONFIGS", copy / "cmt" / "configs")
    for cache in caches:
        cache.cache_clear()
    yield copy
    for cache in caches:
        cache.cache_clear()


def changed(package, file: str, text: str, *jobs) -> list[set[str]]:
    """Files whose hash differs for each job after a text was appended to a file."""
    before = [code_parts(*job) for job in jobs]
    with (package / file).open("a") as source:
        source.write(text)
    for cache in CACHES:
        cache.cache_clear()
    after = [code_parts(*job) for job in jobs]
    return [
        {name for name in {**old, **new} if old.get(name) != new.get(name)}
        for old, new in zip(before, after, strict=True)
    ]


def test_statements_count_and_comments_do_not(package):
    plain = ("train", TIER.model, {"config": {}})
    biased = ("train", TIER.model, {"config": {"model.pts_bbox_head.aqr": {"site": "cross"}}})
    assert changed(package, "bias/router.py", "\n\n# a comment\n", plain, biased) == [set(), set()]
    assert changed(package, "bias/router.py", "CHANGED = 1\n", plain, biased) == [set(), {"bias/router.py"}]
    assert changed(package, "cmt/head.py", "CHANGED = 1\n", plain, biased) == [{"cmt/head.py"}, {"cmt/head.py"}]


def test_a_new_router_and_a_new_suite_leave_alone_what_is_there(package):
    condition = load_suite("missing_sensors").conditions[1].settings
    jobs = [("train", TIER.model, {}), ("evaluate", TIER.model, {"condition": condition})]
    (package / "corruptions/suites/dust.py").write_text("CORRUPTIONS = ()\n")
    (package / "bias/another_router.py").write_text("class AnotherRouter: ...\n")
    text = "\nfrom aqr_bench.corruptions.suites import dust\n\nSUITES = (dust, *SUITES)\n"
    assert changed(package, SUITES, text, *jobs) == [set(), set()]
    text = "\nfrom aqr_bench.bias.another_router import AnotherRouter\n"
    assert changed(package, "bias/__init__.py", text, *jobs) == [set(), set()]
    file = "corruptions/suites/missing_sensors.py"
    assert changed(package, file, "CHANGED = 1\n", *jobs) == [set(), {file}]
    text = "\nfrom aqr_bench.bias.another_router import AnotherRouter\n"
    assert changed(package, "cmt/head.py", text, jobs[0]) == [{"cmt/head.py", "bias/another_router.py"}]


def test_contents_and_names_of_the_parts_count(tmp_path, monkeypatch):
    monkeypatch.setattr(code_dependencies, "PACKAGE", tmp_path)
    for name, text in {"room/a.py": "x = 1\n", "room/b.txt": "note", "other.py": "y = 1\n"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    before = code_hash(["room"])
    (tmp_path / "other.py").write_text("y = 2\n")
    (tmp_path / "room" / "b.txt").write_text("another note")
    (tmp_path / "room" / "a.py").write_bytes(b"x = 1\r\n")
    assert code_hash(["room"]) == before
    assert code_hash(["room", "other.py"]) != before
    (tmp_path / "room" / "a.py").rename(tmp_path / "room" / "c.py")
    assert code_hash(["room"]) != before
    with pytest.raises(UserError, match="no 'attic'"):
        code_hash(["attic"])
