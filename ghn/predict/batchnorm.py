"""Statistics of batch norm, which no hypernetwork predicts: those of each batch, or estimates from
a few batches.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ghn.errors import ConfigError
from ghn.modes import modes_kept
from ghn.randomness import seeded


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[nn.Module]:
    """Evaluation mode in which batch norms normalise by the batch at hand, as the paper evaluates
    predicted parameters.

    Running statistics stay as they are; on exit so do the modes of all modules.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    tracking = [module.track_running_stats for module in norms]
    with modes_kept(model):
        try:
            model.eval()
            for module in norms:
                module.training, module.track_running_stats = True, False
            yield model
        finally:
            for module, track in zip(norms, tracking, strict=True):
                module.track_running_stats = track


@torch.no_grad()
def reestimate_batch_norm(
    model: nn.Module, batches: Iterable[Any], n_batches: int | None = None, seed: int = 0
) -> int:
    """Sets the running statistics of batch norms to averages over a few batches, so that
    `model.eval()` can be used.

    All else is in evaluation mode meanwhile; modes are restored. Averages start anew, whatever was
    there before, also of norms whose `track_running_stats` was switched off later and which are
    evaluated with old ones; if the batches end in an error, or there are none, the old statistics
    come back.

    Args:
        model: with predicted parameters.
        batches: tensors of inputs, or tuples that begin with one (images, labels); moved to the
            model's device, and numbers that are not integers to the type of its parameters.
        n_batches: how many to use; by default all.
        seed: of what some networks draw in evaluation mode, too; the program's own random numbers
            stay as they are.

    Returns:
        The number of batches used: 0 if the model has no batch norm that tracks statistics.

    Raises:
        ConfigError: there are no batches, they have no tensor of inputs first, or `n_batches` is
            below 1.
    """
    check_count(n_batches)
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not norms:
        return 0
    settings = [(module.momentum, module.track_running_stats) for module in norms]
    before = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    used = 0
    done = False
    with modes_kept(model), seeded(seed):
        try:
            model.eval()
            for module in norms:
                module.track_running_stats = True
                module.reset_running_stats()
                module.momentum = None  # a plain average over all batches
                module.train()
            for batch in itertools.islice(batches, n_batches):
                model(_moved(inputs_of(batch), model))
                used += 1
            if not used:
                raise ConfigError(
                    "batches is empty: running statistics need at least one batch of inputs"
                )
            done = True
        finally:
            if not done:
                for module, buffers in zip(norms, before, strict=True):
                    for name, buffer in buffers.items():
                        module.get_buffer(name).copy_(buffer)
            for module, setting in zip(norms, settings, strict=True):
                module.momentum, module.track_running_stats = setting
    return used


@torch.no_grad()
def check_inputs(model: nn.Module, inputs: Tensor, seed: int = 0) -> None:
    """Passes `inputs` of a batch through the network, in evaluation mode; changes nothing.

    Raises:
        ConfigError: it does not take them.
    """
    with modes_kept(model), seeded(seed):
        try:
            model.eval()(_moved(inputs, model))
        except Exception as error:  # whatever its forward raises
            raise ConfigError(
                f"batches: {type(model).__name__} does not take inputs of shape"
                f" {tuple(inputs.shape)} ({type(error).__name__}: {error}); give what its forward"
                " takes as its one argument, or leave batches out"
            ) from error


def _moved(inputs: Tensor, model: nn.Module) -> Tensor:
    """`inputs` on the model's device; numbers that are not integers in the type of its
    parameters, if they have one.
    """
    device = next(itertools.chain(model.parameters(), model.buffers())).device
    types = {p.dtype for p in model.parameters() if p.is_floating_point()}
    dtype = types.pop() if len(types) == 1 and inputs.is_floating_point() else None
    return inputs.to(device, dtype)


def check_count(n_batches: int | None) -> None:
    """Raises ConfigError if so many batches are too few; None stands for all."""
    if n_batches is not None and n_batches < 1:
        raise ConfigError(f"n_batches={n_batches}: at least one batch is needed; None takes all")


def inputs_of(batch: Any) -> Tensor:
    """The inputs in a batch: itself, or what it begins with.

    Raises:
        ConfigError: that is no tensor.
    """
    inputs = batch
    if not isinstance(batch, Tensor):
        with suppress(TypeError, LookupError):
            inputs = batch[0]
    if isinstance(inputs, Tensor):
        return inputs
    raise ConfigError(
        f"batches has a {type(batch).__name__} without a tensor of inputs first; give tensors, or"
        " tuples that begin with one (images, labels)"
    )
