"""Embeddings of prompts of different lengths in one batch."""

from __future__ import annotations

import pytest
import torch

from loba_tui.core.associate.embeds import PromptEmbeds


@pytest.fixture
def ragged() -> PromptEmbeds:
    rows = [torch.full((length, 3), float(length)) for length in (2, 5, 3)]
    return PromptEmbeds.ragged(rows).of("b", "e", "c")


def test_rows_come_back_as_long_as_they_were(ragged: PromptEmbeds) -> None:
    assert ragged.embeds.shape == (3, 5, 3)
    assert [len(row) for row in ragged.rows()] == [2, 5, 3]
    assert torch.equal(ragged.rows()[2], torch.full((3, 3), 3.0))
    assert ragged.mask().sum(1).tolist() == [2, 5, 3]


def test_picked_rows_keep_their_lengths(ragged: PromptEmbeds) -> None:
    picked = ragged.select([2, 0, 0])
    assert picked.lengths.tolist() == [3, 2, 2]
    assert picked.texts == ("c", "b", "b")
    assert ragged[1].expand(2).lengths.tolist() == [5, 5]
    assert ragged.to(dtype=torch.float64).lengths.tolist() == [2, 5, 3]


def test_joined_rows_are_padded_with_zeros_and_not_repeated(ragged: PromptEmbeds) -> None:
    longer = PromptEmbeds.ragged([torch.ones(7, 3)])
    joined = PromptEmbeds.cat([ragged, longer])
    assert joined.embeds.shape == (4, 7, 3)
    assert [len(row) for row in joined.rows()] == [2, 5, 3, 7]
    assert not joined.embeds[0, 2:].any()


def test_rows_without_lengths_are_repeated_to_one_length() -> None:
    one, two = PromptEmbeds(torch.rand(1, 2, 3)), PromptEmbeds(torch.rand(1, 4, 3))
    joined = PromptEmbeds.cat([one, two])
    assert torch.equal(joined.embeds[0], torch.cat([one.embeds[0]] * 2))
    assert joined.lengths is None
    assert joined.mask() is None
