"""Is the adapter of the least validation loss better than the last one?

recipes/lora_few.yaml is trained to its last step for each seed. The validation loss chooses a step
by images that are held out. Both adapters are then judged by what chose nothing: the loss on 64
images drawn anew, of scenes that are in no set, at other noise; and the share of the style and of
right shapes in pictures of the recipe's held-out prompts, with noise that nothing else has.

    python benchmarks/best_step.py [--seeds 3] [--first-seed 0] [--steps 300]
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import bench
import numpy as np
from bench_options import numbers_of
from PIL import Image

from loba_tui.core.program.validation.record import Validation
from loba_tui.models.draw_data import caption_of, scenes
from loba_tui.models.shapes_world import BACKGROUNDS, coverage

RECIPE = bench.RECIPES / "lora_few.yaml"
NUM_TEST = 64
NUM_TRAINED_SCENES = 32
"""Of 96 scenes the first 32 are the shipped set's: trained on, or held out for the choice."""


def draw_test_images(folder: Path) -> None:
    """Write blueprints of the scenes that the shipped set has not."""
    paper, ink = np.asarray(BACKGROUNDS["blue"]), np.asarray((0.90, 0.95, 1.0))
    lines = []
    for number, scene in enumerate(scenes(96, seed=1)[NUM_TRAINED_SCENES:]):
        shape = coverage(scene.shape, scene.center, scene.radius)[..., None]
        pixels = paper + shape * (ink - paper)
        Image.fromarray((pixels * 255).round().astype(np.uint8)).save(folder / f"{number:02d}.png")
        lines.append(json.dumps({"file_name": f"{number:02d}.png", "text": caption_of(scene)}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


class TestLoss:
    """The loss of any weights of the recipe's adapter on the images drawn anew."""

    def __init__(self, folder: Path) -> None:
        section = {"sources": [{"path": str(folder)}], "most": NUM_TEST, "seed": 1}
        section |= {"every": 1, "training_loss": False}
        self._subject = bench.ready(
            [f"validation={json.dumps(section)}", "save.best=null"], recipe=RECIPE
        )

    def __call__(self, subject: bench.Ready) -> float:
        """Return the loss of the weights that are in place in a trained subject."""
        for name, parameter in self._subject.run.parameters.items():
            parameter.data.copy_(subject.run.parameters[name].data)
        validation = _validation(self._subject)
        total, count = validation.held_out.summed(0, 1)
        return total / count


def _validation(subject: bench.Ready) -> Validation:
    found = subject.run._parts.validation  # type: ignore[attr-defined]
    assert isinstance(found, Validation)
    return found


def judged(subject: bench.Ready, test_loss: TestLoss) -> str:
    """Return loss, style and shapes of the weights that are in place, as cells of the table."""
    report = bench.prove_quietly(subject, (0.0, 1.0), seeds=(5000, 5001))
    style = report.effect.mean[-1]
    (shapes,) = report.preservation
    return f"{test_loss(subject):.4f} | {style:.3f} | {shapes.share_unchanged[-1]:.0%}"


def main() -> None:
    numbers = numbers_of(__doc__, seeds=3, first_seed=0, steps=300)
    print("| seed | weights | step | validation loss | loss on new images | style | shapes kept |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        draw_test_images(Path(folder))
        test_loss = TestLoss(Path(folder))
        for seed in range(numbers.first_seed, numbers.first_seed + numbers.seeds):
            overrides = [f"train.seed={seed}", f"train.steps={numbers.steps}"]
            subject = bench.ready(overrides, recipe=RECIPE)
            base = judged(subject, test_loss) if seed == numbers.first_seed else ""
            if base:
                print(f"| | base model | 0 | | {base} |", flush=True)
            subject.run.run()
            losses = {each.step: each.loss for each in _validation(subject).evaluations}
            best = subject.run.result
            for name, step, lent in (
                ("best", best.step, best.weights),
                ("last", subject.run.step, subject.run.averaged_weights),
            ):
                with lent():
                    cells = judged(subject, test_loss)
                print(f"| {seed} | {name} | {step} | {losses[step]:.4f} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
