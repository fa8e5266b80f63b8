"""A direction in the space of prompt embeddings, and how text encoders are moved along it.

Adding m·v to every state of a prompt is a slider, where v is an aggregate of h(positive) −
h(negative). That is a constant, so it is exactly what a bias does in the module that writes the
states last. The pooled state passes a norm and a projection W_p after them: the norm's bias b moves
it by W_p b, a constant too, which is chosen so that the mean of the whole move is the direction's.

Tools that load no biases load a LoRA u rᵀ. A linear layer answers it by u · (r·a) for its input a,
which is the constant u where r·a = 1. Behind a norm with the gain γ and the bias β that holds for
every input with r = (1/γ) / Σ(β/γ), as what is normalised adds up to 0. Elsewhere r is fitted to
inputs, by least squares with a ridge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.containers.text_outputs import TextOutput
from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.errors import RecipeError
from loba_tui.core.program import randomness
from loba_tui.core.program.adapter_layers.added import host_named
from loba_tui.core.program.closed_form.solution import LayerUpdate, TextSolution

_RIDGE = 1e-4
"""Share of the mean squared input that keeps a fitted row short."""
_VARIED_SHARE = 0.5
"""Share of a prompt's words that random ones take the place of, for words that prompts lack."""
_NUM_RANDOM = 32
"""Rows of random words alone, up to so many in a row, that a row is fitted to as well."""
_MOST_RANDOM_WORDS = 12
_KIND_WEIGHTS = (0.1, 0.5, 0.2, 0.2)
"""Shares of start, words, end and padding in a fit, however many tokens of each there are."""
_MOST_NOISE = 100.0
"""A row behind a norm is longer than 1 by so much at most, as rounding errors grow with it."""


@dataclass(frozen=True)
class Direction:
    """A constant that is added to embeddings at strength 1.

    Attributes:
        states: (D,), the encoders' columns one after another, float64.
        pooled: (P,), float64; None for families that have none.
    """

    states: Tensor
    pooled: Tensor | None

    def moved(self, rows: PromptEmbeds, strength: float) -> PromptEmbeds:
        """Return embeddings with the direction added: what all forms of an adapter stand for."""
        pooled = rows.pooled
        if pooled is not None and self.pooled is not None:
            pooled = pooled + (strength * self.pooled).to(pooled)
        embeds = rows.embeds + (strength * self.states).to(rows.embeds)
        return replace(rows, embeds=embeds, pooled=pooled)


