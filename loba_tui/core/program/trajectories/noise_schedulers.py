"""Makes noise schedulers from a model's own scheduler config, for the drop-ins of that kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from loba_tui.core.associate.schedules import is_flow_matching
from loba_tui.core.errors import RecipeError

Scheduler = TypeVar("Scheduler")


@dataclass(frozen=True, kw_only=True)
class Spacing:
    """Options of schedulers that space timesteps.

    Attributes:
        timestep_spacing: Where the sampling grid lies; "trailing" includes the noisiest timestep.
    """

    timestep_spacing: Literal["leading", "trailing", "linspace"] = "trailing"


@dataclass(frozen=True, kw_only=True)
class KarrasSigmas:
    """Options of schedulers that can space noise levels instead of timesteps.

    Attributes:
        use_karras_sigmas: Space noise levels as in equation 5 of https://arxiv.org/abs/2206.00364.
    """

    use_karras_sigmas: bool = False


@dataclass(frozen=True, kw_only=True)
class ZeroSnr:
    """Options of schedulers that can end at pure noise.

    Attributes:
        rescale_betas_zero_snr: Let the last timestep be pure noise (https://arxiv.org/abs/2305.08891);
            null keeps what the model was trained with.
    """

    rescale_betas_zero_snr: bool | None = None


@dataclass(frozen=True, kw_only=True)
class TimestepOptions(Spacing, ZeroSnr):
    """Options of schedulers that step over timesteps."""


@dataclass(frozen=True, kw_only=True)
class MultistepOptions(Spacing, KarrasSigmas):
    """Options of k-diffusion's schedulers without a rescaled end."""


@dataclass(frozen=True, kw_only=True)
class SigmaOptions(Spacing, KarrasSigmas, ZeroSnr):
    """Options of schedulers that step over noise levels."""


def diffusion_scheduler(
    scheduler_class: type[Scheduler],
    config: Mapping[str, Any],
    options: Spacing | KarrasSigmas | ZeroSnr,
    **fixed: Any,
) -> Scheduler:
    """Return a diffusers scheduler with the model's betas and prediction type.

    Args:
        scheduler_class: One that steps a diffusion process.
        config: The pipeline's scheduler config.
        options: What a recipe sets anew; None leaves it as the model has it.
        fixed: What is set in any case, by the name that diffusers has for it.

    Raises:
        RecipeError: The model is a flow-matching one.
    """
    if is_flow_matching(config):
        raise RecipeError(
            "scheduler.noise: this model predicts a velocity between noise and image, which the"
            " chosen scheduler would read as noise",
            "Take flow_match_euler for flow-matching models.",
        )
    given = {name: value for name, value in asdict(options).items() if value is not None}
    scheduler: Scheduler = scheduler_class.from_config(config, **given, **fixed)  # type: ignore[attr-defined]
    return scheduler


class FlowMatchEuler(FlowMatchEulerDiscreteScheduler):
    """Euler steps of flow matching with what pipelines of UNets ask of every scheduler."""

    init_noise_sigma = 1.0

    def scale_model_input(self, sample: Tensor, timestep: Tensor | None = None) -> Tensor:
        """Return the latents as they are."""
        return sample


def noiseless_sampler(config: Mapping[str, Any]) -> str:
    """Return the shipped noise scheduler that steps a model of this kind without adding noise."""
    return "flow_match_euler" if is_flow_matching(config) else "ddim"
