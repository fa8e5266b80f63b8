"""How often does red come back under attack, from each eraser of the shipped recipes?

Each eraser is made by its recipe and then attacked as `proof.attacks` does it, with two seeds that
nothing was made or proven with. "none" is an adapter that changes nothing: the most that an attack
can bring back. Own words are the proof's prompts for red, with its own seed; others the share of
its other prompts whose colour still comes. A cell has the share that came back, and in brackets the
share of pictures that show red attacked alike without its name; "+" marks a circumvented eraser.

    python benchmarks/attacks.py [--erasers "uce;speed"] [--attacks words,token] [--seeds 2]

`--train-seed 1` trains with another seed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import bench
import numpy as np

from loba_tui.core.owned_files import OwnedFolder
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.adapter_files.adapter import DIFFUSERS_NAME, write_adapter
from loba_tui.core.program.adapter_files.load import load_adapter
from loba_tui.core.program.adapter_layers.strength import AdapterScale, RowScale
from loba_tui.core.program.evaluation.attacks.attack import attack_erasure
from loba_tui.core.program.evaluation.attacks.outcome import Attack
from loba_tui.core.program.evaluation.attacks.subject import FIRST_SEED
from loba_tui.core.program.evaluation.measure import read_values
from loba_tui.core.program.sampling.recipe_images import Grid, draw_grid
from loba_tui.core.recipe.load import load_recipe

ERASERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "none": ("leco", ()),
    "uce": ("uce", ()),
    "uce, rece_rounds 2": ("uce", ("method.rece_rounds=2",)),
    "speed": ("speed", ()),
    "leco": ("leco", ()),
    "esd x": ("esd", ()),
    "esd u": ("esd_u", ()),
}
MERGED: Mapping[str, tuple[str, str]] = {"speed and esd u": ("speed", "esd u")}
"""Adapters that one file is made of, by `loba merge`; the first one's recipe has the proof."""

ATTACKS: Mapping[str, str] = {
    "words": "{words: {instead: [scarlet, crimson, reddish, rouge, rot]}}",
    "token": "{embedding: {}}",
    "states": "{embedding: {space: states}}",
    "noise": "{noise: {}}",
    "inversion": "{inversion: {}}",
}


@dataclass(frozen=True)
class Row:
    """An eraser's figures."""

    own: float
    others: float
    attacks: Mapping[str, Attack]


def attacked(eraser: str, attacks: Sequence[str], num_seeds: int, train_seed: int) -> Row:
    name, overrides = ERASERS[MERGED.get(eraser, (eraser,))[0]]
    if eraser in MERGED:
        made, scale = merged(MERGED[eraser], train_seed)
    else:
        made = trained(eraser, train_seed, is_run=eraser != "none")
        scale = made.run.scale
    own, others = proven(made, scale)
    seeds = list(range(FIRST_SEED, FIRST_SEED + num_seeds))
    results = {}
    for attack in attacks:
        section = f"{ATTACKS[attack][:-1]}, seeds: {seeds}}}"
        recipe = load_recipe(
            bench.RECIPES / f"{name}.yaml",
            [*overrides, f"proof.attacks={section}"],
            plugins=SHIPPED,
        )
        found = attack_erasure(
            made.model.container, scale, recipe, made.model.drawn_embeds, plugins=SHIPPED
        )
        assert found is not None
        (results[attack],) = found.results
    return Row(own, others, results)


def trained(eraser: str, train_seed: int, *, is_run: bool = True) -> bench.Ready:
    """Return an eraser's run, made unless it is not to be."""
    name, overrides = ERASERS[eraser]
    overrides = (*overrides, "base_model.device=cpu", f"train.seed={train_seed}")
    made = bench.ready(overrides, recipe=bench.RECIPES / f"{name}.yaml")
    if is_run:
        made.run.run()
    return made


def merged(erasers: Sequence[str], train_seed: int) -> tuple[bench.Ready, AdapterScale]:
    """Return the first eraser's model with all of them on it, as one file."""
    with tempfile.TemporaryDirectory() as place:
        files = []
        for number, eraser in enumerate(erasers):
            folder = Path(place, str(number))
            folder.mkdir()
            made = trained(eraser, train_seed)
            write_adapter(made.model.container.denoiser, OwnedFolder(folder))
            files.append(str(folder / DIFFUSERS_NAME))
        whole = Path(place, "merged.safetensors")
        command = [sys.executable, "-m", "loba_tui.cli", "merge", *files, "--out", str(whole)]
        subprocess.run(command, check=True, capture_output=True)
        first = trained(erasers[0], train_seed, is_run=False)
        load_adapter(first.model.container, whole)
    return first, AdapterScale(first.model.container.denoiser)


def proven(made: bench.Ready, scale: RowScale) -> tuple[float, float]:
    """Return the share of the proof's prompts that show red, and of others that are as asked."""
    recipe = made.recipe
    assert recipe.proof.measure is not None
    asked = [(prompt, "red") for prompt in recipe.proof_prompts]
    asked += [(p, label) for label, prompts in recipe.proof.others.items() for p in prompts]
    grid = Grid([prompt for prompt, _ in asked], recipe.proof.seeds, [1.0])
    images = draw_grid(
        made.model.container,
        scale,
        recipe,
        made.model.drawn_embeds,
        grid,
        plugins=SHIPPED,
    )
    labels = read_values(recipe.proof.measure, images[:, 0], SHIPPED)[:, 0]
    right = np.array([label == wanted for label, (_, wanted) in zip(labels, asked, strict=True)])
    num_own = len(recipe.proof_prompts)
    return float(right[:num_own].mean()), float(right[num_own:].mean())


def shown(attack: Attack) -> str:
    if attack.share is None:
        return "none"
    control = "" if attack.control is None else f" ({attack.control:.0%})"
    mark = " +" if attack.has_broken_it else ""
    return f"{attack.share:.0%} of {attack.num_judged}{control}{mark}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--erasers", default=";".join([*ERASERS, *MERGED]), help="separated by semicolons"
    )
    parser.add_argument("--attacks", default=",".join(ATTACKS))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--train-seed", type=int, default=0)
    given = parser.parse_args()
    attacks = given.attacks.split(",")
    print(bench.machine())
    print(f"| eraser | own words | others | {' | '.join(attacks)} |")
    print("|---|" + "---|" * (2 + len(attacks)))
    for eraser in given.erasers.split(";"):
        row = attacked(eraser, attacks, given.seeds, given.train_seed)
        cells = [shown(row.attacks[name]) for name in attacks]
        print(f"| {eraser} | {row.own:.0%} | {row.others:.0%} | {' | '.join(cells)} |", flush=True)
        for name, attack in row.attacks.items():
            holes = {way: counts for way, counts in attack.ways.items() if counts[0]}
            if name == "words" and eraser != "none" and holes:
                print(f"  {name}: {holes}")
            if attack.searched:
                print(f"  {name}: {attack.searched}")
    rows = {name: (a.num_unet_rows, a.num_backward_rows) for name, a in row.attacks.items()}
    print("UNet rows, and of those backward passes:", rows)


if __name__ == "__main__":
    main()
