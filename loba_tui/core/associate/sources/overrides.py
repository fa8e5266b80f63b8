"""Settings of a base model beside its id: another VAE, configuration and noise schedule."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from loba_tui.core.associate.one_file.header import PredictionType
from loba_tui.core.recipe.schema import BaseModelSection


@dataclass(frozen=True)
class Overrides:
    """Keys of a recipe's base_model section that say what the model is made of; None: its own."""

    vae: str | None = None
    config: str | None = None
    prediction_type: PredictionType | None = None
    zero_snr: bool | None = None

    @classmethod
    def of(cls, settings: BaseModelSection) -> Overrides:
        """Return those of a recipe's section."""
        return cls(settings.vae, settings.config, settings.prediction_type, settings.zero_snr)


NO_OVERRIDES = Overrides()
"""The model as it is."""


_FLOW = MappingProxyType({"num_train_timesteps": 1000, "shift": 1.0})
"""Of a flow-matching scheduler: noise levels by equal steps."""


@dataclass(frozen=True)
class ScheduleChange:
    """How a model's noise schedule differs from the one in its configuration; None: as there."""

    prediction_type: PredictionType | None = None
    zero_snr: bool | None = None

    def applied(self, config: dict[str, Any]) -> dict[str, Any]:
        """Return a scheduler's configuration with the change.

        A schedule that ends in pure noise has to be sampled from its very end
        (https://arxiv.org/abs/2305.08891, section 3.3): so its spacing becomes trailing.
        """
        changed = dict(config)
        # By this list diffusers would drop what is set here again.
        changed.pop("_use_default_values", None)
        if self.prediction_type == "flow":
            return dict(_FLOW)
        if self.prediction_type is not None:
            changed["prediction_type"] = self.prediction_type
        if self.zero_snr is not None:
            changed["rescale_betas_zero_snr"] = self.zero_snr
        if self.zero_snr:
            changed["timestep_spacing"] = "trailing"
        return changed


AS_IT_IS = ScheduleChange()
"""The noise schedule of the configuration."""
