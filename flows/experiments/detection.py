"""A Faster R-CNN on a ResNet's last feature map, trained on Penn-Fudan, scored by AP at IoU 0.50
(paper table 8).

The setting is that of Knyazev et al. (2021): one feature map, five sizes of anchors, SGD with the
learning rate divided by 10 every three epochs, 50 of the 170 images to test on.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.resnet import ResNet
from torchvision.ops import MultiScaleRoIAlign

from datasets.detection import DetectionImages
from flows.settings.detect import DetectorConfig
from ghn.errors import ConfigError
from ghn.randomness import seeded

N_CLASSES = 2
"""Background and person."""


class Features(nn.Module):
    """A ResNet up to its last feature map."""

    def __init__(self, resnet: ResNet) -> None:
        super().__init__()
        self.out_channels = resnet.fc.in_features
        self.resnet = resnet
        resnet.avgpool = resnet.fc = nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The output of the last stage."""
        net = self.resnet
        h = net.maxpool(net.relu(net.bn1(net.conv1(x_BCHW))))
        h_BCHW: Tensor = net.layer4(net.layer3(net.layer2(net.layer1(h))))
        return h_BCHW


def detector(resnet: nn.Module, config: DetectorConfig) -> FasterRCNN:
    """A Faster R-CNN with `resnet`, initialised already, as its backbone, all of which trains.

    Raises:
        ConfigError: the backbone is not a ResNet of torchvision.
    """
    if not isinstance(resnet, ResNet):
        raise ConfigError(
            f"the detector takes a ResNet of torchvision as backbone, not {type(resnet).__name__}"
        )
    backbone = Features(resnet)
    pooled = 7
    return FasterRCNN(
        backbone,
        min_size=config.min_size,
        max_size=config.max_size,
        rpn_anchor_generator=AnchorGenerator(
            sizes=(config.anchors,), aspect_ratios=((0.5, 1.0, 2.0),)
        ),
        box_roi_pool=MultiScaleRoIAlign(featmap_names=["0"], output_size=pooled, sampling_ratio=2),
        box_head=TwoMLPHead(backbone.out_channels * pooled**2, config.representation),
        box_predictor=FastRCNNPredictor(config.representation, N_CLASSES),
        box_batch_size_per_image=config.rois,
        rpn_pre_nms_top_n_train=2 * config.proposals,
        rpn_post_nms_top_n_train=2 * config.proposals,
        rpn_pre_nms_top_n_test=config.proposals,
        rpn_post_nms_top_n_test=config.proposals,
    )


def train_detector(
    model: FasterRCNN,
    images: DetectionImages,
    config: DetectorConfig,
    *,
    seed: int,
    device: torch.device | str = "cpu",
) -> list[float]:
    """Trains in place; the mean loss of each epoch. A loss that is not finite ends the training
    there.
    """
    model.to(device).train()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, config.decay_every, 0.1)
    history: list[float] = []
    with seeded(seed):
        for epoch in range(config.epochs):
            losses = []
            for pictures, targets in images.batches(
                config.batch_size, seed=seed, epoch=epoch, augment=True
            ):
                output = model(_to(pictures, device), _to(targets, device))
                loss = torch.stack(list(output.values())).sum()
                losses.append(float(loss.detach()))
                if not torch.isfinite(loss):
                    return [*history, float("nan")]
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                if config.grad_clip is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
                optimizer.step()
            scheduler.step()
            history.append(sum(losses) / len(losses))
    return history


@torch.no_grad()
def average_precision(
    model: FasterRCNN, images: DetectionImages, device: torch.device | str = "cpu"
) -> float:
    """AP at IoU 0.50 of the class person, as a fraction (COCO's interpolation at 101 recalls)."""
    from torchmetrics.detection import MeanAveragePrecision

    metric = MeanAveragePrecision(iou_thresholds=[0.5], backend="faster_coco_eval")
    model.to(device).eval()
    for pictures, targets in images.batches(1, shuffle=False):
        found = model(_to(pictures, device))
        metric.update([{key: value.cpu() for key, value in one.items()} for one in found], targets)
    return max(float(metric.compute()["map"]), 0.0)  # -1 stands for nothing found


def run_detection(
    resnet: nn.Module,
    images: DetectionImages,
    n_test: int,
    config: DetectorConfig,
    seed: int,
    device: str,
) -> dict[str, Any]:
    """Trains a detector on `resnet` and scores it on the images set aside by `seed`."""
    started = time.perf_counter()
    train, test = images.split(n_test, seed)
    with seeded(seed):
        model = detector(resnet, config)
    losses = train_detector(model, train, config, seed=seed, device=device)
    return {
        "ap50": average_precision(model, test, device),
        "train_loss": losses,
        "n_train": len(train),
        "n_test": len(test),
        "seconds": time.perf_counter() - started,
    }


def _to(values: list[Any], device: torch.device | str) -> list[Any]:
    return [
        (
            value.to(device)
            if isinstance(value, Tensor)
            else {key: tensor.to(device) for key, tensor in value.items()}
        )
        for value in values
    ]
