"""Params under which any model that is built fits a few dozen rows in a moment."""

import json
from pathlib import Path

from ruamel.yaml import YAML

from stages.models.fitting.model import load_model

ROOT = Path(__file__).resolve().parents[2]
DEMO = YAML(typ="safe").load(ROOT / "params" / "demo.yaml")
BUILD = YAML(typ="safe").load(ROOT / "params.yaml")["build"]
MODELS = (*BUILD["linear"], *BUILD["dense"], *BUILD["latent"])
STOPPING = {"patience": 2, "holdout_parts": 3}
# Where a model has a param of this name; the others are those of the demo
SMALL = {
    "C": 0.1,
    "trees": 25,
    "max_features": 0.5,
    "max_samples": 0.7,
    "max_rows": 1000,
    "min_samples_leaf": 4,
    "smoothing": 0.5,
    "rounds": 6,
    "learning_rate": 0.3,
    "max_depth": 2,
    "num_leaves": 4,
    "min_child_weight": 1.0,
    "min_data_in_leaf": 5,
    "feature_fraction": 0.6,
    "colsample_bytree": 0.6,
    "reg_lambda": 1.0,
    "lambda_l2": 1.0,
    "max_bin": 16,
    "stopping": STOPPING,
    "seed": 3,
    "seeds": 1,
    "batch_size": 16,
    "hidden": [4],
}
NETWORK = {"learning_rate": 0.01, "dropout": 0.2}  # of a model with hidden layers
PARTS = ("difference", "magnitude", "sum", "prompt")


def sources(name, *, pairs):
    """How each feature set that a model can take is taken: words as they are, others scaled."""
    scaled = {"parts": PARTS if pairs else ["text"], "scale": "standard", "weight": 0.3}
    words = {"parts": ["difference"] if pairs else ["text"], "scale": "none", "weight": 1.0}
    return {each: words if each == "tfidf" else scaled for each in load_model(name).sets}


def small_params(name, *, pairs, **changes):
    """The params of the model `name`, for pairs or for texts."""
    model = load_model(name)
    small = SMALL | (NETWORK if "hidden" in model.params.model_fields else {})
    own = {key: value for key, value in small.items() if key in model.params.model_fields}
    section = DEMO[name] | own | sources(name, pairs=pairs) | changes
    return model.params.model_validate_json(json.dumps(section))
