"""ESD: Erasing Concepts from Diffusion Models (Gandikota et al. 2023).

https://arxiv.org/abs/2303.07345, as an adapter instead of new weights. The concept c_e is guided
away from, in the prompt c_f that it is erased from (the concept itself, unless the recipe names a
neutral prompt):

    L = MSE( ε₁(x_t, c_f), sg[ ε₀(x_t, c_f) − η (ε₀(x_t, c_e) − ε₀(x_t, ∅)) ] )

η is the concept's guidance; with c_f = c_e and η = 1 what is learned is ε₀(∅).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from loba_tui.core.program.method import Method, MethodParts
from loba_tui.core.program.objectives.concepts import (
    ConceptMethod,
    ConceptObjective,
    ConceptOptions,
    Roles,
)
from loba_tui.core.program.objectives.spm_anchors import AnchorOptions, SpmAnchors
from loba_tui.core.recipe.sections.method import Concept

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


@dataclass(frozen=True, kw_only=True)
class EsdOptions(ConceptOptions, AnchorOptions):
    """Options of ESD.

    Attributes:
        variant: Which layers the adapter gets: "x" cross-attention alone, for what a prompt names;
            "u" all others, for what also comes unasked; "full" all. Convolutions only where the
            adapter can have them (locon).
        preserve_weight: Weight of the preserve term, which the paper does not have.
    """

    variant: Literal["x", "u", "full"] = "x"


def get_method(parts: MethodParts, *, options: EsdOptions) -> Method:
    """Return ESD; several concepts share one adapter."""
    objective = ConceptObjective("erase", _roles, _erased_from, _target)
    return ConceptMethod(parts, objective, options, also_held=[SpmAnchors(parts, options)])


def _erased_from(concept: Concept) -> str:
    return concept.target if concept.neutral is None else concept.neutral


def _roles(concept: Concept) -> Roles:
    return {"from": _erased_from(concept), "target": concept.target, "empty": None}


def _target(teacher: Mapping[str, Tensor], guidance: Tensor) -> Tensor:
    return teacher["from"] - guidance * (teacher["target"] - teacher["empty"])
