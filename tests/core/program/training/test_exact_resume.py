"""A contract for every drop-in that a trainer works with, present or future.

Three steps, a checkpoint that leaves no trace in the trainer that saves it, and three more in a
fresh trainer are six steps, bit for bit.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from steering_stand_in import steering_of

from loba_tui.core.errors import CorruptError, RecipeError
from loba_tui.core.plugins import KINDS, SHIPPED
from loba_tui.core.program.build import build
from loba_tui.core.program.data.open import open_data
from loba_tui.core.program.engines.base import Engine
from loba_tui.core.program.engines.open import open_engine
from loba_tui.core.program.open_model import OpenModel, open_model, prompts_of
from loba_tui.core.program.sampling.run_strips import StripDrawer
from loba_tui.core.program.steering.components import Components
from loba_tui.core.program.training.checkpoint import Checkpoint
from loba_tui.core.program.training.trainer import Trainer
from loba_tui.core.recipe.load import parse_recipe
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.writer import NullWriter, RunWriter

STEPS = 6
Sections = dict[str, Any]

# What must be given because it has no default.
REQUIRED: Mapping[str, Sections] = {"layer custom": {"factors": {"*.attn2.*": 0.5}}}
# All groups of layers, so that no layer scheduler leaves all of them out.
ALL_LAYERS = {"name": "locon", "layers": ["self_attention", "cross_attention", "convolution"]}


# What a method needs that trains on images.
SAMPLES: Sections = {"prompts": ["a dot"]}
FINETUNING: Sections = {
    "method": {"name": "lora_finetune"},
    "data": {"sources": [{"path": "builtin:yellow-crosses"}]},
    "sample": SAMPLES,
}
PAIRS: Sections = {
    "data": {
        "sources": [
            {"path": "builtin:sizes/small", "scale": -1},
            {"path": "builtin:sizes/large", "scale": 1},
        ]
    },
    "sample": SAMPLES,
}


def sections_of(kind: str, name: str) -> Sections:
    """Return what a recipe says to train with a drop-in."""
    choice = {"name": name, **REQUIRED.get(f"{kind} {name}", {})}
    match kind:
        case "optimizers":
            one_rate = SHIPPED.describe(kind, name).constants.get("ONE_LEARNING_RATE")
            return {"optimizer": {**choice, "lr": 1.0 if one_rate else 1e-3}}
        case "layer":
            return {"scheduler": {"layer": choice}, "adapter": ALL_LAYERS}
        case "model" | "noise" | "timestep":
            return {"scheduler": {kind: choice}}
        case "adapters":
            return {"adapter": choice}
        case "losses":
            return {"loss": choice}
        case "weightings":
            return {**FINETUNING, "loss": {"weighting": choice}}
        case "noising":
            return {**FINETUNING, "noise": [choice]}
        case "methods":
            images = {"images": FINETUNING, "pairs": PAIRS}
            wanted = SHIPPED.describe(kind, name).constants.get("DATA")
            return {**images.get(wanted, {}), "method": choice}
    raise AssertionError(f"no recipe for a drop-in of {kind}")


def cases() -> Iterator[Any]:
    for kind in KINDS:
        if kind in ("measures", "quantizers"):  # one takes no part, the other has tests of its own
            continue
        for name in SHIPPED.names(kind):
            constants = SHIPPED.describe(kind, name).constants
            if constants.get("SOLVES"):
                continue  # it has no steps between which it could stop: test_solved_run.py
            if constants.get("TEXT_ONLY"):
                continue  # whole runs resume in test_text_encoder_slider.py
            lacks = name == "adamw_8bit" and importlib.util.find_spec("bitsandbytes") is None
            skip = pytest.mark.skipif(lacks, reason="bitsandbytes is not installed")
            yield pytest.param(kind, name, id=f"{kind}-{name}", marks=skip)


@pytest.fixture(scope="module")
def opened(small_sdxl_folder: Path) -> OpenModel:
    torch.set_num_threads(1)
    recipe = recipe_with(small_sdxl_folder, {})
    return open_model(recipe, prompts=prompts_of(recipe), plugins=SHIPPED)


@pytest.fixture(scope="module")
def engine(small_sdxl_folder: Path) -> Engine:
    return open_engine(recipe_with(small_sdxl_folder, {}))


def recipe_with(model: Path, sections: Sections) -> Recipe:
    whole: Sections = {
        "version": 1,
        "base_model": {"id": str(model), "device": "cpu"},
        "adapter": {"name": "lora", "layers": ["cross_attention"]},
        "method": {"name": "text_slider", "rollout_steps": 4},
        "optimizer": {"name": "adamw", "lr": 1e-3},
        "scheduler": {"noise": {"name": "euler_ancestral"}},
        "train": {"steps": STEPS, "batch_size": 1},
    }
    for key, section in sections.items():
        if not isinstance(section, dict):
            whole[key] = section
        elif section.get("name", whole.get(key, {}).get("name")) != whole.get(key, {}).get("name"):
            whole[key] = section  # options of another drop-in are not its own
        else:
            whole[key] = {**whole.get(key, {}), **section}
    if "data" not in whole:
        concept = {"target": "a dot", "positive": "a large dot", "negative": "a small dot"}
        whole["method"]["concepts"] = [{**concept, "preserve": ["a"]}]
    return parse_recipe(whole, origin="test", plugins=SHIPPED)


def with_images(recipe: Recipe, model: OpenModel) -> OpenModel:
    """Return the model with the recipe's images, and with what their captions are encoded to."""
    if recipe.data is None:
        return model
    data = open_data(recipe, NullWriter(), lambda phase: None, plugins=SHIPPED)
    assert data is not None
    data.encode(model.container, model.open_latents)
    row = next(iter(model.embeds.values()))
    embeds = {**model.embeds, **dict.fromkeys(data.prompts(), row)}
    return dataclasses.replace(model, data=data, embeds=embeds)


