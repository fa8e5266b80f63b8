"""kohya's steps and epochs: how long is trained, and how often is drawn and saved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from loba_tui.client.recipes.imports import names, prompts, training
from loba_tui.client.recipes.imports.draft import Draft
from loba_tui.client.recipes.imports.settings import Settings
from loba_tui.client.recipes.imports.sources import ForeignFile, read_if_there
from loba_tui.client.recipes.imports.tools.kohya import data

USUAL_STEPS = 1600


def read_length(settings: Settings, draft: Draft, samples: int | None) -> int | None:
    """Put the number of steps, and return those of an epoch where that is known."""
    epochs, steps = settings.number("max_train_epochs"), settings.whole("max_train_steps")
    if not epochs and not steps:
        epochs = settings.number("epoch")
    settings.leave(["epoch"], "the number of steps counts there, where both are given")
    doubled = any(source.get("prior") for source in draft.values.get("data.sources", ()))
    per_epoch = None
    if epochs:
        origin = settings.origin("max_train_epochs", "epoch")
        if steps and "max_train_epochs" in settings:
            draft.left("max_train_steps", steps, "the epochs count there, where both are given")
        per_epoch = training.put_steps_of_epochs(draft, epochs, samples, origin, doubled=doubled)
        if per_epoch is not None:
            draft.note(
                "train.steps", "Buckets that do not fill a batch may have made it a few more."
            )
    elif steps:
        draft.put("train.steps", steps, settings.origin("max_train_steps"))
    else:
        draft.put("train.steps", USUAL_STEPS, None, f"not given: {USUAL_STEPS}")
    if per_epoch is None and samples:
        batch = draft.values.get("train.batch_size", 1)
        per_epoch = math.ceil(samples * (2 if doubled else 1) / batch)
    return per_epoch


def read_schedule(settings: Settings, draft: Draft) -> None:
    """Put the schedule of the learning rate with its warm-up."""
    name = settings.text("lr_scheduler_type", "lr_scheduler")
    origin = settings.origin("lr_scheduler_type", "lr_scheduler")
    options: dict[str, Any] = {}
    folded = names.folded(name or "")
    cycles, power = settings.whole("lr_scheduler_num_cycles"), settings.number("lr_scheduler_power")
    if "restarts" in folded:
        options["cycles"] = 1 if cycles is None else cycles
    if folded == "polynomial":
        options["power"] = 1.0 if power is None else power
    ratio = settings.number("lr_scheduler_min_lr_ratio")
    if ratio:
        options["final_factor"] = ratio
    for key, value in training.key_values(settings.raw("lr_scheduler_args")).items():
        draft.left(f"lr_scheduler_args {key}", value, "options have other names: loba plugins show")
    training.put_schedule(draft, name, options, origin)
    warmup = settings.number("lr_warmup_steps")
    percent = settings.number("lr_warmup")
    if warmup and folded == "constant":
        draft.left("lr_warmup_steps", warmup, "constant has no warm-up there")
    elif warmup:
        training.put_warmup(draft, warmup, settings.origin("lr_warmup_steps"))
    elif percent and folded != "constant":
        training.put_warmup(draft, percent / 100, settings.origin("lr_warmup"))


def read_samples(
    settings: Settings,
    draft: Draft,
    files: Sequence[ForeignFile],
    config: ForeignFile | None,
    per_epoch: int | None,
) -> None:
    """Put what is drawn, and how often."""
    steps, epochs = settings.whole("sample_every_n_steps"), settings.whole("sample_every_n_epochs")
    if steps:
        draft.put("sample.every", steps, settings.origin("sample_every_n_steps"))
    elif epochs and per_epoch:
        note = f"{epochs} epochs of {per_epoch} steps"
        draft.put(
            "sample.every", epochs * per_epoch, settings.origin("sample_every_n_epochs"), note
        )
    elif epochs:
        draft.left("sample_every_n_epochs", epochs, "sample.every counts steps")
    sampler = settings.text("sample_sampler")
    training.put_noise_scheduler(draft, sampler, settings.origin("sample_sampler"), "sample.noise")
    lines = [line for file in files if file.format == "lines" for line in file.values]
    wanted = settings.text("sample_prompts")
    if not lines and wanted:
        found = read_if_there(wanted, config.path if config is not None else None, draft)
        if found is not None and found.format == "lines":
            lines = found.values
        elif "\n" in wanted or "--" in wanted:
            lines = wanted.splitlines()
        else:
            draft.left("sample_prompts", wanted, "not here to read: name it too")
    prompts.put_prompts(draft, lines, "sample_prompts")
    if draft.values.get("method.name") == "lora_finetune":
        prompts.scale_pair(draft, None, ("sample_prompts", len(lines)))
        if "sample.prompts" not in draft.values:
            words = data.words_of(draft)
            note = "a prompt to draw is needed, and theirs has none: write your own"
            draft.put("sample.prompts", [words or "a photo"], None, note)


def read_saves(settings: Settings, draft: Draft, per_epoch: int | None) -> None:
    """Put how often is saved, and how many checkpoints are kept."""
    steps, epochs = settings.whole("save_every_n_steps"), settings.whole("save_every_n_epochs")
    every = steps
    if steps:
        draft.put("save.every", steps, settings.origin("save_every_n_steps"))
    elif epochs and per_epoch:
        every = epochs * per_epoch
        note = f"{epochs} epochs of {per_epoch} steps"
        draft.put("save.every", every, settings.origin("save_every_n_epochs"), note)
    elif epochs:
        draft.left("save_every_n_epochs", epochs, "save.every counts steps")
    last = settings.whole("save_last_n_steps")
    kept = settings.whole("save_last_n_epochs")
    if last and every:
        kept = math.ceil(last / every)
        origin = settings.origin("save_last_n_steps")
        draft.put("save.keep", max(2, kept), origin, f"those of the last {last} steps")
    elif kept:
        draft.put("save.keep", max(2, kept), settings.origin("save_last_n_epochs"))
