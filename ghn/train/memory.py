"""Which errors mean that a step did not fit into memory."""

from __future__ import annotations

import gc

import torch

from ghn.errors import is_out_of_memory


def out_of_memory(error: RuntimeError) -> str:
    """A reason to skip the step, if the error is one of memory; any other error is raised again."""
    message = str(error)
    if not isinstance(error, torch.OutOfMemoryError) and not is_out_of_memory(error):
        raise error
    error.__traceback__ = None  # its frames hold the activations
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return f"out of memory ({message.splitlines()[0][:120]})"
