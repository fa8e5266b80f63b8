"""How long the closed forms take at SD-XL's size, on random weights of its shapes.

70 cross-attentions, k and v, 640 or 1280 wide over text states of width 2048, in bfloat16 as they
are held. An edit has 20 sentences of a word of three tokens, and 4 preserve prompts of 8 tokens for
each; RECE adds as many states again in each round.

    python benchmarks/closed_form.py [--threads 2]
"""

from __future__ import annotations

import argparse
import time

import bench
import torch
from torch import nn

from loba_tui.core.program.closed_form.linear_edit import Edit, gram, revived, solve
from loba_tui.core.program.closed_form.solution import layer_updates

NUM_EDITED, NUM_PRESERVED, WIDTH = 60, 640, 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    generator = torch.Generator().manual_seed(0)

    def rows(num: int, width: int = WIDTH) -> torch.Tensor:
        return torch.randn(num, width, generator=generator)

    projections = {}
    for number, out in enumerate([640] * 20 + [1280] * 120):
        layer = nn.Linear(WIDTH, out, bias=False, dtype=torch.bfloat16)
        layer.weight.data = (rows(out) / WIDTH**0.5).bfloat16()
        projections[f"layer.{number}"] = layer
    edit, preserved = Edit(rows(NUM_EDITED), rows(NUM_EDITED)), rows(NUM_PRESERVED)
    print(bench.machine())
    began = time.process_time()
    update = solve(edit, preserved)
    solved = time.process_time()
    layers = layer_updates(update, projections)
    done = time.process_time()
    print(f"rank {max(layer.rank for layer in layers.values())} in {len(layers)} layers")
    print(f"states {solved - began:.2f} s, layers {done - solved:.2f} s CPU", flush=True)
    few = [layer.weight.detach() for layer in projections.values()][-4:]
    began = time.process_time()
    before = gram(few)
    each = (time.process_time() - began) / len(few)
    began = time.process_time()
    revived(edit.states, update, before, weight=0.1)
    once = time.process_time() - began
    print(f"RECE: {each * len(projections):.0f} s once, by {len(few)} layers, {once:.1f} s a round")


if __name__ == "__main__":
    main()
