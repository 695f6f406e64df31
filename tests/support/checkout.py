"""A copy of the repository whose work steps are stand-ins that write records within milliseconds.

Snakemake, the study and tier files, the records and the report are the real ones; world, data, train, evaluate, measure
and pictures are replaced, so that the wiring can be tested without training anything. Where a test does not look at the
report, STAND_IN_REPORT=1 saves the seconds that it takes.
"""

from __future__ import annotations

import compileall
import multiprocessing
import os
import py_compile
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from shared_files import shared_folder

REPOSITORY = Path(__file__).resolve().parents[2]
STEPS = {
    "world": "world/__main__.py",
    "prepare": "data/__main__.py",
    "train": "engine/train.py",
    "evaluate": "cli/evaluate.py",
    "measure": "cost/measure.py",
    "pictures": "cli/pictures.py",
}

STEP = '''
"""Stand-in for a work step: writes what the real step would write, with made-up numbers."""
import argparse, hashlib, json, os, sys, time
from pathlib import Path
from aqr_bench.data.digests import infos_digest, table_digests, tables_digest
from aqr_bench.records.freshness import pictures_identity
from aqr_bench.records.provenance import file_facts
from aqr_bench.records.record import Record, read_records, write_records
from aqr_bench.records.request import evaluation_requests, measurement_request, training_request
from aqr_bench.records.store import separate_work
from aqr_bench.study.hashes import sha256_file
from aqr_bench.study.load import load_study, load_suite, load_tier
from aqr_bench.study.schedule import variant_schedule
from aqr_bench.study.settings import initial_file
from aqr_bench.world.spec import read_tier


def main(words=None):
    parser = argparse.ArgumentParser()
    names = "tier root infos seed suite study variant base train out work workers pretrain evaluation code"
    for name in names.split():
        parser.add_argument("--" + name)
    parser.add_argument("--features", nargs="+")
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--database-only", action="store_true")
    parser.add_argument("--allow-failures", action="store_true")
    args = parser.parse_args(words)
    step, tier, out = STEP_NAME, load_tier(args.tier), Path(args.out)
    study = load_study(args.study) if args.study else None
    files = {"tier": file_facts(tier.path)} | ({"study": file_facts(study.path)} if study else {})
    name = study.name if study else None
    infos = infos_digest(args.infos) if args.infos else None
    with open("steps.txt", "a") as file:
        file.write(" ".join([step, args.study or "", args.variant or "", str(out)]) + "\\n")
    if os.environ.get("GPU_LOG") and step not in ("world", "prepare"):
        # A GPU that another step is using has its file locked: the lock goes with that process, however it ends.
        import fcntl
        gpus = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "all").split(",") if gpu]
        locks, shared = [open("busy-" + gpu, "w") for gpu in gpus], []
        for gpu, lock in zip(gpus, locks):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                shared.append(gpu)
        with open(os.environ["GPU_LOG"], "a") as file:
            file.write(json.dumps({"step": step, "gpus": gpus, "shared": shared}) + "\\n")
        time.sleep(0.3)
    if os.environ.get("SLOW_STEP") == step:
        time.sleep(120)
    if os.environ.get("BREAK_STEP") == step:
        print("first line of the log")
        sys.exit("error: the disk is on fire")
    if args.database_only:
        (out / "dbinfos_train.pkl").touch()
        data = json.loads((out / "data.json").read_text())
        (out / "data.json").write_text(json.dumps({**data, "database": {}}))
    elif step in ("world", "prepare"):
        out.mkdir(parents=True, exist_ok=True)
        if step == "world":
            (out / "world.json").write_text(json.dumps({"sha256": read_tier(tier.path).sha256}))
            tables = out / tier.version
            tables.mkdir(exist_ok=True)
            (tables / "scene.json").write_text("[]")
        for name in ["infos_train.pkl", "infos_val.pkl"] if step == "prepare" else []:
            (out / name).write_text(str(sorted(file.read_text() for file in Path(args.root).glob("v1.0-*/*.json"))))
        if step == "prepare":
            digest = tables_digest(table_digests(args.root, tier.version, out))
            (out / "data.json").write_text(json.dumps({"data_sha256": digest, "code": args.code}))
    elif step == "train":
        # Trainings that end badly: {variant: [status, reason]}.
        status, reason = json.loads(os.environ.get("FAILURES", "{}")).get(args.variant, ["ok", None])
        start_records = [args.base] if args.base else args.features or []
        starts = [read_records(path)[0].provenance["checkpoint_sha256"] for path in start_records]
        initial = initial_file(variant_schedule(tier, study, args.variant) if study else tier.base)
        if initial and not args.pretrain:
            starts = [sha256_file(initial) if initial.is_file() else None]
        request = training_request(tier, study, args.variant, args.pretrain, infos, starts)
        checkpoint = Path(args.work) / out.parent.relative_to(Path(args.work).parent) / "final.pth"
        separate_work(Path(args.work), checkpoint.parent, [request.identity, args.seed])
        # Equal trainings give equal weights; those that are only taken over are the base model's.
        still = study and variant_schedule(tier, study, args.variant).iterations == 0
        checkpoint.write_text("".join(map(str, starts)) if still else request.identity + args.seed)
        weights = {"checkpoint": os.path.relpath(checkpoint, out.parent), "checkpoint_sha256": sha256_file(checkpoint)}
        write_records(out, [Record(
            "train", status, tier.name, name, args.variant, int(args.seed), reason=reason,
            provenance={"files": files, "request": request.to_dict(),
                        **({"checkpoint_sha256": None} if reason else weights)},
            cost={"wall_s": 61.0, "parameters": 590000}, curve=[[1, 9.0], [2, 7.5], [3, 7.0]])])
    elif step == "evaluate":
        train = read_records(args.train)[0]
        suite = load_suite(args.suite)
        reason = None if train.ok else "training failed: " + train.reason
        if train.variant and train.variant == os.environ.get("WITHOUT_CHECKPOINT"):
            reason = "RuntimeError: checkpoint is missing: final.pth"
        rows = []
        requests = evaluation_requests(
            tier, suite, study, args.variant or train.variant, infos, train.provenance["checkpoint_sha256"])
        for condition in suite.conditions:
            key = f"{train.study}{train.variant}{train.seed}{condition.name}"
            score = int(hashlib.sha256(key.encode()).hexdigest(), 16) % 1000 / 2000
            scores = {"mAP": score, "NDS": score, "classes": {"car": {"AP": score}, "bus": {"AP": score / 2}}}
            rows.append(Record(
                "evaluate", "failed" if reason else "ok", tier.name, train.study, train.variant, train.seed,
                condition.name, suite.name, reason, {} if reason else scores,
                provenance={"input_sha256": condition.name, "request": requests[condition.name].to_dict()}))
        write_records(out, rows)
    elif step == "pictures":
        out.mkdir(parents=True, exist_ok=True)
        identity = pictures_identity(Path(args.train), Path(args.evaluation))
        (out / "pictures.json").write_text(json.dumps({"pictures": [], "reason": None, "identity": identity}))
    elif step == "measure":
        write_records(out, [Record(
            "measure", "ok", tier.name, name, args.variant,
            provenance={"files": files, "request": measurement_request(tier, study, args.variant, infos).to_dict()},
            cost={"latency_ms": {"median": 20.0, "p95": 25.0, "values": [20.0]}, "latency_ratio": 1.0,
                  "throughput_per_s": 50.0, "parameters": 590000, "peak_rss_mb": 900.0})])
    return 0


if __name__ == "__main__":
    sys.exit(main())
'''


