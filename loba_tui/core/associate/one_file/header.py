"""Kind of a checkpoint in one file, told from its header: which family, and what makes it unfit.

inspect(path)       a Checkpoint, or RecipeError that says what the file is instead
checkpoint.check()  raises for what keeps a Stable Diffusion checkpoint from being a base model
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from loba_tui.core.associate.one_file.original_names import UNET_PREFIX
from loba_tui.core.associate.safe_files import check_safetensors, refuse_pickle
from loba_tui.core.errors import CorruptError, RecipeError
from loba_tui.core.text import clean

Family = Literal["sdxl", "sd1", "sd2"]
PredictionType = Literal["epsilon", "v_prediction", "flow"]

FAMILY_NAMES: MappingProxyType[Family, str] = MappingProxyType(
    {"sdxl": "SD-XL", "sd1": "SD 1.x", "sd2": "SD 2.x"}
)
VAE_PREFIXES = ("first_stage_model.", "vae.", "")
_METADATA = "__metadata__"
_INPUT = f"{UNET_PREFIX}input_blocks.0.0.weight"
_READABLE = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})
_ATTENTION = re.compile(r"attn2\.to_k\.weight$")
_SD2_WIDTH = 1024

# Each kind of text encoder, by what its weights' names begin with.
CLIP_L_OF_SDXL = "conditioner.embedders.0.transformer."
CLIP_G_OF_SDXL = "conditioner.embedders.1.model."
CLIP_L_OF_SD1 = "cond_stage_model.transformer."
OPEN_CLIP_OF_SD2 = "cond_stage_model.model."
_REFINER = "conditioner.embedders.0.model."

_ENCODERS: MappingProxyType[Family, Mapping[str, str]] = MappingProxyType(
    {
        "sdxl": {"text_encoder": CLIP_L_OF_SDXL, "text_encoder_2": CLIP_G_OF_SDXL},
        "sd1": {"text_encoder": CLIP_L_OF_SD1},
        "sd2": {"text_encoder": OPEN_CLIP_OF_SD2},
    }
)

_ADAPTER = re.compile(
    r"\.(lora_(up|down|mid|A|B)|hada_w[12]_|lokr_w[12]|oft_|boft_|lora_magnitude)|^lora_(unet|te)"
)
_QUANTISED = re.compile(
    r"(^|\.)(scaled_fp8|scale_weight|scale_input|weight_scale|input_scale|comfy_quant)$"
    r"|\.(absmax|quant_map|nested_absmax)$|quant_state\."
)
_OTHERS = (
    ("a FLUX model", re.compile(r"double_blocks\.\d+\.img_attn|single_transformer_blocks\.0")),
    ("a Stable Diffusion 3 model", re.compile(r"joint_blocks\.\d+\.(x|context)_block")),
    ("a PixArt or Sana model", re.compile(r"(^|\.)(adaln_single|caption_projection|t_block)\.")),
    ("a Qwen-Image model", re.compile(r"transformer_blocks\.\d+\.(img|txt)_m(lp|od)\.")),
    ("a Lumina or Z-Image model", re.compile(r"(^|\.)(cap_embedder|context_refiner)\.")),
    ("a HiDream model", re.compile(r"(double|single)_stream_blocks\.")),
    ("an AuraFlow model", re.compile(r"(^|\.)(double_layers|single_layers)\.\d+\.")),
    ("a Hunyuan model", re.compile(r"(^|\.)(text_states_proj|mlp_t5|txt_in\.individual)")),
    ("a video model", re.compile(r"time_stack|temporal_|motion_modules|patch_embedding\.weight")),
    ("a Stable Cascade model", re.compile(r"(^|\.)(clip_txt_pooled_mapper|effnet_mapper)\.")),
    ("a ControlNet", re.compile(r"^control_model\.|controlnet_|input_hint_block|zero_convs\.")),
    ("a textual inversion embedding", re.compile(r"^(emb_params|clip_[lg]|string_to_param)$")),
    (
        "the UNet of a diffusers folder",
        re.compile(r"^(unet\.)?(down|up)_blocks\.\d+\.(attent|resn)"),
    ),
    ("a UNet", re.compile(r"^(diffusion_model\.)?input_blocks\.0\.0\.weight$")),
    ("a VAE", re.compile(r"^(vae\.|first_stage_model\.)?(encoder|decoder)\.conv_in\.weight$")),
    ("a text encoder", re.compile(r"text_model\.embeddings\.|transformer\.resblocks\.")),
)
_INSTEAD = MappingProxyType(
    {
        "a VAE": "Name it as base_model.vae, and a whole checkpoint as base_model.id.",
        "the UNet of a diffusers folder": "Name the folder that has model_index.json.",
        "a UNet": "Take the whole checkpoint that it was taken from.",
    }
)


@dataclass(frozen=True)
class Checkpoint:
    """A Stable Diffusion checkpoint's header.

    Attributes:
        tensors: dtype and shape of each tensor by its name.
        metadata: What the file says of itself.
        shown: What it is called in messages.
    """

    path: Path
    family: Family
    tensors: Mapping[str, Mapping[str, Any]]
    metadata: Mapping[str, str]
    shown: str

    @property
    def encoders(self) -> Mapping[str, str]:
        """Return what the weights of each text encoder begin with, by component."""
        return _ENCODERS[self.family]

    @property
    def zero_snr(self) -> bool:
        """Whether the file says that its last timestep is pure noise."""
        return "ztsnr" in self.tensors

    @property
    def prediction_type(self) -> PredictionType | None:
        """Return the UNet's target as the file names it; None where it does not."""
        said = self.metadata.get("modelspec.prediction_type", "").lower()
        if "v_pred" in self.tensors or said in ("v", "v_prediction", "v-prediction"):
            return "v_prediction"
        if self.metadata.get("modelspec.architecture", "").endswith("-768-v"):
            return "v_prediction"
        if said in ("flow", "rf", "rectified_flow", "flow_matching"):
            return "flow"
        return "epsilon" if said in ("epsilon", "eps") else None

    @property
    def lacks_prediction_type(self) -> bool:
        """Whether its family has models of two kinds, and the file does not say of which it is."""
        return self.family == "sd2" and self.prediction_type is None

    def has(self, prefix: str) -> bool:
        """Say whether there are weights whose names begin like this."""
        return any(key.startswith(prefix) for key in self.tensors)

    def check(self, *, needs_vae: bool) -> None:
        """Check that it can be a base model.

        Raises:
            RecipeError: It lacks a part, or its UNet or its weights are of a kind that is not read.
        """
        self._check_inputs()
        missing = [name for name, prefix in self.encoders.items() if not self.has(prefix)]
        if missing:
            raise RecipeError(
                f"{self.shown} holds a UNet of {FAMILY_NAMES[self.family]} without"
                f" {' and '.join(missing)}.",
                "Take the whole checkpoint: text encoders and VAE belong in the same file.",
            )
        if needs_vae and not any(self.has(prefix) for prefix in VAE_PREFIXES[:-1]):
            raise RecipeError(
                f"{self.shown} has no VAE in it.",
                "Name one as base_model.vae: a diffusers folder, or a .safetensors file.",
            )
        self._check_dtypes()

    def _check_inputs(self) -> None:
        shape = self.tensors[_INPUT]["shape"]
        inputs = shape[1] if len(shape) == 4 else 0
        if inputs == 9:
            raise RecipeError(
                f"{self.shown} is an inpainting model: its UNet has 9 inputs and not 4.",
                "Take the ordinary checkpoint that it was made from.",
            )
        if inputs != 4:
            raise RecipeError(
                f"{self.shown} has a UNet with {inputs} inputs; one that draws from text has 4.",
                "Take an ordinary text-to-image checkpoint.",
            )
        if self.has(_REFINER):
            raise RecipeError(
                f"{self.shown} is the refiner of SD-XL, which only finishes images.",
                "Take the base model's checkpoint.",
            )
        if "edm_mean" in self.tensors or "edm_vpred.sigma_max" in self.tensors:
            raise RecipeError(
                f"{self.shown} was trained with an EDM schedule, which a file does not describe.",
                "Name its diffusers folder or hub id instead.",
            )

    def _check_dtypes(self) -> None:
        scales = [key for key in self.tensors if _QUANTISED.search(key)]
        others = sorted(
            {
                entry["dtype"]
                for key, entry in self.tensors.items()
                if key.startswith(UNET_PREFIX) and entry["dtype"] not in _READABLE
            }
        )
        if scales or others:
            why = f"has scales beside them ({clean(scales[0], limit=80)})" if scales else others[0]
            raise RecipeError(
                f"{self.shown} holds quantised weights: {why if scales else 'of ' + why}.",
                "Take the file with fp16 or bf16 weights; plain fp8 without scales is read too.",
            )


