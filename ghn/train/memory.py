"""Which errors mean that a step did not fit into memory."""

from __future__ import annotations

import gc

import torch

SIGNS = (
    "allocate memory",  # PyTorch's allocator of a CPU
    "out of memory",  # the CUDA runtime, outside of PyTorch's allocator
    "_STATUS_ALLOC_FAILED",  # cuBLAS, cuDNN, cuSPARSE
    "HOST_ALLOCATION_FAILED",  # cuDNN 9
    "could not create a primitive",  # oneDNN, which does not say more
)
"""What messages of other errors than `torch.OutOfMemoryError` say."""


def out_of_memory(error: RuntimeError) -> str:
    """A reason to skip the step, if the error is one of memory; any other error is raised again."""
    message = str(error)
    if not isinstance(error, torch.OutOfMemoryError) and not any(sign in message for sign in SIGNS):
        raise error
    error.__traceback__ = None  # its frames hold the activations
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return f"out of memory ({message.splitlines()[0][:120]})"
