"""Kinds of noise schedules, told from a scheduler's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def is_flow_matching(config: Mapping[str, Any]) -> bool:
    """Say whether a scheduler config belongs to a flow-matching model."""
    if config.get("prediction_type") == "flow_prediction" or config.get("use_flow_sigmas"):
        return True
    return "shift" in config and "beta_start" not in config
