"""Which of PyTorch's attention kernels a function runs, by the operators in its profile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# Names of PyTorch's attention operators in a profile, and their kernels. The CPU's is first, since its name contains
# that of another.
KERNELS = {
    "flash_attention_for_cpu": "flash on a CPU",
    "scaled_dot_product_flash_attention": "flash",
    "scaled_dot_product_efficient_attention": "efficient",
    "scaled_dot_product_cudnn_attention": "cudnn",
    "scaled_dot_product_fused_attention_overrideable": "other fused",
    "scaled_dot_product_attention_math": "math",
}


def kernels_of(function: Callable[[], Any]) -> str:
    """The kernels of PyTorch's attention that ``function`` runs: flash, efficient, cudnn, math; empty for none."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        function()
    ran = {}
    for event in profiled.events():
        name = event.name.removeprefix("aten::_")
        for word, kernel in KERNELS.items():
            if name.removesuffix("_backward").endswith(word):
                ran.setdefault(kernel)
                break
    return ", ".join(ran)
