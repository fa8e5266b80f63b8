"""ESD: Erasing Concepts from Diffusion Models (Gandikota et al. 2023).

https://arxiv.org/abs/2303.07345, as an adapter instead of new weights. The concept c_e is guided
away from, in the prompt c_f that it is erased from (the concept itself, unless the recipe names a
neutral prompt):

    L = MSE( ε₁(x_t, c_f), sg[ ε₀(x_t, c_f) − η (ε₀(x_t, c_e) − ε₀(x_t, ∅)) ] )

η is the concept's guidance; with c_f = c_e and η = 1 what is learned is ε₀(∅).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from loba_tui.core.option_types import UnitFloat
from loba_tui.core.program.method import Method, MethodParts
from loba_tui.core.program.objectives.concepts import Eraser, EraserOptions, Lesson, Roles
from loba_tui.core.recipe.schema import Concept

REQUIRES = ("target",)
ERASES = True
# Which layers an adapter gets by the paper's variants, as far as its kind can have them.
ADAPTER_LAYERS = {
    "variant": {
        "x": ("cross_attention",),
        "u": ("self_attention", "feed_forward", "projection", "convolution"),
        "full": (
            "cross_attention",
            "self_attention",
            "feed_forward",
            "projection",
            "convolution",
        ),
    }
}


def get_method(
    parts: MethodParts,
    *,
    variant: Literal["x", "u", "full"] = "x",
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
    """Return ESD; several concepts share one adapter.

    Args:
        parts: What the method works with.
        variant: Which layers the adapter gets: "x" cross-attention alone, for what a prompt names;
            "u" all others, for what also comes unasked; "full" all. Convolutions only where the
            adapter can have them (locon).
        trajectories: "rolling" keeps a pool of latents in flight; "bank" makes noisy latents and
            their teacher predictions once; "restart" is the reference, a fresh rollout every step.
        rollout_steps: Sampling steps N of a whole rollout.
        rollout_guidance: Classifier-free guidance of rollouts.
        slots: Latents in flight for "rolling"; null takes three per row of the global batch.
        bank_images: Images that "bank" is made of; null takes three per row of the global batch.
        bank_samples: Noisy latents that "bank" keeps; null takes 24 per row of the global batch,
            and 0 noises its images afresh for every step.
        preserve_weight: Weight of the preserve term, which the paper does not have.
        preserve_share: Share of a batch's rows that also train a preserve prompt.
        anchor_weight: Weight of SPM's anchors, random text embeddings that must not change
            (https://arxiv.org/abs/2312.16145, which has 1000); 0 has none.
        anchor_share: Share of a batch's rows that also train an anchor.
    """
    return Eraser(
        parts,
        Lesson(_roles, _erased_from, _target),
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


def _erased_from(concept: Concept) -> str:
    return concept.target if concept.neutral is None else concept.neutral


def _roles(concept: Concept) -> Roles:
    return {"from": _erased_from(concept), "target": concept.target, "empty": None}


def _target(teacher: Mapping[str, Tensor], guidance: Tensor) -> Tensor:
    return teacher["from"] - guidance * (teacher["target"] - teacher["empty"])
