"""The recipe's `parallel` section: how several processes share one run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from loba_tui.core.recipe.sections.data import Section


class ParallelSection(Section):
    """How the processes of a run share rows, the base model's weights, or the tokens of a row.

    How many processes there are, and on which hosts, is no part of a recipe.
    """

    engine: Literal["ddp", "fsdp2", "deepspeed"] = Field(
        "ddp",
        description="ddp: each process holds the whole base model; fsdp2: each holds a share of it;"
        " deepspeed: as zero_stage says",
    )
    zero_stage: Literal[1, 2, 3] | None = Field(
        None,
        description="deepspeed: 1 shares optimizer states, 2 gradients too, 3 the base model too;"
        " null is 3",
    )
    cpu_offload: bool = Field(
        False, description="deepspeed: what zero_stage shares waits in main memory"
    )
    ulysses: PositiveInt = Field(
        1, description="processes that share the tokens of a row, by an all-to-all of heads"
    )
    ring: PositiveInt = Field(
        1, description="processes that pass keys and values round; transformers only"
    )
    timeout: PositiveInt = Field(
        600, description="seconds after which waiting for another process fails"
    )

    @property
    def stage(self) -> int:
        """The ZeRO stage as a number."""
        return self.zero_stage or 3

    @property
    def sequence_size(self) -> int:
        """Processes of one sequence group: they compute the same rows together."""
        return self.ulysses * self.ring

    @model_validator(mode="after")
    def _deepspeed_alone_has_stages(self) -> ParallelSection:
        if self.engine != "deepspeed":
            if self.zero_stage is not None:
                raise ValueError("zero_stage is for engine: deepspeed")
            if self.cpu_offload:
                raise ValueError("cpu_offload is for engine: deepspeed")
        return self
