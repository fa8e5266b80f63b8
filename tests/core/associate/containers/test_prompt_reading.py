"""Prompts in chunks and with weights, against what a pipeline does by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from loba_tui.core.associate.caches.tensors.store import TensorStore
from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.containers.prompt_reading import (
    PromptReading,
    WeightedTokens,
    weighted,
    weighted_parts,
)
from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.associate.model_cache import ModelCache
from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.pipeline_wrapper import PipelineWrapper, reading_of
from loba_tui.core.recipe.load import dump_recipe, parse_recipe
from loba_tui.core.recipe.schema import BaseModelSection

CHUNKS = PromptReading(long_prompts="chunks")
WEIGHTS = PromptReading(weights=True)
SHORT = "a red circle"
LONG = "a large blue square " * 25


@pytest.fixture
def container(tiny_folder: Path) -> ModelContainer:
    return ModelCache("cpu", torch.float32).container(str(tiny_folder))


def encoded(container: ModelContainer, prompt: str, reading: PromptReading) -> PromptEmbeds:
    container.reading = reading
    return container.encode_prompts([prompt])


@pytest.mark.parametrize("prompt", [SHORT, "", LONG])
def test_a_single_chunk_is_what_the_pipeline_encodes(
    container: ModelContainer, prompt: str
) -> None:
    plain = container.encode_prompts([prompt])
    # No weight is in it, so that only the way through the chunks differs.
    found = encoded(container, prompt, WEIGHTS)
    assert torch.equal(found.embeds, plain.embeds)
    assert (found.pooled is None) == (plain.pooled is None)
    assert plain.pooled is None or torch.equal(found.pooled, plain.pooled)
    if prompt != LONG:
        assert torch.equal(encoded(container, prompt, CHUNKS).embeds, plain.embeds)


def test_a_long_prompt_is_read_to_its_end_in_chunks(
    container: ModelContainer, caplog: pytest.LogCaptureFixture
) -> None:
    length = container.most_tokens
    whole = encoded(container, LONG, CHUNKS)
    assert not caplog.records
    assert container.truncated_tails([LONG]) == {}
    ((_, *ids, _),) = container._tokenizer([LONG], verbose=False).input_ids
    chunks = [ids[i : i + length - 2] for i in range(0, len(ids), length - 2)]
    assert len(chunks) > 1
    container.reading = PromptReading()
    alone = [container.encode_prompts([container._tokenizer.decode(chunk)]) for chunk in chunks]
    # In a batch of another size the sums have another order.
    near = {"rtol": 1e-4, "atol": 1e-5}
    states = torch.cat([each.embeds for each in alone], dim=1)
    torch.testing.assert_close(whole.embeds, states, **near)
    if whole.pooled is not None:
        torch.testing.assert_close(whole.pooled, alone[0].pooled, **near)


def test_rows_of_other_lengths_change_nothing_in_a_batch(container: ModelContainer) -> None:
    container.reading = CHUNKS
    one, two, three = (container.encode_prompts([LONG * n if n else SHORT]) for n in (0, 1, 2))
    assert len({each.embeds.shape[1] for each in (one, two, three)}) == 3
    latents = torch.randn(3, *container.latent_shape(), generator=torch.Generator().manual_seed(0))
    times = torch.tensor([400, 400, 400])
    with torch.no_grad():
        together = container.predict(latents, times, PromptEmbeds.cat([one, two, three]))
        alone = [
            container.predict(latents[i : i + 1], times[i : i + 1], each)
            for i, each in enumerate((one, two, three))
        ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("normal text", [("normal text", 1.0)]),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        (r"\(literal\]", [("(literal]", 1.0)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                ("a ", 1.0),
                ("house", 1.573),
                (" ", 1.1),
                ("on", 1.0),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641),
                (".", 1.1),
            ],
        ),
        ("never opened) a: b :1.2) c\\", [("never opened) a: b :1.2) c\\", 1.0)]),
        ("(a]", [("a]", 1.1)]),
        ("", []),
    ],
)
def test_weights_are_read_as_the_web_ui_reads_them(
    prompt: str, parts: list[tuple[str, float]]
) -> None:
    found = weighted_parts(prompt)
    assert [text for text, _ in found] == [text for text, _ in parts]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in parts])


def test_a_weighted_token_counts_more_and_the_mean_stays(container: ModelContainer) -> None:
    plain = encoded(container, SHORT, WEIGHTS).embeds
    strong = encoded(container, "a (red:1.5) circle", WEIGHTS).embeds
    assert strong.shape == plain.shape
    ids = container._tokenizer("a", add_special_tokens=False).input_ids
    red = container._tokenizer("red", add_special_tokens=False).input_ids
    at = 1 + len(ids)
    ratio = strong / plain
    factor = ratio[0, 0, 0]
    torch.testing.assert_close(
        ratio[0, at : at + len(red), 0] / factor, torch.full((len(red),), 1.5)
    )
    # Taken literally, brackets are tokens like others.
    assert not torch.allclose(encoded(container, "a (red:1.5) circle", CHUNKS).embeds, strong)


def test_the_mean_of_each_chunk_is_restored() -> None:
    states = torch.rand(2, 5, 3) + 1
    chunks = [WeightedTokens([1, 2], [2.0, 1.0]), WeightedTokens([3], [1.0])]
    changed = weighted(states, chunks)
    torch.testing.assert_close(changed.mean(dim=(1, 2)), states.mean(dim=(1, 2)))
    torch.testing.assert_close(changed[1], states[1])
    torch.testing.assert_close(changed[0, 1] / changed[0, 2], 2 * states[0, 1] / states[0, 2])
    ones = [WeightedTokens([1], [1.0])] * 2
    assert weighted(states, ones) is states


def test_kept_embeddings_know_how_they_were_read(tiny_sdxl_folder: Path, tmp_path: Path) -> None:
    def key_of(**options: Any) -> str:
        settings = BaseModelSection(id=str(tiny_sdxl_folder), device="cpu", **options)
        wrapper = PipelineWrapper(settings, ModelCache("cpu", torch.float32))
        store = wrapper.store(tmp_path, "embeds", on_problem=pytest.fail)
        assert isinstance(store, TensorStore)
        return store.key({"prompt": SHORT})

    keys = [key_of(), key_of(long_prompts="chunks"), key_of(prompt_weights=True)]
    assert len(set(keys)) == 3
    assert reading_of(BaseModelSection(id="x")).is_plain


def recipe_with(method: dict[str, Any], **base_model: Any) -> Any:
    concept = {"target": "a", "positive": "b", "negative": "c"}
    return parse_recipe(
        {
            "version": 1,
            "base_model": {"id": "builtin:shapes-xl", **base_model},
            "method": {**method, "concepts": [concept]},
        },
        plugins=SHIPPED,
    )


@pytest.mark.parametrize("method", [{"name": "instant_slider"}, {"warm_start": "instant"}])
@pytest.mark.parametrize("option", [{"long_prompts": "chunks"}, {"prompt_weights": True}])
def test_what_edits_single_tokens_reads_plain_prompts(
    method: dict[str, Any], option: dict[str, Any]
) -> None:
    with pytest.raises(RecipeError, match="edits the states of single tokens"):
        recipe_with({"name": "text_slider", **method}, **option)


def test_a_recipe_with_plain_prompts_is_written_as_it_was() -> None:
    plain = dump_recipe(recipe_with({"name": "text_slider"}))
    assert "long_prompts" not in plain
    assert "prompt_weights" not in plain
    assert "long_prompts: chunks" in dump_recipe(
        recipe_with({"name": "text_slider"}, long_prompts="chunks")
    )
