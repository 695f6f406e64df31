"""aqr-bench doctor: what it says of a machine that works, and of machines that do not."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from aqr_bench.cli import doctor
from aqr_bench.cli.cuda_builds import Driver
from aqr_bench.cli.import_checks import ImportResult, check_import
from aqr_bench.errors import UserError
from aqr_bench.study import load as study

ROOT = Path(__file__).resolve().parents[2]
CPU = {
    "torch": ImportResult(None, {"version": "2.13.0", "cuda": None, "gpus": [], "gpu_error": None}),
    "mmcv": ImportResult(None, {"version": "2.1.0", "compiled": False}),
    "mmdet3d": ImportResult(None, {"version": "1.4.0"}),
    "spconv": ImportResult(None, {"version": "2.3.8", "cuda": False}),
    "nuscenes-devkit": ImportResult(None, {"version": "1.2.0"}),
}
GPU_TORCH = ImportResult(None, {"version": "2.13.0", "cuda": "13.0", "gpus": ["a GPU"] * 8, "gpu_error": None})
GPUS = {**CPU, "torch": GPU_TORCH, "spconv": ImportResult(None, {"version": "2.3.8", "cuda": True})}


def verdict(name, imports, folder):
    tier = study.load_tier(name)
    studies = [study.load_study(s) for s in tier.studies]
    return doctor.judge_tier(tier, studies, doctor.check_machine(imports, None), imports, folder)


def broken_module(folder: Path, name: str, code: str) -> dict[str, str]:
    """An environment in which ``import name`` runs ``code``."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(code)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A working folder with all that the nuScenes tiers look for, empty."""
    monkeypatch.chdir(tmp_path)
    for version in ("v1.0-mini", "v1.0-trainval"):
        (tmp_path / "data" / "nuscenes" / version).mkdir(parents=True)
    (tmp_path / "data" / "checkpoints").mkdir()
    for name in ("paper", "paper_train"):
        for files in study.load_tier(name).models.values():
            for file in files.values():
                (tmp_path / file).touch()
    return tmp_path


def test_on_a_cpu_the_synthetic_tiers_work_and_the_others_say_why_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("smoke", "quick", "standard"):
        assert verdict(name, CPU, tmp_path) == doctor.TierVerdict(name, True, ())
    mini = verdict("mini", CPU, tmp_path)
    assert not mini.works
    for text in ("no nuScenes v1.0-mini under 'data/nuscenes'", "on 1 GPU, and torch can use none", "its CPU build"):
        assert any(text in reason.what and reason.remedy for reason in mini.reasons), text
    paper = verdict("paper", CPU, tmp_path)
    assert [("data.root" in r.what, "published checkpoints" in r.what) for r in paper.reasons] == [(1, 0), (0, 1)]
    assert "github" in paper.reasons[1].remedy.lower()


def test_with_data_published_weights_are_evaluated_without_a_gpu_but_nothing_is_trained(data):
    assert verdict("paper", CPU, data).works
    assert "on 8 GPUs, and torch can use none" in verdict("paper_train", CPU, data).reasons[0].what
    for name in ("mini", "paper", "paper_train"):
        assert verdict(name, GPUS, data) == doctor.TierVerdict(name, True, ())
    one = replace(GPU_TORCH, facts={**GPU_TORCH.facts, "gpus": ["a GPU"]})
    assert verdict("mini", {**GPUS, "torch": one}, data).works
    assert "torch can use 1" in verdict("paper_train", {**GPUS, "torch": one}, data).reasons[0].what


def test_one_missing_checkpoint_is_a_note_and_all_backbones_a_reason(data):
    first, *others = sorted((data / "data" / "checkpoints").glob("cmt_*.pth"))
    first.unlink()
    paper = verdict("paper", CPU, data)
    assert paper.works and first.name in paper.notes[0].what and others[0].name not in paper.notes[0].what
    for name in ("nuim_r50.pth", "fcos3d_vovnet_imgbackbone.pth"):
        (data / "data" / "checkpoints" / name).unlink()
    train = verdict("paper_train", GPUS, data)
    # The LiDAR model starts from random weights, so something of the tier can still be run.
    assert train.works and "nuim_r50.pth" in train.notes[0].what


