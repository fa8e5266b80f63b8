"""Layers that add the change of a weight to what a module of a network returns.

PEFT holds one kind of adapter at a time, in factors of its own. What else an adapter file may hold
is added here: for a linear layer or a convolution (W' − W) x, and what its bias gains; for a norm
the same on what it normalised; for an embedding the rows that are looked up. All in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn import functional

_HOSTS = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm, nn.Embedding)


class Change(Protocol):
    """The change of a weight; `adapter_files.read.changes` has all kinds."""

    @property
    def needs_base(self) -> bool:
        """Whether W' is known from W alone."""

    def check(self, base: Tensor) -> None:
        """Raise `ValueError` where it does not fit the weight `base`."""

    def delta(self, base: Tensor) -> Tensor:
        """Return W' − W in the shape of `base`."""

    def factors(self) -> tuple[Tensor, Tensor | None, Tensor] | None:
        """Return down, mid and up of a product whose scale is in `up`; None for other kinds."""

    def to(self, target: torch.device, /) -> Change:
        """Return it on another device."""


class ChangedModule(Protocol):
    """The changes of one module."""

    @property
    def weight(self) -> Change | None:
        """The change of its weight; None where there is none."""

    @property
    def bias(self) -> Tensor | None:
        """The gain of its bias, (outputs,); None where there is none."""


class AddedLayer(nn.Module):
    """Computes what a change adds to the output of its host; the host adds it.

    It holds no parameters, so that a network that carries it has the state that it had.
    """

    def __init__(self, host: nn.Module, changed: ChangedModule, adapter_name: str) -> None:
        super().__init__()
        self.adapter_name = adapter_name
        self.is_enabled = True
        # In a tuple: it would be registered as a part of this module otherwise.
        self._host = (base_of(host),)
        self._weight, self._bias = changed.weight, changed.bias

    def forward(self, x: Tensor) -> Tensor:
        """Return what is added for the input x of the host, in float32."""
        host = self._host[0]
        self._move(x.device)
        if isinstance(host, nn.Embedding):
            return functional.embedding(x, self._delta(host))
        x = x.float()
        if isinstance(host, nn.GroupNorm | nn.LayerNorm):
            return self._of_norm(host, x)
        bias = None if self._bias is None else _by_row(self._bias, host, x)
        if self._weight is None:
            assert bias is not None, "a layer changes a weight, a bias, or both"
            return bias
        added = self._product(host, x)
        return added if bias is None else added + bias

    def _product(self, host: nn.Module, x: Tensor) -> Tensor:
        assert self._weight is not None, "a bias alone has no product"
        factors = self._weight.factors()
        if isinstance(host, nn.Linear):
            if factors is None or factors[1] is not None:
                return functional.linear(x, self._delta(host))
            down, _, up = factors
            return functional.linear(functional.linear(x, down.flatten(1)), up.flatten(1))
        assert isinstance(host, nn.Conv2d), "hosts are checked when a layer is added"
        if factors is None or host.groups != 1:
            return host._conv_forward(x, self._delta(host), None)
        down, mid, up = factors
        if mid is None:
            inner = host._conv_forward(x, down.reshape(-1, *host.weight.shape[1:]), None)
        else:
            inner = host._conv_forward(functional.conv2d(x, _pointwise(down)), mid, None)
        return functional.conv2d(inner, _pointwise(up))

    def _of_norm(self, host: nn.GroupNorm | nn.LayerNorm, x: Tensor) -> Tensor:
        if isinstance(host, nn.GroupNorm):
            plain = functional.group_norm(x, host.num_groups, None, None, host.eps)
        else:
            plain = functional.layer_norm(x, host.normalized_shape, None, None, host.eps)
        added = torch.zeros_like(plain)
        if self._weight is not None:
            added = plain * _along_channels(self._delta(host), host, x)
        return added if self._bias is None else added + _along_channels(self._bias, host, x)

    def _delta(self, host: nn.Module) -> Tensor:
        assert self._weight is not None, "a bias alone has no weight"
        base = host.weight.detach()
        if base.is_meta and self._weight.needs_base:
            raise RuntimeError(
                "this kind of adapter needs base_model.offload: none or model, as it depends on"
                " the base's weights"
            )
        base = torch.empty(base.shape, device="meta") if base.is_meta else base.float()
        return self._weight.delta(base)

    def _move(self, device: torch.device) -> None:
        """Keep the change where the host computes, which offloading decides."""
        if self._weight is not None:
            self._weight = self._weight.to(device)
        if self._bias is not None:
            self._bias = self._bias.to(device)

    def enable_adapters(self, enabled: bool) -> None:
        """Switch it on or off, as PEFT's layers are switched."""
        self.is_enabled = enabled


def base_of(module: nn.Module) -> nn.Module:
    """Return the layer of the model inside one that PEFT has put around it."""
    base: nn.Module = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
    return base


def add_layers(
    network: nn.Module, changed: Mapping[str, ChangedModule], adapter_name: str
) -> Callable[[], None]:
    """Add changes to the modules of a network, all or none; return what takes them off again.

    Raises:
        KeyError: The network has no such module.
        ValueError: A change does not fit its module.
    """
    hosts = {name: host_named(network, name) for name in changed}
    for name, host in hosts.items():
        check_host(name, base_of(host), changed[name])
    undo: list[Callable[[], None]] = []
    for name, host in hosts.items():
        undo.append(_add(host, AddedLayer(host, changed[name], adapter_name)))

    def take_off() -> None:
        for each in reversed(undo):
            each()

    return take_off


def _add(host: nn.Module, layer: AddedLayer) -> Callable[[], None]:
    part = f"added_{layer.adapter_name}"
    host.add_module(part, layer)

    def add(_module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        if not layer.is_enabled:
            return output
        return output + layer(args[0]).to(output.dtype)

    handle = host.register_forward_hook(add)

    def take_off() -> None:
        handle.remove()
        delattr(host, part)

    return take_off


def host_named(network: nn.Module, name: str) -> nn.Module:
    """Return the module of a name; transformers has left out `text_model.` in some versions.

    Raises:
        KeyError: There is none.
    """
    for each in (name, name.removeprefix("text_model.")):
        try:
            return network.get_submodule(each)
        except AttributeError:
            continue
    raise KeyError(name)


def check_host(name: str, host: nn.Module, changed: ChangedModule) -> None:
    """Raise `ValueError` where a change does not fit the module that it is for."""
    weight = getattr(host, "weight", None)
    if not isinstance(host, _HOSTS) or weight is None:
        raise ValueError(f"{name} is a {type(host).__name__}, which has no weight to change")
    try:
        if changed.weight is not None:
            changed.weight.check(weight)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if changed.bias is not None and changed.bias.numel() != weight.shape[0]:
        raise ValueError(f"{name}: its bias has {changed.bias.numel()} of {weight.shape[0]} values")


def _by_row(bias: Tensor, host: nn.Module, x: Tensor) -> Tensor:
    """Return a bias once for each row of x, as rows are multiplied by their own strengths."""
    if isinstance(host, nn.Conv2d):
        return bias.view(1, -1, 1, 1).expand(x.shape[0], -1, 1, 1)
    return bias.expand(*x.shape[:-1], -1)


def _along_channels(values: Tensor, host: nn.Module, x: Tensor) -> Tensor:
    """Return one value a channel, to be multiplied with or added to what a norm returns."""
    is_group = isinstance(host, nn.GroupNorm)
    return values.view(1, -1, *[1] * (x.ndim - 2)) if is_group else values


def _pointwise(factor: Tensor) -> Tensor:
    return factor.flatten(1)[..., None, None]
