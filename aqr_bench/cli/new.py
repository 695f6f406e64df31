"""Write a template into the project folder, with its test: a router, corruption, metric, study, tier, detector, ...

aqr-bench new router near_first        routers/near_first.py, a study of it, ablations/near_first.yaml, and its test
aqr-bench new corruption dust          also the suite ablations/conditions/dust.yaml
"""

from __future__ import annotations

import argparse
import keyword
import re
from importlib.resources import files
from pathlib import Path
from string import Template

from aqr_bench.atomic import write_text
from aqr_bench.errors import UserError, run_main
from aqr_bench.folders import project_folder
from aqr_bench.study.schema import name_problem
from aqr_bench.study.spec import RESERVED

# Files of each kind, by the template that they are made of; and how it is used.
FILES = {
    "router": {"routers/$name.py": "router.py.txt", "ablations/$name.yaml": "router.study.txt"},
    "corruption": {
        "corruptions/$name.py": "corruption.py.txt",
        "ablations/conditions/$name.yaml": "corruption.suite.txt",
    },
    "metric": {"metrics/$name.py": "metric.py.txt"},
    "world_class": {"world_classes/$name.py": "world_class.py.txt"},
    "study": {"ablations/$name.yaml": "study.yaml.txt"},
    "tier": {"ablations/tiers/$name.yaml": "tier.yaml.txt"},
    "detector": {"detectors/$name.py": "detector.config.txt", "detectors/${name}_model.py": "detector.model.txt"},
}
USES = {
    "router": "Try it: aqr-bench run --tier smoke --study ablations/$name.yaml --seeds 1",
    "corruption": "Try it: aqr-bench run --tier smoke --study smoke --suites ablations/conditions/$name.yaml",
    "metric": "In a tier: evaluate: {metrics: ['metrics/$name.py:$name']}",
    "world_class": "In a tier: world: {classes: ['world_classes/$name.py:$name']}",
    "study": "Try it: aqr-bench run --tier smoke --study ablations/$name.yaml",
    "tier": "Try it: aqr-bench run --tier ablations/tiers/$name.yaml --study smoke",
    "detector": "In a tier in ablations/tiers/: model: ../../detectors/$name.py",
}


def main(argv: list[str] | None = None) -> int:
    """Write the files, and print their names. UserError: no name for it, or one of the files is there."""
    parser = argparse.ArgumentParser(
        prog="aqr-bench new", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=FILES, metavar="KIND", help=", ".join(FILES))
    parser.add_argument("name", metavar="NAME", help="lower-case letters, digits, '_'")
    args = parser.parse_args(argv)
    folder = project_folder()
    for path in write_template(args.kind, args.name, folder):
        print(path.relative_to(folder))
    print(f"Test it: python -m pytest tests/test_{args.kind}_{args.name}.py")
    print(_filled(USES[args.kind], args.name))
    return 0


def write_template(kind: str, name: str, folder: Path) -> list[Path]:
    """The files that were written below ``folder``; none of them is overwritten."""
    _validate_name(kind, name)
    named = {**FILES[kind], f"tests/test_{kind}_$name.py": f"{kind}.test.txt"}
    paths = {folder / _filled(path, name): template for path, template in named.items()}
    if existing := next((path for path in paths if path.exists()), None):
        raise UserError(f"{existing} is there already", "Choose another name, or remove the file.")
    templates = files("aqr_bench.cli") / "templates"
    for path, template in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, _filled((templates / template).read_text(encoding="utf-8"), name))
    return list(paths)


def _validate_name(kind: str, name: str) -> None:
    problem = name_problem(name)
    if re.fullmatch(r"[a-z][a-z0-9_]*", name) is None:
        problem = "no name: lower-case letters, digits and '_', a letter first"
    elif keyword.iskeyword(name):
        problem = "a keyword of Python"
    elif "ablations/$name.yaml" in FILES[kind] and name in RESERVED:
        problem = "reserved for a folder or target"
    if problem:
        raise UserError(f"new {kind}: '{name}' is {problem}", "Choose another name.")


def _filled(text: str, name: str) -> str:
    class_name = "".join(word.capitalize() for word in name.split("_"))
    return Template(text).substitute(name=name, class_name=class_name)


if __name__ == "__main__":
    run_main(main)
