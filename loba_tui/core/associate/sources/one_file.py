"""Parts that a checkpoint in one file does not bring: its configuration, and another VAE."""

from __future__ import annotations

from pathlib import Path

from loba_tui.core.associate.one_file.header import Checkpoint, read_header
from loba_tui.core.associate.pipeline_files import INDEX_NAME
from loba_tui.core.associate.safe_files import refuse_pickle
from loba_tui.core.associate.sources.hub_snapshot import fetch_configuration
from loba_tui.core.associate.sources.overrides import Overrides, ScheduleChange
from loba_tui.core.associate.sources.shipped import folder_of_family, shipped_folder
from loba_tui.core.errors import RecipeError
from loba_tui.core.names import is_repository
from loba_tui.core.text import clean
from loba_tui.core.user_folders import with_home

_VAE_CONFIG = "config.json"


def configuration_of(checkpoint: Checkpoint, overrides: Overrides) -> tuple[Path, ScheduleChange]:
    """Return the folder by which a checkpoint is read, and how its noise schedule differs.

    Raises:
        RecipeError: There is no such folder, or the file does not say what an SD 2.x predicts.
    """
    predicts = overrides.prediction_type or checkpoint.prediction_type
    zero_snr = overrides.zero_snr
    if zero_snr is None and checkpoint.zero_snr:
        zero_snr = True
    if overrides.config is not None:
        return given_folder(overrides.config), ScheduleChange(predicts, zero_snr)
    if checkpoint.lacks_prediction_type and predicts is None:
        raise RecipeError(
            f"{checkpoint.shown} is an SD 2.x checkpoint, which does not say what it predicts.",
            "Set base_model.prediction_type: v_prediction for models of 768 pixels, epsilon for"
            " those of 512.",
        )
    return folder_of_family(checkpoint.family, predicts), ScheduleChange(predicts, zero_snr)


def find_vae(named: str | None) -> Path | None:
    """Return the folder or the file of a VAE that a recipe names.

    A folder may be the VAE's own, or that of a whole pipeline.

    Raises:
        RecipeError: There is nothing of that name, or no VAE in it.
        RefusedError: It is a pickle.
    """
    if named is None:
        return None
    path = with_home(named)
    refuse_pickle(path)
    if path.is_file():
        _check_vae_file(path)
        # Not where a link leads: in the hub's cache that is a checksum without a name.
        return path.absolute()
    for folder in (path, path / "vae"):
        if (folder / _VAE_CONFIG).is_file() and any(folder.glob("*.safetensors")):
            return folder.resolve()
    reason = "has no VAE in it" if path.exists() else "is not here"
    hint = (
        "Name a diffusers folder of a VAE (config.json and its .safetensors), or a .safetensors"
        " file."
    )
    if not path.exists() and is_repository(named):
        reason += ", and a VAE of the hub is not fetched by its id"
        hint = f"Fetch it with: loba cache pull {named}. Then name the folder that this prints."
    raise RecipeError(f"base_model.vae: {clean(named)} {reason}.", hint)


def _check_vae_file(path: Path) -> None:
    tensors, _ = read_header(path)
    if not any(key.endswith("encoder.conv_in.weight") for key in tensors):
        small = any(".conv." in key or key.startswith(("taesd", "0.")) for key in tensors)
        raise RecipeError(
            f"base_model.vae: {clean(path.name)} is no VAE that encodes and decodes.",
            "The small ones for previews (TAESD) cannot be trained with; name an AutoencoderKL."
            if small
            else "Name the .safetensors file of an AutoencoderKL.",
        )


def given_folder(config: str) -> Path:
    """Return the folder of a `base_model.config`, fetched from the hub if that is where it is.

    Raises:
        RecipeError: There is no such folder, or it has no configuration of a pipeline.
    """
    path = with_home(config)
    if (path / INDEX_NAME).is_file():
        return path.resolve()
    if path.exists():
        raise RecipeError(
            f"base_model.config: {clean(config)} is no diffusers folder: it has no {INDEX_NAME}.",
            f"It needs {INDEX_NAME}, scheduler/, tokenizers, and config.json of the networks; no"
            " weights.",
        )
    if not is_repository(config):
        raise RecipeError(
            f"base_model.config: there is no folder {clean(config)}.",
            "Name a diffusers folder (weights are not needed), or a hub id.",
        )
    return shipped_folder(config) or fetch_configuration(config)
