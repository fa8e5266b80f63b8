"""Prompts as text encoders with adapters encode them, at each strength that is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from loba_tui.core.adapter_keys.names import TEXT_ENCODERS
from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.errors import RecipeError
from loba_tui.core.program.adapter_layers.added import ChangedModule, add_layers
from loba_tui.core.program.adapter_layers.strength import AdapterScale


class AdaptedText(Protocol):
    """Text encoders with adapters, at any strength."""

    @property
    def container(self) -> ModelContainer:
        """The model that they are of."""

    @property
    def is_trained(self) -> bool:
        """Whether they may encode a prompt otherwise the next time."""

    def encode(self, prompts: Sequence[str], scale: float) -> list[PromptEmbeds]:
        """Return one row a prompt."""

    def at(self, scale: float, /) -> AbstractContextManager[None]:
        """Have the encoders encode at a strength inside a `with` block."""


class TextChanges(Protocol):
    """Changes of text encoders: of an adapter file, or of an adapter that is not written yet."""

    @property
    def path(self) -> object:
        """Its name in messages."""

    def of(self, component: Any, /) -> Mapping[str, ChangedModule]:
        """Return the changes of a component's modules at strength 1."""


@dataclass(frozen=True)
class TextAdapters:
    """Adapters that change text encoders, each with a strength of its own.

    Attributes:
        container: Its text encoders are brought back where they were released.
    """

    container: ModelContainer
    files: Sequence[tuple[TextChanges, float]]

    is_trained = False

    def encode(self, prompts: Sequence[str], scale: float) -> list[PromptEmbeds]:
        """Return one row a prompt, all adapters at their strengths times `scale`.

        Raises:
            RecipeError: One does not fit the text encoders of this model.
        """
        with self.at(scale):
            rows = self.container.encode_prompts(prompts)
        return [rows[n] for n in range(len(prompts))]

    @contextmanager
    def at(self, scale: float) -> Iterator[None]:
        """Have the encoders encode with all adapters inside a `with` block."""
        encoders = [name for name in TEXT_ENCODERS if hasattr(self.container.pipeline, name)]
        self.container.require(*encoders)
        with ExitStack() as stack:
            for number, (file, strength) in enumerate(self.files):
                for component in TEXT_ENCODERS:
                    layers = file.of(component)
                    if not layers:
                        continue
                    if component not in encoders:
                        raise _does_not_fit(file, f"it has no {component}")
                    encoder, name = getattr(self.container.pipeline, component), f"text{number}"
                    try:
                        stack.callback(add_layers(encoder, layers, name))
                    except KeyError as error:
                        raise _does_not_fit(
                            file, f"its {component} has no {error.args[0]}"
                        ) from error
                    except ValueError as error:
                        raise _does_not_fit(file, str(error)) from error
                    rows = AdapterScale(encoder, name)
                    stack.callback(rows.remove)
                    rows.set(scale * strength)
            yield


def _does_not_fit(file: TextChanges, reason: str) -> RecipeError:
    return RecipeError(
        f"{file.path} does not fit the text encoders of this model: {reason}",
        "Name an adapter for this model, or leave its text encoders out with --unet-only.",
    )


class ScaledEmbeddings(Mapping[str, PromptEmbeds]):
    """Embeddings of the base's encoders by prompt, and those of adapted ones at a scale.

    What is kept between runs is the base's alone: rows at other scales are made anew, and each time
    where the encoders are trained.

    Args:
        base: Embeddings of all prompts that will be asked for.
    """

    def __init__(self, base: Mapping[str, PromptEmbeds], adapters: AdaptedText) -> None:
        self._base = base
        self._adapters = adapters
        self._rows: dict[tuple[float, str], PromptEmbeds] = {}

    def at(self, scale: float, prompts: Sequence[str]) -> Mapping[str, PromptEmbeds]:
        """Return the rows of prompts with the adapters at a scale; at 0 they are the base's."""
        if scale == 0:
            return self._base
        wanted = list(dict.fromkeys(prompts))
        if self._adapters.is_trained:
            self._rows.clear()
        missing = [prompt for prompt in wanted if (scale, prompt) not in self._rows]
        if missing:
            rows = self._adapters.encode(missing, scale)
            self._rows.update(zip([(scale, prompt) for prompt in missing], rows, strict=True))
        return {prompt: self._rows[scale, prompt] for prompt in wanted}

    def encode(self, prompts: Sequence[str], scale: float) -> list[PromptEmbeds]:
        """Return one row a prompt at a scale, of prompts that nobody had asked for before."""
        return self._adapters.encode(prompts, scale)

    def encoding_at(self, scale: float) -> AbstractContextManager[None]:
        """Have the model's own encoders encode at a scale inside a `with` block."""
        return self._adapters.at(scale)

    def release(self) -> None:
        """Let the encoders go again."""
        self._adapters.container.release_text_encoders()

    def __getitem__(self, prompt: str) -> PromptEmbeds:
        return self._base[prompt]

    def __iter__(self) -> Iterator[str]:
        return iter(self._base)

    def __len__(self) -> int:
        return len(self._base)