@contextmanager
def trainer_of(
    recipe: Recipe, opened: OpenModel, engine: Engine, folder: Path
) -> Iterator[Trainer]:
    """Lend a trainer that shares nothing with any other but the base model's weights."""
    container = copy.copy(opened.container)
    container.pipeline = copy.copy(container.pipeline)
    container.pipeline.unet = copy.deepcopy(container.pipeline.unet)
    model = with_images(recipe, dataclasses.replace(opened, container=container))
    run_dir = RunDir(folder)
    with RunWriter.open(run_dir) as writer:
        steering = steering_of(recipe, run_dir, writer)
        strips = StripDrawer(
            recipe, model, steering.context, Components(None, "", None, writer), engine
        )
        yield build(recipe, model, engine=engine, steering=steering, strips=strips)


def state_of(trainer: Trainer) -> dict[str, Any]:
    """Return all that a checkpoint would hold, by name."""
    checkpoint = trainer._checkpoint(trainer._parts.method.state())
    tensors = {
        f"{part}/{name}": tensor.clone()
        for part, named in checkpoint.tensors.items()
        for name, tensor in named.items()
    }
    return {**tensors, "state": checkpoint.state, "step": trainer.step}


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    def same(a: Any, b: Any) -> bool:
        if isinstance(a, torch.Tensor):
            return a.dtype == b.dtype and a.shape == b.shape and a.equal(b)
        return bool(a == b)

    both = one.keys() & other.keys()
    return sorted(one.keys() ^ other.keys()) + [
        name for name in sorted(both) if not same(one[name], other[name])
    ]


def stir_global_randomness() -> None:
    """Leave no chance to what a fresh process would not have either."""
    torch.manual_seed(987)
    np.random.seed(987)
    random.seed(987)


Resumed = Callable[[Recipe], tuple[dict[str, Any], dict[str, Any]]]


@pytest.fixture
def broken_and_unbroken(opened: OpenModel, engine: Engine, tmp_path: Path) -> Resumed:
    def run(recipe: Recipe) -> tuple[dict[str, Any], dict[str, Any]]:
        with trainer_of(recipe, opened, engine, tmp_path / "unbroken") as trainer:
            before = state_of(trainer)
            trainer.run(until=STEPS // 2)
            half = state_of(trainer)
            trainer.save()
            assert differences(half, state_of(trainer)) == []
            shutil.copytree(tmp_path / "unbroken", tmp_path / "broken")
            trainer.run()
            unbroken = state_of(trainer)
        assert any(name.startswith("adapter/") for name in differences(before, unbroken))
        stir_global_randomness()
        with trainer_of(recipe, opened, engine, tmp_path / "broken") as trainer:
            checkpoint, skipped = trainer.load_newest()
            assert checkpoint is not None
            assert (checkpoint.step, skipped) == (STEPS // 2, [])
            trainer.run()
            return state_of(trainer), unbroken

    return run


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), list(cases()))
def test_a_drop_in_resumes_bit_by_bit(
    kind: str, name: str, small_sdxl_folder: Path, broken_and_unbroken: Resumed
) -> None:
    recipe = recipe_with(small_sdxl_folder, sections_of(kind, name))
    try:
        broken, unbroken = broken_and_unbroken(recipe)
    except RecipeError as error:
        if kind != "noise":
            raise
        pytest.skip(f"not for this model: {error.message}")
    assert differences(broken, unbroken) == []