def test_a_frozen_sparse_encoder_needs_no_gpu(data):
    tier = study.load_tier("mini")
    frozen = {"model.frozen": ["pts_middle_encoder"]}
    tier = replace(tier, base=replace(tier.base, config=frozen), variant=replace(tier.variant, config=frozen))
    studies = [study.load_study("bias_site")]
    assert doctor.judge_tier(tier, studies, doctor.check_machine(CPU, None), CPU, data).works


def test_too_little_disk_is_a_reason(tmp_path, monkeypatch):
    monkeypatch.setattr("aqr_bench.study.requirements.disk_needed", lambda *_: 10**18)
    (reason,) = verdict("quick", CPU, tmp_path).reasons
    assert "needs 1000000000.0 GB" in reason.what and reason.remedy.startswith("Free some space")


@pytest.mark.parametrize(
    ("facts", "seen"),
    [
        ({"gpus": ["a GPU"], "cuda": "13.0"}, "ok 13.0: a GPU"),
        ({"cuda": None}, "note torch is a build without CUDA"),
        ({"cuda": "13.0"}, "note torch is built for 13.0 and sees no GPU"),
        (
            {"cuda": "13.0", "gpu_error": "no kernel image"},
            "note a GPU that torch, built for 13.0, cannot use: no kernel image",
        ),
    ],
)
def test_what_is_said_of_cuda(facts, seen):
    imports = {"torch": replace(CPU["torch"], facts={**CPU["torch"].facts, **facts})}
    check = next(c for c in doctor.check_machine(imports, None) if c.name == "CUDA")
    assert f"{check.state} {check.seen}" == seen and (check.state == "ok" or check.remedy)


@pytest.mark.parametrize(
    ("driver", "imports", "state", "text"),
    [
        (None, CPU, "note", "no NVIDIA driver"),
        (Driver("550.54", (8.0,)), CPU, "note", "make clean setup CUDA=cu126"),
        (Driver("550.54", (8.0,)), {**CPU, "torch": GPU_TORCH}, "note", "make clean setup CUDA=cu126"),
        (Driver("550.54", (8.0, 8.0)), GPUS, "ok", "NVIDIA 550.54, compute capability 8.0"),
        (Driver("580.10", (12.0,)), CPU, "note", "make clean setup CUDA=cu130"),
        (Driver("470.10"), CPU, "note", "needs driver 525 or newer"),
    ],
)
def test_the_driver_and_the_builds_that_it_wants(driver, imports, state, text):
    check = doctor.check_driver(driver, imports)
    assert check.state == state and text in f"{check.seen} {check.remedy}"


@pytest.mark.parametrize(
    ("driver", "command"),
    [
        (None, "make clean setup CUDA=cu126"),
        (Driver("580.10", (9.0,)), "make clean setup CUDA=cu126"),
        (Driver("580.10", (12.0,)), "make clean setup CUDA=cu130"),
        (Driver("470.10", (8.0,)), "a newer driver"),
    ],
)
def test_every_row_names_the_same_cuda_build(driver, command, data):
    """Also where torch has been built for a CUDA without kernels for this card."""
    stale = {**CPU["torch"].facts, "cuda": "12.6", "gpu_error": "no kernel image is available"}
    for imports in (CPU, {**CPU, "torch": replace(CPU["torch"], facts=stale)}):
        checks = doctor.check_machine(imports, driver)
        tier = study.load_tier("mini")
        verdict = doctor.judge_tier(tier, [study.load_study("bias_site")], checks, imports, data, driver)
        remedies = [check.remedy for check in checks if check.name == "CUDA" or (check.name == "GPU driver" and driver)]
        remedies += [reason.remedy for reason in verdict.reasons]
        assert len(remedies) == 4 - (driver is None) and all(f"{command}; see docs" in text for text in remedies)


