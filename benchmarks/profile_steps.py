"""Where the CPU time of a training and of an evaluation goes, by cProfile: arithmetic, loading, imports, the rest.

python benchmarks/profile_steps.py --results results/quick                 # a finished quick tier, this checkout
python benchmarks/profile_steps.py --results results/quick --tree OTHER    # another checkout's code on the same data

cProfile makes Python code slower and leaves kernels as they are: what is not arithmetic looks larger than it is.
Compare two trees with each other, and look at the CPU seconds without a profile that stand below the tables.
"""

from __future__ import annotations

import argparse
import os
import pstats
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]

Places = Mapping[str, Sequence[tuple[str, str]]]  # label -> functions by the end of their file and by name
STEP = "base_model.py"
BOTH: Places = {
    "loading frames": [("dataloader.py", "__next__")],
    "reading info files": [("base_dataset.py", "full_init")],
    "the config as text": [("config.py", "pretty_text"), ("config.py", "dump")],
}
TRAINING: Places = {
    "forward": [(STEP, "_run_forward")],
    "backward": [("_tensor.py", "backward")],
    "optimiser": [("optimizer_wrapper.py", "step")],
    "to the model's input (voxels, normalised images)": [("data_preprocessor.py", "forward")],
    "checkpoints": [("checkpoint_hook.py", "after_train_iter"), ("serialization.py", "save")],
    **BOTH,
}
EVALUATION: Places = {
    "forward and decoding": [(STEP, "test_step")],
    "the devkit's tables": [("nuscenes.py", "__init__")],
    "scoring": [("detection.py", "score_detections")],
    "writing detections": [("submission.py", "sample_detections"), ("submission.py", "write_submission")],
    **BOTH,
}
# By processor time: on a machine with other work, the wall clock counts that too.
PROFILED = """
import cProfile, runpy, sys, time
file, module = sys.argv.pop(1), sys.argv.pop(1)
profile = cProfile.Profile(time.process_time)
try:
    profile.runcall(runpy.run_module, module, run_name="__main__", alter_sys=True)
finally:
    profile.dump_stats(file)
"""
IMPORTS = ("importlib._bootstrap>", "_find_and_load")


def main(argv: list[str] | None = None) -> int:
    """Profile both steps and print a table of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="results folder of a finished tier")
    parser.add_argument("--tree", type=Path, default=REPOSITORY, help="checkout whose code is profiled")
    parser.add_argument("--tier", default="quick", help="a tier with two pretrained branches (default: quick)")
    parser.add_argument("--iterations", default="100", help="of the base training (default: 100)")
    parser.add_argument("--suite", default="missing_sensors", help="conditions of the evaluation")
    args = parser.parse_args(argv)
    results, tree = args.results.resolve(), args.tree.resolve()
    with tempfile.TemporaryDirectory() as folder:
        tier = Path(folder) / f"{args.tier}.yaml"
        text = (tree / "ablations" / "tiers" / f"{args.tier}.yaml").read_text(encoding="utf-8")
        tier.write_text(re.sub(r"^(base:\n  iterations: )\d+", rf"\g<1>{args.iterations}", text, flags=re.MULTILINE))
        common = ["--tier", str(tier), "--infos", str(results / "infos"), "--work", str(Path(folder) / "work")]
        features = [str(path) for path in sorted((results / "pretrain").glob("*/train.jsonl"))]
        train = ["train", *common, "--seed", "0", "--features", *features]
        record = results / "base" / "seed0" / "train.jsonl"
        evaluate = ["evaluate", *common, "--suite", args.suite, "--train", str(record)]
        for step, places in ((train, TRAINING), (evaluate, EVALUATION)):
            stats, profiled = run(step, tree, Path(folder), profile=True)
            print(table(f"{step[0]}, {profiled:.1f} s of CPU with the profile", parts(stats, places)))
            print(f"without a profile: {run(step, tree, Path(folder), profile=False)[1]:.1f} s of CPU\n", flush=True)
    return 0


def run(step: Sequence[str], tree: Path, folder: Path, profile: bool) -> tuple[pstats.Stats | None, float]:
    """One step in a new process and an empty work folder: its profile and CPU seconds. Exits if it fails."""
    file, out = folder / f"{step[0]}.prof", folder / f"{step[0]}.jsonl"
    out.unlink(missing_ok=True)
    shutil.rmtree(folder / "work", ignore_errors=True)
    how = ["-c", PROFILED, str(file)] if profile else ["-m"]
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, *how, f"aqr_bench.{step[0]}", *step[1:], "--out", str(out)],
        cwd=folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode or '"status": "failed"' in out.read_text(encoding="utf-8"):
        sys.exit(f"{step[0]} failed:\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return (pstats.Stats(str(file)) if profile else None), seconds


def parts(stats: pstats.Stats, places: Places) -> dict[str, float]:
    """Seconds by part; imports apart, and what is left over. A part within another one's time is not taken off it."""
    seconds_by_label = {what: sum(_seconds(stats, *place) for place in where) for what, where in places.items()}
    seconds_by_label["imports"] = _seconds(stats, *IMPORTS)
    return {**seconds_by_label, "the rest": stats.total_tt - sum(seconds_by_label.values())}


def _seconds(stats: pstats.Stats, file: str, name: str) -> float:
    """Cumulative seconds of the outermost call among functions of that name in files of that name."""
    return max(
        (entry[3] for (path, _, of), entry in stats.stats.items() if of == name and path.endswith(file)), default=0.0
    )


def table(title: str, seconds_by_label: Mapping[str, float]) -> str:
    """Parts by size, with their share; a rest below 0 is time that was counted in two parts."""
    total = sum(seconds_by_label.values())
    rows = sorted(seconds_by_label.items(), key=lambda item: -item[1])
    return "\n".join(
        [f"### {title}", "", "| part | s | share |", "|---|---|---|"]
        + [f"| {what} | {seconds:.2f} | {seconds / total:.0%} |" for what, seconds in rows if abs(seconds) >= 0.005]
    )


if __name__ == "__main__":
    sys.exit(main())
