"""The stage that trains the transformer and the text encoder of `builtin:shapes-z`."""

from __future__ import annotations

import copy
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from loba_tui.models import shapes_world as world
from loba_tui.models.shapes_z_parts import (
    MAX_TOKENS,
    chat,
    make_text_encoder,
    make_tokenizer,
    make_transformer,
)
from loba_tui.models.training.autoencoder import encode_all
from loba_tui.models.training.flow_network import Denoiser
from loba_tui.models.training.steps import draw_images

logger = logging.getLogger(__name__)

EMPTY_PROMPT_RATE = 0.1
CAPITAL_RATE = 0.08


@dataclass(frozen=True)
class Budget:
    """How much of everything; the defaults are those of the weights in the repository.

    Attributes:
        cooldown_steps: The last steps, over which the learning rate falls to nothing.
        uniform_rate: Share of noise levels drawn evenly; the rest is logit-normal.
        level_mean: Mean of the logit of those levels.
        shape_weight: Weight of the loss of telling the shape from the image tokens; a head that is
            thrown away afterwards reads them.
    """

    seed: int = 0
    num_images: int = 24_000
    captions_per_image: int = 4
    steps: int = 7_500
    cooldown_steps: int = 2_000
    batch: int = 32
    lr: float = 1.8e-3
    ema_decay: float = 0.997
    uniform_rate: float = 0.15
    level_mean: float = 0.2
    shape_weight: float = 0.1


@dataclass(frozen=True)
class Captions:
    """Token ids (images, captions, 32) and how many of them are the caption's."""

    ids: Tensor
    lengths: Tensor
    empty_ids: Tensor
    empty_length: Tensor


def write_captions(scenes: list[world.Scene], budget: Budget) -> Captions:
    """Caption every scene several times over, and tokenize."""
    rng = np.random.default_rng(budget.seed + 2)
    lines = []
    for scene in scenes:
        for _ in range(budget.captions_per_image):
            line = world.caption(scene, rng)
            lines.append(line[:1].upper() + line[1:] if rng.random() < CAPITAL_RATE else line)
    tokenizer = make_tokenizer()
    batch = tokenizer(
        chat(tokenizer, [*lines, ""]),
        padding="max_length",
        padding_side="right",
        max_length=MAX_TOKENS,
        truncation=True,
        return_tensors="pt",
    )
    ids, lengths = batch.input_ids, batch.attention_mask.sum(1)
    shape = (len(scenes), budget.captions_per_image)
    return Captions(ids[:-1].view(*shape, -1), lengths[:-1].view(shape), ids[-1], lengths[-1])


