"""A hypernetwork as an MLflow model directory: weights, code, pinned requirements, signature,
example.
"""

from __future__ import annotations

import os
import shutil
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from flows.serving import LIMITS
from flows.settings import paths
from flows.settings.imports import ROOT
from ghn.errors import ConfigError

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

    from ghn.models import GHN

CODE = ("ghn", "datasets")
"""Packages that the model carries, whole."""

SERVING = ("__init__.py", "model.py", "network.py")
"""What it has of `flows.serving` beside them: what answers a request, no pipeline."""

REQUIREMENTS = (
    "torch", "torchvision", "numpy", "scipy", "networkx", "safetensors", "pydantic", "pandas",
    "mlflow", "h5py", "pyarrow", "typer", "rich", "tqdm",
)  # fmt: skip
"""What the code imports; pinned to what is installed here."""

WEIGHTS = "ghn"
EVALUATION = "evaluation"
"""Keys of the artifacts; files `artifacts/ghn.safetensors` and `artifacts/evaluation.parquet`."""


def package(
    weights: str | Path, directory: str | Path, evaluation: str | Path | None = None
) -> Path:
    """Writes the MLflow model of the hypernetwork in `weights` to `directory`, which must not
    exist.

    Args:
        weights: `ghn.safetensors`.
        directory: where to.
        evaluation: rows of the stage evaluate, kept with the model for comparisons
            (`flows.registry.evaluation`).
    """
    import logging

    import mlflow
    import pandas as pd

    from ghn import from_pretrained

    directory = Path(directory)
    if directory.exists():
        raise ConfigError(f"{directory} exists; choose another directory for the model")
    hypernetwork = from_pretrained(weights)
    config, image_size = hypernetwork.config, hypernetwork.image_size
    example = pd.DataFrame(
        {
            "architecture": ["squeezenet1_1"],
            "classes": [config.num_classes],
            "image_size": [image_size],
        }
    )
    logging.getLogger("mlflow.utils.requirements_utils").setLevel(logging.ERROR)
    directory.parent.mkdir(parents=True, exist_ok=True)
    # Its name begins as the model's: in the spool that keeps it until the stage has ended.
    with TemporaryDirectory(dir=directory.parent, prefix=f"{directory.name}.tmp-") as staged:
        artifacts = {WEIGHTS: _staged(weights, Path(staged) / paths.WEIGHTS_NAME)}
        if evaluation is not None:
            artifacts[EVALUATION] = _staged(evaluation, Path(staged) / paths.EVALUATION.name)
        mlflow.pyfunc.save_model(
            directory,
            python_model=str(Path(__file__).with_name("model.py")),
            code_paths=[*(str(ROOT / name) for name in CODE), str(_serving(Path(staged)))],
            artifacts=artifacts,
            signature=_signature(),
            input_example=example,
            model_config=LIMITS,
            pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
        )
        _add_pytorch(hypernetwork, directory, Path(staged) / "pytorch")
    return directory


def _signature() -> ModelSignature:
    """What a request is made of, and an answer (`flows.serving.model`)."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    return ModelSignature(
        inputs=Schema(
            [
                ColSpec(DataType.string, "architecture"),
                ColSpec(DataType.long, "classes"),
                ColSpec(DataType.long, "image_size"),
            ]
        ),
        outputs=Schema(
            [
                ColSpec(DataType.string, "architecture"),
                ColSpec(DataType.long, "parameters"),
                ColSpec(DataType.long, "predicted"),
                ColSpec(DataType.double, "seconds"),
                ColSpec(DataType.string, "sha256"),
                ColSpec(DataType.string, "safetensors"),
                ColSpec(DataType.string, "path"),
            ]
        ),
        params=ParamSchema(
            [
                ParamSpec("delivery", DataType.string, "inline"),
                ParamSpec("dtype", DataType.string, "float32"),
                ParamSpec("seed", DataType.long, 0),
            ]
        ),
    )


def _serving(staged: Path) -> Path:
    """A package `flows` with `SERVING` alone."""
    package = staged / "flows"
    (package / "serving").mkdir(parents=True)
    (package / "__init__.py").touch()
    for name in SERVING:
        shutil.copyfile(Path(__file__).with_name(name), package / "serving" / name)
    return package


def _add_pytorch(hypernetwork: GHN, directory: Path, staged: Path) -> None:
    """Adds MLflow's flavor of PyTorch to the model, so that `mlflow.pytorch.load_model` gives the
    hypernetwork. It needs the module as a pickle, so the weights are there twice.
    """
    import mlflow.pytorch
    from mlflow.models import Model

    mlflow.pytorch.save_model(
        hypernetwork, staged, serialization_format="pickle", pip_requirements=[]
    )
    shutil.move(staged / "data", directory / "data")
    model = Model.load(directory)
    flavor = Model.load(staged).flavors[mlflow.pytorch.FLAVOR_NAME]
    model.add_flavor(mlflow.pytorch.FLAVOR_NAME, **{**flavor, "code": "code"})
    model.save(directory / "MLmodel")


def _staged(source: str | Path, file: Path) -> str:
    """`source` under the name that it has in the model. It may be a link into DVC's cache, where it
    is called by its hash, and MLflow refuses to follow one.
    """
    original = Path(source).resolve(strict=True)
    try:
        os.link(original, file)
    except OSError:  # another disk, or a file system without
        shutil.copyfile(original, file)
    return str(file)
