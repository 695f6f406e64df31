"""The product's own commands in one process with the pretended GPU: RUNNER OUT.json [NAME ...].

Runs in the current folder, which should be empty. Cases "detector: command" of one detector build on each other.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import batch
import yaml

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "centerpoint"
VERSION = "v1.0-mini"
WORLD = {"seed": 1, "train_scenes": 1, "val_scenes": 1, "frames_per_scene": 2}
MEASURE = {"batch_size": 1, "warmup": 1, "rounds": 2, "batch_sizes": [1], "train_rounds": 1}
MIXED = {"optim_wrapper.type": "AmpOptimWrapper"}


@dataclass(frozen=True)
class Detector:
    """What is trained, evaluated and measured.

    Args:
        model: name of a config, or its file.
        study: name of a study, or its file.
        variant: of the study, trained from scratch.
        config: changes for the training.
    """

    model: str
    study: str
    variant: str
    config: dict[str, Any]


SMALL_BATCH = {"train_dataloader.batch_size": 1, "default_hooks.checkpoint.interval": 1}
DETECTORS = {
    "cmt": Detector("cmt_aqr_quick", "smoke", "cross", SMALL_BATCH),
    "cmt, mixed precision": Detector("cmt_aqr_quick", "smoke", "cross", {**SMALL_BATCH, **MIXED}),
    "centerpoint": Detector(
        str(EXAMPLE / "centerpoint_pillar.py"), str(EXAMPLE / "lidar_damage.yaml"), "damaged", SMALL_BATCH
    ),
}


@functools.cache
def infos() -> Path:
    """The info files of a tiny world."""
    from aqr_bench.data.__main__ import main as prepare
    from aqr_bench.world.spec import WorldSpec
    from aqr_bench.world.write import write_world

    write_world(WorldSpec.from_dict({"version": VERSION, **WORLD}), "world", 1, quiet=True)
    assert prepare(["--version", VERSION, "--root", "world", "--out", "infos", "--quiet"]) == 0
    return Path("infos")


@functools.cache
def tier(name: str) -> Path:
    """A tier of two iterations for the detector."""
    detector = DETECTORS[name]
    plan = {"iterations": 2, "config": detector.config}  # a variant from scratch is trained as a base model
    text = {
        "name": "tiny",
        "summary": "Two iterations.",
        "data": {"kind": "synthetic", "version": VERSION},
        "world": WORLD,
        "model": detector.model,
        "base": plan,
        "variant": {**plan, "init": "scratch"},
        "threads": 1,
        "evaluate": {"batch_size": 2},
        "measure": MEASURE,
    }
    path = folder(name) / "tiny.yaml"
    path.write_text(yaml.safe_dump(text))
    (folder(name) / "clean.yaml").write_text("name: clean\nsummary: x\nconditions:\n  - {name: clean}\n")
    return path


def folder(name: str) -> Path:
    """Where the detector's records go."""
    path = Path(name.replace(", ", "_").replace(" ", "_"))
    path.mkdir(exist_ok=True)
    return path


def options(name: str, *names: str) -> list[str]:
    """Command line options of these names."""
    place, detector = folder(name), DETECTORS[name]
    values = {
        "tier": tier(name),
        "infos": infos(),
        "seed": 0,
        "study": detector.study,
        "variant": detector.variant,
        "work": place / "work",
        "suite": place / "clean.yaml",
        "train": place / "train.jsonl",
        "evaluation": place / "evaluate.jsonl",
    }
    return [word for option in names for word in (f"--{option}", str(values[option]))]


@contextmanager
def recorded_as(step: str, words: list[str]) -> Iterator[None]:
    """Records as of a process of its own."""
    before, sys.orig_argv = sys.orig_argv, ["python", "-m", "aqr_bench", step, *words]
    try:
        yield
    finally:
        sys.orig_argv = before


# ---------------------------------------------------------------------- commands


@functools.cache
def train(name: str) -> dict[str, Any]:
    """Two iterations with all hooks; the checkpoint holds CPU tensors."""
    import torch

    from aqr_bench.engine.train import main
    from aqr_bench.engine.weights import trained_checkpoint

    out = folder(name) / "train.jsonl"
    words = [*options(name, "tier", "infos", "seed", "study", "variant", "work"), "--out", str(out)]
    with recorded_as("train", words):
        assert main(words) == 0
    record = only_record(out)
    assert record.cost["iterations"] == 2 and record.provenance["machine"]["gpu"] == "pretended GPU"
    weights = torch.load(trained_checkpoint(out), weights_only=True)["state_dict"]
    assert {value.device.type for value in weights.values()} == {"cpu"}
    return {"curve": record.curve}


@functools.cache
def evaluate(name: str) -> dict[str, Any]:
    """The clean condition: detections, scores, and what the router did."""
    from aqr_bench.cli.evaluate import main

    train(name)
    out = folder(name) / "evaluate.jsonl"
    words = [*options(name, "tier", "infos", "suite", "train", "study", "work"), "--out", str(out)]
    with recorded_as("evaluate", words):
        assert main(words) == 0
    record = only_record(out)
    if name.startswith("cmt"):
        assert record.extra["router"]["all"]["queries"] > 0
    return {key: record.scores[key] for key in ("mAP", "NDS")}


