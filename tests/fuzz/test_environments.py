"""The commands in odd places: blanks, umlauts and links in paths, no home, no terminal, other locales, hash seeds."""

from __future__ import annotations

import json
import locale
import os
import subprocess
import sys
from pathlib import Path

import pytest
from worlds import smallest_world

from aqr_bench.cli import main as cli

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "results" / "reference" / "quick_0.1.0" / "records"


def run(*argv: object, cwd: Path, expected: int = 0, **changed: str | None) -> subprocess.CompletedProcess:
    """A command without a terminal and without standard input; None takes a variable out of the environment."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for name, value in changed.items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value
    command = [sys.executable, "-m", *map(str, argv)]
    done = subprocess.run(
        command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == expected, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def odd(tmp_path) -> Path:
    """A folder with a blank, an umlaut and a quote in its name, reached through a link."""
    (tmp_path / "really a b ü 'q'").mkdir()
    link = tmp_path / "link to ü"
    link.symlink_to(tmp_path / "really a b ü 'q'", target_is_directory=True)
    return link


def test_world_infos_and_check_in_an_odd_place(odd, monkeypatch, capsys):
    tier = odd / "tiny tier.yaml"
    sizes = "frames_per_scene: 2, objects_per_frame: 3, half_range_m: 20, image_size: [48, 32], beams: 4, azimuths: 64"
    tier.write_text(
        "data: {kind: synthetic, version: v1.0-mini}\n"
        f"world: {{version: v1.0-mini, train_scenes: 1, val_scenes: 1, {sizes}}}\n"
    )
    world, infos = odd / "my world", odd / "infos ü"
    monkeypatch.chdir(odd)
    monkeypatch.delenv("HOME")
    assert cli.main(["world", "--tier", str(tier), "--out", str(world), "--workers", "1", "--quiet"]) == 0
    assert cli.main(["data", "--version", "v1.0-mini", "--root", str(world), "--out", str(infos), "--quiet"]) == 0
    assert cli.main(["data", "check", "--root", str(world), "--quiet"]) == 0
    assert "2 scenes, 4 samples" in capsys.readouterr().out
    summary = json.loads((infos / "data.json").read_text())
    # The same bytes as in a plain place: nothing of the path gets into the data.
    plain = json.loads((smallest_world() / "infos" / "data.json").read_text())
    assert summary["data_sha256"] == plain["data_sha256"]
    assert (infos / "infos_val.pkl").read_bytes() == (smallest_world() / "infos" / "infos_val.pkl").read_bytes()
    assert (infos / summary["root"]).resolve() == world.resolve()


SLOW = (pytest.mark.slow,)  # each costs a fresh process, which imports for seconds
HOMES = {"unset": None, "not there": "/nonexistent/home", "no folder": "/dev/null", "read-only": "/proc"}


@pytest.mark.parametrize("home", [pytest.param(HOMES[n], id=n, marks=SLOW) for n in HOMES])
def test_studies_and_compare_need_no_home(home, odd):
    (odd / "results").symlink_to(REFERENCE, target_is_directory=True)
    out = odd / "what changed.csv"
    command = ("compare", odd / "results" / "bias_site", odd / "results" / "bias_site")
    run("aqr_bench.cli.main", *command, "--out", out, cwd=odd, HOME=home, XDG_CACHE_HOME=None, MPLCONFIGDIR=None)
    assert out.read_text().startswith("metric,study,variant")


LOCALES = ("C", "POSIX", "C.UTF-8", "tr_TR.UTF-8", "de_DE.UTF-8")


def has_locale(name: str) -> bool:
    before = locale.setlocale(locale.LC_ALL)
    try:
        locale.setlocale(locale.LC_ALL, name)
        return True
    except locale.Error:
        return False
    finally:
        locale.setlocale(locale.LC_ALL, before)


@pytest.mark.parametrize("name", [pytest.param(n, marks=SLOW) for n in LOCALES])
def test_other_locales_read_and_print_the_same(name, odd):
    if not has_locale(name):
        pytest.skip(f"locale {name} is not installed")
    study = odd / "umlaut.yaml"
    text = (ROOT / "ablations" / "smoke.yaml").read_text(encoding="utf-8").replace("name: smoke", "name: umlaut")
    study.write_text(text.replace("question: ", "question: Grün, İstanbul, 名前? "), encoding="utf-8")
    # PYTHONUTF8 would hide what a locale without UTF-8 does.
    done = run("aqr_bench.cli.main", "studies", "list", study, cwd=odd, LC_ALL=name, LANG=name, PYTHONUTF8=None)
    assert "Grün, İstanbul, 名前?" in done.stdout


HASHES = """
import json
from aqr_bench.study.hashes import config_hash
from aqr_bench.study.load import load_study, load_tier
from aqr_bench.study.runs import matrix
from aqr_bench.study.schedule import variant_schedule
tier = load_tier("quick")
rows = [[r.folder, r.study] for r in matrix(tier, [load_study(s) for s in ("bias_site", "router", "windows")])]
hashes = {}
for name in ("bias_site", "router", "windows"):
    study = load_study(name)
    for variant in study.variants:
        schedule = variant_schedule(tier, study, variant)
        hashes[f"{name}/{variant}"] = config_hash({"config": schedule.config, "init": schedule.init})
from aqr_bench.world.spec import read_tier
hashes["world"] = read_tier(tier.path).sha256
print(json.dumps([rows, hashes]))
"""


@pytest.mark.slow
def test_hash_seed_and_threads_change_no_hash_and_no_order(tmp_path):
    script = tmp_path / "hashes.py"
    script.write_text(HASHES)
    output = set()
    for seed, threads in (("0", "1"), ("1", "2"), ("random", "1")):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": threads}
        done = subprocess.run([sys.executable, script], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        output.add(done.stdout)
    assert len(output) == 1


@pytest.mark.slow
def test_a_closed_standard_input_and_a_pipe_that_nobody_reads(odd):
    command = f'exec {sys.executable} -m aqr_bench.cli.main studies list <&- | head -1; exit "${{PIPESTATUS[0]}}"'
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", command], cwd=odd, env=environment, capture_output=True, text=True)
    assert done.returncode in (0, 1) and done.stdout.startswith("study ") and "Traceback" not in done.stderr


def test_a_results_folder_that_cannot_be_written_to_is_one_line(odd, capsys):
    (odd / "file").write_text("")
    command = ["compare", str(REFERENCE / "bias_site"), str(REFERENCE / "bias_site"), "--out"]
    for out in (odd / "file" / "a.csv", "/proc/nothing/a.csv"):
        assert cli.main([*command, str(out)]) == 2
        output = capsys.readouterr().err
        assert output.startswith("error: ") and output.count("\n") == 1


@pytest.mark.slow
def test_the_whole_smoke_tier_in_an_odd_place_without_home_and_terminal(odd):
    command = ("aqr_bench.cli.main", "run", "--tier", "smoke", "--study", "smoke", "--cores", 2)
    done = run(*command, cwd=odd, HOME=None, PYTHONHASHSEED="random", LC_ALL="C")
    assert "records ok" in done.stdout and (odd / "results" / "smoke" / "report" / "index.html").is_file()
    again = run(*command, cwd=odd, HOME=None, PYTHONHASHSEED="random", LC_ALL="C")
    assert "nothing to do" in again.stdout
    total = [line for line in done.stdout.splitlines() if line.endswith("records ok")]
    assert total and total[0].split()[0] == total[0].split()[2]
