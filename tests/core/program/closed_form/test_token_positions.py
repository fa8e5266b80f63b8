from __future__ import annotations

import pytest

from loba_tui.core.program.closed_form.token_positions import Match, match_tokens, padding

START, END = 0, 1
WORDS = {
    word: 2 + n for n, word in enumerate(["a", "red", "blue", "large", "circle", "dark", "very"])
}


def ids(prompt: str) -> list[int]:
    return [START, *(WORDS[word] for word in prompt.split()), END]


@pytest.mark.parametrize(
    ("source", "target", "pairs"),
    [
        # a replaced word stands where the other does
        ("a red circle", "a blue circle",
         [(1, 1, True), (2, 2, False), (3, 3, True), (4, 4, True)]),
        # words after an inserted one are one further
        ("a circle", "a large circle", [(1, 1, True), (2, 3, True), (3, 4, True)]),
        # a word that is left out is where the one before it is
        ("a red circle", "a circle", [(1, 1, True), (2, 1, False), (3, 2, True), (4, 3, True)]),
        # of unequal lengths the last words meet
        ("a red circle", "a very dark blue circle",
         [(1, 1, True), (2, 4, False), (3, 5, True), (4, 6, True)]),
        # nothing left: everything is where the end is
        ("red circle", "", [(1, 1, False), (2, 1, False), (3, 1, True)]),
    ],
)  # fmt: skip
def test_tokens_are_laid_side_by_side(
    source: str, target: str, pairs: list[tuple[int, int, bool]]
) -> None:
    assert match_tokens(ids(source), ids(target)) == [Match(*pair) for pair in pairs]


def test_the_same_prompt_is_laid_on_itself() -> None:
    tokens = ids("a large red circle")
    assert match_tokens(tokens, tokens) == [Match(n, n, True) for n in range(1, 6)]


def test_padding_is_where_both_prompts_are_over() -> None:
    assert padding(ids("a"), ids("a red"), 7) == [Match(n, n, True) for n in (4, 5, 6)]
