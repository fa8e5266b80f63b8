"""The only place that turns a recipe into objects."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import cast_training_params
from torch import Tensor, nn

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.devices import resolve_device, resolve_dtype
from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import Plugins
from loba_tui.core.program import randomness
from loba_tui.core.program.adapter_layers.kinds import kind_of, settle
from loba_tui.core.program.adapter_layers.strength import AdapterScale
from loba_tui.core.program.closed_form.solution import Solver, SolverParts
from loba_tui.core.program.closed_form.solved_run import SolvedRun
from loba_tui.core.program.data.training_data import TrainingData, stand_in
from loba_tui.core.program.drop_ins import load_choice, plugin_hashes
from loba_tui.core.program.evaluation.efficacy.recipe import make_probe
from loba_tui.core.program.method import Method, MethodParts, StartsWarm
from loba_tui.core.program.objectives.timed_loss import TimedLoss
from loba_tui.core.program.open_model import OpenModel
from loba_tui.core.program.processes import Processes
from loba_tui.core.program.steering.boundary import KeepsPreserve, Steering
from loba_tui.core.program.training.checkpoint import CheckpointStore
from loba_tui.core.program.training.early_stop import MOST_CONCEPTS, Watch
from loba_tui.core.program.training.ema import make_average
from loba_tui.core.program.training.optimizer_state import LearningRates
from loba_tui.core.program.training.parameter_groups import build_optimizer, parameter_groups
from loba_tui.core.program.training.run_fingerprint import Settings
from loba_tui.core.program.training.state import TrainerParts
from loba_tui.core.program.training.trainer import Trainer
from loba_tui.core.program.trajectories.base import ForwardCounter
from loba_tui.core.recipe.checks.method import layers_of
from loba_tui.core.recipe.schema import AdapterSection, Recipe
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.writer import RunWriter

logger = logging.getLogger(__name__)

_MIXED_PRECISION = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True)
class Built:
    """A run, ready to start.

    Attributes:
        trainer: Runs it; a method that solves has no steps to train.
    """

    trainer: Trainer | SolvedRun

    @property
    def scale(self) -> AdapterScale:
        """Strength of the attached adapter."""
        return self.trainer.scale


def build_accelerator(recipe: Recipe, *, local_rank: int = 0) -> Accelerator:
    """Return the Accelerator that carries device, precision, accumulation and processes.

    Raises:
        ResourceError: The recipe's device is not there.
    """
    device = resolve_device(recipe.base_model.device, local_rank=local_rank)
    if device.type == "cuda":
        # Accelerate takes the current device; a recipe may name another than the first.
        torch.cuda.set_device(device)
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision=_MIXED_PRECISION[resolve_dtype(recipe.base_model.dtype, device)],
        gradient_accumulation_steps=recipe.train.gradient_accumulation,
    )


def adapter_section(recipe: Recipe, plugins: Plugins) -> AdapterSection:
    """Return the recipe's adapter, with the layers that the method's options ask for."""
    section = recipe.adapter
    layers = layers_of(
        plugins.describe("methods", recipe.method.name),
        recipe.method.options,
        plugins.describe("adapters", section.name),
    )
    if layers is None or "layers" in section.options:
        return section
    return AdapterSection(**{**section.model_dump(), "layers": layers})


def attach_adapter(recipe: Recipe, container: ModelContainer, plugins: Plugins) -> Any:
    """Attach the recipe's adapter, float32 and reproducibly initialised; return its PEFT config."""
    section = adapter_section(recipe, plugins)
    make = load_choice("adapters", section, plugins)
    config = make(container.adapter_targets(), rank=section.rank, alpha=section.alpha)
    if not config.target_modules:
        raise RecipeError(
            f"adapter.layers: none of them names a layer of this {container.family} model"
        )
    kind_of(config)
    container.denoiser.requires_grad_(False)
    with torch.random.fork_rng():
        # PEFT draws its initial weights from the global generator.
        seed = randomness.integer(2**31, recipe.train.seed, "adapter")
        torch.manual_seed(seed)
        container.denoiser.add_adapter(config)
    settle(container.denoiser, config)
    # Updates of a slider are smaller than bfloat16 resolves: the trained weights stay float32.
    cast_training_params(container.denoiser, torch.float32)
    return config


