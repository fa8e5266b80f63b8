"""Contract of each kind of drop-in, shipped or a user's own, as checks that a test calls.

Each raises AssertionError with what was found. A user's file is run without being trusted: who runs
its test has chosen to run it.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.models.attention import BasicTransformerBlock
from peft import inject_adapter_in_model
from torch import nn

from loba_tui.core.associate.quantized import QuantizedLinear, Quantizer, quantize
from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import Plugins
from loba_tui.core.plugins.user import UserPlugins
from loba_tui.core.program.adapter_layers.kinds import kind_of, make_deterministic
from loba_tui.core.program.adapter_layers.strength import AdapterScale
from loba_tui.core.program.drop_ins import load_choice
from loba_tui.core.program.evaluation.measure import MeasureContext, read_values
from loba_tui.core.program.objectives.timed_loss import TimedLoss
from loba_tui.core.program.training.optimizer_state import export_state, import_state
from loba_tui.core.recipe.load import parse_recipe
from loba_tui.core.recipe.sections.method import Choice
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.start_options import StartOptions
from loba_tui.core.run.writer import RunWriter

_LAYERS = (
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
    "down_blocks.1.resnets.0.conv1",
    "mid_block.attentions.0.transformer_blocks.0.attn2.to_k",
    "up_blocks.0.attentions.1.transformer_blocks.0.attn2.to_v",
)


def check_contract(kind: str, path: Path, **options: Any) -> None:
    """Check a drop-in file against what its kind has to keep; options are as a recipe gives them.

    Raises:
        AssertionError: It does not keep something.
        LobaError: It cannot be used at all.
    """
    with tempfile.TemporaryDirectory(prefix="loba-contract-") as name:
        folder = Path(name) / "plugins"
        (folder / kind).mkdir(parents=True, mode=0o700)
        folder.chmod(0o700)
        plugins = Plugins(UserPlugins(folder, Path(name) / "trusted.json"))
        if not plugins.is_shipped(kind, path.stem):
            # A link, so that a traceback's line is read from the file itself.
            (folder / kind / path.name).symlink_to(path.absolute())
            plugins.user.trust(plugins.user.read(kind, path.stem))
        assert plugins.describe(kind, path.stem).doc, "it has no docstring"
        problems = plugins.check_options(kind, path.stem, options)
        assert not problems, "; ".join(problem.message for problem in problems)
        choice = Choice(name=path.stem, **options)
        _CHECKS[kind](choice, plugins)


def _check_adapter(choice: Choice, plugins: Plugins) -> None:
    attention = {"self_attention": [_LAYERS[0]], "cross_attention": [*_LAYERS[1:2], *_LAYERS[3:]]}
    targets = {**attention, "feed_forward": [], "projection": [], "convolution": [_LAYERS[2]]}
    config = load_choice("adapters", choice, plugins)(targets, rank=2, alpha=1.0)
    network = nn.Module()
    for name in _LAYERS:
        at = network
        *parents, last = name.split(".")
        for parent in parents:
            if not hasattr(at, parent):
                at.add_module(parent, nn.Module())
            at = at.get_submodule(parent)
        at.add_module(last, nn.Conv2d(4, 4, 3) if "conv" in last else nn.Linear(4, 4))
    kind_of(config)  # one that could not be exported is an error
    rows = {name: _row_for(network.get_submodule(name)) for name in _LAYERS}
    before = {name: network.get_submodule(name)(row) for name, row in rows.items()}
    inject_adapter_in_model(config, network)
    trained = [name for name, p in network.named_parameters() if p.requires_grad]
    assert trained, "nothing of the model is trained"
    make_deterministic(network, config)
    with AdapterScale(network)(0.0):
        for name, row in rows.items():
            after = network.get_submodule(name)(row)
            assert torch.equal(after, before[name]), f"at scale 0 it still changes {name}"


def _row_for(layer: nn.Module) -> torch.Tensor:
    shape = (1, 4, 3, 3) if isinstance(layer, nn.Conv2d) else (1, 4)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _check_optimizer(choice: Choice, plugins: Plugins) -> None:
    make = load_choice("optimizers", choice, plugins)
    reached = {lr: _minimize(make, lr) for lr in (1.0, 1e-1, 1e-2, 1e-3)}
    assert min(reached.values()) < 0.5, f"it gets nowhere on x², by learning rate: {reached}"


def _minimize(make: Callable[..., Any], lr: float, num_steps: int = 100) -> float:
    """Return how much of Σ x² is left, with the state put away and taken back half-way."""
    parameter = nn.Parameter(torch.ones(8, 8))
    names = {parameter: "x"}
    optimizer = make([{"params": [parameter]}], lr)
    for step in range(num_steps):
        if step == num_steps // 2:
            tensors, plain = export_state(optimizer, names)
            optimizer = make([{"params": [parameter]}], lr)
            import_state(optimizer, names, tensors, plain)
        optimizer.zero_grad()
        (parameter**2).sum().backward()
        optimizer.step()
    left = float((parameter**2).mean())
    return left if math.isfinite(left) else math.inf


def _check_noise(choice: Choice, plugins: Plugins) -> None:
    make = load_choice("noise", choice, plugins)
    try:
        scheduler = make(
            DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012).config
        )
    except RecipeError:  # it may be for flow-matching models alone
        scheduler = make(FlowMatchEulerDiscreteScheduler().config)
    scheduler.set_timesteps(8)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for timestep in scheduler.timesteps:
        scheduler.scale_model_input(latents, timestep)
        latents = scheduler.step(latents * 0.1, timestep, latents).prev_sample
    assert latents.shape == (1, 4, 8, 8), f"latents became {tuple(latents.shape)}"
    assert bool(latents.isfinite().all()), "latents are not finite after 8 steps"


def _check_model(choice: Choice, plugins: Plugins) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    factor = load_choice("model", choice, plugins)(optimizer, 100)
    factors = [factor(step) for step in range(100)]
    assert all(math.isfinite(f) and f >= 0 for f in factors), f"factors {factors}"
    assert max(factors) > 0, "the learning rate is 0 throughout"
    again = [factor(step) for step in reversed(range(100))]
    assert again == factors[::-1], "a factor depends on more than the step"


def _check_layer(choice: Choice, plugins: Plugins) -> None:
    groups = [{"name": name, "params": []} for name in _LAYERS]
    factors = load_choice("layer", choice, plugins)(SimpleNamespace(param_groups=groups))
    assert len(factors) == len(_LAYERS)


def _check_timestep(choice: Choice, plugins: Plugins) -> None:
    density = load_choice("timestep", choice, plugins)()
    for progress in (0.0, 0.5, 1.0):
        weights = density(torch.linspace(0, 1, 50), progress)
        assert tuple(weights.shape) == (50,), f"weights of shape {tuple(weights.shape)}"
        assert bool((weights >= 0).all()), "a weight is negative"
        assert 0 < float(weights.sum()) < math.inf, f"weights add up to {float(weights.sum())}"


def _check_loss(choice: Choice, plugins: Plugins) -> None:
    loss = TimedLoss(load_choice("losses", choice, plugins)())
    given, wanted = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    given.requires_grad_(True)
    values = loss(given, wanted, torch.linspace(0, 1, 3))
    assert values.shape == given.shape, f"not elementwise: {tuple(values.shape)}"
    values.mean().backward()
    assert given.grad is not None
    assert bool(given.grad.isfinite().all()), "its gradient is not finite"


def _check_weighting(choice: Choice, plugins: Plugins) -> None:
    weighting = load_choice("weightings", choice, plugins)()
    snr = torch.logspace(-3, 3, 20, dtype=torch.float64)
    weights = weighting(snr.clone())
    assert weights.shape == snr.shape, f"weights of shape {tuple(weights.shape)}"
    assert bool(weights.isfinite().all()), "a weight is not finite"
    assert bool((weights >= 0).all()), "a weight is negative"
    assert float(weights.sum()) > 0, "all weights are 0"


def _check_quantizer(choice: Choice, plugins: Plugins) -> None:
    """Pack a block, and hold what a step needs of it against the float one."""
    quantizer: Quantizer = load_choice("quantizers", choice, plugins)()
    torch.manual_seed(0)
    block = BasicTransformerBlock(24, 2, 12, cross_attention_dim=40).requires_grad_(False)
    network = nn.ModuleDict({"block": block})
    x = torch.randn(2, 5, 24, requires_grad=True)
    states = torch.randn(2, 7, 40)
    whole = torch.autograd.grad(block(x, encoder_hidden_states=states).square().sum(), x)[0]
    made = quantize(network, quantizer, torch.device("cpu"), name=choice.name)
    assert made.packed_bytes < made.float_bytes, f"it takes {made.packed_bytes} bytes, not fewer"
    packed = torch.autograd.grad(block(x, encoder_hidden_states=states).square().sum(), x)[0]
    cosine = float(torch.cosine_similarity(whole.flatten(), packed.flatten(), dim=0))
    assert cosine > 0.9, f"the gradient points elsewhere: its cosine with the float one is {cosine}"
    for layer in (each for each in block.modules() if isinstance(each, QuantizedLinear)):
        for dtype in (torch.float32, torch.bfloat16):
            here = layer.weight_in(dtype)
            on_meta = quantizer.unpack(quantizer.parts(here.shape), here.shape, dtype)
            assert (on_meta.shape, on_meta.dtype) == (here.shape, here.dtype), "meta differs"
            assert here.dtype == dtype, f"asked for {dtype}, it unpacks {here.dtype}"


def _check_noising(choice: Choice, plugins: Plugins) -> None:
    change = load_choice("noising", choice, plugins)()

    def once() -> tuple[torch.Tensor, torch.Tensor]:
        source = torch.Generator().manual_seed(0)
        noise = torch.randn(2, 4, 8, 8, generator=source)
        return change(noise, noise, lambda *shape: torch.randn(2, *shape, generator=source))

    for noise, again in zip(once(), once(), strict=True):
        assert noise.shape == (2, 4, 8, 8), f"noise became {tuple(noise.shape)}"
        assert bool(noise.isfinite().all()), "noise is not finite"
        assert noise.equal(again), "it draws from elsewhere than the source that it is given"


def _check_measure(choice: Choice, plugins: Plugins) -> None:
    noise = np.random.default_rng(0).random((64, 64, 3), dtype=np.float32)
    samples = np.stack([np.zeros_like(noise), np.ones_like(noise), noise])[None]
    kept = samples.copy()
    for value in read_values(choice, samples, plugins, MeasureContext(base=1))[0]:
        assert value is None or isinstance(value, str | float | int), f"it says {value!r}"
    assert np.array_equal(samples, kept), "it changes the image"


_IMAGES: Mapping[str | None, Mapping[str, Any]] = MappingProxyType(
    {
        "images": {"data": {"sources": [{"path": "builtin:yellow-crosses"}]}},
        "pairs": {
            "data": {
                "sources": [
                    {"path": "builtin:sizes/small", "scale": -1},
                    {"path": "builtin:sizes/large", "scale": 1},
                ]
            }
        },
    }
)


def _check_method(choice: Choice, plugins: Plugins) -> None:
    """Train two steps on the embedded model, or compute the adapter where there are none."""
    from loba_tui.core.program.train import train

    constants = plugins.describe("methods", choice.name).constants
    prompts = {"target": "a shape", "positive": "a large shape", "negative": "a small shape"}
    if "neutral" in constants.get("REQUIRES", ()):
        prompts["neutral"] = "a circle"
    recipe = parse_recipe(
        {
            "version": 1,
            "base_model": {"id": "builtin:shapes-xl", "device": "cpu"},
            "method": {**choice.model_dump(), "concepts": [prompts]},
            **({} if constants.get("SOLVES") else {"train": {"steps": 2, "batch_size": 1}}),
            **_IMAGES.get(constants.get("DATA"), {}),
            "sample": {"prompts": ["a shape"], "scales": [0, 1], "steps": 2},
            "proof": {"enabled": False},
        },
        plugins=plugins,
    )
    with tempfile.TemporaryDirectory(prefix="loba-contract-") as parent:
        run_dir = RunDir.create(parent, "contract")
        with RunWriter.open(run_dir) as writer:
            flag = SimpleNamespace(is_set=False)
            train(recipe, run_dir, writer, flag, StartOptions(), plugins)


_CHECKS: Mapping[str, Callable[[Choice, Plugins], None]] = MappingProxyType(
    {
        "adapters": _check_adapter,
        "methods": _check_method,
        "losses": _check_loss,
        "weightings": _check_weighting,
        "quantizers": _check_quantizer,
        "noising": _check_noising,
        "measures": _check_measure,
        "optimizers": _check_optimizer,
        "noise": _check_noise,
        "model": _check_model,
        "layer": _check_layer,
        "timestep": _check_timestep,
    }
)
