"""Do techniques of other trainers make a better slider of the same UNet rows?

recipes/slider.yaml with a small bank (four-step rollouts, 8 images, 32 samples) and 24 steps is
trained plainly and with each technique; a technique's own settings and the learning rate are chosen
on trained prompts, with seeds of training and noise that are not reported (`--choose 1`): the one
of the largest worst ρ over the seeds, and of these the one of the largest effect. The chosen ones
stand in `TRIALS`, and are measured on held-out prompts with two seeds of noise. Leakage is what
preserve prompts move, as the efficacy's figures have it.

    python benchmarks/techniques.py [NAME …] [--seeds 4] [--choose 0]
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import bench
import torch
from torch import Tensor, nn
from torch.nn import functional

from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.adapter_layers.kinds import tuner_layers
from loba_tui.core.program.evaluation.efficacy.recipe import measure_efficacy
from loba_tui.core.program.evaluation.efficacy.slider import SliderEfficacy
from loba_tui.core.program.learning_rates import LearningRates

STEPS = 24
BASE = (
    # Without a direction in text space, which most of the effect comes from otherwise.
    "method.warm_start=null",
    "adapter.text_encoders=null",
    "method.rollout_steps=4",
    "method.bank_images=8",
    "method.bank_samples=32",
)
TRAINED_PROMPTS = [
    f"a {('red', 'green', 'blue', 'yellow')[n % 4]}"
    f" {('circle', 'square', 'triangle', 'cross')[(n + n // 4) % 4]}"
    f" on a {('black', 'white', 'gray')[(n + n // 3) % 3]} background"
    for n in range(8)
]
CHOOSING_SEEDS = (100, 101)
NOISE_SEEDS = [1000, 1001]

Change = Callable[[bench.Ready, float], None]
"""What a technique does to a run that is ready, at a value of its setting."""


@dataclass(frozen=True)
class Trial:
    """A technique and what is tried of it.

    Attributes:
        change: None trains plainly.
        setting: What its value is called.
        values: Which are tried.
        rates: Learning rates that are tried with each value.
        chosen: Value and learning rate, as chosen.
        overrides: Of the recipe.
        steps: Fewer where the technique needs UNet rows of its own.
    """

    change: Change | None
    setting: str
    values: Sequence[float]
    rates: Sequence[float]
    chosen: tuple[float, float]
    overrides: Sequence[str] = ()
    steps: int = STEPS


@dataclass
class Outcome:
    """What trainings with several seeds came to."""

    effects: list[float] = field(default_factory=list)
    means: list[float] = field(default_factory=list)
    worst: list[float] = field(default_factory=list)
    kept: list[float] = field(default_factory=list)
    leakage: list[float] = field(default_factory=list)
    rows: set[int] = field(default_factory=set)


def _pairs(subject: bench.Ready) -> Iterator[tuple[nn.Module, nn.Module, nn.Module]]:
    """Yield the adapted layer, A and B of each."""
    for _, layer in tuner_layers(subject.model.container.denoiser, "default"):
        yield layer, layer.lora_A["default"], layer.lora_B["default"]


def _trains() -> bool:
    """Say whether the student is asked: the base and pictures are without gradients."""
    return torch.is_grad_enabled()


def timestep_ranks(subject: bench.Ready, least: float, *, also_drawn: bool = True) -> None:
    """T-LoRA (https://arxiv.org/abs/2507.05964): fewer ranks the noisier the latents are.

    r(t) = ⌊(r − r_min)·(T − t)/T⌋ + r_min, in training and where pictures are drawn.
    """
    denoiser = subject.model.container.denoiser
    total = subject.model.container.scheduler_config["num_train_timesteps"]
    now: list[Tensor] = []

    def see(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        timesteps = kwargs["timestep"] if "timestep" in kwargs else args[1]
        sample = kwargs["sample"] if "sample" in kwargs else args[0]
        now[:] = [torch.as_tensor(timesteps).reshape(-1).expand(len(sample)).float()]

    def mask(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        if not also_drawn and not _trains():
            return output
        rank = output.shape[-1]
        ranks = ((rank - least) * (total - now[0]) / total).floor() + least
        active = torch.arange(rank) < ranks[:, None]
        return output * active.view(-1, *[1] * (output.ndim - 2), rank)

    denoiser.register_forward_pre_hook(see, with_kwargs=True)
    for _, down, _ in _pairs(subject):
        down.register_forward_hook(mask)


def timestep_ranks_in_training(subject: bench.Ready, least: float) -> None:
    """T-LoRA as its file works in a tool that knows no masks."""
    timestep_ranks(subject, least, also_drawn=False)


def _subtracted(layer: nn.Module, up: nn.Module, down: nn.Module) -> None:
    """Begin at the base model: what is trained is B A − B₀ A₀, a file of twice the rank."""
    first_down, first_up = down.weight.detach().clone(), up.weight.detach().clone()

    def subtract(_module: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        return output - functional.linear(inputs[0] @ first_down.T, first_up)

    inputs: list[Tensor] = []
    layer.register_forward_pre_hook(lambda _, args: inputs.__setitem__(slice(None), [args[0]]))
    # Before the hook that multiplies by the rows' strengths.
    up.register_forward_hook(subtract, prepend=True)


def pissa(subject: bench.Ready, share: float) -> None:
    """PiSSA (https://arxiv.org/abs/2404.02948): A and B begin as the weight's largest parts.

    PEFT's own takes B₀ A₀ off the base's weights, so that the base is not at scale 0.
    """
    for layer, down, up in _pairs(subject):
        u, s, vh = torch.linalg.svd(layer.get_base_layer().weight.detach(), full_matrices=False)
        rank = down.weight.shape[0]
        root = (share * s[:rank] / layer.scaling["default"]).sqrt()
        down.weight.data.copy_(root[:, None] * vh[:rank])
        up.weight.data.copy_(u[:, :rank] * root)
        _subtracted(layer, up, down)


def olora(subject: bench.Ready, share: float) -> None:
    """OLoRA (https://arxiv.org/abs/2406.01775): A and B begin as a QR of the weight."""
    for layer, down, up in _pairs(subject):
        q, r = torch.linalg.qr(layer.get_base_layer().weight.detach())
        rank = down.weight.shape[0]
        down.weight.data.copy_(share * r[:rank])
        up.weight.data.copy_(share * q[:, :rank])
        _subtracted(layer, up, down)


def orthogonal(subject: bench.Ready, size: float) -> None:
    """PEFT's `orthogonal`: A and B are both random, and B A is 0. Only for even ranks."""
    draw = torch.Generator().manual_seed(subject.recipe.train.seed)
    for _, down, up in _pairs(subject):
        rank = down.weight.shape[0]
        turn, _ = torch.linalg.qr(torch.randn(rank, rank, generator=draw))
        ours = torch.randn(down.weight.shape[1], rank // 2, generator=draw)
        theirs = torch.randn(up.weight.shape[0], rank // 2, generator=draw)
        down.weight.data.copy_(size * (ours @ turn[0::2]).T)
        up.weight.data.copy_(size * theirs @ turn[1::2])


def principal_inputs(subject: bench.Ready, length: float) -> None:
    """A begins as the weight's first right singular vectors, B as 0: the base at scale 0."""
    for layer, down, _ in _pairs(subject):
        _, _, vh = torch.linalg.svd(layer.get_base_layer().weight.detach(), full_matrices=False)
        down.weight.data.copy_(length * vh[: down.weight.shape[0]])


def first_gradient(subject: bench.Ready, length: float) -> None:
    """LoRA-GA's A (https://arxiv.org/abs/2407.05000): the first gradient's singular vectors.

    B begins as 0. The gradient is that of an update of full rank, and costs one step's rows.
    """
    parts, whole, handles = subject.run._parts, [], []
    for layer, down, _ in _pairs(subject):
        update = nn.Parameter(torch.zeros_like(layer.get_base_layer().weight))

        def add(_module: Any, args: tuple[Tensor], output: Tensor, by: Tensor = update) -> Tensor:
            return output + parts.scale._scaled(functional.linear(args[0], by))

        handles.append(layer.register_forward_hook(add))
        whole.append((down, update))
    parts.method.step(0, 0.0).loss.backward()
    for handle in handles:
        handle.remove()
    parts.optimizer.zero_grad()
    for down, update in whole:
        _, _, vh = torch.linalg.svd(update.grad, full_matrices=False)
        down.weight.data.copy_(length * vh[: down.weight.shape[0]])


def _train_with(
    subject: bench.Ready, optimizer: torch.optim.Optimizer, factors: Sequence[float]
) -> None:
    parts = subject.run._parts
    rates = LearningRates(optimizer, parts.learning_rates.base_lr, lambda step: 1.0, factors)
    subject.run._parts = replace(parts, optimizer=optimizer, learning_rates=rates)


def _factors_of(subject: bench.Ready) -> tuple[list[Tensor], list[Tensor]]:
    downs = [down.weight for _, down, _ in _pairs(subject)]
    return downs, [up.weight for _, _, up in _pairs(subject)]


def lora_plus(subject: bench.Ready, ratio: float) -> None:
    """LoRA+ (https://arxiv.org/abs/2402.12354): a higher learning rate for B."""
    downs, ups = _factors_of(subject)
    optimizer = torch.optim.AdamW([{"params": downs}, {"params": ups}], weight_decay=0.01)
    _train_with(subject, optimizer, (1.0, ratio))


class MuonAndAdam(torch.optim.AdamW):
    """Steps the second group by Muon (https://arxiv.org/abs/2502.16982), the first by AdamW."""

    def __init__(self, downs: list[Tensor], ups: list[Tensor]) -> None:
        super().__init__([{"params": downs}, {"params": ups}], weight_decay=0.01)
        self._muon = torch.optim.Muon(ups, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")

    def step(self, closure: Any = None) -> None:
        self._muon.param_groups[0]["lr"] = self.param_groups[1]["lr"]
        self._muon.step()
        for parameter in self.param_groups[1]["params"]:
            parameter.grad = None  # what has no gradient is left alone
        super().step()


def muon_on_b(subject: bench.Ready, ratio: float) -> None:
    """Muon for B alone, at a multiple of A's learning rate."""
    _train_with(subject, MuonAndAdam(*_factors_of(subject)), (1.0, ratio))


def muon(subject: bench.Ready, ratio: float) -> None:
    """Muon for A and B."""
    downs, ups = _factors_of(subject)
    optimizer = torch.optim.Muon(
        [{"params": downs}, {"params": ups}], weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
    )
    _train_with(subject, optimizer, (1.0, ratio))


def rank_dropout(subject: bench.Ready, share: float) -> None:
    """LyCORIS' rank dropout: each row of a batch trains without a share of the ranks."""
    draw = torch.Generator().manual_seed(subject.recipe.train.seed)

    def drop(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        if not _trains():
            return output
        kept = torch.rand(len(output), output.shape[-1], generator=draw) >= share
        return output * kept.view(len(output), *[1] * (output.ndim - 2), -1) / (1 - share)

    for _, down, _ in _pairs(subject):
        down.register_forward_hook(drop)


def module_dropout(subject: bench.Ready, share: float) -> None:
    """LyCORIS' module dropout: a step trains without a share of the layers."""
    draw = torch.Generator().manual_seed(subject.recipe.train.seed)

    def drop(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        left_out = _trains() and float(torch.rand((), generator=draw)) < share
        return output * 0.0 if left_out else output

    for _, _, up in _pairs(subject):
        up.register_forward_hook(drop)


def differential_guidance(subject: bench.Ready, k: float) -> None:
    """AI Toolkit's differential guidance: the target is ours + k·(target − ours).

    Of the squared error that is k times the gradient: AdamW divides it out again, but for the
    gradient's clipping and the weight of the preserve term beside it.
    """
    method = subject.run._parts.method
    objective, loss = method._objective, method._parts.loss
    target: list[Tensor] = []

    def seen(teacher: Mapping[str, Tensor], strength: Tensor) -> Tensor:
        target[:] = [objective.target(teacher, strength)]
        return target[0]

    def pushed(ours: Tensor, towards: Tensor, t: Tensor | None = None) -> Tensor:
        if towards is target[0]:
            towards = ours.detach() + k * (towards - ours.detach())
        return loss(ours, towards, t)

    method._objective = replace(objective, target=seen)
    method._parts = replace(method._parts, loss=pushed)


RATES = (1e-3, 2e-3)
TRIALS = {
    "plain": Trial(None, "", (0,), (1e-3, 1.5e-3, 2e-3, 3e-3), (0, 2e-3)),
    "gradient": Trial(
        None, "", (0,), RATES, (0, 2e-3), ("adapter.init=gradient",), steps=STEPS - 1
    ),
    "first_gradient": Trial(first_gradient, "length", (2, 4), RATES, (2, 2e-3), steps=STEPS - 1),
    "principal_inputs": Trial(principal_inputs, "length", (2, 4), RATES, (2, 1e-3)),
    "olora": Trial(olora, "share", (1.0,), RATES, (1.0, 2e-3)),
    "pissa": Trial(pissa, "share", (0.3, 1.0), RATES, (1.0, 2e-3)),
    "orthogonal": Trial(orthogonal, "size", (0.1, 0.25), RATES, (0.25, 2e-3)),
    "lora_plus": Trial(lora_plus, "ratio", (4, 16), (2.5e-4, 5e-4), (16, 2.5e-4)),
    "muon_on_b": Trial(muon_on_b, "ratio", (1, 2), RATES, (2, 2e-3)),
    "muon": Trial(muon, "ratio", (1,), RATES, (1, 2e-3)),
    "rank_dropout": Trial(rank_dropout, "share", (0.1, 0.5), (2e-3,), (0.1, 2e-3)),
    "module_dropout": Trial(module_dropout, "share", (0.1, 0.5), (2e-3,), (0.1, 2e-3)),
    "differential_guidance": Trial(differential_guidance, "k", (3,), RATES, (3, 2e-3)),
    "t_lora": Trial(timestep_ranks, "least rank", (1, 2), (2e-3,), (2, 2e-3)),
    "t_lora_in_training": Trial(
        timestep_ranks_in_training, "least rank", (1, 2), (2e-3,), (2, 2e-3)
    ),
}


def trained(trial: Trial, value: float, rate: float, seed: int, *overrides: str) -> bench.Ready:
    """Return a trained slider."""
    steps = f"train.steps={trial.steps}"
    ours = (f"optimizer.lr={rate}", f"train.seed={seed}", steps, *trial.overrides)
    subject = bench.ready([*BASE, *ours, *overrides])
    if trial.change is not None:
        trial.change(subject, value)
    subject.run.run()
    return subject


def outcome(
    trial: Trial, value: float, rate: float, seeds: Sequence[int], overrides: Sequence[str]
) -> Outcome:
    """Return what trainings come to on the prompts of the proof."""
    found = Outcome()
    for seed in seeds:
        subject = trained(trial, value, rate, seed, *overrides)
        report = bench.prove_quietly(subject)
        areas = dict(zip(report.scales, report.effect.mean, strict=True))
        found.effects.append(math.log(areas[2.0] / max(areas[-2.0], 1e-9)))
        found.means.append(report.effect.rho.mean)
        found.worst.append(report.effect.rho.worst)
        found.kept.append(bench.least_preserved(report))
        found.rows.add(subject.num_unet_rows)
        model = subject.model
        efficacy = measure_efficacy(
            model.container, subject.run.scale, subject.recipe, model.embeds, SHIPPED
        )
        assert isinstance(efficacy, SliderEfficacy)
        found.leakage.append(efficacy.leakage or 0.0)
    return found


def line(name: str, trial: Trial, value: float, rate: float, found: Outcome) -> str:
    """Return a row of the table."""
    setting = f"{trial.setting} {value:g}, " if trial.change else ""
    setting += "".join(f"{override}, " for override in trial.overrides)
    effects = " ".join(f"{effect:.2f}" for effect in found.effects)
    worst = " ".join(f"{rho:.2f}" for rho in found.worst)
    rows = ", ".join(f"{rows:,}" for rows in sorted(found.rows))
    return (
        f"| {name} | {setting}lr {rate:g} | {rows} | {statistics.mean(found.effects):.2f}"
        f" ({effects}) | {statistics.mean(found.means):.3f} | {min(found.worst):.2f} ({worst})"
        f" | {min(found.kept):.0%} | {statistics.mean(found.leakage):.2f} |"
    )


def choose(name: str, trial: Trial) -> None:
    """Print all that is tried of a technique on trained prompts, and what is chosen of it."""
    prompts = "[" + ", ".join(f'"{prompt}"' for prompt in TRAINED_PROMPTS) + "]"
    overrides = (f"proof.prompts={prompts}", "proof.seeds=[7]", "sample.scales=[-2,-1,0,1,2]")
    found = {}
    for value in trial.values:
        for rate in trial.rates:
            found[value, rate] = outcome(trial, value, rate, CHOOSING_SEEDS, overrides)
            print(line(name, trial, value, rate, found[value, rate]), flush=True)

    def worth(key: tuple[float, float]) -> tuple[float, float]:
        return round(min(found[key].worst), 2), statistics.mean(found[key].effects)

    print(f"chosen: {name} {max(found, key=worth)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", default=list(TRIALS))
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--choose", type=int, default=0)
    arguments = parser.parse_args()
    print(bench.machine())
    print("| technique | settings | UNet rows | effect, mean (each) | ρ mean", end="")
    print(" | ρ worst (each) | least preserved within ±2 | leakage |")
    print("|---|---|---|---|---|---|---|---|")
    for name in arguments.names:
        trial = TRIALS[name]
        if arguments.choose:
            choose(name, trial)
            continue
        overrides = (f"proof.seeds={NOISE_SEEDS}",)
        found = outcome(trial, *trial.chosen, range(arguments.seeds), overrides)
        print(line(name, trial, *trial.chosen, found), flush=True)


if __name__ == "__main__":
    main()
