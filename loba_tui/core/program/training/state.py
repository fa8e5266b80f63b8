"""Parts of a trainer, and the state of them that a run needs to go on exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from loba_tui.core.program.adapter_layers.strength import AdapterScale, NoScale
from loba_tui.core.program.adapter_layers.trained_text import TrainedText
from loba_tui.core.program.engines.base import Engine
from loba_tui.core.program.learning_rates import LearningRates
from loba_tui.core.program.method import Method
from loba_tui.core.program.sampling.run_strips import StripDrawer
from loba_tui.core.program.steering.boundary import Steering
from loba_tui.core.program.training.checkpoint import Checkpoint, CheckpointStore
from loba_tui.core.program.training.early_stop import EarlyStop
from loba_tui.core.program.training.ema import MovingAverage
from loba_tui.core.program.training.gradient_start import GradientStart
from loba_tui.core.program.training.run_fingerprint import RunFingerprint
from loba_tui.core.program.trajectories.predictions import ForwardCounter
from loba_tui.core.program.validation.best import BestAdapter
from loba_tui.core.program.validation.record import Validation
from loba_tui.core.run.changes import ChangeRecord


@dataclass(frozen=True)
class TrainerParts:
    """Finished objects that a trainer works with.

    Attributes:
        student: The denoiser as the engine prepared it.
        optimizer: As the engine prepared it.
        parameters: The trainable parameters by name, float32.
        counter: UNet rows computed so far.
        average: Of the weights; None where those of the last step are the result.
        early_stop: Checks what the adapter does; None checks nothing.
        validation: Evaluates the loss on what is held out; None evaluates nothing.
        best: Keeps the adapter of the best step; None keeps none.
        init_from: The file whose weights it began with, as `begin_with` tells; None for none.
        text: Text encoders that are trained; None where the denoiser alone is.
        gradient_start: Sets the adapter's first weights in the first step; None leaves them.
    """

    engine: Engine
    student: nn.Module
    scale: AdapterScale | NoScale
    method: Method
    optimizer: torch.optim.Optimizer
    learning_rates: LearningRates
    parameters: Mapping[str, nn.Parameter]
    counter: ForwardCounter
    store: CheckpointStore
    strips: StripDrawer
    steering: Steering
    fingerprint: RunFingerprint
    average: MovingAverage | None
    early_stop: EarlyStop | None
    validation: Validation | None = None
    best: BestAdapter | None = None
    init_from: Mapping[str, Any] | None = None
    text: TrainedText | None = None
    gradient_start: GradientStart | None = None


def checkpoint_of(
    parts: TrainerParts,
    step: int,
    method_state: Mapping[str, Tensor],
    *,
    num_skips: int,
    inexact: Sequence[str],
    init_from: Mapping[str, Any] | None,
) -> Checkpoint:
    """Return everything that decides the steps after `step`.

    Args:
        method_state: The method's own, which every process has had to gather.
        num_skips: Bad steps that were put up with so far.
        init_from: The file that the run began with, as `begin_with` tells.
    """
    tensors, plain = parts.engine.export_optimizer(_names_of(parts))
    weights = {name: parameter.detach().cpu() for name, parameter in parts.parameters.items()}
    scaler, average = parts.engine.accelerator.scaler, parts.average
    parted = {"adapter": weights, "optimizer": tensors, "method": method_state}
    if average is not None:
        parted["ema"] = average.tensors()
    if parts.best is not None:
        parted["best"] = parts.best.tensors
    return Checkpoint(
        step=step,
        tensors=parted,
        state={
            **({} if average is None else {"ema": average.num_steps}),
            **({} if parts.early_stop is None else {"looks": parts.early_stop.state()}),
            **({} if parts.validation is None else {"validation": parts.validation.state()}),
            **({} if parts.best is None else {"best": parts.best.state()}),
            **({} if init_from is None else {"init_from": dict(init_from)}),
            "optimizer": plain,
            "forwards": parts.counter.rows,
            "steering": parts.steering.settings.record.as_json(),
            "num_skips": num_skips,
            "settings": asdict(parts.fingerprint),
            "inexact": list(inexact),
            "scaler": scaler.state_dict() if scaler is not None else None,
        },
    )


def restore(parts: TrainerParts, checkpoint: Checkpoint, *, allow_inexact: bool) -> list[str]:
    """Put a checkpoint's state into the parts in place.

    Returns:
        In what the run differs, from now on and for good, from one that was never resumed.

    Raises:
        RecipeError: It is of another recipe, or of another machine and that is not allowed.
        LookupError, TypeError, ValueError, AttributeError, RuntimeError: It is not of this run.
    """
    state = checkpoint.state
    found = parts.fingerprint.inexact_after(state["settings"], allow_inexact=allow_inexact)
    inexact = list(dict.fromkeys([*state["inexact"], *found]))
    _restore_weights(parts, checkpoint.tensors["adapter"])
    parts.engine.import_optimizer(
        _names_of(parts), checkpoint.tensors["optimizer"], state["optimizer"]
    )
    if parts.average is not None:
        parts.average.load(checkpoint.tensors["ema"], state["ema"])
    if parts.early_stop is not None:
        parts.early_stop.load_state(state["looks"])
    if parts.validation is not None:
        parts.validation.load_state(state["validation"])
    if parts.best is not None:
        parts.best.load(state["best"], checkpoint.tensors["best"], parts.parameters)
    parts.method.load_state(checkpoint.tensors["method"])
    parts.counter.rows = state["forwards"]
    scaler = parts.engine.accelerator.scaler
    if scaler is not None and state.get("scaler"):
        scaler.load_state_dict(state["scaler"])
    # What was changed after the checkpoint is newer than what it knows.
    settings = parts.steering.settings
    kept = settings.record
    record = kept if kept != ChangeRecord() else ChangeRecord.from_json(state["steering"])
    settings.load(record, checkpoint.step)
    return inexact


def _restore_weights(parts: TrainerParts, weights: Mapping[str, Tensor]) -> None:
    if weights.keys() != parts.parameters.keys():
        odd = sorted(weights.keys() ^ parts.parameters.keys())[0]
        raise ValueError(f"only one of the two trains {odd}")
    with torch.no_grad():
        for name, parameter in parts.parameters.items():
            if parameter.shape != weights[name].shape:  # it would be broadcast
                raise ValueError(f"{name} is {list(weights[name].shape)} there")
            parameter.copy_(weights[name])


def _names_of(parts: TrainerParts) -> dict[Tensor, str]:
    return {parameter: name for name, parameter in parts.parameters.items()}