REPORT = """
import os, sys
from pathlib import Path


def main(words=None):
    if not os.environ.get("STAND_IN_REPORT"):
        from aqr_bench.report.real_main import main
        return main(words)
    out = Path(words[words.index("--out") + 1])
    for folder in ("tables", "figures"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    studies = words[words.index("--study") + 1 : words.index("--records")]
    for page in (out, *(out / Path(study).stem for study in studies)):
        page.mkdir(exist_ok=True)
        (page / "index.html").write_text("a stand-in")
    import argparse, json
    from aqr_bench.records.freshness import page_identity
    from aqr_bench.study.load import load_study, load_tier
    from aqr_bench.study.plan import with_variants
    from aqr_bench.study.runs import limit_seeds
    parser = argparse.ArgumentParser()
    parser.add_argument("--tier")
    parser.add_argument("--study", nargs="+")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--variants", nargs="+", default=[])
    parser.add_argument("--records", type=Path)
    args, _ = parser.parse_known_args(words)
    tier = load_tier(args.tier)
    studies = [limit_seeds(load_study(name), tier, args.seeds) for name in args.study]
    studies = with_variants(studies, args.variants) if args.variants else studies
    identity = page_identity(args.records / tier.name, studies)
    (out / "made_from.json").write_text(json.dumps({"identity": identity}))
    return 0
"""


# What the source files and the YAML files say is worked out once for all processes of a test run: with a dozen in a run
# of the workflow, the parsing would be half of the work. The key holds all that the answers depend on.
CACHED_FUNCTIONS = (
    ("records/imports.py", "imported_files"),
    ("study/hashes.py", "_syntax_hash"),
    ("study/schema.py", "_parsed"),
)
CACHED = """

def _cached_on_disk(function):
    import os, pickle
    from pathlib import Path
    package = Path(__file__).parents[1]
    names = sorted(str(file.relative_to(package)) for file in package.rglob("*.py"))
    inits = [(package / name).read_bytes() for name in names if name.endswith("__init__.py")]
    state = hashlib.sha256(repr((names, inits)).encode())

    @functools.lru_cache(maxsize=4096)
    def cached(source):
        key = state.copy()
        key.update(source)
        file = Path(FOLDER) / f"{function.__name__}-{key.hexdigest()}"
        try:
            return pickle.loads(file.read_bytes())
        except FileNotFoundError:
            result = function.__wrapped__(source)
            temporary = file.with_name(f"{file.name}.{os.getpid()}")
            temporary.write_bytes(pickle.dumps(result))
            temporary.replace(file)
            return result

    return cached
"""


