"""What a check is run with: the device, and sizes that fit it."""

from __future__ import annotations

from dataclasses import dataclass

QUICK, NOTE, VOV = "cmt_aqr_quick", "cmt_voxel0100_r50_800x320_cbgs", "cmt_voxel0075_vov_1600x640_cbgs"


@dataclass(frozen=True)
class Settings:
    """Sizes of one check.

    Args:
        attention: sizes of ``attention_cases.SIZES`` for the tables of backends.
        heads: model configs whose heads are measured.
        parity_attention, parity_head: the same for the comparisons with the CPU.
        batch: samples of a training step; inference takes one.
        speed_dtypes: what attention is timed in.
        compiler: backend of torch.compile.
    """

    device: str
    size: str
    attention: tuple[str, ...]
    heads: tuple[str, ...]
    parity_attention: str
    parity_head: str
    batch: int
    rounds: int
    speed_dtypes: tuple[str, ...] = ("float32", "bfloat16")
    parity_dtypes: tuple[str, ...] = ("float32", "bfloat16", "float16")
    compiler: str = "inductor"


SIZES = ("full", "small", "tiny")


def settings_for(device: str, size: str | None = None) -> Settings:
    """``full``: the official configs; ``small``: the quick tier's, for a CPU; ``tiny``: for tests."""
    size = size or ("full" if device == "cuda" else "small")
    if size == "full":
        return Settings(device, size, ("note", "vov"), (NOTE, VOV), "note", NOTE, batch=2, rounds=9)
    if size == "small":
        return Settings(device, size, ("quick",), (QUICK,), "quick", QUICK, batch=2, rounds=5)
    return Settings(device, size, ("tiny",), (QUICK,), "tiny", QUICK, 1, 1, compiler="aot_eager")


def one_line(error: BaseException) -> str:
    """Type and first line of an error, for a table."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
