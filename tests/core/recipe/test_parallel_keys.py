"""The section `parallel`, beside what its engines cannot train together with."""

from __future__ import annotations

from typing import Any

import pytest

from loba_tui.core.plugins import SHIPPED
from loba_tui.core.recipe.load import dump_recipe, parse_recipe, parse_text
from loba_tui.core.recipe.problems import ProblemsFound

CONCEPT = {"target": "a circle", "positive": "a large circle", "negative": "a small circle"}


def recipe_with(**sections: Any) -> dict[str, Any]:
    recipe = {
        "version": 1,
        "base_model": {"id": "builtin:shapes-xl"},
        "method": {"name": "text_slider", "concepts": [CONCEPT]},
    }
    return {**recipe, **sections}


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"parallel": {"zero_stage": 2}}, "zero_stage is for engine: deepspeed"),
        (
            {"parallel": {"engine": "fsdp2", "cpu_offload": True}},
            "cpu_offload is for engine: deepspeed",
        ),
        (
            {"parallel": {"engine": "fsdp2"}, "train": {"compile": "blocks"}},
            "train.compile: a compiled block has its weights where they were",
        ),
        (
            {"parallel": {"engine": "fsdp2"}, "train": {"exactness": "fast"}},
            "train.exactness: fast lays out weights that each process holds whole",
        ),
        (
            {
                "parallel": {"engine": "fsdp2"},
                "base_model": {"id": "builtin:shapes-xl", "offload": "model"},
            },
            "base_model.offload: offloading moves weights that each process holds whole",
        ),
        (
            {"parallel": {"engine": "fsdp2"}, "adapter": {"name": "dora"}},
            "parallel.engine: fsdp2 trains lora, locon, loha, lokr, oft; take ddp for",
        ),
        (
            {"parallel": {"engine": "deepspeed"}, "train": {"compile": "blocks"}},
            "so that it does not go with parallel.zero_stage: 3",
        ),
        (
            {"parallel": {"engine": "deepspeed"}, "adapter": {"name": "dora"}},
            "parallel.zero_stage: 3 trains lora, locon; take ddp for",
        ),
        (
            {
                "parallel": {"engine": "deepspeed", "zero_stage": 2},
                "optimizer": {"name": "prodigy"},
            },
            "parallel.zero_stage: 2 steps adamw, lion, nadam, radam, sgd",
        ),
        (
            {
                "parallel": {"engine": "deepspeed", "zero_stage": 1},
                "adapter": {"name": "lora", "text_encoders": {"lr": 1e-5}},
            },
            "adapter.text_encoders: text encoders have no gradients where no row has a prompt",
        ),
        (
            {
                "parallel": {"engine": "fsdp2"},
                "method": {"name": "instant_slider", "concepts": [CONCEPT]},
            },
            "parallel.engine: instant_slider computes its adapter without training",
        ),
        (
            {"parallel": {"engine": "fsdp2", "ulysses": 2}},
            "parallel.engine: ulysses and ring share tokens with engine: ddp, not with fsdp2",
        ),
        (
            {"parallel": {"ulysses": 2, "ring": 2}},
            "parallel.ring: ulysses and ring do not go together",
        ),
        (
            {"parallel": {"ulysses": 2}, "train": {"compile": "blocks"}},
            "train.compile: a compiled block cannot exchange tokens",
        ),
    ],
)
def test_it_is_refused_by_name(sections: dict[str, Any], said: str) -> None:
    with pytest.raises(ProblemsFound) as caught:
        parse_recipe(recipe_with(**sections), plugins=SHIPPED)
    assert any(said in str(problem) for problem in caught.value.problems), caught.value.problems


def test_it_is_written_only_where_it_says_something() -> None:
    assert "parallel" not in dump_recipe(parse_recipe(recipe_with(), plugins=SHIPPED))
    recipe = parse_recipe(recipe_with(parallel={"engine": "fsdp2"}), plugins=SHIPPED)
    assert parse_text(dump_recipe(recipe), "again", plugins=SHIPPED) == recipe
