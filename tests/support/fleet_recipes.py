"""What tests of sweeps and of the queue's slots run: a program that trains nothing, and one run."""

from __future__ import annotations

import sys
from pathlib import Path

PROGRAM = (sys.executable, str(Path(__file__).with_name("fleet_program.py")))
"""Takes the program's place, and follows the protocol of a run's folder."""

STEPS = 12


def tiny_recipe(
    *, save_every: int = 1, scales: str = "[0, 1]", proof: str = "{enabled: false}"
) -> str:
    """Return a recipe that the real program trains in a few seconds."""
    return f"""\
version: 1
name: tiny
base_model: {{id: builtin:shapes-xl, device: cpu}}
adapter: {{rank: 2}}
method:
  name: text_slider
  trajectories: bank
  bank_images: 1
  bank_samples: 2
  rollout_steps: 2
  concepts: [{{target: a shape, positive: a large shape, negative: a small shape}}]
train: {{steps: {STEPS}, batch_size: 1}}
save: {{every: {save_every}}}
sample: {{prompts: [a red circle], seeds: [0], scales: {scales}, steps: 2}}
proof: {proof}
"""
