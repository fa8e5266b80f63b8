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
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from torch import Tensor

from loba_tui.core.errors import RecipeError
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
EMPTY_TARGET = True
ERASES = True


@dataclass(frozen=True, kw_only=True)
class LecoOptions(ConceptOptions, AnchorOptions):
    """Options of LECO.

    Attributes:
        action: What becomes of every concept's target.
    """

    action: Literal["erase", "enhance", "swap"] = "erase"


def get_method(parts: MethodParts, *, options: LecoOptions) -> Method:
    """Return the trained eraser; several concepts share one adapter."""
    if options.action == "swap" and not all(concept.neutral for concept in parts.concepts):
        raise RecipeError(
            "method.concepts: swap needs a neutral prompt in every concept",
            "It is what the target becomes.",
        )
    objective = ConceptObjective(
        "erase", _roles, lambda concept: concept.target, _TARGETS[options.action]
    )
    return ConceptMethod(parts, objective, options, also_held=[SpmAnchors(parts, options)])


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
