"""What does the trainer cost on top of the UNet calls that a step cannot do without?

Records the rows of every UNet call of the slider recipe's steps, then makes the same calls in a
bare torch loop (forward without gradients for the teacher, forward, backward and AdamW for the
student) and compares CPU time per step. Both run in turn, so that a drifting machine hits both.

    python benchmarks/trainer_overhead.py [--rounds 6] [--steps 10]
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import bench
import torch
from bench_options import numbers_of


def main() -> None:
    arguments = numbers_of(__doc__, rounds=6, steps=10)
    total = (arguments.rounds + 1) * arguments.steps + 1
    subject = bench.ready([f"train.steps={total}"])
    trainer, container = subject.run, subject.model.container
    unet = container.denoiser
    calls: list[tuple[int, bool]] = []
    hook = unet.register_forward_hook(
        lambda _module, args, _output: calls.append((args[0].shape[0], torch.is_grad_enabled()))
    )
    trainer.run(until=1)  # with the warm-up of the pool
    calls.clear()
    trainer.run(until=2)
    hook.remove()
    per_step = list(calls)

    empty = container.empty_embeds()
    parameters = list(trainer.parameters.values())
    own = [torch.nn.Parameter(p.detach().clone()) for p in parameters]
    optimizer = torch.optim.AdamW(own)
    inputs = {
        rows: (torch.randn(rows, *container.latent_shape()), torch.full((rows,), 500))
        for rows, _ in per_step
    }
    embeds = {rows: empty.select([0] * rows) for rows, _ in per_step}

    def bare() -> None:
        for rows, with_gradient in per_step:
            if with_gradient:
                loss = container.predict(*inputs[rows], embeds[rows]).square().mean()
                gradients = torch.autograd.grad(loss, parameters)
                for own, gradient in zip(
                    optimizer.param_groups[0]["params"], gradients, strict=True
                ):
                    own.grad = gradient
                torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
                optimizer.step()
                optimizer.zero_grad()
            else:
                # The adapter is attached, but off, as it is for the teacher.
                with torch.no_grad(), subject.run.scale.base():
                    container.predict(*inputs[rows], embeds[rows])

    def ours() -> None:
        trainer.run(until=trainer.step + arguments.steps)

    times: dict[str, list[float]] = {"trainer": [], "bare loop": []}
    for _ in range(arguments.rounds):
        times["trainer"].append(_cpu_seconds(ours) / arguments.steps)
        times["bare loop"].append(
            _cpu_seconds(lambda: [bare() for _ in range(arguments.steps)]) / arguments.steps
        )
    print(bench.machine())
    print(
        "UNet calls of a step:", ", ".join(f"{r} rows{' + grad' if g else ''}" for r, g in per_step)
    )
    for name, values in times.items():
        print(f"{name:10} {1000 * statistics.median(values):7.1f} ms CPU a step (median)")
    ratios = [a / b for a, b in zip(times["trainer"], times["bare loop"], strict=True)]
    print(f"ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


def _cpu_seconds(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


if __name__ == "__main__":
    main()
