"""Parts of the head from their configs: unknown arguments, and values that they do not take, are UserErrors."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from aqr_bench.bias.generator import AttentionBias
from aqr_bench.errors import UserError, nearest


def from_kwargs(part: type, key: str, cfg: Mapping[str, Any], **options: Any) -> Any:
    """``part(**options, **cfg)``; a mistake in ``cfg``, the config of ``pts_bbox_head.<key>``, is a UserError."""
    known = set(inspect.signature(part).parameters) - set(options)
    for name in cfg:
        if name not in known:
            raise UserError(f"pts_bbox_head.{key}: unknown argument '{name}'{nearest(name, known)}")
    try:
        return part(**options, **cfg)
    except (TypeError, ValueError) as error:
        raise UserError(f"pts_bbox_head.{key}: {error}") from error


def attention_bias(cfg: Mapping[str, Any], embed_dims: int) -> AttentionBias:
    """The bias of ``pts_bbox_head.aqr``. UserError: a mistake in it, or a bias that changes nothing."""
    bias = from_kwargs(AttentionBias, "aqr", cfg, embed_dims=embed_dims)
    if (bias.site, bias.layers) == ("self", "first"):
        raise UserError(
            "pts_bbox_head.aqr: site 'self' with layers 'first' changes nothing: queries start at zero, so the values "
            "of the first self-attention are all equal; use layers 'all' or 'last'"
        )
    return bias
