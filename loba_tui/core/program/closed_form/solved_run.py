"""A run of a method that computes its adapter: one step, no optimizer, and no checkpoints."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import nn

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.errors import RecipeError
from loba_tui.core.program.adapter_files.shares import AdapterShare
from loba_tui.core.program.adapter_layers.kinds import tuner_layers
from loba_tui.core.program.adapter_layers.strength import AdapterScale, NoScale
from loba_tui.core.program.adapter_layers.text_encoders import name_in_files
from loba_tui.core.program.closed_form.solution import LayerUpdate, Solution, Solver
from loba_tui.core.program.closed_form.solved_text import SolvedText
from loba_tui.core.program.evaluation.costs.concept_costs import ConceptCosts
from loba_tui.core.program.sampling.run_strips import StripDrawer
from loba_tui.core.program.steering.boundary import Steering
from loba_tui.core.program.training.checkpoint import Checkpoint
from loba_tui.core.program.training.memory import memory_mib
from loba_tui.core.program.validation.best import RunResult


@dataclass
class SolvedRun:
    """Solves once and attaches the result.

    A run that is resumed solves again: that takes less than a checkpoint would, and gives the same
    bits.

    Attributes:
        text: Takes what a method computes that changes text encoders alone; None for others.
        costs: What the adapter does to its concepts and to other prompts, once that is known.
        shares: The adapters that it is the sum of, where it is split into several.
    """

    solver: Solver
    container: ModelContainer
    steering: Steering
    strips: StripDrawer
    step: int = 0
    inexact: list[str] = field(default_factory=list)
    ended_early: str | None = None
    stop_reason: str | None = None
    init_from: Mapping[str, Any] | None = None
    text: SolvedText | None = None
    costs: ConceptCosts | None = None
    shares: tuple[AdapterShare, ...] = ()
    _scale: AdapterScale | NoScale | None = None

    @property
    def scale(self) -> AdapterScale | NoScale:
        """Strength of the denoiser's adapter, once it is there; of none where text is changed."""
        assert self._scale is not None, "nothing is solved yet"
        return self._scale

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """The adapter's weights by name."""
        named = self.container.denoiser.named_parameters()
        return {name: parameter for name, parameter in named if ".lora_" in name}

    def run(self, until: int | None = None) -> None:
        """Solve, unless that is done or nothing is to be done yet.

        Raises:
            Interrupted: If the run was asked to stop before it began.
        """
        if self.step or until == 0:
            return
        records = self.steering.context.records
        records.status(phase="solving", step=0, total=1)
        self.steering.boundary(self)
        begin = time.perf_counter()
        with torch.no_grad():
            solution = self.solver.solve()
            if self.text is None:
                attach_solution(solution, self.container)
                self._scale = AdapterScale(self.container.denoiser)
            else:
                self.text.solution, self._scale = solution.text, NoScale()
        self.step, self.costs, self.shares = 1, solution.costs, solution.shares
        records.metric(
            step=1,
            seconds=round(time.perf_counter() - begin, 6),
            memory_mib=memory_mib(self.container.device),
            forwards=0,
            **solution.figures,
        )
        records.status(phase="solving", step=1, total=1)

    def save(self) -> None:
        """Save nothing: there is no state between before and after."""

    def sample(self) -> None:
        """Draw a strip, if there is an adapter yet."""
        if self.step:
            self.strips.draw_between_steps(self.scale, self.step)

    def averaged_weights(self) -> AbstractContextManager[None]:
        """Lend the weights to draw, measure and export: those that are there."""
        return nullcontext()

    @property
    def result(self) -> RunResult:
        """The weights that are there: no step was chosen."""
        return RunResult(self.step, self.averaged_weights)

    def load_newest(
        self, *, allow_inexact: bool | None = None
    ) -> tuple[Checkpoint | None, list[str]]:
        """Return that there is no checkpoint to go on from."""
        return None, []


def attach_solution(solution: Solution, container: ModelContainer) -> None:
    """Put a computed adapter on the model.

    Raises:
        RecipeError: It changes nothing at all.
    """
    layers = {name: layer for name, layer in solution.layers.items() if layer.rank}
    if not layers:
        raise RecipeError(
            "method.concepts: nothing is to change: the prompts mean the same to this model",
            "Compare the concepts' prompts; they have to differ where the tokens are edited.",
        )
    denoiser = container.denoiser
    denoiser.requires_grad_(False)
    config = config_of_ranks({name: layer.rank for name, layer in layers.items()})
    with torch.random.fork_rng():
        # PEFT draws initial weights, which are overwritten, from the global generator.
        denoiser.add_adapter(config)
    put_weights(denoiser, layers)


def config_of_ranks(ranks: Mapping[str, int]) -> LoraConfig:
    """Return the PEFT configuration of layers with these ranks, and one alpha for all.

    Alpha is the commonest rank: other programs lose the alphas of single layers more easily than
    their ranks, which the weights themselves show.
    """
    ((rank, _),) = Counter(ranks.values()).most_common(1)
    return LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=list(ranks),
        rank_pattern={name: own for name, own in ranks.items() if own != rank},
        init_lora_weights=False,
    )


def put_weights(
    denoiser: nn.Module, layers: Mapping[str, LayerUpdate], adapter_name: str = "default"
) -> None:
    """Copy updates into the layers of an attached LoRA adapter, float32 whatever the base is.

    PEFT multiplies by alpha / rank, which is taken out here. Where a layer has more rank than its
    update, the rest does nothing yet: it keeps its A, and its B is zero.

    Raises:
        RecipeError: A layer has no LoRA, or one of less rank.
    """
    for name, layer in layers.items():
        module: nn.Module = denoiser.get_submodule(name)
        if not isinstance(module, LoraLayer) or adapter_name not in module.lora_A:
            raise RecipeError(f"{name} has no LoRA that a computed update could be put into")
        down, up = module.lora_A[adapter_name].weight, module.lora_B[adapter_name].weight
        spare = down.shape[0] - layer.rank
        if spare < 0:
            raise RecipeError(f"{name} has rank {down.shape[0]}, and the update {layer.rank}")
        kind = {"device": down.device, "dtype": torch.float32}
        rest = down.detach()[layer.rank :].to(**kind)
        down.data = torch.cat([(layer.down / module.scaling[adapter_name]).to(**kind), rest])
        up.data = torch.nn.functional.pad(layer.up.to(**kind), (0, spare))


def put_text_weights(
    encoders: Mapping[str, nn.Module], updates: Mapping[str, Mapping[str, LayerUpdate]]
) -> None:
    """Copy updates, by component and by module as files call it, into LoRAs of text encoders.

    Layers without a LoRA are left out.
    """
    for component, encoder in encoders.items():
        named = {name_in_files(name): name for name, _ in tuner_layers(encoder, "default")}
        own = updates.get(component, {})
        put_weights(encoder, {named[name]: own[name] for name in own if name in named})