def inspect(path: Path, *, shown: str | None = None) -> Checkpoint:
    """Read a file's header and say which family of checkpoint it is.

    Args:
        shown: What to call it in messages; None is its name.

    Raises:
        RefusedError: It is a pickle.
        CorruptError: It cannot be read, or its header is damaged.
        RecipeError: It is something else than a Stable Diffusion checkpoint; the message says what.
    """
    refuse_pickle(path)
    shown = clean(shown or path.name)
    tensors, metadata = read_header(path)
    if _INPUT not in tensors or any(_ADAPTER.search(key) for key in tensors):
        raise _something_else(shown, tensors)
    for what, pattern in _OTHERS[:11]:
        if any(pattern.search(key) for key in tensors):
            raise _unsupported(shown, what)
    return Checkpoint(path, _family(tensors), tensors, metadata, shown)


def read_header(path: Path) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Return a safetensors file's tensors and metadata.

    Raises:
        CorruptError: It cannot be read, or its header is damaged.
    """
    try:
        header = check_safetensors(path)
    except OSError as error:
        if path.is_symlink() and not path.exists():
            raise CorruptError(
                f"{clean(path.parent.name)}/{clean(path.name)} is a link to a file that is gone.",
                "Fetch the model again with loba cache pull; loba cache verify tells what is gone.",
            ) from error
        raise CorruptError(
            f"{clean(path.name)} cannot be read: {error.strerror or error}.", "Fetch it again."
        ) from error
    metadata = header.pop(_METADATA, {})
    return header, metadata


def _family(tensors: Mapping[str, Mapping[str, Any]]) -> Family:
    def has(prefix: str) -> bool:
        return any(key.startswith(prefix) for key in tensors)

    if has("conditioner.") or has(f"{UNET_PREFIX}label_emb."):
        return "sdxl"
    if has(OPEN_CLIP_OF_SD2):
        return "sd2"
    if has(CLIP_L_OF_SD1):
        return "sd1"
    # Without a text encoder: the width of what the UNet is told is a family's.
    widths = {entry["shape"][-1] for key, entry in tensors.items() if _is_told(key, entry)}
    return "sd2" if widths == {_SD2_WIDTH} else "sd1"


def _is_told(key: str, entry: Mapping[str, Any]) -> bool:
    return bool(entry["shape"]) and key.startswith(UNET_PREFIX) and bool(_ATTENTION.search(key))


def _something_else(shown: str, keys: Iterable[str]) -> RecipeError:
    keys = list(keys)
    if any(_ADAPTER.search(key) for key in keys):
        return RecipeError(
            f"{shown} is an adapter (LoRA or the like), not a base model.",
            "Name the model that it was made for as base_model.id; loba adapter show tells which.",
        )
    for what, pattern in _OTHERS:
        if any(pattern.search(key) for key in keys):
            return _unsupported(shown, what)
    first = ", ".join(clean(key, limit=60) for key in keys[:2]) or "nothing"
    return RecipeError(
        f"{shown} is no Stable Diffusion checkpoint that is known here; it holds {first}.",
        "SD-XL, SD 1.x and SD 2.x checkpoints are read, and diffusers folders.",
    )


def _unsupported(shown: str, what: str) -> RecipeError:
    families = ", ".join(FAMILY_NAMES.values())
    hint = _INSTEAD.get(what, f"Base models from one file are of {families}.")
    return RecipeError(f"{shown} is {what}, not a base model of Stable Diffusion.", hint)
