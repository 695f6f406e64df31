"""A CPU reference that sums in CUDA's order: run a module of the product with CUDA's memory layouts.

python tests/pretended_gpu/cuda_layout.py MODULE [ARGUMENT ...]

On CUDA, group norm makes its input contiguous; on a CPU it leaves it channels-last, and the convolutions behind it sum
in another order. The difference is rounding, but where it moves a value over a ReLU's kink, AdamW's first steps make it
a difference of per cents within three iterations.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def cuda_layout() -> Iterator[None]:
    """In this block group norm on the CPU takes its input as it does on CUDA."""
    import torch

    functional = torch.nn.functional
    original = functional.group_norm

    def group_norm(x: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        return original(x.contiguous(), *args, **options)

    functional.group_norm = group_norm
    try:
        yield
    finally:
        functional.group_norm = original


if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    with cuda_layout():
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
