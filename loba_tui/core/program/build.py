"""The only place that turns a recipe into objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import Plugins
from loba_tui.core.program.adapter_files.outputs import DenoiserOutput
from loba_tui.core.program.adapter_files.provenance import quantized_by
from loba_tui.core.program.adapter_layers.attach import attach_adapter
from loba_tui.core.program.adapter_layers.strength import AdapterScale, NoScale
from loba_tui.core.program.adapter_layers.trained_text import trained_text
from loba_tui.core.program.changed_text import changes_text_alone, solves
from loba_tui.core.program.closed_form.solution import Solver, SolverParts
from loba_tui.core.program.closed_form.solved_run import SolvedRun
from loba_tui.core.program.closed_form.solved_text import SolvedText
from loba_tui.core.program.data.training_data import StandInData, TrainingData
from loba_tui.core.program.drop_ins import load_choice, plugin_hashes
from loba_tui.core.program.engines.base import Engine
from loba_tui.core.program.learning_rates import LearningRates
from loba_tui.core.program.method import KeepsPreserve, Method, MethodParts, StartsWarm
from loba_tui.core.program.objectives.timed_loss import TimedLoss
from loba_tui.core.program.open_model import OpenModel
from loba_tui.core.program.processes import Processes
from loba_tui.core.program.sampling.run_strips import StripDrawer
from loba_tui.core.program.steering.boundary import Steering
from loba_tui.core.program.steering.live_settings import LiveSettings
from loba_tui.core.program.training.adapter_run import AdapterRun
from loba_tui.core.program.training.checkpoint import CheckpointStore
from loba_tui.core.program.training.early_stop import make_early_stop
from loba_tui.core.program.training.ema import make_average
from loba_tui.core.program.training.gradient_start import GradientStart
from loba_tui.core.program.training.initial_adapter import InitialFile, begin_with
from loba_tui.core.program.training.parameter_groups import build_optimizer, parameter_groups
from loba_tui.core.program.training.run_fingerprint import RunFingerprint
from loba_tui.core.program.training.state import TrainerParts
from loba_tui.core.program.training.trainer import Trainer
from loba_tui.core.program.trajectories.predictions import ForwardCounter
from loba_tui.core.program.validation.best import BestAdapter, BestFiles
from loba_tui.core.program.validation.drawn_figure import DrawnFigure
from loba_tui.core.program.validation.fixed_loss import fixed_losses
from loba_tui.core.program.validation.record import Validation
from loba_tui.core.recipe.schema import Recipe


def build(
    recipe: Recipe,
    model: OpenModel,
    *,
    engine: Engine,
    steering: Steering,
    strips: StripDrawer,
    initial: InitialFile | None = None,
) -> AdapterRun:
    """Join the recipe's choices into a run that is ready to start; steering learns its settings.

    Args:
        initial: A file that the adapter begins with, before an average copies its weights.
    """
    plugins = steering.context.plugins
    _check_model(recipe, model, plugins)
    if solves(recipe, plugins):
        return _solved_run(recipe, model, steering, strips)
    scale = _attach(recipe, model.container, plugins)
    init_from = _beginning(initial, model)
    groups, factors, trained = _trained(recipe, model, plugins)
    optimizer = build_optimizer(recipe, groups, plugins)
    average = make_average(recipe.train.ema, trained, optimizer, recipe.optimizer)
    rates = _learning_rates(recipe, optimizer, factors, steering.settings, plugins)
    denoiser = model.container.denoiser
    student, prepared = engine.prepare(denoiser, optimizer, scale, recipe.train)
    counter = ForwardCounter()
    parts = _method_parts(recipe, model, engine.processes, student, scale, counter, plugins)
    method: Method = load_choice("methods", recipe.method, plugins)(parts)
    if isinstance(method, StartsWarm):
        method.start_warm()
    if isinstance(method, KeepsPreserve):
        steering.settings.bind("method.preserve_weight", method.change_preserve_weight)
    return Trainer(
        TrainerParts(
            engine=engine,
            student=student,
            scale=scale,
            method=method,
            optimizer=prepared,
            learning_rates=rates,
            parameters=trained,
            counter=counter,
            store=CheckpointStore(steering.context.run_dir.checkpoints, keep=recipe.save.keep),
            strips=strips,
            steering=steering,
            fingerprint=_fingerprint(recipe, model, engine, plugins),
            average=average,
            early_stop=make_early_stop(recipe, model, scale, steering.context.processes),
            validation=_validation(recipe, model, parts, engine, plugins),
            best=_best(recipe, model, trained, steering, strips),
            init_from=init_from,
            text=trained_text(model.text),
            gradient_start=_gradient_start(recipe, model.container),
        ),
        train=recipe.train,
    )


def _check_model(recipe: Recipe, model: OpenModel, plugins: Plugins) -> None:
    """Find what does not fit the model before training.

    Raises:
        RecipeError: The model cannot be trained as it is held, or a noise scheduler refuses it.
    """
    if recipe.base_model.offload == "sequential":
        # It keeps the weights on the meta device between calls; nothing can be attached there.
        raise RecipeError(
            "base_model.offload: sequential is for sampling; it cannot train an adapter",
            "Use base_model.offload: model, or gradient_checkpointing: true.",
        )
    if recipe.data is not None and model.data is None:
        # Stand-ins are for finding out what a method computes; nothing may be trained on them.
        raise ValueError("the recipe's images are not open; see data.open.open_data")
    # What is computed steps no noise but for its pictures.
    choices = {} if solves(recipe, plugins) else {"scheduler.noise": recipe.scheduler.noise}
    choices["sample.noise"] = recipe.sample.noise
    for key, choice in choices.items():
        try:
            load_choice("noise", choice, plugins)(model.container.scheduler_config)
        except RecipeError as error:  # a scheduler does not know which of the two keys it is of
            said = error.message.replace("scheduler.noise", key, 1)
            raise RecipeError(said, error.hint) from error


def _attach(recipe: Recipe, container: ModelContainer, plugins: Plugins) -> AdapterScale | NoScale:
    """Attach the denoiser's adapter, unless text encoders alone have one; return its strength."""
    if changes_text_alone(recipe, plugins):
        container.denoiser.requires_grad_(False)
        return NoScale()
    attach_adapter(recipe, container, plugins)
    return AdapterScale(container.denoiser)