def build(
    recipe: Recipe,
    model: OpenModel,
    *,
    accelerator: Accelerator,
    run_dir: RunDir,
    writer: RunWriter | None,
    steering: Steering,
    sample: Callable[[int], None] | None = None,
    plugins: Plugins,
) -> Built:
    """Join the recipe's choices into a trainer.

    Args:
        recipe: What to build.
        model: The base model with its embeddings.
        accelerator: From `build_accelerator`.
        run_dir: Where checkpoints go.
        writer: The run's records; None on processes other than the first.
        steering: Asked by the trainer at each step boundary; learns here what it can change.
        sample: Draws a strip during the run.
    """
    if recipe.base_model.offload == "sequential":
        # It keeps the weights on the meta device between calls; nothing can be attached there.
        raise RecipeError(
            "base_model.offload: sequential is for sampling; it cannot train an adapter",
            "Use base_model.offload: model, or gradient_checkpointing: true.",
        )
    if recipe.data is not None and model.data is None:
        # Stand-ins are for finding out what a method computes; nothing may be trained on them.
        raise ValueError("the recipe's images are not open; see data.opening.open_data")
    for choice in (recipe.scheduler.noise, recipe.sample.noise):
        # Made once, so that one that does not fit the model is found before training.
        load_choice("noise", choice, plugins)(model.container.scheduler_config)
    if solves(recipe, plugins):
        solver = build_solver(recipe, model, plugins)
        return Built(
            SolvedRun(solver, model.container, writer=writer, steering=steering, sample=sample)
        )
    attach_adapter(recipe, model.container, plugins)
    denoiser = model.container.denoiser
    scale = AdapterScale(denoiser)
    trainable = {name: p for name, p in denoiser.named_parameters() if p.requires_grad}
    groups, factors, trained = parameter_groups(recipe, trainable, plugins)

    optimizer = build_optimizer(recipe, groups, plugins)
    average = make_average(recipe.train.ema, trained, optimizer, recipe.optimizer)
    make_schedule = load_choice("model", recipe.scheduler.model, plugins)
    step_factor = make_schedule(optimizer, recipe.train.steps)
    rates = LearningRates(optimizer, recipe.optimizer.lr, step_factor, factors)

    def change_steps(steps: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = recipe.optimizer.lr  # a torch scheduler takes what it finds for its base
        rates.change_schedule(make_schedule(optimizer, steps))

    student, prepared = accelerator.prepare(denoiser, optimizer, device_placement=[False, False])
    counter = ForwardCounter()
    method = build_method(recipe, model, accelerator, student, scale, counter, plugins)
    if isinstance(method, StartsWarm):
        method.start_warm()
    steering.bind("optimizer.lr", rates.change_base)
    steering.bind("train.steps", change_steps)
    if isinstance(method, KeepsPreserve):
        steering.bind("method.preserve_weight", method.change_preserve_weight)
    trainer = Trainer(
        TrainerParts(
            accelerator=accelerator,
            student=student,
            scale=scale,
            method=method,
            optimizer=prepared,
            learning_rates=rates,
            parameters=trained,
            counter=counter,
            store=CheckpointStore(run_dir.checkpoints, keep=recipe.save.keep),
            writer=writer,
            sample=sample,
            steering=steering,
            settings=Settings.of(
                recipe,
                accelerator,
                model.container.dtype,
                plugin_hashes(recipe, plugins),
                images=model.data.fingerprint if model.data is not None else None,
            ),
            average=average,
            watch=_watch(recipe, model, scale, accelerator),
        ),
        train=recipe.train,
    )
    return Built(trainer)


def _watch(
    recipe: Recipe, model: OpenModel, scale: AdapterScale, accelerator: Accelerator
) -> Watch | None:
    train = recipe.train
    if not train.efficacy_every:
        return None
    if not any(c.positive and c.negative for c in recipe.method.expanded_concepts):
        raise RecipeError(
            "train.efficacy_every: no concept says both positive and negative, so there is no"
            " direction to look along",
            "Leave it out; only sliders between two prompts are looked at while they train.",
        )
    return Watch(
        lambda: make_probe(model.container, scale, recipe, model.embeds, most=MOST_CONCEPTS),
        every=train.efficacy_every,
        stop_when=train.stop_when,
        processes=Processes(accelerator),
    )


def build_method(
    recipe: Recipe,
    model: OpenModel,
    accelerator: Accelerator,
    student: nn.Module,
    scale: AdapterScale,
    counter: ForwardCounter,
    plugins: Plugins,
) -> Method:
    """Return the recipe's method, with everything that it works with."""
    make_noise = load_choice("noise", recipe.scheduler.noise, plugins)
    weighting = recipe.loss.weighting
    method: Method = load_choice("methods", recipe.method, plugins)(
        MethodParts(
            container=model.container,
            student=student,
            scale=scale,
            concepts=recipe.method.expanded_concepts,
            embeds=model.embeds,
            empty=model.container.empty_embeds(),
            make_noise_scheduler=lambda: make_noise(model.container.scheduler_config),
            density=load_choice("timestep", recipe.scheduler.timestep, plugins)(),
            loss=TimedLoss(load_choice("losses", recipe.loss, plugins)()),
            batch_size=recipe.train.batch_size,
            num_processes=accelerator.num_processes,
            rank=accelerator.process_index,
            seed=recipe.train.seed,
            resolution=recipe.train.resolution,
            gather=_gather(accelerator),
            counter=counter,
            data=_training_data(recipe, model, accelerator),
            noise_changes=[load_choice("noising", c, plugins)() for c in recipe.noise],
            weighting=load_choice("weightings", weighting, plugins)() if weighting else None,
            keep_outside=recipe.data.mask.keep_outside if recipe.data else 0.0,
        )
    )
    return method


def solves(recipe: Recipe, plugins: Plugins) -> bool:
    """Say whether the recipe's method computes its adapter, so that there is nothing to train."""
    plugin = plugins.describe("methods", recipe.method.name)
    return bool(plugin.constants.get("SOLVES"))


def build_solver(recipe: Recipe, model: OpenModel, plugins: Plugins) -> Solver:
    """Return the recipe's method, which computes its adapter."""
    solver: Solver = load_choice("methods", recipe.method, plugins)(
        SolverParts(
            container=model.container,
            concepts=recipe.method.expanded_concepts,
            embeds=model.embeds,
            seed=recipe.train.seed,
        )
    )
    return solver


def _training_data(
    recipe: Recipe, model: OpenModel, accelerator: Accelerator
) -> TrainingData | None:
    if recipe.data is None:
        return None
    if model.data is None:  # what a method computes can be told without its images
        shape = model.container.latent_shape(recipe.train.resolution)
        return stand_in(recipe.data, shape, recipe.train.batch_size)
    return model.data.batches(
        model.container, rank=accelerator.process_index, num_processes=accelerator.num_processes
    )


def _gather(accelerator: Accelerator) -> Callable[[Tensor], Tensor]:
    if accelerator.num_processes == 1:
        return lambda tensor: tensor
    return lambda tensor: accelerator.gather(tensor.contiguous())
