"""Moments at which the host would wait for an accelerator, counted on tensors without memory."""

from __future__ import annotations

from collections import Counter
from traceback import extract_stack
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_SEES_VALUES = ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select")
_INDEXES = ("index", "index_put", "index_put_")
_COPIES = ("_to_copy", "copy_")


class HostWaits(TorchDispatchMode):
    """Counts, by place, what waits on CUDA, meta tensors standing for those of the accelerator.

    These are operations that ask for a value, copies to the host, and copies to the device that do
    not say `non_blocking`, also of tensors that are indices. An index that is a list waits on CUDA,
    and cannot be seen here. Tensors that are read are zeros, and numbers 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not any(tensor.is_meta for tensor in tensors):
            return self._without_waiting(func, args, kwargs)
        name = func.overloadpacket.__name__
        if name in _SEES_VALUES:
            self._note()
            return {"_local_scalar_dense": 1.0, "is_nonzero": True, "equal": True}[name]
        if name in _INDEXES and any(t.device.type == "cpu" and t.ndim for t in tensors):
            self._note()
        if name in _COPIES:
            return self._copied(func, args, kwargs)
        return func(*args, **kwargs)

    def _without_waiting(self, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        leaves_host = torch.device(kwargs.get("device") or "cpu").type == "meta"
        if func.overloadpacket.__name__ == "_to_copy" and leaves_host:
            return self._copied(func, args, kwargs)
        return func(*args, **kwargs)

    def _copied(self, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        if func.overloadpacket.__name__ == "copy_":
            onto, source = args[0].device.type, args[1].device.type
            is_waiting = not (args[2] if len(args) > 2 else kwargs.get("non_blocking"))
        else:
            source = args[0].device.type
            onto = torch.device(kwargs.get("device") or args[0].device).type
            is_waiting = not kwargs.get("non_blocking")
        if onto == source:
            return func(*args, **kwargs)
        if onto == "cpu" or is_waiting:
            self._note()
        if onto != "cpu":
            return func(*args, **kwargs)
        if func.overloadpacket.__name__ == "copy_":
            return args[0].zero_()
        return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)

    def _note(self) -> None:
        ours = [frame for frame in extract_stack() if "loba_tui" in frame.filename]
        last = ours[-1] if ours else extract_stack()[0]
        self.places[f"{last.filename.rpartition('loba_tui/')[2]}:{last.name}"] += 1