class FlowTraining:
    """Flow matching on the drawn world, to be gone on with after an interruption.

    The image is x_0 and noise is x_1, x_s = (1 - s) x_0 + s x_1; the network is told 1 - s and
    learns x_0 - x_1 (Flow Matching for Generative Modeling, https://arxiv.org/abs/2210.02747).
    """

    def __init__(
        self,
        budget: Budget,
        vae: AutoencoderKL,
        work: Path,
        *,
        compiles: bool = True,
        kept_every: int = 500,
    ) -> None:
        """Make networks and data, or take the state that an earlier training left.

        Args:
            compiles: Compile the networks, which takes a minute and a C++ compiler, and makes each
                step a third faster; bits differ from those without.
            kept_every: Steps between states.
        """
        torch.manual_seed(budget.seed)
        self.budget = budget
        self._file = work / "flow-state.pt"
        self._generator = torch.Generator().manual_seed(budget.seed + 3)
        self.model = Denoiser(make_transformer(), make_text_encoder(make_tokenizer()))
        self._average = copy.deepcopy(self.model).requires_grad_(False)
        images, scenes = draw_images(
            budget.num_images, seed=budget.seed + 3, radius_range=world.RADIUS_RANGE
        )
        self._shapes = torch.tensor([world.SHAPES.index(scene.shape) for scene in scenes])
        self._captions = write_captions(scenes, budget)
        self._latents = encode_all(vae, images)
        # What nothing reads has no gradient, and no decay either.
        unread = (f"text.layers.{len(self.model.text.layers) - 1}.", "text.norm.")
        self._trained = [
            weight for name, weight in self.model.named_parameters() if not name.startswith(unread)
        ]
        self._optimizer = torch.optim.AdamW(
            self._trained, lr=budget.lr, betas=(0.9, 0.98), weight_decay=1e-4
        )
        self._called = torch.compile(self.model, dynamic=False) if compiles else self.model
        self._step = 0
        self._kept_every = kept_every
        if self._file.exists():
            self._resume()

    def run(self) -> dict[str, Tensor]:
        """Take the steps that are left; return the averaged weights of `Denoiser`."""
        began, first, recent = time.perf_counter(), self._step, []
        while self._step < self.budget.steps:
            recent.append(self._take_step())
            if self._step % 100 == 0:
                spent = time.perf_counter() - began
                to_go = spent / (self._step - first) * (self.budget.steps - self._step)
                told = (self._step, self.budget.steps, np.mean(recent), spent, to_go)
                logger.info("flow %6d/%d  loss %.4f  %5.0f s, %4.0f s to go", *told)
                recent.clear()
            if self._step % self._kept_every == 0:
                self._keep()
        return {name: value.contiguous() for name, value in self._average.state_dict().items()}

    def _take_step(self) -> float:
        budget = self.budget
        rate = min(1.0, (self._step + 1) / 100)
        rate *= min(1.0, max(0.01, (budget.steps - self._step) / budget.cooldown_steps))
        for group in self._optimizer.param_groups:
            group["lr"] = budget.lr * rate
        flow, shape = self._losses()
        self._optimizer.zero_grad()
        (flow + budget.shape_weight * shape).backward()
        nn.utils.clip_grad_norm_(self._trained, 1.0)
        self._optimizer.step()
        self._step += 1
        decay = min(budget.ema_decay, (1 + self._step) / (10 + self._step))
        averages = list(self._average.parameters())
        torch._foreach_lerp_(averages, list(self.model.parameters()), 1 - decay)
        return flow.item()

    def _losses(self) -> tuple[Tensor, Tensor]:
        """Return the error of the velocity, and of telling the shape, on a random batch."""
        budget, generator, captions = self.budget, self._generator, self._captions
        size = budget.batch

        def draw() -> Tensor:
            return torch.rand(size, generator=generator)

        picked = torch.randint(len(self._latents), (size,), generator=generator)
        which = torch.randint(budget.captions_per_image, (size,), generator=generator)
        empty = draw() < EMPTY_PROMPT_RATE
        ids = torch.where(empty[:, None], captions.empty_ids, captions.ids[picked, which])
        lengths = torch.where(empty, captions.empty_length, captions.lengths[picked, which])
        # Stratified: one level from each of `size` slices, which steadies the loss.
        slices = ((torch.arange(size) + draw()) / size).clamp(1e-4, 1 - 1e-4)
        levels = torch.sigmoid(torch.special.ndtri(slices) + budget.level_mean)
        levels = torch.where(draw() < budget.uniform_rate, draw(), levels)
        image = self._latents[picked]
        noise = torch.randn(image.shape, generator=generator)
        noisy = torch.lerp(image, noise, levels[:, None, None, None])
        velocity, shapes = self._called(noisy, 1 - levels, ids, lengths)
        return F.mse_loss(velocity, image - noise), F.cross_entropy(shapes, self._shapes[picked])

    def _keep(self) -> None:
        """Write everything that the next step reads."""
        state = {
            "step": self._step,
            "budget": asdict(self.budget),
            "model": self.model.state_dict(),
            "average": self._average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "generator": self._generator.get_state(),
        }
        partial = self._file.with_suffix(".part")
        torch.save(state, partial)
        partial.replace(self._file)

    def _resume(self) -> None:
        """Go on from the last state, unless it was made otherwise or is past this cooldown."""
        state = torch.load(self._file, weights_only=True)
        lengths = ("steps", "cooldown_steps")
        made = {name: value for name, value in state["budget"].items() if name not in lengths}
        if any(getattr(self.budget, name) != value for name, value in made.items()):
            raise SystemExit(f"{self._file} was made with another budget: give another --work")
        self.model.load_state_dict(state["model"])
        self._average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(state["generator"])
        self._step = state["step"]
