"""Three newcomers with a fresh environment and a folder: every command as they type it, nothing of a checkout."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import nbformat
import pytest
from installation import ROOT, Installed
from one_node_slurm import FAST, cluster, jobs, missing

from aqr_bench.records.record import read_records

NOTEBOOK = ROOT / "examples" / "notebook.ipynb"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def environment(built, tmp_path_factory) -> Installed:
    return Installed(tmp_path_factory.mktemp("walks"), built["wheel"])


def walk(environment: Installed, script: str, folder: Path, variables: Mapping[str, str] = os.environ) -> str:
    """What the commands print; how long they took is shown by ``pytest -s``."""
    begin = time.monotonic()
    done = environment.follow(script, folder, variables)
    print(f"{time.monotonic() - begin:.0f} s")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


STUDENT = """\
aqr-bench init thesis
cd thesis
aqr-bench new router near_first
aqr-bench new corruption dust
python -m pytest -q tests
aqr-bench studies check near_first dust --tier smoke
aqr-bench run --tier smoke --study near_first --seeds 1 --suites dust --results before
sed -i 's/hidden_dims: int = 64/hidden_dims: int = 32/' routers/near_first.py
aqr-bench run --tier smoke --study near_first --seeds 1 --suites dust --results after
aqr-bench compare before/smoke after/smoke
"""


def test_a_student_adds_a_router_and_a_corruption_and_compares_two_result_folders(environment, tmp_path):
    out = walk(environment, STUDENT, tmp_path)
    assert out.count("report: ") == 2 and " passed" in out and "built, of tier smoke" in out
    for folder in ("before", "after"):
        records = [r for f in (tmp_path / "thesis" / folder).rglob("evaluate.dust.jsonl") for r in read_records(f)]
        assert {r.variant for r in records} == {"learned", "near_first"} and all(r.ok for r in records)
        assert {r.condition for r in records} == {"clean", "dust_1", "dust_2", "dust_3"}
    comparison = out[out.rindex("report: ") :]
    assert "Nothing is outside the noise" in comparison and not (tmp_path / "thesis" / "results").exists()


RESEARCHER = """\
aqr-bench config check centerpoint.py
aqr-bench world --tier smoke --out world
aqr-bench data check --root world
aqr-bench data --version v1.0-mini --root world --out infos
aqr-bench evaluate --config centerpoint.py --checkpoint centerpoint.pth --infos infos --suite multicorrupt_3 \\
  --work work --out centerpoint.jsonl
aqr-bench table centerpoint.jsonl --suite multicorrupt_3 --format latex --out tables
"""
CENTERPOINT = ROOT / "examples" / "centerpoint" / "centerpoint_pillar.py"


def save_random_weights(config: Path, path: Path) -> None:
    import torch

    from aqr_bench.engine.config import open_config
    from aqr_bench.engine.third_party import build_model

    torch.manual_seed(0)
    torch.save({"state_dict": build_model(open_config(str(config))).state_dict()}, path)


def test_a_researcher_brings_a_config_and_weights_and_gets_a_table_as_latex(environment, tmp_path):
    """CenterPoint of the size of a test; what it detects with random weights does not matter."""
    config = Path(shutil.copy(CENTERPOINT, tmp_path / "centerpoint.py"))
    save_random_weights(config, tmp_path / "centerpoint.pth")
    out = walk(environment, RESEARCHER, tmp_path)
    records = read_records(tmp_path / "centerpoint.jsonl")
    assert len(records) == 11 and not any(r.failed for r in records)
    cameras_alone = {"missingcamera_3", "brightness_3", "dark_3"}
    assert {r.condition for r in records if r.status == "not_applicable"} == cameras_alone
    table = (tmp_path / "tables" / "table_multicorrupt_3_NDS.tex").read_text(encoding="utf-8")
    assert out.endswith(table) and "\\begin{table}" in table and "centerpoint" in table and "fog" in table


ENGINEER = """\
aqr-bench --version
aqr-bench doctor --tier smoke
aqr-bench run --tier smoke --study smoke --cores 2 --quiet
aqr-bench run --tier smoke --study smoke --quiet
aqr-bench records check results --json
"""


def test_an_engineer_runs_the_smoke_tier_in_an_empty_folder(environment, tmp_path):
    out = walk(environment, ENGINEER, tmp_path)
    assert "tier smoke works here" in out and "nothing to do, all is up to date" in out
    assert '"ok": true' in out and (tmp_path / "results" / "smoke" / "report" / "index.html").is_file()
    assert not re.search(r"\[\d+/\d+\]", out)  # no progress
    assert {entry.name for entry in tmp_path.iterdir()} <= {"results", "logs", ".snakemake"}
    # The notebook, where its run has nothing to do.
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (tmp_path / "cells.py").write_text("\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code"))
    out = walk(environment, "python cells.py", tmp_path)
    assert "nothing to do" in out and "smoke_metrics" in out and "no_lidar" in out and "index.html" in out


ON_SLURM = f"""\
SHARE="$(python -c 'from aqr_bench.folders import shipped_folder; print(shipped_folder())')"
test -f "$SHARE/requirements-slurm.lock"
python -m snakemake --snakefile "$SHARE/workflow/Snakefile" --workflow-profile "$SHARE/workflow/profiles/slurm" \\
  --config tier=smoke studies=smoke {" ".join(FAST)}
aqr-bench run --tier smoke --study smoke
aqr-bench records check results
"""


def test_an_engineer_runs_the_smoke_tier_on_a_cluster_of_one_node(environment, tmp_path):
    """Set-up and commands of docs/cluster.md; the plugin is that of the tests' environment."""
    if reason := missing():
        pytest.skip(reason)
    folder = tmp_path / "runs"
    folder.mkdir()
    with cluster(tmp_path / "slurm") as variables:
        out = walk(environment, ON_SLURM, folder, variables)
        submitted = jobs(variables)
    assert len(submitted) == 12 and {job["JobState"] for job in submitted} == {"COMPLETED"}
    assert "nothing to do, all is up to date" in out and "14 of 14 records ok" in out
    assert {entry.name for entry in folder.iterdir()} == {"results", "logs", ".snakemake"}
    assert (folder / "logs" / "smoke" / "world.log").is_file()