def _validation(
    recipe: Recipe, model: OpenModel, parts: MethodParts, engine: Engine, plugins: Plugins
) -> Validation | None:
    losses = fixed_losses(recipe, model, parts, plugins)
    if losses is None or recipe.validation is None:
        return None
    needs_all = engine.forward_needs_all
    return Validation(*losses, recipe.validation.every, engine.processes, needs_all)


def _best(
    recipe: Recipe,
    model: OpenModel,
    trained: Mapping[str, nn.Parameter],
    steering: Steering,
    strips: StripDrawer,
) -> BestAdapter | None:
    section, context = recipe.save.best, steering.context
    if section is None:
        return None
    text = trained_text(model.text)
    encoders = text.encoders if text is not None else {}
    output = DenoiserOutput(model.container.denoiser, encoders, trained)
    drawn = None
    if section.is_measured:
        drawn = DrawnFigure(recipe, section, model, strips.components, context, strips.engine)
    return BestAdapter(section, BestFiles(recipe, model, output, steering), drawn)


def _fingerprint(
    recipe: Recipe, model: OpenModel, engine: Engine, plugins: Plugins
) -> RunFingerprint:
    return RunFingerprint.of(
        recipe,
        engine.accelerator,
        model.container.dtype,
        plugin_hashes(recipe, plugins),
        images=model.data.fingerprint if model.data is not None else None,
        quantized=quantized_by(recipe.base_model, plugins),
    )


def _gradient_start(recipe: Recipe, container: ModelContainer) -> GradientStart | None:
    if recipe.adapter.init is None:
        return None
    return GradientStart(container.denoiser, recipe.train.seed)


def _beginning(initial: InitialFile | None, model: OpenModel) -> dict[str, Any] | None:
    """Give all that is trained the weights of a file, if there is one."""
    if initial is None:
        return None
    text = trained_text(model.text)
    return begin_with(initial, model.container.denoiser, text.encoders if text is not None else {})


