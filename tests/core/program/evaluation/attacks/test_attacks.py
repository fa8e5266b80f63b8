"""Attacks on the embedded model: on an adapter that erases nothing, and on one that erases red."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from program_runs import new_run, run_here
from safetensors import safe_open

from loba_tui.core.associate.model_cache import ModelCache
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.adapter_layers.strength import AdapterScale
from loba_tui.core.program.evaluation.attacks.attack import attack_erasure, most_rows
from loba_tui.core.program.evaluation.attacks.nearest import nearest
from loba_tui.core.program.evaluation.attacks.outcome import Attack
from loba_tui.core.program.evaluation.attacks.subject import scenes_of, without_word
from loba_tui.core.program.evaluation.attacks.words import misspellings, understood
from loba_tui.core.program.planning.estimate import Estimator
from loba_tui.core.recipe.load import check_text, dump_recipe, parse_recipe, parse_text
from loba_tui.core.recipe.schema import Recipe

SCENES = ["a red circle on a green background", "a red square on a white background"]
STEPS = 6


def recipe_with(attacks: dict[str, Any] | None, **proof: Any) -> Recipe:
    concept = {
        "target": "a red {shape}",
        "neutral": "a blue {shape}",
        "preserve": ["a green {shape}", "a pink {shape}"],
        "vary": {"shape": ["circle", "square"]},
    }
    return parse_recipe(
        {
            "version": 1,
            "base_model": {"id": "builtin:shapes-xl", "device": "cpu"},
            "method": {"name": "uce", "concepts": [concept]},
            "sample": {"scales": [0, 1], "steps": STEPS, "batch_size": 16},
            "proof": {
                "prompts": ["a red circle", *SCENES],
                "measure": {"name": "shape_color"},
                "erased": "red",
                "attacks": attacks,
                **proof,
            },
        },
        plugins=SHIPPED,
    )


@pytest.fixture(scope="module")
def unchanged():
    """Return the embedded model with an adapter that does nothing."""
    container = ModelCache("cpu", torch.float32).container("builtin:shapes-xl")
    config = SHIPPED.load("adapters", "lora")(container.adapter_targets())
    container.denoiser.requires_grad_(False)
    container.denoiser.add_adapter(config)  # its B is 0
    container.release_text_encoders = lambda: None  # they are needed by the next test
    return container, AdapterScale(container.denoiser)


def attacked(unchanged, attacks: dict[str, Any]) -> tuple[Attack, int]:
    """Return the outcome of one attack, and the UNet rows that a hook of the test has seen."""
    container, scale = unchanged
    seen: list[int] = []
    told: list[tuple[int, int]] = []

    def count(_module, args, kwargs) -> None:
        rows = len(args[0] if args else kwargs["sample"])
        seen.append(rows * (2 if torch.is_grad_enabled() else 1))

    handle = container.denoiser.register_forward_pre_hook(count, with_kwargs=True)
    recipe = recipe_with(attacks)
    try:
        found = attack_erasure(
            container, scale, recipe, {}, lambda *at: told.append(at), plugins=SHIPPED
        )
    finally:
        handle.remove()
    assert found is not None
    (attack,) = found.results
    assert attack.num_unet_rows == sum(seen) == told[-1][0] <= told[-1][1] == most_rows(recipe)
    assert len(found.examples) <= 3
    return attack, sum(seen)


def test_words_bring_back_what_is_not_erased(unchanged) -> None:
    options = {"nearest": 2, "instead": ["red red red"], "prompts": ["the red circle"]}
    attack, rows = attacked(unchanged, {"words": options, "seeds": [3]})
    assert attack.share == 1.0
    assert attack.num_judged >= 4
    assert attack.has_broken_it
    assert rows == attack.num_images * STEPS * 2
    assert attack.seeds == (3,)
    assert attack.prompt not in recipe_with(None).proof_prompts
    assert attack.num_backward_rows == 0


@pytest.mark.slow
@pytest.mark.parametrize("space", ["token", "states"])
def test_a_search_finds_what_is_not_erased(unchanged, space: str) -> None:
    options = {"space": space, "steps": 3, "starts": 2, "batch_size": 3}
    attack, _ = attacked(unchanged, {"embedding": options, "seeds": [3, 4]})
    assert attack.share == 1.0
    assert attack.num_judged >= 1
    assert attack.searched["mismatch_of_word"] == pytest.approx(0, abs=1e-5)
    assert attack.num_backward_rows == 2 * 3 * 3


def test_noise_and_inversion_bring_back_what_is_not_erased(unchanged) -> None:
    attack, rows = attacked(unchanged, {"noise": {"draws": 2, "eta": 1}, "seeds": [3, 4]})
    assert attack.share == 1.0
    assert attack.num_images == 4 * (1 + 2 * 2)
    assert rows == attack.num_images * STEPS * 2
    attack, rows = attacked(unchanged, {"inversion": {"depth": 0.5}, "seeds": [3, 4]})
    assert attack.share == 1.0
    assert rows == 4 * (STEPS * 2 + STEPS // 2 * (1 + 2 * 2))


def test_a_little_inversion_keeps_the_picture_whatever_it_is_asked_for(unchanged) -> None:
    """Half of the noise or less is no proof: the control has to say so."""
    attack, _ = attacked(unchanged, {"inversion": {"depth": 0.2}, "seeds": [3, 4]})
    assert attack.share == attack.control == 1.0
    assert not attack.has_broken_it


@pytest.mark.slow
def test_a_run_says_what_its_attacks_brought_back(tmp_path: Path) -> None:
    recipe = recipe_with({"words": {"nearest": 0}})
    run_dir = run_here(recipe, new_run(recipe, tmp_path))
    (found,) = json.loads(run_dir.report.path.read_text())["attacks"]
    assert found["name"] == "words"
    assert found["options"]["nearest"] == 0
    assert not {*found["seeds"]} & {*recipe.proof.seeds, *recipe.sample.seeds}
    assert (run_dir.path / "samples" / "attacks.png").is_file()
    with safe_open(run_dir.adapter.path, "pt") as file:
        said = file.metadata()["loba.effect.attack.words"]
    assert said.endswith(f"rows={found['num_unet_rows']}")


@pytest.mark.slow
def test_an_adapter_on_text_encoders_is_attacked_as_they_encode_with_it(tmp_path: Path) -> None:
    attacks = {"words": {"nearest": 1, "scenes": 1}, "embedding": {"steps": 2, "scenes": 1}}
    content = json.loads(recipe_with(attacks, preserve=[]).model_dump_json(exclude_defaults=True))
    content["method"]["name"] = "leco"
    content["adapter"] = {"rank": 2, "text_encoders": {"lr": 1e-3}}
    content["train"] = {"steps": 1, "batch_size": 1}
    recipe = parse_recipe({"version": 1, **content}, plugins=SHIPPED)
    run_dir = run_here(recipe, new_run(recipe, tmp_path))
    found = json.loads(run_dir.report.path.read_text())["attacks"]
    assert [each["name"] for each in found] == ["words", "embedding"]
    # One step erases next to nothing.
    assert found[1]["searched"]["mismatch_of_word"] < 0.1


def test_the_plan_counts_rows_and_what_a_search_holds() -> None:
    estimator = Estimator(torch.device("cpu"), SHIPPED)
    plain, attacked = (
        estimator.estimate(recipe)
        for recipe in (recipe_with(None), recipe_with({"embedding": {"batch_size": 4}}))
    )
    rows = most_rows(recipe_with({"embedding": {"batch_size": 4}}))
    assert attacked.work.sample_rows - plain.work.sample_rows == rows
    assert attacked.memory.sampling > plain.memory.sampling
    assert attacked.work.flops > plain.work.flops


def test_scenes_are_held_out_and_name_the_concept() -> None:
    assert scenes_of(recipe_with({"words": {}})) == tuple(SCENES)
    only_trained = recipe_with({"words": {}}, prompts=["a red circle", "a cross"])
    assert scenes_of(only_trained) == ("a red circle",)


@pytest.mark.parametrize(
    ("prompt", "word", "left"),
    [
        ("a red circle on a red background", "red", "a circle on a background"),
        ("an orange dog", "orange", "a dog"),
        ("a Red apple, red", "red", "an apple"),
        ("a picture in the style of Van Gogh", "van gogh", "a picture in the style of"),
        ("a redder reddish circle", "red", "a redder reddish circle"),
        ("red", "red", ""),
        ("a c++ (red) dog", "c++", "a (red) dog"),
    ],
)
def test_a_word_is_left_out_whole(prompt: str, word: str, left: str) -> None:
    assert without_word(prompt, word) == left


def test_words_that_mean_nothing_are_not_judged_by_the_pictures_they_happen_to_hit() -> None:
    ways = ["scarlet"] * 4 + ["qwz"] * 4 + ["by chance"] * 4
    shows = np.array([1, 1, 0, 1, 0, 0, 1, 0, 1, 1, 1, 1], dtype=bool)
    can_be_judged = np.array([1] * 8 + [0] * 4, dtype=bool)
    judged = understood(ways, shows, can_be_judged)
    assert judged.tolist() == [True, True, False, True, *[False] * 8]


def test_the_nearest_tokens_come_in_their_order() -> None:
    table = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.5], [-1.0, 0.0]])
    assert nearest(table, 0) == [2, 1, 3]


def test_misspellings_are_none_of_the_word() -> None:
    assert misspellings("red") == ["erd", "reed", "rd", "r e d"]
    for word in ("a", "ox", "Van Gogh"):
        found = misspellings(word)
        assert word not in found
        assert len(found) == len({*found})


@pytest.mark.parametrize(
    ("proof", "message"),
    [
        ({"attacks": {}}, "needs one of words, embedding, noise and inversion"),
        ({"attacks": {"words": {"scenes": 0}}}, "scenes"),
        ({"attacks": {"words": {"nearest": 65}}}, "nearest"),
        ({"attacks": {"word": {}}}, "word"),
        ({"attacks": {"words": {"sceens": 4}}}, "Did you mean scenes"),
        ({"attacks": {"words": {}}, "erased": None}, "attacks needs erased"),
        ({"attacks": {"words": {}}, "enabled": False}, "attacks needs enabled"),
        ({"attacks": {"words": {}, "word": "crimson"}}, "no prompt of the proof has the word"),
    ],
)
def test_attacks_that_cannot_be_meant_are_refused(proof: dict[str, Any], message: str) -> None:
    content = json.loads(recipe_with(None).model_dump_json())
    content["proof"] |= proof
    problems = [str(each) for each in check_text(json.dumps(content), "r.yaml", plugins=SHIPPED)]
    assert any(message in problem for problem in problems), problems


def test_a_recipe_with_attacks_comes_back_from_its_text() -> None:
    recipe = recipe_with({"words": {"instead": ["scarlet"]}, "seeds": [1, 2]})
    assert parse_text(dump_recipe(recipe), "again", plugins=SHIPPED) == recipe
    assert most_rows(recipe_with(None)) == 0 < most_rows(recipe)
