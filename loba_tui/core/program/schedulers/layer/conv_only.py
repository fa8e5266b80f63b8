"""Train convolutions alone: residual blocks, down- and upsamplers; all else stays frozen."""

from __future__ import annotations

import re
from typing import Any

_CONVOLUTION = re.compile(r"(?:^|\.)(?:conv\d?|conv_in|conv_out|conv_shortcut)$")


def get_scheduler(optimizer: Any) -> list[float]:
    """Return one factor per parameter group: 1 for convolutions, 0 elsewhere.

    Groups carry the module's name as `group["name"]`, such as "down_blocks.1.resnets.0.conv1".
    """
    return [1.0 if _CONVOLUTION.search(group["name"]) else 0.0 for group in optimizer.param_groups]