@functools.cache
def pictures(name: str) -> dict[str, Any]:
    """Best and worst sample."""
    from aqr_bench.cli.pictures import main

    evaluate(name)
    out = folder(name) / "pictures"
    names = ("tier", "infos", "suite", "train", "evaluation", "study", "work")
    assert main([*options(name, *names), "--out", str(out)]) == 0
    drawn = sorted(path.name for path in out.glob("*.png"))
    assert drawn == ["clean.best.png", "clean.worst.png"]
    return {"pictures": drawn}


@functools.cache
def view(name: str) -> dict[str, Any]:
    """The page of a sample, clean and without LiDAR, with attention and windows; of CMT also the figure."""
    from aqr_bench.cli.view import main
    from aqr_bench.errors import UserError

    evaluate(name)
    record, out = str(folder(name) / "evaluate.jsonl"), folder(name) / "view.html"
    assert main([record, "--condition", "clean", "no_lidar", "--sample", "0", "--out", str(out)]) == 0
    page = out.read_text()
    attended = page.count("data-query")
    assert attended == (2 if name.startswith("cmt") else 0)
    for words in (["--attention", "--out", "attention.png"], ["--attention", "3", "--out", "query.html"]):
        try:
            assert main([record, *words]) == 0 and attended
        except UserError as error:
            assert not attended and "attention of this detector" in str(error)
    assert ("share of its attention in the window" in page) == bool(attended)
    return {"attended": attended}


@functools.cache
def flops(name: str) -> dict[str, Any]:
    """FLOPs of an inference and of a training step."""
    cost = measured(name, "flops")
    inference, training = (cost["flops"][step]["total"] for step in ("inference", "training"))
    assert training > 2 * inference > 0 and cost["method"]["synchronised"]
    return {"inference": inference, "training": training}


@functools.cache
def measure(name: str) -> dict[str, Any]:
    """All parts of a measurement."""
    cost = measured(name)
    return {"precision": cost["training"]["precision"], "flops": cost["flops"]["training"]["total"]}


def measured(name: str, *parts: str) -> dict[str, Any]:
    """The cost in the record of a measurement of these parts (default: all), none of which failed."""
    from aqr_bench.cost.measure import main

    out = folder(name) / f"measure{len(parts)}.jsonl"
    only = ["--parts", *parts] if parts else []
    assert main([*options(name, "tier", "infos", "study", "variant"), *only, "--out", str(out)]) == 0
    cost = only_record(out).cost
    failed = failures(cost)
    assert not failed, f"parts of the measurement failed: {failed}"
    return cost


def failures(facts: Any, name: str = "") -> dict[str, str]:
    """Reasons of all parts, at any depth, that are recorded as not ok."""
    if not isinstance(facts, dict):
        return {}
    if facts.get("status", "ok") not in ("ok", "not_applicable"):
        return {name: str(facts.get("reason"))}
    return {place: why for key, value in facts.items() for place, why in failures(value, f"{name} {key}").items()}


@functools.cache
def resume(name: str) -> dict[str, Any]:
    """Ended after its first iteration, a training resumes from the checkpoint on the GPU, to the same weights."""
    import torch

    from aqr_bench.engine.train import main
    from aqr_bench.engine.weights import trained_checkpoint

    train(name)
    out = folder(name) / "train.jsonl"
    unbroken = torch.load(trained_checkpoint(out), weights_only=True)["state_dict"]
    work = trained_checkpoint(out).parent
    assert (work / "iter_1.pth").is_file()
    for file in ("final.pth", "iter_2.pth", "train.done.json"):
        (work / file).unlink(missing_ok=True)
    (work / "last_checkpoint").write_text(str(work / "iter_1.pth"))
    assert main([*options(name, "tier", "infos", "seed", "study", "variant", "work"), "--out", str(out)]) == 0
    assert only_record(out).cost["iterations"] == 2
    resumed = torch.load(trained_checkpoint(out), weights_only=True)["state_dict"]
    assert all(torch.equal(resumed[key], value) for key, value in unbroken.items())
    return {}


@functools.cache
def keyframe(name: str) -> dict[str, Any]:
    """Detections on a folder with one real keyframe, beside the checkout."""
    from aqr_bench.cli.evaluate import main

    train(name)
    out = folder(name) / "keyframe"
    command = [*options(name, "tier", "train", "study"), "--keyframe", str(ROOT.parent / "shared/data/nuscenes_sample")]
    assert main([*command, "--pictures", str(out)]) == 0
    assert (out / "keyframe.0.png").is_file() and (out / "detections.json").is_file()
    return {}


def only_record(path: Path) -> Any:
    """The one record of a file, which has to be ok."""
    from aqr_bench.records.record import read_records

    (record,) = read_records(path)
    assert record.ok, f"{record.kind} is recorded as {record.status}: {record.reason}"
    return record


if __name__ == "__main__":
    commands = {
        function.__name__: function for function in (train, evaluate, pictures, view, flops, measure, resume, keyframe)
    }
    cases = {
        f"{name}: {command}": functools.partial(function, name)
        for name in DETECTORS
        for command, function in commands.items()
    }
    raise SystemExit(batch.main(cases))