def _solved_run(
    recipe: Recipe, model: OpenModel, steering: Steering, strips: StripDrawer
) -> SolvedRun:
    solver = build_solver(recipe, model, steering.context.plugins)
    text = model.text if isinstance(model.text, SolvedText) else None
    return SolvedRun(solver, model.container, steering, strips, text=text)


def _trained(
    recipe: Recipe, model: OpenModel, plugins: Plugins
) -> tuple[list[dict[str, Any]], list[float], dict[str, nn.Parameter]]:
    """Return what `parameter_groups` does of all adapters of the model."""
    named = model.container.denoiser.named_parameters()
    trainable = {name: parameter for name, parameter in named if parameter.requires_grad}
    text = trained_text(model.text)
    in_text = text.parameters() if text is not None else {}
    return parameter_groups(recipe, trainable, plugins, in_text)


def _learning_rates(
    recipe: Recipe,
    optimizer: torch.optim.Optimizer,
    group_factors: Sequence[float],
    settings: LiveSettings,
    plugins: Plugins,
) -> LearningRates:
    """Return the rates by step and group; settings can change their base and their length."""
    make_schedule = load_choice("model", recipe.scheduler.model, plugins)
    step_factor = make_schedule(optimizer, recipe.train.steps)
    rates = LearningRates(optimizer, recipe.optimizer.lr, step_factor, group_factors)

    def change_steps(steps: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = recipe.optimizer.lr  # a torch scheduler takes what it finds for its base
        rates.step_factor = make_schedule(optimizer, steps)

    settings.bind("optimizer.lr", partial(setattr, rates, "base_lr"))
    settings.bind("train.steps", change_steps)
    return rates


def build_method(
    recipe: Recipe,
    model: OpenModel,
    processes: Processes,
    student: nn.Module,
    scale: AdapterScale | NoScale,
    counter: ForwardCounter,
    plugins: Plugins,
) -> Method:
    """Return the recipe's method, with everything that it works with."""
    parts = _method_parts(recipe, model, processes, student, scale, counter, plugins)
    method: Method = load_choice("methods", recipe.method, plugins)(parts)
    return method


def _method_parts(
    recipe: Recipe,
    model: OpenModel,
    processes: Processes,
    student: nn.Module,
    scale: AdapterScale | NoScale,
    counter: ForwardCounter,
    plugins: Plugins,
) -> MethodParts:
    make_noise = load_choice("noise", recipe.scheduler.noise, plugins)
    weighting = recipe.loss.weighting
    return MethodParts(
        container=model.container,
        student=student,
        scale=scale,
        concepts=recipe.method.expanded_concepts,
        embeds=model.embeds,
        empty=model.container.empty_embeds(),
        make_noise_scheduler=lambda: make_noise(model.container.scheduler_config),
        density=load_choice("timestep", recipe.scheduler.timestep, plugins)(),
        loss=TimedLoss(load_choice("losses", recipe.loss, plugins)()),
        batch_size=recipe.train.micro_batch_size,
        num_processes=processes.num_data,
        rank=processes.data_rank,
        seed=recipe.train.seed,
        resolution=recipe.train.resolution,
        gather=processes.gather_rows,
        counter=counter,
        data=_training_data(recipe, model, processes),
        noise_changes=[load_choice("noising", c, plugins)() for c in recipe.noise],
        weighting=load_choice("weightings", weighting, plugins)() if weighting else None,
        keep_outside=recipe.data.mask.keep_outside if recipe.data else 0.0,
        text=trained_text(model.text),
    )


def build_solver(recipe: Recipe, model: OpenModel, plugins: Plugins) -> Solver:
    """Return the recipe's method, which computes its adapter."""
    solver: Solver = load_choice("methods", recipe.method, plugins)(
        SolverParts.of(recipe.method, model.container, model.embeds, recipe.train.seed)
    )
    return solver


def _training_data(recipe: Recipe, model: OpenModel, processes: Processes) -> TrainingData | None:
    if recipe.data is None:
        return None
    if model.data is None:  # what a method computes can be told without its images
        shape = model.container.latent_shape(recipe.train.resolution)
        return StandInData(recipe.data, shape, recipe.train.micro_batch_size)
    return model.data.batches(
        model.container, rank=processes.data_rank, num_processes=processes.num_data
    )
