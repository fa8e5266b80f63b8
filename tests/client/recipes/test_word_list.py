"""Lists of words to erase, and the recipes that they become."""

from __future__ import annotations

from pathlib import Path

import pytest

from loba_tui.client.recipes.word_list import (
    PLACES,
    Erasing,
    Word,
    WordList,
    check_places,
    erasing_recipe,
    read_words,
    run_name,
)
from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.recipe.load import parse_text


def written(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def problems(folder: Path, name: str, text: str | bytes) -> str:
    with pytest.raises(RecipeError) as caught:
        read_words(written(folder, name, text))
    return str(caught.value)


def test_a_table_has_words_guides_and_what_stays(tmp_path: Path) -> None:
    text = '\ufeffErase,guide,retain,watch\nred,blue,orange,\n green  ,, ,white\n,,"a, b",\n'
    assert read_words(written(tmp_path, "list.csv", text), guide="gray") == WordList(
        (Word("red", "blue", 2), Word("green", "gray", 3)), ("orange", "a, b"), ("white",)
    )
    tabs = text.replace(",", "\t").replace("a\t", "a,")
    assert read_words(written(tmp_path, "list.tsv", tabs), guide="gray").retain == (
        "orange",
        "a, b",
    )


def test_a_text_has_a_word_a_line_and_sections(tmp_path: Path) -> None:
    text = "# artists\nVan  Gogh -> a painter\nPicasso\n\n[retain]\nRembrandt\n[watch]\nVermeer\n"
    assert read_words(written(tmp_path, "list.txt", text)) == WordList(
        (Word("Van Gogh", "a painter", 2), Word("Picasso", "", 3)), ("Rembrandt",), ("Vermeer",)
    )


def test_all_that_a_list_says_both_ways_is_told_at_once(tmp_path: Path) -> None:
    told = problems(tmp_path, "list.txt", "red -> Blue\nblue\nRED\ngreen -> Green\n[watch]\nred\n")
    assert "4 problems" in told
    assert "line 3: 'RED' is in line 1 already" in told
    assert "line 1: 'red' would become 'Blue', which line 2 erases" in told
    assert "line 4: 'green' would become itself" in told
    assert "'red' is to be erased (line 1) and stands under watch" in told


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("l.csv", "erase,gide\nred,blue\n", "'gide' is not a column"),
        ("l.csv", "erase,guide\nred,blue,green\n", "l.csv:2: more cells than the header"),
        ("l.csv", "erase,guide\n,blue\n", "line 2: a guide without a word to erase"),
        ("l.csv", "", "no word to erase"),
        ("l.txt", "[retain]\nred\n", "no word to erase"),
        ("l.txt", b"red\nbl\xe4u\n", "l.txt:2: the byte 0xe4 is not UTF-8"),
        ("l.txt", "x" * (1024 * 1024 + 1), "larger than 1048576 bytes"),
        ("l.txt", "\n".join(f"word {number}" for number in range(5001)), "at most 5000"),
    ],
)
def test_what_is_no_list_says_why(tmp_path: Path, name: str, text: str | bytes, told: str) -> None:
    assert told in problems(tmp_path, name, text)


def test_a_folder_and_a_missing_file_are_told_apart_from_lists(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is a folder"):
        read_words(tmp_path)
    with pytest.raises(RecipeError, match="No such file"):
        read_words(tmp_path / "none.txt")


def test_a_flood_of_problems_is_cut(tmp_path: Path) -> None:
    told = problems(tmp_path, "l.txt", "red\n" * 100)
    assert "99 problems" in told
    assert "and 79 more" in told
    assert len(told.splitlines()) < 25


@pytest.mark.parametrize("place", ["a photo", "a {} photo", "{} and {}"])
def test_a_place_ends_with_the_word(place: str) -> None:
    with pytest.raises(RecipeError, match="ends with"):
        check_places([place])
    assert check_places(["{}", "a {}", "{}"]) == ("{}", "a {}")


def test_the_recipe_puts_every_word_into_every_place() -> None:
    words = WordList((Word('"{x}" \\', "", 1), Word("red", "blue", 2)), ("ör\u2028ange",), ("a",))
    text = erasing_recipe(words, Erasing("n", "builtin:shapes-xl", "speed", PLACES, 3, 2))
    recipe = parse_text(text, "list", plugins=SHIPPED)
    method = recipe.method
    assert method.options == {"rank": 3, "adapters": 2}
    assert [concept.label for concept in method.concepts][1] == "red"
    assert [(each.target, each.neutral) for each in method.expanded_concepts] == [
        ('"{x}" \\', ""),
        ('a photo of "{x}" \\', "a photo of "),
        ('a painting of "{x}" \\', "a painting of "),
        ("red", "blue"),
        ("a photo of red", "a photo of blue"),
        ("a painting of red", "a painting of blue"),
    ]
    assert method.expanded_from == (0, 0, 0, 1, 1, 1)
    kept = ("ör\u2028ange", "a photo of ör\u2028ange", "a painting of ör\u2028ange")
    assert tuple(method.preserved_prompts.values()) == (kept,)
    assert method.watched_prompts == {"a": ("a", "a photo of a", "a painting of a")}
    assert recipe.sample.prompts[-1] == "a painting of a"


@pytest.mark.parametrize(
    ("file", "name"),
    [("my list.csv", "my-list"), (".x", "x"), ("ä.txt", "erased"), ("--", "erased")],
)
def test_a_run_is_called_as_its_list(file: str, name: str) -> None:
    assert run_name(Path(file)) == name
