"""Where hypernetworks come from: the package, a file, the Hugging Face hub, an MLflow model
registry.
"""

from __future__ import annotations

import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ghn.addresses import first_line, request
from ghn.checkpoint.files import load_checkpoint
from ghn.errors import ConfigError, MissingDependencyError, UnreachableError
from ghn.models.hypernetwork import GHN
from ghn.names import packaged

HUB_REPOSITORY = "SamsungSAILMontreal/ghn3"
RELEASED = ("ghn3tm8.pt", "ghn3sm8.pt", "ghn3lm8.pt", "ghn3xlm16.pt", "ghn2.pt")
"""Files of `HUB_REPOSITORY`, the hypernetworks released with the paper, by size."""

PROBE_SECONDS = 3.0
"""How long the hub may take to say that it is there."""


def from_pretrained(
    source: str | os.PathLike[str] | None = None, *, device: torch.device | str | None = None
) -> GHN:
    """A trained hypernetwork in evaluation mode.

    Args:
        source: None for the hypernetwork that comes with the package; its name there; a path to a
            file or a directory; a released file of the paper (`ghn3xlm16.pt`);
            `hf://owner/repository/file` on the Hugging Face hub; `models:/name@alias`,
            `models:/name/version` or any other artifact URI of MLflow.
        device: where to put it; by default the CPU.

    Raises:
        GHNError: the source does not exist, cannot be reached, or holds no hypernetwork.
    """
    with located(source) as path:
        ghn = load_checkpoint(path)
    ghn.metadata = {"source": str(source or path.name)} | ghn.metadata
    return ghn.to(device) if device is not None else ghn


@contextmanager
def located(source: str | os.PathLike[str] | None) -> Iterator[Path]:
    """The file or directory that `source` means; a copy from a registry of MLflow is removed
    afterwards. Errors are those of `from_pretrained`.
    """
    name = "" if source is None else os.fspath(source)
    if not name.startswith(("models:/", "runs:/", "mlflow-artifacts:")):
        yield _locate(source)
        return
    with TemporaryDirectory(prefix="ghn-") as directory:
        yield _from_mlflow(name, directory)


def _locate(source: str | os.PathLike[str] | None) -> Path:
    ours = packaged()
    if source is None:
        if len(ours) == 1:
            return next(iter(ours.values()))
        choice = f"one of {', '.join(ours)}" if ours else "a file, a hub or a registry name"
        raise ConfigError(
            f"this installation comes with {len(ours) or 'no'} hypernetworks; pass {choice}"
        )
    name = os.fspath(source)
    if name.startswith("hf://"):
        owner, repository, file = ([*name.removeprefix("hf://").split("/", 2), "", ""])[:3]
        if not file:
            raise ConfigError(f"{name} names no file; write hf://owner/repository/file")
        return _from_hub(f"{owner}/{repository}", file)
    if Path(name).exists():
        return Path(name)
    if name in ours:
        return ours[name]
    if name in RELEASED or f"{name}.pt" in RELEASED:
        return _from_hub(HUB_REPOSITORY, name if name in RELEASED else f"{name}.pt")
    known = ", ".join((*ours, *RELEASED))
    raise ConfigError(
        f"no hypernetwork {name!r}: neither a file nor one of {known}; "
        "for the Hugging Face hub write hf://owner/repository/file, for MLflow models:/name@alias"
    )


def _from_hub(repository: str, file: str) -> Path:
    try:
        from huggingface_hub import constants, hf_hub_download
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
        )
    except ImportError:
        raise MissingDependencyError(
            f"{file} is on the Hugging Face hub, which needs huggingface_hub: pip install"
            " huggingface_hub"
        ) from None
    # Without an answer: the copy of an earlier download, or the error, at once. The library itself
    # tries for half a minute first.
    offline = not _answers(constants.ENDPOINT)
    try:
        return Path(hf_hub_download(repository, file, local_files_only=offline))
    except (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OSError,
        ValueError,
    ) as error:
        away = "it does not answer, and no copy was downloaded before"
        raise UnreachableError(
            f"{file} of {repository} could not be had from the Hugging Face hub"
            f" ({away if offline else first_line(error)}); if this machine is offline, download"
            " the file elsewhere and pass its path"
        ) from None  # the library's own three tracebacks hide the line


def _answers(url: str) -> bool:
    """Whether a server says anything at all, within `PROBE_SECONDS`."""
    try:
        urllib.request.urlopen(request(url), timeout=PROBE_SECONDS).close()
    except urllib.error.HTTPError:  # an answer
        return True
    except urllib.error.URLError as error:  # certificates: the library may have others
        return isinstance(error.reason, ssl.SSLError)
    except (OSError, HTTPException, ValueError):  # the latter two: no address of a server
        return False
    return True


def _from_mlflow(uri: str, directory: str) -> Path:
    try:
        import mlflow
        from mlflow.artifacts import download_artifacts
    except ImportError:
        raise MissingDependencyError(
            f"{uri} is in an MLflow registry, which needs mlflow: pip install mlflow"
        ) from None
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # seven take minutes
    store = mlflow.get_registry_uri() if uri.startswith("models:/") else mlflow.get_tracking_uri()
    file = store.removeprefix("sqlite:///")
    if file != store and not Path(file).exists():  # MLflow would make it
        raise UnreachableError(
            f"{uri}: there is no MLflow store here ({file}); set MLFLOW_TRACKING_URI, or go to the"
            " directory that has it"
        )
    try:
        return Path(download_artifacts(artifact_uri=uri, dst_path=directory))
    except Exception as error:  # of MLflow, its data base, a driver, the network
        raise UnreachableError(
            f"{uri} could not be had from MLflow ({first_line(error)}); MLFLOW_TRACKING_URI says"
            " where the registry is"
        ) from error
