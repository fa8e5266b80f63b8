"""The keys under which an adapter file's metadata says where it is from and what it does."""

from __future__ import annotations

VERSION_KEY = "loba.version"
RECIPE_KEY = "loba.recipe"
BASE_MODEL_KEY = "loba.base_model"
BASE_REVISION_KEY = "loba.base_model_revision"
METHOD_KEY = "loba.method"
STEP_KEY = "loba.step"
SEED_KEY = "loba.seed"
DATA_KEY = "loba.data"
INEXACT_KEY = "loba.inexact"
PLUGINS_KEY = "loba.plugins"
STEERING_KEY = "loba.steering"
MERGED_KEY = "loba.merged"
"""What a merged file was made of."""
EFFECT_PREFIX = "loba.effect."
"""Before the keys of a report's summary."""
