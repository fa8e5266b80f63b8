"""Files of a run's adapter: of a denoiser's, with or without text encoders'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from peft import LoraConfig, PeftConfig
from torch import nn

from loba_tui.core.owned_files import OwnedFolder
from loba_tui.core.program.adapter_files.adapter import write_adapter
from loba_tui.core.program.adapter_files.dora import size_of_files
from loba_tui.core.program.adapter_files.families import adapter_family
from loba_tui.core.program.adapter_files.file import WrittenFile
from loba_tui.core.program.adapter_files.notes import notes_of
from loba_tui.core.program.adapter_files.shares import AdapterShare, write_shares
from loba_tui.core.program.adapter_layers.factor import multiply_adapter


class AdapterOutput(Protocol):
    """An adapter that can be written."""

    @property
    def num_bytes(self) -> int:
        """Bytes that its files take, about."""

    def multiply(self, factor: float) -> None:
        """Make its strength 1 what `factor` was, in what is drawn and in what is written.

        Raises:
            RecipeError: It is of a kind that is not linear in its strength.
        """

    def write(self, folder: OwnedFolder, metadata: Mapping[str, str]) -> dict[str, WrittenFile]:
        """Write its files, read them back, and return them by format."""

    def notes(self, written: Mapping[str, WrittenFile]) -> list[str]:
        """Return which file is for what, and what was lost in one."""


@dataclass(frozen=True)
class DenoiserOutput:
    """The adapter on a denoiser, if it has one, and LoRAs on text encoders by component.

    Attributes:
        shares: The adapters that it is the sum of, which are written too.
    """

    denoiser: nn.Module
    encoders: Mapping[str, nn.Module]
    parameters: Mapping[str, nn.Parameter]
    shares: Sequence[AdapterShare] = ()

    @property
    def num_bytes(self) -> int:
        """Bytes of the files for both kinds of tools."""
        weights = 4 * sum(parameter.numel() for parameter in self.parameters.values())
        config = self._config
        whole = 2 * weights if config is None else size_of_files(weights, config)
        transformer = adapter_family(self.denoiser).transformer
        if transformer is not None and transformer.comfy.are_original:
            whole += 2 * weights  # zeros where modules lie side by side in one matrix
        return 2 * whole if self.shares else whole

    @property
    def _config(self) -> PeftConfig | None:
        configs = getattr(self.denoiser, "peft_config", {})
        return configs.get("default")

    def multiply(self, factor: float) -> None:
        """Multiply the weights of the denoiser's adapter and of the text encoders' LoRAs."""
        for network in (self.denoiser, *self.encoders.values()):
            multiply_adapter(network, factor)

    def write(self, folder: OwnedFolder, metadata: Mapping[str, str]) -> dict[str, WrittenFile]:
        """Write what `write_adapter` does, and a file for each share."""
        if self.shares:
            write_shares(self.denoiser, self.shares, folder, metadata)
        return write_adapter(self.denoiser, folder, metadata=metadata, encoders=self.encoders)

    def notes(self, written: Mapping[str, WrittenFile]) -> list[str]:
        """Return what the adapter's kind comes to in other tools."""
        family = adapter_family(self.denoiser)
        notes = notes_of(self._config or LoraConfig(), written, family)
        if self.shares:
            number = len(self.shares)
            notes.append(
                f"adapter-1of{number}.safetensors to adapter-{number}of{number}.safetensors erase "
                "a share of the concepts each; adapter.safetensors is all of them."
            )
        return notes
