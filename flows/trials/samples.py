"""What a trial shows of itself: filters of the first layer and answers on a few images, before and
after training.
"""

from __future__ import annotations

import base64

import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn import functional

from datasets.images import ImageTensors
from flows.rows.schema import Row
from ghn.finetune import FinetuneConfig, logits
from ghn.finetune.evaluation import estimate_statistics
from ghn.images import Images

FILTERS = 16
"""So many filters of the first layer are kept."""

SIDE = 32
"""Largest side of a kept image, in pixels."""

COLUMNS: dict[str, pa.DataType] = {
    "filters_shape": pa.list_(pa.int64()),  # filters, 3, height, width
    "filters_start": pa.list_(pa.float32()),
    "filters": pa.list_(pa.float32()),
    "sample_size": pa.int64(),
    "sample_images": pa.string(),  # base64 of uint8, images x 3 x size x size
    "sample_labels": pa.list_(pa.int64()),
    "sample_start": pa.list_(pa.int64()),  # predicted classes
    "sample_end": pa.list_(pa.int64()),
}


def first_filters(model: nn.Module) -> Tensor | None:
    """At most `FILTERS` filters (n, 3, height, width) of the first convolution that sees colours;
    None if there is none.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == 3 and module.groups == 1:
            return module.weight.detach()[:FILTERS].float().cpu()
    return None


def seen_before_and_after(
    start: nn.Module,
    end: nn.Module,
    test: ImageTensors,
    train: Images,
    point: FinetuneConfig,
    count: int,
) -> Row:
    """The columns above.

    Args:
        start: the network as it was initialised; its batch norm statistics are estimated here.
        end: the trained one, with statistics.
        test: its first `count` images are shown.
        train: for the statistics.
        point: how it was trained.
        count: number of images.
    """
    images = test.subset(range(min(count, len(test))))
    if start is not end:
        estimate_statistics(start, train, point.statistics_images, point.batch_size)
    pixels = images.images
    if (size := min(SIDE, images.image_size)) < images.image_size:
        small = functional.interpolate(pixels.float(), size=(size, size), mode="area")
        pixels = small.round().to(torch.uint8)
    row: Row = {
        "sample_size": size,
        "sample_images": base64.b64encode(pixels.numpy().tobytes()).decode(),
        "sample_labels": images.labels.tolist(),
        "sample_start": logits(start, images, point).argmax(1).tolist(),
        "sample_end": logits(end, images, point).argmax(1).tolist(),
    }
    before, after = first_filters(start), first_filters(end)
    if before is not None and after is not None:
        row["filters_shape"] = list(before.shape)
        row["filters_start"] = before.flatten().tolist()
        row["filters"] = after.flatten().tolist()
    return row