def test_only_flex_needs_a_c_compiler(monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    check = doctor._check_compiler()
    assert check.state == "note" and "no gcc or clang" in check.seen and "attention_backend: flex" in check.seen


@pytest.mark.parametrize(
    ("code", "error"),
    [("import os; os.abort()", "ended by signal 6"), ("raise SystemExit(0)", "ended with code 0 and printed nothing")],
)
def test_an_import_that_ends_its_process_is_reported(code, error):
    assert error in check_import(code).error


def test_a_broken_torch_is_reported_and_no_tier_works(tmp_path):
    seen = "libcudart.so.13: cannot open"
    environment = broken_module(tmp_path, "torch", f"raise ImportError('{seen} shared object file')")
    command = [sys.executable, "-m", "aqr_bench", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    output = json.loads(done.stdout)
    torch = next(check for check in output["machine"] if check["name"] == "torch")
    assert torch["state"] == "broken" and seen in torch["seen"] and "pip install torch==" in torch["remedy"]
    assert not output["ok"] and not any(tier["works"] for tier in output["tiers"])


def test_without_numpy_it_still_speaks(tmp_path):
    environment = broken_module(tmp_path, "numpy", "raise ImportError('numpy is in pieces')")
    code = "from aqr_bench.cli import doctor; doctor.check_imports = dict; raise SystemExit(doctor.main([]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (1, "")
    assert "a package is missing or broken: numpy is in pieces" in done.stdout


def test_a_cuda_build_of_spconv_counts_as_spconv(monkeypatch):
    versions = {"spconv-cu126": "2.3.8"}

    def version(name):
        if name in versions:
            return versions[name]
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", lambda _: ["spconv==2.3.8", 'pytest; extra == "test"'])
    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: {"spconv": ["spconv-cu126"]})
    assert doctor._check_packages().state == "ok"
    versions["spconv-cu126"] = "2.3.6"
    check = doctor._check_packages()
    assert check.state == "broken" and check.seen == "spconv is 2.3.6, not ==2.3.8"
    monkeypatch.setattr(importlib.metadata, "packages_distributions", dict)
    assert doctor._check_packages().seen == "spconv is missing"


def test_an_import_that_hangs_is_stopped_and_tried_again_before_anything_is_installed():
    result = check_import("import time; time.sleep(60)", timeout_s=0.2)
    assert result.error.startswith("did not import within 0 s") and result.slow
    imports = {**CPU, "mmdet3d": result, "spconv": ImportResult("x")}
    checks = {check.name: check for check in doctor.check_machine(imports, None)}
    assert checks["mmdet3d"].remedy.startswith("run doctor again, and if it hangs")
    command, _, lock = checks["spconv"].remedy.rpartition(" ")
    assert command.endswith("--no-deps -r") and Path(lock).is_absolute() and Path(lock).is_file()


def test_the_table_is_readable_and_a_tier_file_decides_the_exit_code(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "check_imports", lambda: CPU)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    assert doctor.main([]) == 0
    output = capsys.readouterr().out
    assert output.endswith("tier quick works here\n") and re.search(r"^  quick +works$", output, re.MULTILINE)
    commands = ("/", "data/", "->")  # words that are longer than the width are not cut
    assert all(len(line) <= 80 or any(word in line for word in commands) for line in output.splitlines())
    own = (ROOT / "ablations" / "tiers" / "mini.yaml").read_text().replace("name: mini", "name: own")
    (tmp_path / "own.yaml").write_text(own)
    assert doctor.main(["--tier", "own.yaml"]) == 1
    assert capsys.readouterr().out.endswith("tier own does not work here\n")
    with pytest.raises(UserError, match="unknown tier 'quik'; did you mean 'quick'"):
        doctor.main(["--tier", "quik"])


def test_what_it_says_to_install_is_what_the_makefile_installs():
    makefile = (ROOT / "Makefile").read_text()
    for name, variable in (("torch", "TORCH"), ("mmcv", "MMCV")):
        pin = re.search(rf"^{variable}\s*\?=\s*(.+)$", makefile, re.MULTILINE)[1].strip()
        assert doctor.REMEDIES[name].endswith(f" {pin}")


def test_remedies_of_an_installed_package_need_no_makefile(monkeypatch):
    monkeypatch.setattr(doctor, "is_installed", lambda: True)
    remedy = doctor.cuda_remedy(Driver("580.10", (12.0,)))
    assert "whl/cu130, and spconv-cu126 in place of spconv" in remedy and "make" not in remedy


@pytest.mark.slow
def test_here_the_quick_tier_works():
    done = subprocess.run([sys.executable, "-m", "aqr_bench", "doctor"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
