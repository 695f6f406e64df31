"""Spoiled studies, tiers, condition suites, worlds and workflow settings: used, or refused in one clear line."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from fuzz_cases import explore, one_clear_line, refuses
from fuzz_mutations import billion_laughs, spoiled_bytes, spoiled_text, spoiled_tree
from hypothesis import strategies as st

from aqr_bench.cli import studies as look
from aqr_bench.data.dataset import DataSet
from aqr_bench.engine.config import build_config
from aqr_bench.study import load as files
from aqr_bench.study.requirements import disk_needed
from aqr_bench.study.schema import read_yaml
from aqr_bench.study.spec import Tier
from aqr_bench.world.spec import read_tier

ROOT = Path(__file__).resolve().parents[2]
ABLATIONS = ROOT / "ablations"
SHIPPED = {
    "study": sorted(ABLATIONS.glob("*.yaml")),
    "tier": sorted((ABLATIONS / "tiers").glob("*.yaml")),
    "suite": sorted((ABLATIONS / "conditions").glob("*.yaml")),
}


@functools.cache
def default_tier() -> Tier:
    return files.load_tier("quick")


def use_study(path: Path) -> None:
    """What ``studies check``, ``list`` and ``cost`` do with a study, as text that can be printed."""
    study = files.load_study(path)
    lines = look.check_line(study) + look.list_lines([study], [], []) + look.detail_lines(study)
    if look.runnable(default_tier(), study):
        lines += look.cost_lines([str(path)], "quick", None, [], 2, path.parent / "none")
    "\n".join(lines).encode()


def use_tier(path: Path) -> None:
    """What ``run`` and ``studies`` do with a tier before anything is started."""
    tier = files.load_tier(path)
    if tier.kind == "synthetic":
        read_tier(path)
    lines = look.list_lines([], [tier], []) + look.detail_lines(tier)
    lines += look.cost_lines(["smoke"], str(path), None, [], 2, path.parent / "none")
    disk_needed(tier, [files.load_study("smoke")])
    "\n".join(lines).encode()


def use_suite(path: Path) -> None:
    suite = files.load_suite(path)
    "\n".join(look.list_lines([], [], [suite]) + look.detail_lines(suite)).encode()


USE: dict[str, Callable[[Path], None]] = {"study": use_study, "tier": use_tier, "suite": use_suite}


@functools.cache
def load_selection() -> Callable[[dict], Any]:
    """The workflow's own function, out of the Python at the top of its rules."""
    text = (ROOT / "workflow" / "rules" / "common.smk").read_text(encoding="utf-8")
    names: dict[str, Any] = {"shell": types.SimpleNamespace(prefix=lambda _: None)}
    exec(text.partition("\n\n\ndef limit_gpus")[0], names)
    return names["load_selection"]


def spoiled_file(path: Path) -> st.SearchStrategy[bytes]:
    """Bytes of a spoiled copy: its values, its text, or any of its bytes."""
    content = path.read_bytes()
    tree = spoiled_tree(yaml.safe_load(content)).map(lambda t: yaml.safe_dump(t, sort_keys=False).encode())
    text = spoiled_text(content.decode()).map(lambda t: t.encode(errors="surrogatepass"))
    return tree | text | spoiled_bytes(content, b"\x89PNG\r\n\x1a\n")


@pytest.mark.parametrize(("kind", "share"), [("study", 40), ("tier", 40), ("suite", 20)])
def test_spoiled_files_are_used_or_refused_in_one_line(kind, share, tmp_path):
    cases = st.sampled_from(SHIPPED[kind]).flatmap(lambda path: st.tuples(st.just(path.name), spoiled_file(path)))

    def check(case: tuple[str, bytes]) -> bool:
        path = tmp_path / case[0]
        path.write_bytes(case[1])
        return refuses(lambda: USE[kind](path), names=case[0], paths=(path,))

    explore(f"{kind} files", share, cases, check)
    assert len(list(tmp_path.iterdir())) <= len(SHIPPED[kind]), "something was written"


def test_spoiled_worlds_are_used_or_refused_in_one_line(tmp_path):
    synthetic = [p for p in SHIPPED["tier"] if "world" in yaml.safe_load(p.read_text())]
    path = tmp_path / "tier.yaml"

    def spoiled(source: Path) -> st.SearchStrategy:
        full = yaml.safe_load(source.read_text())
        return spoiled_tree(full["world"]).map(lambda world: {**full, "world": world})

    def check(tier: dict) -> bool:
        path.write_text(yaml.safe_dump(tier))
        return refuses(lambda: read_tier(path), names="tier.yaml", paths=(path,))

    explore("worlds of tiers", 20, st.sampled_from(synthetic).flatmap(spoiled), check)


def test_spoiled_settings_of_the_workflow_are_used_or_refused_in_one_line(tmp_path):
    settings = {"tier": "smoke", "studies": ["smoke", "router"], "seeds": 1, "suites": ["mome"]}
    assert load_selection()(settings).tier.name == "smoke"
    from snakemake.exceptions import WorkflowError

    def check(changed: Any) -> bool:
        try:
            load_selection()(changed)
        except WorkflowError as error:
            one_clear_line(str(error))
            return True
        return False

    # Snakemake itself refuses what is no mapping.
    cases = spoiled_tree(settings).filter(lambda tree: isinstance(tree, dict))
    explore("workflow settings", 15, cases, check)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\x00\x01",
        b"a: 1\n\tb: 2\n",
        billion_laughs().encode(),
        b"a: &a [*a]\n",
        b"a: " + b"[" * 500,
        b"a: '\\\n",
        b'name: "\\ud800"\n',
        b"a: 2001-99-99\n",
        b"a: 2001-01-01\n",
        b"a: !!int x\n",
        b"a: !!python/object/apply:os.getcwd []\n",
        b"a: 0x" + b"f" * 6000 + b"\n",
        b"a: " + b"9" * 5000 + b"\n",
        b"&a {*a : 1}\n",
    ],
)
def test_no_shape_of_yaml_gets_through_or_takes_long(content, tmp_path):
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    assert refuses(lambda: read_yaml(path), names="x.yaml", paths=(path,))


def test_overrides_that_no_model_takes_are_refused_or_kept_as_they_are(tmp_path):
    """Values of ``config`` are free; what cannot be merged into the model's config is told with the study's name."""
    source = ABLATIONS / "bias_site.yaml"
    study, path = yaml.safe_load(source.read_text()), tmp_path / "bias_site.yaml"
    data = DataSet(tmp_path, tmp_path, "v1.0-mini", "0" * 64)

    def check(config: Any) -> bool:
        study["variants"]["cross"]["config"] = config
        path.write_text(yaml.safe_dump(study))

        def use() -> None:
            build_config(default_tier(), data, 0, "work", files.load_study(path), "cross")

        return refuses(use, names="bias_site.yaml", paths=(path,))

    original = {**study["variants"]["cross"]["config"], "train_dataloader.batch_size": 2}
    explore("overrides of the model config", 12, spoiled_tree(original), check)
