"""Arithmetic of a function by torch's own counter, and the names of all operators that it does not count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(gradient, query, key, value)


# torch counts fused attention on a GPU and forgets the CPU's kernel, which does the same.
_CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
NOTE = (
    "A multiplication with its addition counts as two. Operators that torch does not count are listed with their "
    "number of calls. What runs outside of torch (voxelisation, spconv, the matching of objects) is seen by neither."
)


class _Calls(TorchDispatchMode):
    """Counts the calls of every operator that reaches the device."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.calls[getattr(func, "_overloadpacket", func)] += 1
        return func(*args, **(kwargs or {}))


def count_flops(function: Callable[[], Any]) -> dict[str, Any]:
    """Run ``function`` once and count.

    Returns:
        ``total``; ``by_operator``, most first; ``uncounted``: calls by operator, most first; ``note``. A backward pass
        in ``function`` counts as well.
    """
    calls, counter = _Calls(), FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION)
    # The counter is asked first and takes composite operators apart; the other one sees what is left of them.
    with calls, counter:
        function()
    by_operator = {_name(op): int(n) for op, n in counter.get_flop_counts().get("Global", {}).items()}
    uncounted = Counter({_name(op): n for op, n in calls.calls.items() if op not in counter.flop_registry})
    return {
        "total": int(counter.get_total_flops()),
        "by_operator": dict(sorted(by_operator.items(), key=lambda item: -item[1])),
        "uncounted": dict(uncounted.most_common()),
        "note": NOTE,
    }


def _name(operator: Any) -> str:
    """``aten.mm`` and the like."""
    return str(operator)
