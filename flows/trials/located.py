"""Whether a name means the weights that it meant, told without loading any, so that it can be asked
each time.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from flows.registry.lookup import find
from flows.rows.digest import digest, file_digest
from flows.trials.inits import BASELINES, selected_file, source
from ghn.errors import GHNError

_REGISTRY = "models:/"


def weights_stamp(init: str) -> str | None:
    """What is another if initialisation `init` comes to mean other weights: the content of files,
    the version of a registry that an alias points to; None if there are none, or the registry does
    not answer. A baseline and a file of a hub are what their name says.
    """
    if init in BASELINES:
        return init
    place = selected_file(init) or source(init)
    if place.startswith(_REGISTRY):
        return _of_registry(place)
    path = Path(place)
    if selected_file(init) is None and not path.exists():
        packaged = resources.files("ghn.pretrained") / f"{place}.safetensors"
        path = Path(str(packaged))
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return digest([(str(file.relative_to(path)), file_digest(file)) for file in files])
    if path.is_file():
        return file_digest(path)
    return None if selected_file(init) is not None else place


def _of_registry(uri: str) -> str | None:
    from mlflow.exceptions import MlflowException

    model = uri.removeprefix(_REGISTRY)
    name, at, alias = model.rpartition("@") if "@" in model else model.rpartition("/")
    if not name:  # a logged model, which stays what it is
        return uri
    try:
        found = find(name, f"@{alias}" if at == "@" else alias)
    except (GHNError, MlflowException):
        return None
    return digest(name, found.version, found.run_id, found.creation_timestamp)
