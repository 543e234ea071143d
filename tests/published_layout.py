"""Our parameters in the published names and shapes: the way back of `model.checkpoint_published`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from groundnlq.model.checkpoint_published import _LEVEL_SCALE, _RULES, _rename


def to_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state (or gradients by name) in the published names and shapes."""
    published: dict[str, Tensor] = {}
    for name, value in state.items():
        if name == _LEVEL_SCALE:
            published |= {f"reg_head.scale.{i}.scale": x for i, x in enumerate(value)}
        else:
            theirs = _rename(name, [(ours, theirs) for theirs, ours in _RULES])
            published[theirs] = value.reshape(_published_shape(theirs, value))
    return published


def _published_shape(name: str, value: Tensor) -> tuple[int, ...]:
    if value.dim() == 1:
        is_per_channel = re.search(r"norm|\.ln\d\.|drop_path", name)
        return (1, len(value), 1) if is_per_channel else (len(value),)
    return (*value.shape, 1) if value.dim() == 2 else tuple(value.shape)
