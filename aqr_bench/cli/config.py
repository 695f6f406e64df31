"""Show the mmengine config of a training, or try which configs of detectors work here.

aqr-bench config show --tier quick --study bias_site --variant cross          the whole config
aqr-bench config show --tier quick --study bias_site --variant cross --diff   what tier and study change in the model's
aqr-bench config show --tier quick                                            the base model
aqr-bench config check mmdet3d | FOLDER | FILE ...     open, build and run configs on one sample: a Markdown table
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aqr_bench.console import add_json_option, print_json
from aqr_bench.errors import UserError, run_main
from aqr_bench.study.load import load_study, load_tier

# One sample of two small scenes is enough for a detector to run on.
SAMPLE_WORLD = dict(
    version="v1.0-mini", train_scenes=1, val_scenes=1, frames_per_scene=2, half_range_m=20, image_size=[96, 64],
    beams=16, azimuths=256, objects_per_frame=3, lidar_sweeps=1,
)  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Print the config, or the table of ``check``; its exit code is 1 where a config does not work.

    UserError: a mistake in the config of a training, see ``engine.check_configs``; no such config.
    """
    parser = argparse.ArgumentParser(
        prog="aqr-bench config", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    show = actions.add_parser("show", help="print a training's config")
    show.add_argument("--tier", default="quick", help="name or file of a tier (default: quick)")
    show.add_argument("--study", help="name or file of a study (default: the base model)")
    show.add_argument("--variant", help="of the study")
    show.add_argument("--diff", action="store_true", help="only what tier and study change in the model's config")
    check = actions.add_parser("check", help="open, build and run configs on one sample, as a Markdown table")
    check.add_argument("names", nargs="+", metavar="NAME", help="config files, folders of them, or a package: mmdet3d")
    add_json_option(check)
    args = parser.parse_args(argv)
    if args.action == "check":
        return check_names(args.names, args.json)
    if (args.study is None) != (args.variant is None):
        raise UserError("--study and --variant go together")
    from aqr_bench.engine.check_configs import model_config, variant_config  # mmengine and torch

    tier, study = load_tier(args.tier), load_study(args.study) if args.study else None
    config = variant_config(tier, study, args.variant)
    if args.diff:
        print(*changes(model_config(tier, study, args.variant).to_dict(), config.to_dict()), sep="\n")
    else:
        object.__setattr__(config, "_format_python_code", True)
        print(config.pretty_text)
    return 0


def check_names(names: Sequence[str], as_json: bool = False) -> int:
    """Print a table of what becomes of each config, or a JSON object; 1 where one does not work.

    Of folders and packages the configs that read nuScenes. The sample is one of a synthetic world.
    """
    from aqr_bench.compat import spawn_pool
    from aqr_bench.data.__main__ import main as write_infos
    from aqr_bench.data.dataset import load_data
    from aqr_bench.engine.try_config import WORKS, markdown_row, nuscenes_configs, try_config
    from aqr_bench.study.model_files import is_package_config
    from aqr_bench.world.spec import WorldSpec
    from aqr_bench.world.write import write_world

    models, trials = nuscenes_configs(names), []
    with tempfile.TemporaryDirectory() as folder:
        root, infos = Path(folder) / "world", Path(folder) / "infos"
        with contextlib.redirect_stdout(sys.stderr):
            write_world(WorldSpec.from_dict(SAMPLE_WORLD), root)
            write_infos(["--version", "v1.0-mini", "--root", str(root), "--out", str(infos), "--quiet"])
        data = load_data(infos)
        if not as_json:
            print("| config | result | reason |", "|---|---|---|", sep="\n")
        for model in models:
            if is_package_config(model):
                trial = try_config(model, data)
            else:  # two configs from elsewhere may register different classes under one name
                with spawn_pool(1) as pool:
                    trial = pool.submit(try_config, model, data).result()
            trials.append(trial)
            if not as_json:
                print(markdown_row(trial), flush=True)
    all_work = all(trial.result == WORKS for trial in trials)
    if as_json:
        print_json({"ok": all_work, "configs": [asdict(trial) for trial in trials]})
    return 0 if all_work else 1


def changes(old: Any, new: Any, key: str = "") -> Iterator[str]:
    """``key: old -> new`` for every value that differs; lists of one length element by element."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys([*old, *new]):
            inner = f"{key}.{name}" if key else str(name)
            if name not in old:
                yield f"{inner}: added {new[name]!r}"
            elif name not in new:
                yield f"{inner}: removed {old[name]!r}"
            else:
                yield from changes(old[name], new[name], inner)
    elif isinstance(old, list | tuple) and isinstance(new, list | tuple) and len(old) == len(new):
        for number, (a, b) in enumerate(zip(old, new, strict=True)):
            yield from changes(a, b, f"{key}.{number}")
    elif old != new:
        yield f"{key}: {old!r} -> {new!r}"


if __name__ == "__main__":
    run_main(main)
