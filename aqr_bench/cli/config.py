"""Show the mmengine config of a training.

aqr-bench config show --tier quick --study bias_site --variant cross          the whole config
aqr-bench config show --tier quick --study bias_site --variant cross --diff   what tier and study change in the model's
aqr-bench config show --tier quick                                            the base model
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from aqr_bench.errors import UserError, run_main
from aqr_bench.study.load import load_study, load_tier


def main(argv: list[str] | None = None) -> int:
    """Print the config. UserError: a mistake in it, see ``engine.check_configs``."""
    parser = argparse.ArgumentParser(
        prog="aqr-bench config", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    show = parser.add_subparsers(metavar="ACTION", required=True).add_parser("show", help="print a training's config")
    show.add_argument("--tier", default="quick", help="name or file of a tier (default: quick)")
    show.add_argument("--study", help="name or file of a study (default: the base model)")
    show.add_argument("--variant", help="of the study")
    show.add_argument("--diff", action="store_true", help="only what tier and study change in the model's config")
    args = parser.parse_args(argv)
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