def test_looks_leave_no_trace_in_the_training(
    small_sdxl_folder: Path, opened: OpenModel, engine: Engine, tmp_path: Path
) -> None:
    states = []
    for every in (0, 1):
        recipe = recipe_with(small_sdxl_folder, {"train": {"efficacy_every": every}})
        with trainer_of(recipe, opened, engine, tmp_path / str(every)) as trainer:
            trainer.run(until=3)
            states.append(state_of(trainer))
    assert set(differences(*states)) == {"state"}
    assert len(states[1]["state"]["looks"]) == 3
    assert states[0]["state"]["forwards"] == states[1]["state"]["forwards"]


def test_looks_without_a_direction_are_refused_before_training(
    small_sdxl_folder: Path, opened: OpenModel, engine: Engine, tmp_path: Path
) -> None:
    recipe = recipe_with(small_sdxl_folder, {"train": {"efficacy_every": 1}})
    concept = recipe.method.concepts[0].model_copy(update={"negative": None})
    method = recipe.method.model_copy(update={"concepts": (concept,)})
    changed = recipe.model_copy(update={"method": method})
    with (
        pytest.raises(RecipeError, match="no direction to look along"),
        trainer_of(changed, opened, engine, tmp_path),
    ):
        pass


def test_a_run_that_ends_itself_is_over_and_stays_so(
    small_sdxl_folder: Path, opened: OpenModel, engine: Engine, tmp_path: Path
) -> None:
    ends = {"efficacy_every": 1, "stop_when": {"dead_after": 3, "patience": 2}}
    # At this rate nothing can come of it.
    sections = {"train": ends, "optimizer": {"lr": 1e-12}}
    recipe = recipe_with(small_sdxl_folder, sections)
    with trainer_of(recipe, opened, engine, tmp_path) as trainer:
        trainer.run()
        assert trainer.step == 3
        assert "dead" in str(trainer.ended_early)
        ended = state_of(trainer)
    with trainer_of(recipe, opened, engine, tmp_path) as trainer:
        trainer.load_newest()
        trainer.run()
        assert trainer.step == 3
        assert differences(state_of(trainer), ended) == []
    events = (tmp_path / "events.jsonl").read_text()
    assert events.count('"ended_early"') == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "sections",
    [
        pytest.param({"method": {"trajectories": "restart"}}, id="restart"),
        pytest.param({"method": {"trajectories": "bank"}}, id="bank"),
        pytest.param({"method": {"trajectories": "bank", "bank_samples": 0}}, id="bank, fresh"),
        pytest.param({"method": {"rollout_scale": 1.0}}, id="adapter in rollouts"),
        pytest.param({"train": {"gradient_accumulation": 2}}, id="accumulation"),
        pytest.param({"train": {"ema": {"decay": 0.9}}}, id="moving average"),
        pytest.param({"train": {"efficacy_every": 2, "stop_when": {}}}, id="looks"),
        pytest.param({"train": {"on_nan": "rollback"}}, id="rollback"),
        pytest.param({"adapter": {"init": "gradient"}}, id="gradient start"),
        pytest.param(
            {
                "adapter": {"init": "gradient"},
                "method": {"trajectories": "bank"},
                "train": {"ema": {"decay": 0.9}, "gradient_accumulation": 2},
            },
            id="gradient start with a bank and an average",
        ),
        pytest.param({"train": {"max_grad_norm": None}}, id="no clipping"),
        pytest.param({"base_model": {"gradient_checkpointing": True}}, id="checkpointing"),
        pytest.param(
            {
                "scheduler": {"noise": {"name": "dpmpp_2m"}, "model": {"name": "one_cycle"}},
                "optimizer": {"name": "schedule_free_adamw"},
                "adapter": ALL_LAYERS,
            },
            id="several at once",
        ),
    ],
)
def test_a_setting_resumes_bit_by_bit(
    sections: Sections, small_sdxl_folder: Path, broken_and_unbroken: Resumed
) -> None:
    broken, unbroken = broken_and_unbroken(recipe_with(small_sdxl_folder, sections))
    assert differences(broken, unbroken) == []


