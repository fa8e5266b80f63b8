"""Checks of other sections against the chosen method: settings that it leaves unused or decides.

A method or an adapter is None where the recipe names no known one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from loba_tui.core.option_types import choices
from loba_tui.core.plugins import Plugin
from loba_tui.core.recipe.problems import Problem
from loba_tui.core.recipe.schema import (
    AdapterSection,
    OptimizerSection,
    SaveSection,
    SchedulerSection,
    TrainSection,
)
from loba_tui.core.recipe.sections.method import Choice
from loba_tui.core.recipe.sections.parallel import ParallelSection
from loba_tui.core.recipe.tree import Node, node_of

# All that training takes; what drawing and loading take of `train` is left out.
_OF_TRAINING = {
    "adapter": AdapterSection(),
    "optimizer": OptimizerSection(),
    "scheduler": SchedulerSection(),
    "loss": Choice(name="mse"),
    "train": TrainSection(),
    "parallel": ParallelSection(),
    "save": SaveSection(),
}
_USED_ANYWAY = frozenset({("train", "seed"), ("train", "resolution"), ("parallel", "timeout")})


def check_unused(tree: Node, method: Plugin | None) -> Iterator[Problem]:
    """Yield the settings of training where the method computes its adapter without any.

    A setting with its default value says nothing and is left alone: a resolved recipe has them all.
    """
    if method is None or not method.constants.get("SOLVES"):
        return
    for section, defaults in _OF_TRAINING.items():
        node = tree.child(section)
        if node is None:
            continue
        usual = node_of(defaults.model_dump(mode="json"), node.place)
        for path, leaf in node.walk((section,)):
            if isinstance(leaf.data, dict | tuple) or path in _USED_ANYWAY:
                continue
            if leaf.data != usual.plain_at(path[1:]):
                message = f"{method.name} computes its adapter without training, so this is unused"
                yield tree.problem(path, message)


def check_init_from(tree: Node, method: Plugin | None, adapter: Plugin | None) -> Iterator[Problem]:
    """Yield `adapter.init_from` where something else says what the adapter begins with.

    A kind of adapter that cannot begin with a LoRA says so by `INIT_FROM = False`.
    """
    path = ("adapter", "init_from")
    given, warm = tree.at(path), tree.at(("method", "warm_start"))
    if given is None or given.data is None:
        return
    if adapter is not None and adapter.constants.get("INIT_FROM") is False:
        message = f"only a LoRA or LoCon can begin with a file, and {adapter.name} is neither"
        yield tree.problem(path, message)
    elif method is not None and warm is not None and warm.data is not None:
        message = "method.warm_start says already what the adapter begins with; leave one out"
        yield tree.problem(path, message)


def check_init(tree: Node, adapter: Plugin | None) -> Iterator[Problem]:
    """Yield `adapter.init` where the adapter has no A and B."""
    path = ("adapter", "init")
    given = tree.at(path)
    if given is None or given.data is None:
        return
    if adapter is not None and adapter.constants.get("INIT_FROM") is False:
        message = f"only a LoRA or LoCon can begin along a gradient, and {adapter.name} is neither"
        yield tree.problem(path, message)


def check_text_encoders(
    tree: Node, method: Plugin | None, adapter: Plugin | None, optimizer: Plugin | None
) -> Iterator[Problem]:
    """Yield `adapter.text_encoders` beside what it cannot be trained with.

    A kind of adapter whose files have no place for a LoRA says so by `TEXT_ENCODERS = False`.
    """
    path = ("adapter", "text_encoders")
    given, offload = tree.at(path), tree.at(("base_model", "offload"))
    warm = tree.at(("method", "warm_start"))
    starts_in_text = warm is not None and warm.data == "text_space"
    if given is None or given.data is None:
        if starts_in_text and not (method is not None and method.constants.get("TEXT_ONLY")):
            message = "text_space goes into the text encoders, and they have no LoRA"
            yield tree.problem(
                ("method", "warm_start"), f"{message}; add adapter.text_encoders, with lr: 0 or not"
            )
        return
    yield from _check_idle_text_encoders(tree, (*path, "lr"), starts_in_text)
    if adapter is not None and adapter.constants.get("TEXT_ENCODERS") is False:
        message = f"a file of {adapter.name} has no place for the text encoders' LoRA"
        yield tree.problem(path, f"{message}; lora, locon and dora have")
    elif method is not None and method.constants.get("SOLVES"):
        yield tree.problem(path, f"{method.name} computes its adapter and trains no text encoder")
    elif offload is not None and offload.data in ("model", "sequential"):
        message = "trained text encoders stay on the device, which base_model.offload rules out"
        yield tree.problem(path, message)
    elif optimizer is not None and optimizer.constants.get("ONE_LEARNING_RATE"):
        rate = tree.at((*path, "lr"))
        if rate is not None and rate.data is not None:
            message = f"{optimizer.name} has one learning rate for all that it trains"
            yield tree.problem((*path, "lr"), message)


def check_offload(tree: Node, method: Plugin | None) -> Iterator[Problem]:
    """Yield `base_model.offload: blocks` where it cannot work, and its count where it is not."""
    path = ("base_model", "offload")
    given, count = tree.at(path), tree.at(("base_model", "blocks_on_host"))
    is_of_blocks = given is not None and given.data == "blocks"
    if count is not None and count.data is not None and not is_of_blocks:
        message = "it says how many blocks wait in main memory, which takes offload: blocks"
        yield tree.problem(("base_model", "blocks_on_host"), message)
    compiled = tree.at(("train", "compile"))
    if is_of_blocks and compiled is not None and compiled.data != "none":
        message = "a compiled block has its weights where they were, and offload: blocks moves them"
        yield tree.problem(("train", "compile"), f"{message}; leave one of both out")
    if is_of_blocks and method is not None and method.constants.get("SOLVES"):
        message = f"{method.name} reads all weights at once, so that blocks cannot take turns"
        yield tree.problem(path, f"{message}; model is what it can have")


def _check_idle_text_encoders(
    tree: Node, path: tuple[str, ...], starts_in_text: bool
) -> Iterator[Problem]:
    """Yield a rate of 0 for what begins with nothing."""
    rate, file = tree.at(path), tree.at(("adapter", "init_from"))
    begins = starts_in_text or (file is not None and file.data is not None)
    if rate is not None and rate.data == 0 and not begins:
        message = "at 0 the text encoders stay the base model's"
        yield tree.problem(path, f"{message}; raise it, or add method.warm_start: text_space")


def check_text_alone(tree: Node, method: Plugin | None) -> Iterator[Problem]:
    """Yield what `adapter` says of the denoiser where the method trains text encoders alone."""
    constants = method.constants if method is not None else {}
    if method is None or not constants.get("TEXT_ONLY") or constants.get("SOLVES"):
        return
    for key in ("layers", "init", "init_from", "name"):
        given = tree.at(("adapter", key))
        if given is not None and given.data not in (None, "lora"):
            message = f"{method.name} trains a LoRA on the text encoders alone, so this is unused"
            yield tree.problem(("adapter", key), f"{message}; see adapter.text_encoders")


def check_prompt_reading(tree: Node, method: Plugin | None) -> Iterator[Problem]:
    """Yield options of reading prompts where the method edits single tokens in closed form."""
    warm = tree.at(("method", "warm_start"))
    is_warm = warm is not None and warm.data is not None
    if method is None or not (method.constants.get("SOLVES") or is_warm):
        return
    what = "method.warm_start" if is_warm else method.name
    for key, usual in (("long_prompts", "cut"), ("prompt_weights", False)):
        given = tree.at(("base_model", key))
        if given is not None and given.data != usual:
            message = f"{what} edits the states of single tokens, which this changes; leave it out"
            yield tree.problem(("base_model", key), message)


def check_efficacy_every(tree: Node, method: Plugin | None) -> Iterator[Problem]:
    """Yield `train.efficacy_every` where the method has no figures to read while it trains."""
    path = ("train", "efficacy_every")
    given = tree.at(path)
    if method is not None and method.constants.get("ERASES") and given is not None and given.data:
        message = f"these are a slider's figures; those of {method.name} are in its proof"
        yield tree.problem(path, message)


def check_calibrate(tree: Node, method: Plugin | None, adapter: Plugin | None) -> Iterator[Problem]:
    """Yield `proof.calibrate` where no factor can change the strength.

    A kind of adapter that is not linear in its strength says so by `LINEAR = False`.
    """
    path = ("proof", "calibrate")
    given = tree.at(path)
    if given is None or given.data is None or method is None:
        return
    if method.constants.get("ERASES"):
        yield tree.problem(path, f"{method.name} erases, and this is for sliders; leave it out")
    elif method.constants.get("SOLVES") or method.constants.get("TEXT_ONLY"):
        return
    elif adapter is not None and adapter.constants.get("LINEAR") is False:
        message = f"{adapter.name} is not linear in its strength, so that it takes no factor"
        yield tree.problem(path, f"{message}; lora, locon, dora, loha and lokr are")


def layers_of(
    method: Plugin, options: Mapping[str, Any], adapter: Plugin
) -> tuple[str, ...] | None:
    """Return the layers that a method's options ask the adapter for, None where none of them does.

    A method says so by `ADAPTER_LAYERS = {option: {value: groups}}`. Groups that this kind of
    adapter cannot have are left out.
    """
    table = method.constants.get("ADAPTER_LAYERS")
    layers = adapter.options.get("layers")
    if not table or layers is None:
        return None
    ((name, by_value),) = table.items()
    wanted = by_value.get(options.get(name, method.options[name].default), ())
    possible = choices(layers.type)
    return tuple(group for group in wanted if group in possible)


def check_layers(tree: Node, method: Plugin | None, adapter: Plugin | None) -> Iterator[Problem]:
    """Yield what is wrong where a method's option and the adapter both say which layers."""
    path = ("adapter", "layers")
    section, given = tree.child("method"), tree.at(path)
    if method is None or adapter is None or section is None or given is None:
        return
    options = section.plain() if isinstance(section.data, dict) else {}
    try:
        wanted = layers_of(method, options, adapter)
    except TypeError:  # the option's value cannot be looked up; that is told elsewhere
        return
    layers = given.plain()
    if wanted and isinstance(layers, list) and sorted(map(str, layers)) != sorted(wanted):
        (option,) = method.constants["ADAPTER_LAYERS"]
        value = options.get(option, method.options[option].default)
        message = (
            f"{method.name}'s {option}: {value} has the layers {', '.join(wanted)};"
            " leave this out, or change one of the two"
        )
        yield tree.problem(path, message)
