"""LECO: low-rank erasure, enhancement or swap of concepts (p1atdev, https://github.com/p1atdev/LECO).

After Erasing Concepts from Diffusion Models, Gandikota et al. 2023,
https://arxiv.org/abs/2303.07345. The adapter learns, for the target prompt c,

    erase     ε₀(neutral) − g (ε₀(positive) − ε₀(negative))
    enhance   ε₀(neutral) + g (ε₀(positive) − ε₀(negative))
    swap      ε₀(c) + g (ε₀(neutral) − ε₀(c))

where positive and neutral are c itself unless the recipe names others, and negative is the
unconditional prompt: erasing with g = 1 then leaves ε₀(∅), and swapping with g = 1 ε₀(neutral).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from loba_tui.core.errors import RecipeError
from loba_tui.core.option_types import UnitFloat
from loba_tui.core.program.method import Method, MethodParts
from loba_tui.core.program.objectives.concepts import Eraser, EraserOptions, Lesson, Roles
from loba_tui.core.recipe.schema import Concept

REQUIRES = ("target",)
ERASES = True


def get_method(
    parts: MethodParts,
    *,
    action: Literal["erase", "enhance", "swap"] = "erase",
    trajectories: Literal["rolling", "bank", "restart"] = "rolling",
    rollout_steps: PositiveInt = 20,
    rollout_guidance: PositiveFloat = 3.0,
    slots: PositiveInt | None = None,
    bank_images: PositiveInt | None = None,
    bank_samples: NonNegativeInt | None = None,
    preserve_weight: NonNegativeFloat = 1.0,
    preserve_share: UnitFloat = 0.5,
    anchor_weight: NonNegativeFloat = 0.0,
    anchor_share: UnitFloat = 0.25,
) -> Method:
    """Return the trained eraser; several concepts share one adapter.

    Args:
        parts: What the method works with.
        action: What becomes of every concept's target.
        trajectories: "rolling" keeps a pool of latents in flight; "bank" makes noisy latents and
            their teacher predictions once; "restart" is the reference, a fresh rollout every step.
        rollout_steps: Sampling steps N of a whole rollout.
        rollout_guidance: Classifier-free guidance of rollouts.
        slots: Latents in flight for "rolling"; null takes three per row of the global batch.
        bank_images: Images that "bank" is made of; null takes three per row of the global batch.
        bank_samples: Noisy latents that "bank" keeps; null takes 24 per row of the global batch,
            and 0 noises its images afresh for every step.
        preserve_weight: Weight of the preserve term.
        preserve_share: Share of a batch's rows that also train a preserve prompt.
        anchor_weight: Weight of SPM's anchors, random text embeddings that must not change
            (https://arxiv.org/abs/2312.16145, which has 1000); 0 has none.
        anchor_share: Share of a batch's rows that also train an anchor.
    """
    if action == "swap" and not all(concept.neutral for concept in parts.concepts):
        raise RecipeError(
            "method.concepts: swap needs a neutral prompt in every concept",
            "It is what the target becomes.",
        )
    return Eraser(
        parts,
        Lesson(_roles, lambda concept: concept.target, _TARGETS[action]),
        EraserOptions(
            trajectories=trajectories,
            rollout_steps=rollout_steps,
            rollout_guidance=rollout_guidance,
            slots=slots,
            bank_images=bank_images,
            bank_samples=bank_samples,
            preserve_weight=preserve_weight,
            preserve_share=preserve_share,
            anchor_weight=anchor_weight,
            anchor_share=anchor_share,
        ),
    )


def _roles(concept: Concept) -> Roles:
    return {
        "target": concept.target,
        "positive": concept.target if concept.positive is None else concept.positive,
        "negative": concept.negative,
        "neutral": concept.target if concept.neutral is None else concept.neutral,
    }


def _erased(teacher: Mapping[str, Tensor], guidance: Tensor) -> Tensor:
    return teacher["neutral"] - guidance * (teacher["positive"] - teacher["negative"])


def _enhanced(teacher: Mapping[str, Tensor], guidance: Tensor) -> Tensor:
    return teacher["neutral"] + guidance * (teacher["positive"] - teacher["negative"])


def _swapped(teacher: Mapping[str, Tensor], guidance: Tensor) -> Tensor:
    return teacher["target"] + guidance * (teacher["neutral"] - teacher["target"])


_TARGETS = MappingProxyType({"erase": _erased, "enhance": _enhanced, "swap": _swapped})
