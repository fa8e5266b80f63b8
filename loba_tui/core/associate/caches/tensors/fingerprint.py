"""Fingerprint of the model and the machine, on which a computed tensor's bits depend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from loba_tui.core.associate.caches.tensors.file_hashes import FileHashes
from loba_tui.core.associate.machine import device_name, dtype_name, library_versions
from loba_tui.core.associate.pipeline_files import INDEX_NAME
from loba_tui.core.associate.sources.locate import ModelSource

_LIBRARIES = ("torch", "diffusers", "transformers", "tokenizers")


def producer_fingerprint(
    source: ModelSource,
    components: Sequence[str],
    *,
    variant: str | None,
    device: torch.device,
    dtype: torch.dtype,
    hashes: FileHashes | None = None,
) -> dict[str, Any]:
    """Return all that decides what these components of a model compute, bit for bit.

    A hub model is known by its commit; any other by the content of its files, which are read. So
    are those that a recipe names beside it: another VAE, and a one-file model's configuration.

    `components` are the parts that compute, by their folders' names.
    """
    hashes = hashes or FileHashes()
    known: dict[str, Any] = {"id": source.id, "variant": variant, "components": sorted(components)}
    if source.revision is not None:
        known["revision"] = source.revision
    elif source.file is None:
        # Not the path: a model that was moved is the same, and one that was retrained is not.
        known["id"] = source.id if source.kind == "builtin" else source.folder.name
        known["files"] = hashes.of_parts(source.folder, [INDEX_NAME, *components])
    if source.file is not None:
        if source.revision is None:
            known["id"], known["file"] = source.file.name, hashes.sha256(source.file)
        # A recipe may name any configuration, of which the id says nothing.
        known["files"] = hashes.of_parts(source.folder, [INDEX_NAME, *components])
    if source.vae is not None and "vae" in components:
        known["vae"] = hashes.of_parts(source.vae.parent, [source.vae.name])
    return {"model": known, "machine": _machine(device, dtype)}


def _machine(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "device": device.type,
        "dtype": dtype_name(dtype),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul": torch.get_float32_matmul_precision(),
        **library_versions(_LIBRARIES),
        "name": device_name(device),
    }
    if device.type == "cuda":
        return facts | {
            "cuda": torch.version.cuda,
            "cudnn": [torch.backends.cudnn.version(), torch.backends.cudnn.allow_tf32],
        }
    # The number of threads decides the order of additions.
    return facts | {"threads": torch.get_num_threads()}
