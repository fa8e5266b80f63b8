"""Fractions of what a run holds that lie on one of its processes, by its engine."""

from __future__ import annotations

from dataclasses import dataclass

from loba_tui.core.recipe.sections.parallel import ParallelSection


@dataclass(frozen=True)
class Share:
    """Fractions, from 0 to 1, of all there is that lie on the device of one process.

    Attributes:
        base: The frozen weights of the denoiser.
        gradients: Of what is trained.
        optimizer: States of that.
        tokens: The tokens of a row.

    The adapter's weights are whole on every process, under each engine.
    """

    base: float = 1.0
    gradients: float = 1.0
    optimizer: float = 1.0
    tokens: float = 1.0

    @classmethod
    def of(cls, parallel: ParallelSection, num_processes: int) -> Share:
        """Return what a process of so many holds; one alone holds all."""
        part = 1 / num_processes
        tokens = 1 / min(parallel.sequence_size, num_processes)
        if parallel.engine == "fsdp2":
            return cls(base=part, tokens=tokens)
        if parallel.engine == "ddp":
            return cls(tokens=tokens)
        moved = 0.0 if parallel.cpu_offload else part
        if parallel.stage == 3:
            return cls(base=moved, tokens=tokens)
        return cls(gradients=part if parallel.stage == 2 else 1.0, optimizer=moved, tokens=tokens)
