"""How well a network does, and the running statistics of batch norm that it needs for that.

Shape legend: B images of a batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ghn.errors import ConfigError
from ghn.failures import other_classes, require_logits
from ghn.finetune.config import FinetuneConfig
from ghn.finetune.sharing import Sharing
from ghn.images import Images
from ghn.outputs import heads
from ghn.predict.batchnorm import reestimate_batch_norm


@torch.no_grad()
def evaluate(
    model: nn.Module,
    images: Images,
    config: FinetuneConfig,
    statistics: Images | None = None,
    sharing: Sharing | None = None,
) -> float:
    """Top-1 accuracy in evaluation mode, as a fraction. Ranks that share it look at a part of the
    images each.

    Running statistics of batch norm are first set to the averages over a few fixed batches of
    `statistics` (training images): neither predicted nor freshly drawn parameters come with any,
    and after a handful of steps the moving averages still remember none. With None the model's own
    are used, as those of trained networks should be.
    """
    if statistics is not None:
        estimate_statistics(model, statistics, config.statistics_images, config.batch_size)
    return accuracies(model, images, config, (1,), sharing)[0]


@torch.no_grad()
def accuracies(
    model: nn.Module,
    images: Images,
    config: FinetuneConfig,
    top: Sequence[int] = (1, 5),
    sharing: Sharing | None = None,
) -> list[float]:
    """For each k of `top` the share of images whose label is among the k largest logits, in
    evaluation mode. Waits for a GPU once.

    Raises:
        ConfigError: there are no images, or some of classes that the network does not have, or it
            returns no logits.
    """
    device = next(model.parameters()).device
    sharing = sharing or Sharing()
    correct = torch.zeros(len(top) + 2, dtype=torch.int64, device=device)
    total = classes = 0
    for logits_BK, y_B in _outputs(model, images, config, sharing):
        classes = logits_BK.shape[1]
        for place, k in enumerate(top):
            if k == 1:
                correct[place] += (logits_BK.argmax(1) == y_B).sum()
            else:
                best_BJ = logits_BK.topk(min(k, logits_BK.shape[1]), 1).indices
                correct[place] += (best_BJ == y_B[:, None]).sum()
        correct[-2] += (y_B < classes).sum()
        total += len(y_B)
    correct[-1].fill_(total)  # an assignment would copy it to a GPU, and wait
    *counts, known, total = sharing.sum(correct).tolist()
    if not total:
        raise ConfigError("the set of images to evaluate is empty; give at least one image")
    if known < total:
        raise other_classes(classes)
    return [count / total for count in counts]


@torch.no_grad()
def logits(model: nn.Module, images: Images, config: FinetuneConfig) -> Tensor:
    """(N, K) logits of all N images in their order, in evaluation mode, on the CPU."""
    return torch.cat(
        [logits_BK.float().cpu() for logits_BK, _ in _outputs(model, images, config, Sharing())]
    )


def _outputs(
    model: nn.Module, images: Images, config: FinetuneConfig, sharing: Sharing
) -> Iterator[tuple[Tensor, Tensor]]:
    device = next(model.parameters()).device
    model.eval()
    batches = images.batches(config.evaluation_batch, shuffle=False, drop_last=False, device=device)
    for x_BCHW, y_B in islice(batches, sharing.rank, None, sharing.world):
        with autocast(config, device):
            logits_BK = heads(model(x_BCHW))[0]
        require_logits(logits_BK)
        yield logits_BK, y_B


def autocast(config: FinetuneConfig, device: torch.device) -> torch.autocast:
    """The precision of forward passes: `amp` is "bf16" (or true), "fp16" or false."""
    half = torch.float16 if config.amp == "fp16" else torch.bfloat16
    return torch.autocast(device.type, half, enabled=bool(config.amp))


def track_running_statistics(model: nn.Module) -> None:
    """Gives batch norms made without running statistics (as predicted networks often are) buffers
    for them.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            device = next(model.parameters()).device
            module.track_running_stats = True
            module.register_buffer("running_mean", torch.zeros(module.num_features, device=device))
            module.register_buffer("running_var", torch.ones(module.num_features, device=device))
            module.register_buffer("num_batches_tracked", torch.tensor(0, device=device))


def lacks_statistics(model: nn.Module) -> bool:
    """Whether a batch norm has no running statistics, or those that it was made with: that of a
    network whose parameters were predicted or freshly drawn, not of a trained one.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    fresh = []
    for norm in norms:
        if norm.running_mean is None or norm.running_var is None:
            return True
        fresh.append(~(norm.running_mean.any() | (norm.running_var != 1).any()))
    return bool(fresh) and bool(torch.stack(fresh).any())  # waits for a GPU once


def estimate_statistics(
    model: nn.Module, images: Images, n_images: int, batch_size: int, seed: int = 0
) -> int:
    """Sets batch norms' running statistics to plain averages over `n_images` fixed images, in
    place; `seed` as in `ghn.reestimate_batch_norm`.

    Returns:
        How many images were used: whole batches of them, and none if there are no such norms.
    """
    batch_size = min(batch_size, n_images, len(images))
    batches = images.batches(batch_size, drop_last=True, device=next(model.parameters()).device)
    return batch_size * reestimate_batch_norm(model, batches, -(-n_images // batch_size), seed)
