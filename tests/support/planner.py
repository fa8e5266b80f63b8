"""A program that answers an editor at once, with figures that follow from the recipe's text.

What is not `--plans` is left to the stand-in of the training program.
"""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path

STAND_IN = Path(__file__).with_name("stand_in_program.py")


def answers(recipe: str) -> dict[str, dict[str, object]]:
    """Return the sections of a plan; rank and rate are the recipe's own."""
    rate = float(re.findall(r"^  lr: (\S+)", recipe, re.MULTILINE)[0])
    rank = int(re.findall(r"^  rank: (\d+)", recipe, re.MULTILINE)[0])
    levels = {"scheduler": "euler", "num_steps": 3, "timestep": [999, 500, 0], "sigma": [9, 3, 1]}
    block = {"name": "mid_block", "num_modules": 2, "least": 1.0, "mean": 1.0, "most": 1.0}
    memory = dict.fromkeys(("weights", "adapter", "gradients", "optimizer", "activations"), 1)
    memory |= {"loading": 1, "training": 2, "sampling": 1, "needed": rank * 2**20}
    return {
        "learning_rate": {"scheduler": "constant", "num_steps": 70, "lr": [rate] * 70},
        "timesteps": {
            "scheduler": "uniform",
            "curves": [{"progress": 0.0, "density": [1.0] * 20}],
        },
        "noise": {"training": levels, "sampling": levels},
        "layers": {
            "scheduler": "uniform",
            "adapter": "lora",
            "trained_parameters": 10 * rank,
            "denoiser_parameters": 1000,
            "model": "local",
            "blocks": [block],
        },
        "needs": {
            "memory": {**memory, "worst_phase": "training"},
            "free_memory": 2**30,
            "disk": {"needed": 2**20},
            "work": {"flops_per_step": 1e9},
            "trained_parameters": 10 * rank,
            "problem": None,
        },
    }


if __name__ == "__main__":
    if "--plans" not in sys.argv:
        runpy.run_path(str(STAND_IN), run_name="__main__")
        sys.exit()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        for section, data in answers(request["recipe"]).items():
            print(json.dumps({"id": request["id"], "section": section, "data": data}), flush=True)
