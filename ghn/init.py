"""Prediction, symmetry breaking and batch statistics in one call: a network ready to be trained or
evaluated.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ghn.checkpoint import from_pretrained
from ghn.errors import ConfigError
from ghn.failures import require_shapes
from ghn.finetune import break_symmetry
from ghn.graph import Graph
from ghn.models import GHN
from ghn.predict import Frozen, reestimate_batch_norm
from ghn.predict.batchnorm import check_count, check_inputs, inputs_of

TRACED_IMAGES = 2
"""Inputs of the first batch that a network is traced with: only their shapes matter."""


@torch.no_grad()
def init_(
    model: nn.Module,
    hypernetwork: GHN | str | os.PathLike[str] | None = None,
    *,
    batches: Iterable[Any] | None = None,
    n_batches: int | None = None,
    noise: float = 1e-5,
    seed: int = 0,
    graph: Graph | None = None,
    keep_head: bool = False,
    frozen: Frozen = "keep",
    strict: bool = False,
    example_inputs: Any = None,
) -> nn.Module:
    """Initialises `model` in place as the pipeline does, and returns it.

    Its parameters are predicted (`GHN.initialize`); a little noise parts channels that are alike,
    which would otherwise be trained alike (`ghn.finetune.break_symmetry`); and the running
    statistics of its batch norms become those of `batches` (`ghn.reestimate_batch_norm`), so that
    `model.eval()` can be used. The random state stays as it is, and equal arguments give equal
    values.

    Args:
        model: on any device, as `ghn.predict.predict_in_place` takes it.
        hypernetwork: one, or what `ghn.from_pretrained` takes; None for the one in the package. Of
            one that is passed, `reports` then says what was predicted.
        batches: tensors of inputs, or tuples that begin with one; the first also tells the tracing
            what the network takes. None leaves running statistics alone.
        n_batches: how many to use; by default all.
        noise: scale; 0 leaves the prediction as it is.
        seed: of the noise, and of what the network draws while statistics are estimated.
        graph, keep_head, frozen, strict, example_inputs: as in `GHN.initialize`.

    Raises:
        ConfigError: `model` is no network or has parameters without a shape, `batches` is empty or
            has no inputs or none that the network takes, `n_batches` is below 1 or `noise` negative
            (then nothing was written), or as `GHN.initialize` raises it.
        GHNError: the hypernetwork cannot be had, or the network not be traced.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"init_ takes one network (torch.nn.Module), not a {type(model).__name__}; call it for"
            " each of several, and ghn.architectures.build(NAME) for a name"
        )
    require_shapes(model)
    check_count(n_batches)
    if not 0 <= noise < math.inf:
        raise ConfigError(f"noise={noise}: the scale of noise is neither negative nor infinite")
    if not isinstance(hypernetwork, GHN):
        hypernetwork = from_pretrained(hypernetwork, device=_device(model))
    first, rest = _peek(batches)
    if isinstance(first, Tensor):
        if graph is None and example_inputs is None:
            example_inputs = first[:TRACED_IMAGES]
        else:  # the tracing does not tell whether the network takes the batches
            check_inputs(model, first[:TRACED_IMAGES], seed)
    with _anew(model if batches is not None else None):
        hypernetwork.initialize(
            model,
            graph,
            keep_head=keep_head,
            frozen=frozen,
            strict=strict,
            example_inputs=example_inputs,
        )
        break_symmetry(model, noise, seed=seed)
        if batches is not None:
            reestimate_batch_norm(model, rest, n_batches, seed)
            hypernetwork.reports = [report.with_statistics() for report in hypernetwork.reports]
    return model


def _device(model: nn.Module) -> torch.device | None:
    parameter = next(model.parameters(), None)
    return None if parameter is None or parameter.is_meta else parameter.device


def _peek(batches: Iterable[Any] | None) -> tuple[Any, Iterator[Any]]:
    """The inputs of the first batch, and all batches.

    Raises:
        ConfigError: there is none, or it has no inputs.
    """
    if batches is None:
        return None, iter(())
    iterator = iter(batches)
    try:
        first = next(iterator)
    except StopIteration:
        raise ConfigError(
            "batches is empty: running statistics need at least one batch of inputs"
        ) from None
    return inputs_of(first), itertools.chain((first,), iterator)


@contextmanager
def _anew(model: nn.Module | None) -> Iterator[None]:
    """Within it the batch norms of `model` have no statistics of old parameters, of which a report
    would warn; after an error they have them again.
    """
    modules = model.modules() if model is not None else ()
    norms = [m for m in modules if isinstance(m, _BatchNorm) and m.running_mean is not None]
    before = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers(recurse=False)]
    try:
        for norm in norms:
            norm.reset_running_stats()
        yield
    except BaseException:
        for buffer, values in before:
            buffer.copy_(values)
        raise
