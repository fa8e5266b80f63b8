"""Let the first process compute alone where each forward of the denoiser takes all processes.

Pictures, proofs and measures are the first process's work. Where it holds a part of the denoiser's
weights or of a row's tokens alone, the others have to make each of its forwards at the same time.
It announces a forward before it makes it: its arguments, and the adapter's weights and strength.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.distributed import DistStoreError, broadcast
from torch.utils._pytree import tree_leaves, tree_map_only

from loba_tui.core.program.adapter_layers.strength import AdapterScale, NoScale
from loba_tui.core.program.processes import Processes

logger = logging.getLogger(__name__)

_WAIT = timedelta(seconds=10)
_KEY = "loba/led/"


@dataclass(frozen=True)
class _Form:
    """Shape and dtype of a tensor that is sent apart from the call that it belongs to."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class _Call:
    """A forward that all processes are to make.

    Attributes:
        args: Its arguments, with a form in the place of each tensor.
        kwargs: Those by name.
        strengths: Of the adapter, None being 1 for all rows.
        is_on: Whether the adapter is on.
        weights: Forms of the adapter's weights where they have changed; None where they have not.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    strengths: Sequence[float] | None
    is_on: bool
    weights: Sequence[_Form] | None

    @property
    def given(self) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """Arguments and those by name, as one."""
        return self.args, self.kwargs


@dataclass
class LedForwards:
    """Announces forwards of a denoiser on the first process, and makes them on the others.

    Measuring may take longer than any collective waits. So the others wait for the store to say
    that there is something to receive; whether a process is lost is for `PeerWatch` to find.

    A forward that fails on all processes alike fails on the first one as it does alone, and the
    others wait for the next. One that fails on some of them leaves the rest waiting inside of it,
    until `parallel.timeout` ends that.

    Attributes:
        denoiser: The module that is called, before anything of the engine's own happens in it.
        parameters: The adapter's.
    """

    denoiser: nn.Module
    scale: AdapterScale | NoScale
    parameters: Sequence[nn.Parameter]
    processes: Processes
    device: torch.device
    _version: int = field(default=-1, init=False)
    _store: Any = field(default=None, init=False)
    _turn: int = field(default=0, init=False)

    @contextmanager
    def led(self) -> Iterator[bool]:
        """Lead or follow inside a `with` block; `Engine.led` has it in full."""
        self._version = -1
        if not self.processes.is_first:
            self._follow()
            yield False
            return
        denoiser = self.denoiser
        before = denoiser.register_forward_pre_hook(self._announce, prepend=True, with_kwargs=True)
        after = denoiser.register_forward_hook(self._forget_word)
        try:
            yield True
        finally:
            before.remove()
            after.remove()
            self._send(None, ())

    def _announce(
        self, _module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        # A backward pass would need all processes as well, and nobody tells them of it.
        assert not torch.is_grad_enabled(), "what one process computes alone takes no gradients"
        given = (args, dict(kwargs))
        tensors = [leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor)]
        forms = tree_map_only(Tensor, _form_of, given)
        version = sum(parameter._version for parameter in self.parameters)
        weights: list[Tensor] = []
        if version != self._version:
            weights = [parameter.detach() for parameter in self.parameters]
        strengths, is_on = self._strengths()
        call = _Call(
            args=forms[0],
            kwargs=forms[1],
            strengths=strengths,
            is_on=is_on,
            weights=[_form_of(weight) for weight in weights] or None,
        )
        self._send(call, [*tensors, *weights])
        self._version = version

    def _strengths(self) -> tuple[list[float] | None, bool]:
        if isinstance(self.scale, NoScale):
            return None, True
        rows = self.scale.multipliers.rows
        return None if rows is None else rows.tolist(), self.scale.multipliers.is_on

    def _send(self, call: _Call | None, tensors: Sequence[Tensor]) -> None:
        self._store_of_own().set(f"{_KEY}{self._turn}", "")
        self._turn += 1
        broadcast_object_list([call])
        if tensors:
            broadcast(_bytes_of(tensors, self.device), src=0)

    def _forget_word(self, _module: nn.Module, _args: tuple[Any, ...], _output: Any) -> None:
        """Take a forward's word out of the store: all have heard it, since all have made it."""
        self._store_of_own().delete_key(f"{_KEY}{self._turn - 1}")

    def _receive(self) -> tuple[_Call, list[Tensor]] | None:
        self._wait_for_turn()
        box: list[Any] = [None]
        broadcast_object_list(box)
        call: _Call | None = box[0]
        if call is None:
            return None
        forms = [leaf for leaf in tree_leaves(call.given) if isinstance(leaf, _Form)]
        forms += call.weights or ()
        if not forms:
            return call, []
        sizes = [_num_bytes(form) for form in forms]
        content = torch.empty(sum(sizes), dtype=torch.uint8, device=self.device)
        broadcast(content, src=0)
        # Each part is copied: a dtype has to begin at a multiple of its own size.
        parts = zip(forms, content.split(sizes), strict=True)
        return call, [part.clone().view(form.dtype).view(form.shape) for form, part in parts]

    def _wait_for_turn(self) -> None:
        while True:
            try:
                self._store_of_own().wait([f"{_KEY}{self._turn}"], _WAIT)
            except DistStoreError as error:
                if "timeout" not in str(error).lower():
                    raise
            else:
                self._turn += 1
                return

    def _store_of_own(self) -> Any:
        """Return a connection to the group's store that nobody else waits on."""
        if self._store is None:
            # torch's public interface lends no store of the default group.
            self._store = torch.distributed.distributed_c10d._get_default_store().clone()
        return self._store

    def _follow(self) -> None:
        """Make the first process's forwards until it has no more."""
        before = self._strengths()[0]
        try:
            while (received := self._receive()) is not None:
                try:
                    self._make(*received)
                # What fails here fails on the first process too, which tells of it.
                except Exception:
                    logger.warning("a forward of the first process failed here", exc_info=True)
        finally:
            if isinstance(self.scale, AdapterScale):
                self.scale.multipliers.set(None if before is None else torch.tensor(before))

    @torch.no_grad()
    def _make(self, call: _Call, tensors: Sequence[Tensor]) -> None:
        received = iter(tensors)
        args, kwargs = tree_map_only(_Form, lambda form: next(received), call.given)
        if call.weights is not None:
            for parameter, weight in zip(self.parameters, received, strict=True):
                parameter.copy_(weight)
        if isinstance(self.scale, AdapterScale):
            strengths = call.strengths
            self.scale.multipliers.set(None if strengths is None else torch.tensor(strengths))
        with nullcontext() if call.is_on else self.scale.base():
            self.denoiser(*args, **kwargs)


def _form_of(tensor: Tensor) -> _Form:
    return _Form(tuple(tensor.shape), tensor.dtype)


def _num_bytes(form: _Form) -> int:
    return torch.Size(form.shape).numel() * form.dtype.itemsize


def _bytes_of(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """Return tensors as one of bytes: one broadcast costs less than many."""
    parts = [each.detach().to(device).contiguous().view(-1) for each in tensors]
    return torch.cat([part.view(torch.uint8) for part in parts])
