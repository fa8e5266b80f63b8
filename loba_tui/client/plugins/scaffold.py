"""The file that `loba plugins new` writes: a drop-in that works, to be changed, and its test."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from loba_tui.client.plugins.listing import check_kind
from loba_tui.core.errors import RecipeError, ResourceError
from loba_tui.core.plugins import KINDS, Plugins
from loba_tui.core.plugins.user import PRIVATE_DIR_MODE, PRIVATE_FILE_MODE, is_plugin_name
from loba_tui.core.text import clean

_HEAD = '''\
"""{name}: say in a line what it does, and cite where it is from.

Keyword-only parameters are the options that a recipe can give: {section}
"""

from __future__ import annotations
'''

_BODIES: Mapping[str, str] = MappingProxyType(
    {
        "adapters": '''
            from collections.abc import Mapping, Sequence

            from peft import LoraConfig


            def get_adapter(
                targets: Mapping[str, Sequence[str]], *, rank: int = 4, alpha: float = 1.0
            ) -> LoraConfig:
                """Return the PEFT configuration of what is trained.

                Args:
                    targets: Module names by group, such as targets["cross_attention"].
                    rank: Rank of the update.
                    alpha: The update is scaled by alpha / rank.
                """
                modules = list(targets["cross_attention"])
                return LoraConfig(r=rank, lora_alpha=alpha, target_modules=modules)
            ''',
        "methods": '''
            from collections.abc import Mapping

            import torch
            from torch import Tensor

            from loba_tui.core.program import randomness
            from loba_tui.core.program.method import MethodParts, StepOutput

            REQUIRES = ("target",)
            """What every concept of a recipe has to give."""


            def get_method(parts: MethodParts, *, strength: float = 0.1) -> Method:
                """Return what one step predicts and its loss.

                Args:
                    parts: The model, the trained network and the run's other finished objects.
                    strength: How far the target's prediction is moved.
                """
                return Method(parts, strength)


            class Method:
                """Shrinks what the model predicts for the target; put your own in its place."""

                def __init__(self, parts: MethodParts, strength: float) -> None:
                    self._parts = parts
                    self._strength = strength

                def step(self, index: int, progress: float) -> StepOutput:
                    """Return the loss of micro-step `index`; randomness depends on it alone."""
                    parts = self._parts
                    container = parts.container
                    scheduler = parts.make_noise_scheduler()
                    scheduler.set_timesteps(10)
                    at = randomness.integer(10, parts.seed, index, "timestep")
                    shape = (parts.batch_size, *container.latent_shape(parts.resolution))
                    latents = randomness.normal(shape, parts.seed, index).to(container.device)
                    targets = [parts.concepts[index % len(parts.concepts)].target]
                    given = (latents, scheduler.timesteps[at], parts.select(targets))
                    with torch.no_grad(), parts.scale.base():
                        base = container.predict(*given)
                    student = container.predict(*given, denoiser=parts.student)
                    return StepOutput(parts.loss(student, (1 - self._strength) * base).mean())

                def state(self) -> dict[str, Tensor]:
                    """Return what a resumed run needs: nothing."""
                    return {{}}

                def load_state(self, state: Mapping[str, Tensor]) -> None:
                    """Take back what `state` returned."""
            ''',
        "losses": '''
            from collections.abc import Callable

            from torch import Tensor


            def get_loss(*, power: float = 2.0) -> Callable[[Tensor, Tensor], Tensor]:
                """Return the elementwise loss of a prediction and what it should have been.

                Args:
                    power: Of the difference.
                """
                return lambda given, wanted: (given - wanted).abs() ** power
            ''',
        "weightings": '''
            from collections.abc import Callable

            from torch import Tensor


            def get_weighting(*, power: float = 0.5) -> Callable[[Tensor], Tensor]:
                """Return the weight of the squared error in x₀, by signal-to-noise ratio (B,).

                Args:
                    power: Of the ratio; 1 is a plain ε-loss, and 0 counts errors in x₀ alike.
                """
                return lambda snr: snr**power
            ''',
        "noising": '''
            from collections.abc import Callable

            from torch import Tensor


            def get_noising(
                *, strength: float = 0.05
            ) -> Callable[[Tensor, Tensor, Callable[..., Tensor]], tuple[Tensor, Tensor]]:
                """Return what changes the noise that is applied, and the noise that is asked for.

                Args:
                    strength: Of one constant for each image.
                """

                def change(
                    applied: Tensor, wanted: Tensor, normal: Callable[..., Tensor]
                ) -> tuple[Tensor, Tensor]:
                    # normal(C, H, W) gives (B, C, H, W); no other randomness can be resumed.
                    constant = strength * normal(1, 1, 1)
                    return applied + constant, wanted + constant

                return change
            ''',
        "measures": '''
            from collections.abc import Callable

            import numpy as np

            LIMITS = (0.0, 1.0)
            """The least and the greatest value there can be; leave it out where there are none."""


            def get_measure(*, channel: int = 0) -> Callable[[np.ndarray], float | str | None]:
                """Return what reads a number or a label off an image (H, W, 3) in [0, 1].

                Args:
                    channel: 0 is red, 1 green, 2 blue.
                """
                return lambda image: float(image[..., channel].mean())
            ''',
        "optimizers": '''
            from typing import Any

            import torch


            def get_optimizer(
                params: Any, lr: float, *, momentum: float = 0.9
            ) -> torch.optim.Optimizer:
                """Return the optimizer.

                Args:
                    params: Parameters, or groups of them.
                    lr: Learning rate.
                    momentum: Share of the last update that is kept.
                """
                return torch.optim.SGD(params, lr=lr, momentum=momentum)
            ''',
        "noise": '''
            from collections.abc import Mapping
            from typing import Any

            from diffusers import DDIMScheduler


            def step_noise(config: Mapping[str, Any], *, rescale_zero_snr: bool = False) -> Any:
                """Return the diffusers scheduler that steps the noise.

                Args:
                    config: The model's own: betas, prediction type.
                    rescale_zero_snr: End at pure noise.
                """
                return DDIMScheduler.from_config(
                    config, rescale_betas_zero_snr=rescale_zero_snr, timestep_spacing="trailing"
                )
            ''',
        "model": '''
            from collections.abc import Callable
            from typing import Any


            def get_scheduler(
                optimizer: Any, num_steps: int, *, final: float = 0.1
            ) -> Callable[[int], float]:
                """Return the factor of the learning rate by step, counted from 0.

                It has to depend on the step alone, so that a resumed run goes on as it would have.
                A torch LRScheduler may be returned too: then its rates are recorded beforehand.

                Args:
                    optimizer: A stand-in with the recipe's learning rate.
                    num_steps: Steps of the whole run.
                    final: Factor at the end.
                """
                return lambda step: 1 + (final - 1) * min(1.0, step / max(1, num_steps - 1))
            ''',
        "layer": '''
            from typing import Any


            def get_scheduler(optimizer: Any, *, outside: float = 0.0) -> list[float]:
                """Return one learning-rate factor per parameter group; 0 leaves it untrained.

                Args:
                    optimizer: Its groups carry their module's name, such as
                        "up_blocks.0.attentions.1.transformer_blocks.0.attn2.to_k".
                    outside: Factor of what does not lie in the up blocks.
                """
                return [
                    1.0 if group["name"].startswith("up_blocks.") else outside
                    for group in optimizer.param_groups
                ]
            ''',
        "timestep": '''
            from collections.abc import Callable

            from torch import Tensor


            def get_timestep_scheduler(
                *, center: float = 0.5, width: float = 0.2
            ) -> Callable[[Tensor, float], Tensor]:
                """Return the density over timesteps t (N,), 0 clean and 1 noise; any scale will do.

                Args:
                    center: Where most of the training goes.
                    width: How far around it.
                """

                def density(t: Tensor, progress: float) -> Tensor:
                    return (-(((t.double() - center) / width) ** 2) / 2).exp()

                return density
            ''',
    }
)

_SECTIONS: Mapping[str, str] = MappingProxyType(
    {
        "adapters": "adapter: {{name: {name}, rank: 8}}",
        "methods": "method: {{name: {name}, strength: 0.2}}",
        "losses": "loss: {{name: {name}, power: 1.5}}",
        "weightings": "loss: {{weighting: {{name: {name}, power: 0.3}}}}",
        "noising": "noise: [{{name: {name}, strength: 0.1}}]",
        "measures": "proof: {{measure: {{name: {name}, channel: 1}}}}",
        "optimizers": "optimizer: {{name: {name}, momentum: 0.5}}",
        "noise": "scheduler: {{noise: {{name: {name}}}}}",
        "model": "scheduler: {{model: {{name: {name}, final: 0.2}}}}",
        "layer": "scheduler: {{layer: {{name: {name}, outside: 0.5}}}}",
        "timestep": "scheduler: {{timestep: {{name: {name}, center: 0.7}}}}",
    }
)

_TEST = '''\
"""What {noun} {name} has to keep so that a run can use it. Run it with: pytest {file}"""

from pathlib import Path

from loba_tui.core.program.contract import check_contract

PLUGIN = Path(__file__).with_name("{name}.py")


def test_it_keeps_the_contract() -> None:
    # Options are given as a recipe gives them: check_contract(kind, path, option=value).
    check_contract("{kind}", PLUGIN)
'''


def create(kind: str, name: str, plugins: Plugins) -> tuple[Path, Path]:
    """Write a drop-in and its test into the user's folder and return both files.

    Raises:
        RecipeError: The kind or the name cannot be, or there is one of that name.
        ResourceError: Nothing can be written there.
    """
    check_kind(kind)
    if plugins.user.folder is None:
        raise ResourceError("There is no home folder to keep plugins in.", "Set XDG_CONFIG_HOME.")
    if not (name.isascii() and is_plugin_name(name)):
        raise RecipeError(
            f"{clean(name)} cannot be the name of a drop-in.",
            "Take letters, digits and _; not _ or test_ at the beginning.",
        )
    if plugins.is_shipped(kind, name):
        raise RecipeError(f"There is a shipped {kind}/{name}, and it cannot be replaced.")
    folder = plugins.user.folder / kind
    path, test = folder / f"{name}.py", folder / f"test_{kind}_{name}.py"
    section = _SECTIONS[kind].format(name=name)
    noun = KINDS[kind].noun
    try:
        for each in (plugins.user.folder.parent, plugins.user.folder, folder):
            each.mkdir(mode=PRIVATE_DIR_MODE, parents=True, exist_ok=True)
        head = _HEAD.format(name=name, section=section)
        _write(path, head + textwrap.dedent(_BODIES[kind]).replace("{{}}", "{}"))
        _write(test, _TEST.format(kind=kind, name=name, noun=noun, file=test.name))
    except FileExistsError as error:
        raise RecipeError(f"{error.filename}: exists already", "Choose another name.") from error
    except OSError as error:
        raise ResourceError(f"{folder} cannot be written to: {error.strerror}.") from error
    return path, test


def _write(path: Path, text: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with open(os.open(path, flags, PRIVATE_FILE_MODE), "w", encoding="utf-8") as file:
        file.write(text)
