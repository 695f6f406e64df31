"""Look into a published checkpoint of CMT or MoME, or convert it for the configs here: aqr-bench checkpoint."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aqr_bench.console import print_warning
from aqr_bench.engine.checkpoint import Checkpoint, _readable, _shown, _write, read_checkpoint, usable_weights
from aqr_bench.errors import UserError, require_file

if TYPE_CHECKING:
    from aqr_bench.cmt.published_weights import Match


def describe(checkpoint: Checkpoint, match: Match) -> list[str]:
    """Lines on what a file holds; ``match`` is the closest config's."""
    state, meta = checkpoint.state, checkpoint.meta
    dtypes = Counter(str(t.dtype).removeprefix("torch.") for t in state.values() if t.is_floating_point())
    numbers = sum(t.numel() for t in state.values())
    versions = [f"{k.removesuffix('_version')} {v}" for k, v in meta.items() if k.endswith("_version")]
    progress = [f"{k} {meta[k]}" for k in ("epoch", "iter") if k in meta]
    rows = (
        ("file", f"{checkpoint.path}, {checkpoint.path.stat().st_size / 1e6:.1f} MB, {checkpoint.format} format"),
        ("written by", ", ".join([*versions, *progress]) or "not stated"),
        ("classes", ", ".join(meta.get("classes", ())) or "not stated"),
        ("weights", f"{len(state)} tensors, {numbers / 1e6:.2f} M numbers, {', '.join(dtypes)}"),
        ("sparse kernels", match.layout),
        ("optimiser state", f"{checkpoint.optimiser_bytes / 1e6:.1f} MB" if checkpoint.optimiser_bytes else "none"),
        ("also there", ", ".join(checkpoint.others) or "nothing"),
        ("replaced by inert placeholders", ", ".join(checkpoint.placeholders) or "nothing"),
    )
    return [f"{name}: {_shown(text, 400)}" for name, text in rows]


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``inspect`` or ``convert``. 0: a config fits; a UserError otherwise."""
    args = _arguments(argv)
    return _inspect(read_checkpoint(args.file)) if args.command == "inspect" else _convert(args)


def _inspect(checkpoint: Checkpoint) -> int:
    from aqr_bench.cmt.published_weights import match, warnings_for

    matches = match(checkpoint.state)
    best = matches[0]
    print("\n".join(describe(checkpoint, best)))
    for match_ in matches[:1] if best.fits else matches:
        print(f"config {match_.config}: {match_.summary()}")
    if not best.fits:
        complaint = _shown(best.complaint(), 1500)
        raise UserError(f"{checkpoint.path} fits no published config, closest {best.config}: {complaint}")
    usable_weights(checkpoint)
    for text in warnings_for(checkpoint.meta, best.config):
        print_warning(text)
    return 0


def _convert(args: argparse.Namespace) -> int:
    path = require_file(args.file, "checkpoint", "Give the path of a .pth file.")
    out = Path(args.out) if args.out else path.with_name(f"{path.stem}.aqr.pth")
    checkpoint = _readable(path, out, args.force)
    from aqr_bench.cmt.published_weights import warnings_for

    match = _write(checkpoint, out, args.config)
    cast = "".join(f", {count} tensors were {dtype}" for dtype, count in match.cast.items())
    print(f"converted {path} -> {out}: fits {match.config}, nothing missing, nothing unexpected{cast}")
    for text in warnings_for(checkpoint.meta, match.config):
        print_warning(text)
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="aqr-bench checkpoint", description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    inspect = commands.add_parser("inspect", help="report what a file holds and which config it fits")
    inspect.add_argument("file", metavar="FILE")
    change = commands.add_parser("convert", help="write the weights of a file for the config that they fit")
    change.add_argument("file", metavar="FILE")
    change.add_argument("--out", help="file to write (default: FILE's name with .aqr.pth, beside it)")
    change.add_argument("--config", metavar="NAME", help="the config that it has to fit (default: whichever does)")
    change.add_argument("--force", action="store_true", help="replace OUT if it exists")
    return parser.parse_args(argv)
