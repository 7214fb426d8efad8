"""Weights by their content, wherever a name leads: a file, the package, a hub, an alias of a
registry. A name that comes to mean other weights is noticed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from flows.rows.digest import file_digest
from flows.settings.inits import selected_file
from flows.trials.initialise import hypernetwork
from flows.trials.inits import is_hypernetwork, source
from ghn.errors import ConfigError, GHNError


class ChangedInputError(GHNError):
    """A row is made from something else by now than its key says."""


def weights_content(init: str) -> str:
    """Digest of the weights of hypernetwork `init`, or of the file that weights are selected from;
    of a baseline its name, as it has none.

    Raises:
        GHNError: there is no such hypernetwork, or it cannot be reached.
    """
    if (file := selected_file(init)) is not None:
        if not Path(file).is_file():
            raise ConfigError(f"{init}: there is no file {file}")
        return file_digest(Path(file))
    if not is_hypernetwork(init):
        return init
    location = source(init)
    if Path(location).is_file():
        return file_digest(Path(location))
    ghn = hypernetwork(location)
    content = hashlib.sha256(repr(sorted(ghn.config.to_dict().items())).encode())
    for name, tensor in sorted(ghn.state_dict().items()):
        content.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        content.update(tensor.contiguous().numpy())
    return content.hexdigest()


def check_weights(init: str, expected: str) -> None:
    """Raises ChangedInputError if hypernetwork `init` does not have the content `expected`."""
    if weights_content(init) != expected:
        raise ChangedInputError(
            f"hypernetwork {init} was replaced while rows were made from it; run the command again"
        )
