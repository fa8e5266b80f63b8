"""Base of families whose prompts are messages to a language model."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence

from loba_tui.core.associate.containers.families.transformer import TransformerContainer
from loba_tui.core.associate.containers.prompt_truncation import tails_of_chats

_MOST_TOKENS = 512


class ChatContainer(TransformerContainer, ABC):
    """A `TransformerContainer` whose tokenizer reads a prompt inside of a chat.

    Attributes:
        thinking: Whether the answer may begin with thoughts; the template ends them otherwise.
    """

    thinking = True

    @property
    def _num_dropped(self) -> int:
        """Tokens at a chat's start whose states the transformer is not given."""
        return 0

    @property
    def most_tokens(self) -> int:
        """Tokens of a prompt that are read, those of the chat around it included."""
        return min(_MOST_TOKENS, int(self._tokenizer.model_max_length) - self._num_dropped)

    def tokenize(self, prompts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each prompt, those of the chat around it included."""
        chats = [self._chat(prompt) for prompt in prompts]
        length = self.most_tokens + self._num_dropped
        rows = self._tokenizer(chats, truncation=True, max_length=length).input_ids
        return [row[self._num_dropped :] for row in rows]

    def word_tokens(self, word: str, encoder: str) -> list[int]:
        """Return the token ids of a word behind a space, which is a part of its first token."""
        return super().word_tokens(f" {word.strip()}", encoder)

    def truncated_tails(self, prompts: Sequence[str]) -> dict[str, str]:
        """Return of each prompt that is longer than what is read the end that has no effect."""
        length = self.most_tokens + self._num_dropped
        return tails_of_chats(self._tokenizer, prompts, self._chat, length)

    def _chat(self, prompt: str) -> str:
        """Return a prompt as the message of a user, as the pipeline gives it to the tokenizer."""
        chat: str = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=self.thinking,
        )
        return chat
