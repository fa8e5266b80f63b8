"""Text encoders that a computed adapter changes: how they encode, and the adapter's files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from torch import Tensor

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.owned_files import OwnedFolder
from loba_tui.core.program.adapter_files.comfy import other_file
from loba_tui.core.program.adapter_files.families import DIFFUSERS_NAME, adapter_family
from loba_tui.core.program.adapter_files.file import WrittenFile, write_file
from loba_tui.core.program.adapter_files.formats import (
    LoraLayer,
    diffusers_file,
)
from loba_tui.core.program.adapter_files.kohya import bias_file
from loba_tui.core.program.adapter_files.read.changes import LowRank
from loba_tui.core.program.adapter_files.text_encoders import TextAdapters
from loba_tui.core.program.closed_form.solution import TextSolution

BIAS_NAME = "adapter.bias.safetensors"


@dataclass(frozen=True)
class _Changed:
    """The change of one module, as text encoders are given it."""

    weight: LowRank
    bias: Tensor | None = None


@dataclass
class SolvedText:
    """The text encoders of a run that computes what they gain; until then they are the base's.

    They encode as the LoRA has it: that is what the finished file does.
    """

    container: ModelContainer
    solution: TextSolution | None = None

    is_trained = False

    @property
    def _layers(self) -> dict[str, dict[str, LoraLayer]]:
        assert self.solution is not None, "nothing is solved yet"
        return {
            component: {
                module: LoraLayer(update.down, update.up, float(update.rank))
                for module, update in layers.items()
            }
            for component, layers in self.solution.lora.items()
        }

    @property
    def path(self) -> str:
        """Name what does not fit, for messages."""
        return "the computed adapter"

    def of(self, component: str) -> Mapping[str, _Changed]:
        """Return the changes of a component's modules at strength 1."""
        layers = self._layers.get(component, {})
        return {
            name: _Changed(LowRank(layer.down, layer.up, layer.alpha))
            for name, layer in layers.items()
        }

    def encode(self, prompts: Sequence[str], scale: float) -> list[PromptEmbeds]:
        """Return one row a prompt at a strength."""
        return TextAdapters(self.container, [(self, 1.0)]).encode(prompts, scale)

    def at(self, scale: float) -> AbstractContextManager[None]:
        """Have the encoders encode at a strength inside a `with` block."""
        return TextAdapters(self.container, [(self, 1.0)]).at(scale)

    @property
    def num_bytes(self) -> int:
        """Bytes of the files' tensors."""
        assert self.solution is not None, "nothing is solved yet"
        updates = [u for layers in self.solution.lora.values() for u in layers.values()]
        biases = [b for layers in self.solution.biases.values() for b in layers.values()]
        numbers = 2 * sum(update.up.numel() + update.down.numel() for update in updates)
        return 4 * (numbers + sum(bias.numel() for bias in biases))

    def multiply(self, factor: float) -> None:
        """Multiply the LoRA and the biases."""
        assert self.solution is not None, "nothing is solved yet"
        self.solution = self.solution.times(factor)

    def write(self, folder: OwnedFolder, metadata: Mapping[str, str]) -> dict[str, WrittenFile]:
        """Write the LoRA in both formats, and the biases; read all of it back."""
        assert self.solution is not None, "nothing is solved yet"
        family = adapter_family(self.container.denoiser)
        layers = self._layers
        return {
            "diffusers": write_file(
                folder.file(DIFFUSERS_NAME), *diffusers_file({}, {}, metadata, family, layers)
            ),
            family.other_form: write_file(
                folder.file(family.other_name), *other_file({}, metadata, family, layers)
            ),
            "bias": write_file(
                folder.file(BIAS_NAME), *bias_file(self.solution.biases, metadata, family)
            ),
        }

    def notes(self, written: Mapping[str, WrittenFile]) -> list[str]:
        """Return which file is for what."""
        return [
            "adapter.safetensors is a LoRA of the text encoders for diffusers,"
            " adapter.kohya.safetensors the same for ComfyUI, A1111, Forge and kohya's scripts.",
            f"{BIAS_NAME} is the direction itself, as biases that ComfyUI loads.",
            "A negative prompt is encoded by the same encoders, so that it moves too; no negative"
            " prompt does not move where a pipeline takes zeros for it, as SD-XL's does.",
        ]