@pytest.mark.parametrize(
    "sections",
    [
        pytest.param({"adapter": {"rank": 8}}, id="another rank"),
        pytest.param({"adapter": {"layers": ["self_attention"]}}, id="other layers"),
        pytest.param({"optimizer": {"name": "adafactor"}}, id="another optimizer"),
        pytest.param({"method": {"slots": 5}}, id="another pool"),
        pytest.param({"method": {"trajectories": "restart"}}, id="other trajectories"),
        pytest.param({"train": {"ema": {}}}, id="an average"),
    ],
)
def test_the_checkpoint_of_another_recipe_is_refused(
    sections: Sections,
    small_sdxl_folder: Path,
    opened: OpenModel,
    engine: Engine,
    tmp_path: Path,
) -> None:
    recipe = recipe_with(small_sdxl_folder, {})
    with trainer_of(recipe, opened, engine, tmp_path) as trainer:
        trainer.run(until=1)
        trainer.save()
    changed = recipe_with(small_sdxl_folder, sections)
    with (
        trainer_of(changed, opened, engine, tmp_path) as trainer,
        pytest.raises(RecipeError, match="of another recipe"),
    ):
        trainer.load_newest()


def test_the_checkpoint_of_another_machine_is_refused_or_marks_the_run_for_good(
    small_sdxl_folder: Path, opened: OpenModel, engine: Engine, tmp_path: Path
) -> None:
    recipe = recipe_with(small_sdxl_folder, {})
    with trainer_of(recipe, opened, engine, tmp_path) as trainer:
        trainer.run(until=1)
        machine = {**trainer._parts.fingerprint.machine, "torch": "2.0.0"}
        fingerprint = dataclasses.replace(trainer._parts.fingerprint, machine=machine)
        trainer._parts = dataclasses.replace(trainer._parts, fingerprint=fingerprint)
        trainer.save()
    with trainer_of(recipe, opened, engine, tmp_path) as trainer:
        with pytest.raises(RecipeError, match=r"torch was '2\.0\.0'"):
            trainer.load_newest()
        trainer.load_newest(allow_inexact=True)
        trainer.run(until=2)
        trainer.save()
    with trainer_of(recipe, opened, engine, tmp_path) as trainer:
        trainer.load_newest()
        assert len(trainer.inexact) == 1
        assert trainer.inexact[0].startswith("torch was '2.0.0'")


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda state, tensors: state.pop("forwards"), id="no counter"),
        pytest.param(lambda state, tensors: state.update(optimizer=7), id="no optimizer state"),
        pytest.param(lambda state, tensors: state.update(steering={}), id="no steering"),
        pytest.param(lambda state, tensors: tensors["adapter"].popitem(), id="no weight"),
        pytest.param(lambda state, tensors: tensors["optimizer"].popitem(), id="no moment"),
        pytest.param(lambda state, tensors: tensors["method"].clear(), id="no latents"),
        pytest.param(lambda state, tensors: tensors.pop("method"), id="no part"),
        pytest.param(
            lambda state, tensors: tensors["adapter"].update(
                {name: tensor[:1] for name, tensor in tensors["adapter"].items()}
            ),
            id="another shape",
        ),
    ],
)
def test_a_checkpoint_that_verifies_but_does_not_fit_is_a_corrupt_one(
    damage: Callable[[dict[str, Any], dict[str, Any]], Any],
    small_sdxl_folder: Path,
    opened: OpenModel,
    engine: Engine,
    tmp_path: Path,
) -> None:
    recipe = recipe_with(small_sdxl_folder, {})
    with trainer_of(recipe, opened, engine, tmp_path) as trainer:
        trainer.run(until=1)
        whole = trainer._checkpoint(trainer._parts.method.state())
        state = dict(whole.state)
        tensors = {part: dict(named) for part, named in whole.tensors.items()}
        damage(state, tensors)
        trainer._parts.store.save(Checkpoint(whole.step, tensors, state))
    with (
        trainer_of(recipe, opened, engine, tmp_path) as trainer,
        pytest.raises(CorruptError),
    ):
        trainer.load_newest()