class TextMove:
    """A direction as changes of a model's text encoders.

    Attributes:
        solution: The changes.
        lora_error: How far the LoRA's states are from the direction's on the prompts, as a share of
            it, root mean square over their tokens.
    """

    @torch.no_grad()
    def __init__(
        self, direction: Direction, container: ModelContainer, prompts: Sequence[str], seed: int
    ) -> None:
        """Find the changes; text encoders that were released are brought back.

        Args:
            direction: What is to be added.
            container: The model.
            prompts: Whose inputs a row is fitted to, and whose mean pooled state is moved.
            seed: Of the words that take the place of others in these prompts, to fit a row to.
        """
        self._container, self._prompts = container, list(prompts)
        self._device = container.device
        container.require(*container.text_encoders)
        outputs = container.text_outputs()
        if not outputs:
            raise RecipeError(
                f"method.name: the text encoders of a {container.family} model cannot be moved in"
                " text space here",
                "Take text_slider, or instant_slider, which change the denoiser.",
            )
        self._seed = seed
        lora: dict[str, dict[str, LayerUpdate]] = {}
        biases: dict[str, dict[str, Tensor]] = {}
        wrong = 0.0
        parts = direction.states.split([output.columns for output in outputs])
        for output, part in zip(outputs, parts, strict=True):
            column, row, error = self._states(output, part)
            lora[output.component] = {output.linear: LayerUpdate(column[:, None], row[None])}
            biases[output.component] = {output.states: part.float()}
            wrong += error
        self.lora_error = (wrong / float(direction.states.square().sum())) ** 0.5
        for output, part in zip(outputs, parts, strict=True):
            if output.projection is not None and direction.pooled is not None:
                moved, bias, update = self._pooled(output, part, direction.pooled)
                biases[output.component][moved] = bias
                lora[output.component][output.projection] = update
        self.solution = TextSolution(lora, biases)

    def _states(self, output: TextOutput, part: Tensor) -> tuple[Tensor, Tensor, float]:
        """Return column, row and squared error a token of the LoRA that moves the states."""
        encoder = getattr(self._container.pipeline, output.component)
        linear, last = (host_named(encoder, name) for name in (output.linear, output.states))
        with _inputs_of(linear) as inputs, _inputs_of(last) as before:
            weights = self._read(output, self._prompts, varied=True)
        rows = torch.cat(inputs).flatten(0, -2).double()
        row = _fitted_row(rows, weights)
        answers = rows @ row
        if linear is last:
            wrong = float(part.square().sum()) * float(weights @ (answers - 1).square())
            return part.float(), row.float(), wrong
        # (h + u) is normalised: u = σ (v / γ) moves it by v but for the mean, at the mean σ.
        assert isinstance(last, nn.LayerNorm), "what stands behind a linear layer is a norm"
        states = torch.cat(before).flatten(0, -2).double()
        gain, bias = last.weight.double(), last.bias.double()
        column = states.std(dim=1, correction=0).mean() * part.to(gain) / gain
        moved = torch.nn.functional.layer_norm(
            states + answers[:, None] * column, last.normalized_shape, gain, bias, last.eps
        )
        still = torch.nn.functional.layer_norm(states, last.normalized_shape, gain, bias, last.eps)
        wrong = float(weights @ (moved - still - part.to(gain)).square().sum(1))
        return column.float(), row.float(), wrong

    def _pooled(
        self, output: TextOutput, part: Tensor, wanted: Tensor
    ) -> tuple[str, Tensor, LayerUpdate]:
        """Return the norm and its bias, and the update of the projection, that move `wanted`."""
        assert output.pooled is not None
        assert output.projection is not None
        encoder = getattr(self._container.pipeline, output.component)
        states, norm, projection = (
            host_named(encoder, name) for name in (output.states, output.pooled, output.projection)
        )
        # Both signs in one call: what they have in common is no move.
        num = len(self._prompts)
        signs = torch.tensor([1.0] * num + [-1.0] * num).view(-1, 1, 1)
        with _added(states, signs * part), _outputs_of(projection) as pooled:
            self._read(output, [*self._prompts, *self._prompts])
        up, down = torch.cat(pooled).double().split(num)
        # The states' move reaches the pooled state through the layers behind them.
        rest = wanted.to(up) - (up - down).mean(0) / 2
        weight = projection.weight.double()
        bias = torch.linalg.lstsq(weight, rest[:, None]).solution[:, 0]
        inverse = 1 / norm.weight.double()
        level = float((norm.bias.double() * inverse).sum())
        row = inverse / level if level else inverse
        if not level or float(row.norm()) > _MOST_NOISE:
            with _inputs_of(projection) as inputs:
                self._read(output, self._prompts, varied=True)
            pooled_inputs = torch.cat(inputs).double()
            alike = pooled_inputs.new_full((len(pooled_inputs),), 1 / len(pooled_inputs))
            row = _fitted_row(pooled_inputs, alike)
        return output.pooled, bias.float(), LayerUpdate(rest.float()[:, None], row.float()[None])

    def _read(self, output: TextOutput, prompts: Sequence[str], *, varied: bool = False) -> Tensor:
        """Have an encoder read prompts, and more where `varied`, for hooks that watch.

        Returns:
            (M T,) the weight of each token in a fit; they add up to 1.
        """
        pipeline = self._container.pipeline
        tokenizer = getattr(pipeline, output.tokenizer)
        ids = tokenizer(
            list(prompts),
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        if varied:
            draw = randomness.generator(self._seed, "words")
            ids = torch.cat([ids, _with_other_words(ids, tokenizer, draw)])
            ids = torch.cat([ids, _of_random_words(ids, tokenizer, draw)])
        getattr(pipeline, output.component)(ids.to(self._device))
        return _weights(ids, tokenizer).to(self._device)


def _num_words(tokenizer: Any) -> int:
    """Return how many ids stand for words: start and end are the last two of CLIP's."""
    return min(tokenizer.bos_token_id, tokenizer.eos_token_id)


def _ends(ids: Tensor, tokenizer: Any) -> Tensor:
    """Return where each row (M, T) has its end, (M, 1); some tokenizers pad with it too."""
    return (ids == tokenizer.eos_token_id).int().argmax(dim=1, keepdim=True)


def _with_other_words(ids: Tensor, tokenizer: Any, draw: torch.Generator) -> Tensor:
    """Return rows of token ids (M, T) with random words for some of theirs."""
    words = torch.randint(_num_words(tokenizer), ids.shape, generator=draw)
    is_drawn = torch.rand(ids.shape, generator=draw) < _VARIED_SHARE
    places = torch.arange(ids.shape[1])
    is_word = (places > 0) & (places < _ends(ids, tokenizer))
    return torch.where(is_drawn & is_word, words, ids)


def _of_random_words(ids: Tensor, tokenizer: Any, draw: torch.Generator) -> Tensor:
    """Return rows of token ids (M, T) of random words between the start and the end of others."""
    most = min(_MOST_RANDOM_WORDS, ids.shape[1] - 2)
    lengths = torch.randint(1, most + 1, (_NUM_RANDOM, 1), generator=draw)
    words = torch.randint(_num_words(tokenizer), (_NUM_RANDOM, ids.shape[1]), generator=draw)
    places = torch.arange(ids.shape[1])
    rows = torch.where(places <= lengths, words, tokenizer.pad_token_id)
    rows = torch.where(places == lengths + 1, tokenizer.eos_token_id, rows)
    return torch.where(places == 0, tokenizer.bos_token_id, rows)


def _weights(ids: Tensor, tokenizer: Any) -> Tensor:
    """Return (M T,) weights that give start, words, end and padding their shares; sum 1."""
    places, ends = torch.arange(ids.shape[1]), _ends(ids, tokenizer)
    kinds = (places > 0).int() + (places >= ends).int() + (places > ends).int()
    weights = torch.zeros(ids.shape, dtype=torch.float64)
    for kind, share in enumerate(_KIND_WEIGHTS):
        is_kind = kinds == kind
        weights[is_kind] = share / max(1, int(is_kind.sum()))
    return (weights / weights.sum()).flatten()


def _fitted_row(inputs: Tensor, weights: Tensor) -> Tensor:
    """Return r with r·a ≈ 1 for inputs a (M, K), as short as may be, and 1 in the mean; float64.

    Least squares alone answer less than 1 in the mean, the more so the worse they fit.

    Args:
        weights: (M,) how much each input counts; they add up to 1.
    """
    num, width = inputs.shape
    weighed = inputs * weights.sqrt()[:, None]
    ridge = _RIDGE * float(weighed.square().sum()) / min(num, width)
    kind = {"dtype": inputs.dtype, "device": inputs.device}
    if num < width:
        gram = weighed @ weighed.T + ridge * torch.eye(num, **kind)
        row = weighed.T @ torch.linalg.solve(gram, weights.sqrt())
    else:
        gram = weighed.T @ weighed + ridge * torch.eye(width, **kind)
        row = torch.linalg.solve(gram, weighed.T @ weights.sqrt())
    return row / (weights @ (inputs @ row))


@contextmanager
def _watched(module: nn.Module, see: Callable[[Any, Any], None]) -> Iterator[None]:
    handle = module.register_forward_hook(lambda _, inputs, output: see(inputs, output))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _inputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    seen: list[Tensor] = []
    with _watched(module, lambda inputs, _: seen.append(inputs[0].detach())):
        yield seen


@contextmanager
def _outputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    seen: list[Tensor] = []
    with _watched(module, lambda _, output: seen.append(output.detach())):
        yield seen


@contextmanager
def _added(module: nn.Module, constant: Tensor) -> Iterator[None]:
    def add(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        return output + constant.to(output)

    handle = module.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()