def copy_workflow(folder: Path) -> Path:
    """Copy the workflow and the ablations into a folder: Snakemake runs there with this checkout's package."""
    for name in ("workflow", "ablations", "config", "results/published"):
        shutil.copytree(REPOSITORY / name, folder / name)
    for name in ("Snakefile", "environment.yml", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, folder)
    return folder


def copy_repository(target: Path) -> Path:
    """Copy the workflow, the ablations and the package, with stand-ins where the work is done."""
    return _copy(shared_folder("repository", _write_repository), target)


def _copy(source: Path, target: Path) -> Path:
    """A copy with the times of the files."""
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)
    return target


def _write_repository(target: Path) -> None:
    copy_workflow(target)
    package = target / "aqr_bench"
    shutil.copytree(REPOSITORY / "aqr_bench", package, ignore=shutil.ignore_patterns("__pycache__"))
    for step, place in STEPS.items():
        (package / place).write_text(f"STEP_NAME = {step!r}\n{STEP}")
    # mmdet3d's import takes seconds in every run; tests/engine/test_check_configs.py tests the check of the configs.
    with (package / "engine/check_configs.py").open("a") as file:
        file.write("\n\ncheck_configs = lambda tier, studies: 0\n")
    cache = target.with_name(f"{target.name}-parsed")
    cache.mkdir(exist_ok=True)
    for place, function in CACHED_FUNCTIONS:
        with (package / place).open("a") as file:
            file.write(f"\n\nimport hashlib\n{CACHED.replace('FOLDER', repr(str(cache)))}\n")
            file.write(f"{function} = _cached_on_disk({function})\n")
    (package / "report/__main__.py").rename(package / "report/real_main.py")
    (package / "report/__main__.py").write_text(REPORT)
    # By hash, not by time and size, which edits of a test may leave as they are.
    compileall.compile_dir(package, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)


def finished_checkout(target: Path) -> Checkout:
    """A copy of a checkout in which the smoke study has been run, report and all.

    What that printed is in ``output.txt``, the steps that it took in ``first_steps.txt``.
    """

    def write(folder: Path) -> None:
        checkout = Checkout(copy_repository(folder))
        done = checkout.run("aqr_bench.cli.main", "run", "--tier", "smoke", "--study", "smoke")
        assert done.returncode == 0, done.stdout + done.stderr
        (folder / "output.txt").write_text(done.stdout)
        (folder / "steps.txt").rename(folder / "first_steps.txt")

    return Checkout(_copy(shared_folder("finished", write), target))


def _as_module(root: str, command: tuple[str, ...], environment: dict[str, str], out: str, err: str) -> None:
    """What ``python -m`` does with the command in the copy, in this process."""
    for number, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(root)
    sys.path.insert(0, root)
    sys.argv = list(command)
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)


class Checkout:
    """A copied repository, and ways to run commands in it."""

    def __init__(self, root: Path):
        self.root = root

    def _environment(self, changes: dict[str, str]) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.root), "PYTHONDONTWRITEBYTECODE": "1", **changes}

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess:
        """Run a command in the copy with the copy's package."""
        return self._fork(command, environment)

    def snakemake(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        """Run Snakemake in the copy."""
        return self._fork(("snakemake", "--cores", "2", *arguments), environment)

    def _fork(self, command: tuple[str, ...], environment: dict[str, str]) -> subprocess.CompletedProcess:
        """``python -m`` with the command, forked from a process that has imported what takes long."""
        context = multiprocessing.get_context("forkserver")
        libraries = ["snakemake.cli", "snakemake.report", "smart_open", "numpy", "scipy", "cv2", "jsonschema", "psutil"]
        context.set_forkserver_preload(libraries)
        env = self._environment(environment)
        with tempfile.NamedTemporaryFile("r") as out, tempfile.NamedTemporaryFile("r") as err:
            process = context.Process(target=_as_module, args=(str(self.root), command, env, out.name, err.name))
            process.start()
            process.join(900)
            if process.exitcode is None:
                process.kill()
            return subprocess.CompletedProcess(command, process.exitcode, out.read(), err.read())

    def copy_to(self, root: Path) -> Checkout:
        """A copy of the copy with its results and file times, for a test that changes it."""
        return Checkout(_copy(self.root, root))

    def steps(self) -> list[str]:
        """Lines 'step study variant out' of what ran since the last call."""
        file = self.root / "steps.txt"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return lines
