"""Errors that a user can act on.

Every exception that crosses a public boundary because of *input* (a file, a field, a name, a value)
derives from `GHNError`; its message names the offending thing and says what to do. The command line
prints such a message without a traceback and exits with `exit_code`; anything else is a bug and
keeps its traceback.
"""

from __future__ import annotations


class GHNError(Exception):
    """Base of all errors caused by input; the message is written for the user."""

    exit_code = 1


class ConfigError(GHNError):
    """A parameter is missing, unknown, or out of its allowed values."""

    exit_code = 2


class UnknownArchitectureError(GHNError):
    """No architecture of that name exists."""

    exit_code = 2


class DamagedFileError(GHNError):
    """A file is truncated, has a wrong checksum, or contradicts its sibling."""


class UnsupportedFormatError(GHNError):
    """A file is not in a format, or not in a version of the format, that this program reads."""


class UntrustedPickleError(GHNError):
    """A pickle asks for something other than tensors and containers."""


class InvalidGraphError(GHNError):
    """Arrays do not describe a computational graph (cycle, wrong order, primitive out of range,
    ...).
    """


class TraceError(GHNError):
    """A network could not be run to find its graph: wrong example inputs, or a forward pass that
    fails.
    """


class MissingDependencyError(GHNError):
    """A feature needs a package that is not installed; the message has the command that installs
    it.
    """


class MissingDataError(GHNError):
    """A data set that is asked for is not on this machine; the message says how to get it, or how
    to do without.
    """


class UnreachableError(GHNError):
    """A hub or registry could not be reached, or does not have what was asked for."""


OUT_OF_MEMORY = (
    "allocate memory",  # PyTorch's allocator of a CPU
    "out of memory",  # the CUDA runtime, and PyTorch's allocator on it
    "_STATUS_ALLOC_FAILED",  # cuBLAS, cuDNN, cuSPARSE
    "HOST_ALLOCATION_FAILED",  # cuDNN 9
    "could not create a primitive",  # oneDNN, which does not say more
)
"""What messages of errors say that mean too little memory."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of any library means that there was too little memory."""
    said = isinstance(error, RuntimeError | OSError)
    return isinstance(error, MemoryError) or (
        said and any(sign in str(error) for sign in OUT_OF_MEMORY)
    )
