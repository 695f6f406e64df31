"""FLOPs of a function by torch's counter, and the names of all operators that it does not count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch._higher_order_ops.flex_attention import flex_attention, flex_attention_backward
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(gradient, query, key, value)


def _token_major_attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(*map(_head_major, (query, key, value)))


def _token_major_attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(*map(_head_major, (gradient, query, key, value)))


def _head_major(shape: Any) -> tuple[int, ...]:
    """[B, S, H, D] -> [B, H, S, D]."""
    batch, tokens, heads, width = shape
    return batch, heads, tokens, width


_aten = torch.ops.aten
_ATTENTION = {
    # torch counts fused attention on a GPU, but not the CPU's kernel, which computes the same.
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    # Heads and tokens are swapped in these two, which torch ignores.
    _aten._efficient_attention_forward: _token_major_attention,
    _aten._efficient_attention_backward: _token_major_attention_backward,
}
NOTE = (
    "A multiplication with its addition counts as two. Operators that torch does not count are listed with their "
    "number of calls. What runs outside of torch (voxelisation, spconv, the matching of objects) is seen by neither. "
    "FlexAttention counts as attention over all keys, without its score function."
)


class _Calls(TorchDispatchMode):
    """Counts the calls of every operator that reaches the device."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.calls[getattr(func, "_overloadpacket", func)] += 1
        return func(*args, **(kwargs or {}))


class _FlexAttention(TorchDispatchMode):
    """Counts FlexAttention, which torch has formulas for but does not count."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.flops: Counter = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is flex_attention:
            self.flops[func] += sdpa_flop_count(*(x.shape for x in args[:3]))
        elif func is flex_attention_backward:
            query, key, value, out = (x.shape for x in args[:4])
            self.flops[func] += sdpa_backward_flop_count(out, query, key, value)
        else:
            return func(*args, **(kwargs or {}))
        with _disable_current_modes():  # its operators are those of the formula, or of the score function
            return func(*args, **(kwargs or {}))


def count_flops(function: Callable[[], Any]) -> dict[str, Any]:
    """Run ``function`` once and count.

    Returns:
        ``total``; ``by_operator``, most first; ``uncounted``: calls by operator, most first; ``note``. A backward pass
        in ``function`` counts as well.
    """
    calls, counter, flex = _Calls(), FlopCounterMode(display=False, custom_mapping=_ATTENTION), _FlexAttention()
    # The last mode is called first. The counter decomposes composite operators; ``calls`` sees the results of that.
    # Nothing can be compiled under these modes, and FlexAttention, which is always compiled, would raise.
    with torch.compiler.set_stance("force_eager"), calls, counter, flex:
        function()
    counts = Counter(counter.get_flop_counts().get("Global", {})) + flex.flops
    by_operator = {str(op): int(n) for op, n in counts.items()}
    uncounted = Counter({str(op): n for op, n in calls.calls.items() if op not in counter.flop_registry})
    return {
        "total": sum(by_operator.values()),
        "by_operator": dict(sorted(by_operator.items(), key=lambda item: -item[1])),
        "uncounted": dict(uncounted.most_common()),
        "note": NOTE,
    }
