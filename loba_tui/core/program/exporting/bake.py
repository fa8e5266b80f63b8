"""An adapter baked into a one-file checkpoint: W + s·(W' − W), and all else as it was.

The header with its metadata is copied as it stands, as shapes and dtypes stay; so is every tensor
that the adapter does not change.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from loba_tui.core.adapter_keys.checkpoint_keys import Place
from loba_tui.core.adapter_keys.names import DENOISERS, Component
from loba_tui.core.associate.safe_files import check_safetensors
from loba_tui.core.errors import NumericsError, RecipeError, RefusedError, ResourceError
from loba_tui.core.files import staged, sync_directory
from loba_tui.core.program.adapter_files.read.layers import AdapterFile, AdapterLayer
from loba_tui.core.program.exporting.places import places_of
from loba_tui.core.program.exporting.tensor_file import FLOATS, TensorFile, opened
from loba_tui.core.text import counted
from loba_tui.core.units import show_mib

_CHUNK_BYTES = 16 * 2**20
_SPARE_BYTES = 64 * 2**20

OnProgress = Callable[[int, int], None]
"""Told how many parts are done, and of how many; may raise to stop the work."""
Touched = list[tuple[Place, AdapterLayer]]


@dataclass(frozen=True)
class Baked:
    """A checkpoint that was written.

    Attributes:
        num_tensors: How many were changed.
        left_out: What of the adapter the checkpoint has no place for, each a sentence.
    """

    path: Path
    num_bytes: int
    sha256: str
    num_tensors: int
    left_out: list[str] = field(default_factory=list)


def bake(
    adapter: AdapterFile, strength: float, checkpoint: Path, target: Path, progress: OnProgress
) -> Baked:
    """Write `checkpoint` with an adapter in its weights to `target`, whole or not at all.

    Raises:
        RecipeError: The adapter is not for this checkpoint.
        RefusedError: `target` is the checkpoint itself.
        ResourceError: There is not enough space.
        NumericsError: A changed weight does not fit the checkpoint's dtype.
        CorruptError: The checkpoint is damaged.
    """
    if target.exists() and checkpoint.exists() and target.samefile(checkpoint):
        raise RefusedError(f"{target} is the checkpoint itself.", "Name another file by --out.")
    with opened(checkpoint) as source:
        touched, left_out = _plan(adapter, source)
        size = os.fstat(source.stream.fileno()).st_size
        free = shutil.disk_usage(target.parent).free
        if size + _SPARE_BYTES > free:
            raise ResourceError(
                f"{show_mib(size)} are needed for {target}, and {show_mib(free)} are free.",
                "Choose another place with --out.",
            )
        digest = hashlib.sha256()
        with staged(target) as temporary:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            with os.fdopen(descriptor, "wb") as out:
                for chunk in _content(source, touched, strength, progress):
                    digest.update(chunk)
                    out.write(chunk)
                out.flush()
                os.fsync(out.fileno())
            check_safetensors(temporary)
        sync_directory(target.parent)
    return Baked(target, size, digest.hexdigest(), len(touched), left_out)


def _plan(adapter: AdapterFile, source: TensorFile) -> tuple[dict[str, Touched], list[str]]:
    """Return the tensors that change, and what of the adapter has no place."""
    layers: dict[tuple[Component, str], AdapterLayer] = {
        (layer.component, layer.module): layer for layer in adapter.layers
    }
    if any(
        name.endswith((".scale_weight", ".weight_scale", "scaled_fp8")) for name in source.entries
    ):
        raise RecipeError(
            f"{source.path} has weights in scaled fp8, which cannot be changed one by one.",
            "Name a checkpoint in fp16, bf16 or fp32.",
        )
    touched: dict[str, Touched] = {}
    used = set()
    for name, places in places_of(source).items():
        for place in places:
            layer = layers.get((place.component, place.module))
            if layer is None or (layer.weight if place.part == "weight" else layer.bias) is None:
                continue
            if not source.is_float(name):
                raise RecipeError(f"{source.path}: {name[:100]!r} is not of a dtype of weights.")
            touched.setdefault(name, []).append((place, layer))
            used.add((place.component, place.module))
    lacking = [key for key in layers if key not in used]
    denoiser = [module for component, module in lacking if component in DENOISERS]
    if denoiser or not used:
        first = denoiser[0] if denoiser else lacking[0][1]
        raise RecipeError(
            f"{adapter.path.name} is not for {source.path.name}, which has no {first} (and lacks "
            f"{len(lacking)} of the adapter's {len(layers)} layers).",
            "Name a one-file checkpoint of the adapter's model family.",
        )
    left_out = []
    if lacking:
        layers_left = counted(len(lacking), "layer")
        left_out = [f"{layers_left} of text encoders, which {source.path.name} does not hold"]
    return touched, left_out


def _content(
    source: TensorFile, touched: Mapping[str, Touched], strength: float, progress: OnProgress
) -> Iterator[bytes | bytearray | memoryview]:
    """Yield the new file: the header as it is, then tensor after tensor."""
    source.stream.seek(0)
    yield source.stream.read(source.start)
    for done, (name, entry) in enumerate(source.entries.items()):
        progress(done, len(source.entries))
        if name in touched:
            yield _changed(source, name, touched[name], strength)
            continue
        begin, end = entry["data_offsets"]
        source.stream.seek(source.start + begin)
        while begin < end:
            chunk = source.stream.read(min(_CHUNK_BYTES, end - begin))
            if not chunk:
                raise ResourceError(f"{source.path} became shorter while it was read.")
            begin += len(chunk)
            yield chunk
    progress(len(source.entries), len(source.entries))


@torch.no_grad()
def _changed(
    source: TensorFile, name: str, touched: Sequence[tuple[Place, AdapterLayer]], strength: float
) -> bytes:
    dtype = FLOATS[source.entries[name]["dtype"]]
    whole = source.read(name)
    weight = whole.to(torch.float64 if dtype == torch.float64 else torch.float32)
    for place, layer in touched:
        view = weight.T if place.is_transposed else weight
        spans = place.rows(view.shape[0])
        part = torch.cat([view[first:end] for first, end in spans])
        try:
            if place.part == "bias":
                assert layer.bias is not None, "planned"
                change = layer.bias.reshape(part.shape)
            else:
                assert layer.weight is not None, "planned"
                change = layer.weight.delta(part)
            for (first, end), rows in zip(spans, _split(change, spans), strict=True):
                view[first:end] += strength * rows
        except (ValueError, RuntimeError) as error:
            raise RecipeError(
                f"The adapter does not fit {source.path.name}: {layer.module}: {error}.",
                "Name a one-file checkpoint of the adapter's model family.",
            ) from error
    stored = weight.to(dtype)
    if not bool(torch.isfinite(stored.float()).all()):
        raise NumericsError(
            f"{name[:100]!r} is not finite in the checkpoint's dtype once it is changed.",
            "Take a smaller strength, or a checkpoint of another dtype.",
        )
    return stored.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _split(change: Tensor, spans: Sequence[tuple[int, int]]) -> Sequence[Tensor]:
    return change.split([end - first for first, end in spans])
