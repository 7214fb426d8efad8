"""Where the stages leave their files, relative to the root of the tree (the directory of
dvc.yaml).
"""

from __future__ import annotations

from pathlib import Path

DEEPNETS = Path("data/deepnets1m")
"""`<split>.h5` and `<split>.parquet` of every split."""

VALIDATION = Path("reports/validation.json")
IMAGES = Path("data/images")
"""A directory per image data set."""

SOURCE = Path("data/sources/images.json")
"""What the files of the image data set are, which lie outside of the tree."""

TARGET_SOURCE = Path("data/sources/transfer.json")
"""The same of the data set that is transferred to."""

START_SOURCE = Path("data/sources/train.json")
"""What weights and networks are that the training takes from elsewhere."""

INITS_SOURCE = Path("data/sources/inits.json")
"""What weights are that fine-tuning and transfer take from elsewhere."""

MODELS = Path("models")
RESULTS = Path("results")
CACHE = RESULTS / ".cache"
"""Rows that were computed already (`flows.rows.cache`); no stage's output, so that DVC
leaves it alone.
"""

TREE_LOCK = Path(".dvc/tmp/ghn-run.lock")
"""Held by a run of several stages in this tree, so that no other begins beside it."""

REPORTS = Path("reports")
REPORT = REPORTS / "index.html"
REPORT_ROWS = REPORTS / "rows"
"""What the report is made from, as CSV."""

WEIGHTS_NAME = "ghn.safetensors"
"""The hypernetwork in its directory, in the registry and in a release alike."""

PREDICTIONS = RESULTS / "predictions.parquet"
EVALUATION = RESULTS / "evaluation.parquet"
EVALUATION_SUMMARY = RESULTS / "evaluation.json"
"""Accuracy per split, for `dvc metrics`."""

METRICS = RESULTS / "metrics"
"""A file per stage, for `dvc metrics` (`flows.rows.metrics`)."""

FINETUNE = RESULTS / "finetune.parquet"
FINETUNE_CURVES = RESULTS / "finetune_curves.csv"
TRANSFER = RESULTS / "transfer.parquet"


def overlap(one: Path, other: Path) -> bool:
    """Whether one of two paths is, or has in it, the other."""
    return one.is_relative_to(other) or other.is_relative_to(one)


def decoded(val_fraction: float, test_fraction: float, seed: int) -> Path:
    """Where image splits are kept that are cut otherwise than those of the stage images."""
    return CACHE / "images" / f"{val_fraction:g}-{test_fraction:g}-{seed}"


def images(name: str) -> Path:
    """The directory of image data set `name`."""
    return IMAGES / name


def model(ghn: str) -> Path:
    """The directory of hypernetwork `ghn` (`base.ghn`)."""
    return MODELS / ghn


def weights(ghn: str) -> Path:
    """The weights of hypernetwork `ghn`, with its configuration as metadata."""
    return model(ghn) / WEIGHTS_NAME
