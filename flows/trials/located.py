"""Whether a name means the weights that it meant, told without loading any, so that it can be asked
each time.
"""

from __future__ import annotations

from pathlib import Path

from flows.registry.lookup import find
from flows.rows.digest import digest, file_digest
from flows.settings.inits import BASELINES, selected_file
from flows.trials.inits import source
from ghn.errors import GHNError
from ghn.names import packaged

_REGISTRY = "models:/"


def weights_stamp(init: str) -> str | None:
    """What is another if initialisation `init` comes to mean other weights: the content of files,
    the version of a registry that an alias points to; None if there are none, or the registry does
    not answer. A baseline and a file of a hub are what their name says.
    """
    if init in BASELINES:
        return init
    if (file := selected_file(init)) is not None:
        return _of_files(Path(file))
    return source_stamp(source(init))


def source_stamp(source: str) -> str | None:
    """The same of what `ghn.from_pretrained` would load from `source`, where no model of the tree
    stands before the package's of its name.
    """
    if source.startswith(_REGISTRY):
        return _of_registry(source)
    path = Path(source) if Path(source).exists() else packaged().get(source)
    return (path and _of_files(path)) or source


def _of_files(path: Path) -> str | None:
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return digest([(str(file.relative_to(path)), file_digest(file)) for file in files])
    return file_digest(path) if path.is_file() else None


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
