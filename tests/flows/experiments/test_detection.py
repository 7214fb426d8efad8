import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from datasets.detection import DetectionImages
from flows.experiments.detection import average_precision, detector, run_detection, train_detector
from flows.settings.detect import DetectorConfig
from ghn.errors import ConfigError

SMALL = DetectorConfig(
    min_size=64,
    max_size=96,
    anchors=(16, 32),
    representation=16,
    rois=8,
    proposals=20,
    epochs=2,
    lr=0.002,
)


def images(n=8):
    """Grey pictures with one bright rectangle each."""
    random = torch.Generator().manual_seed(0)
    pictures, boxes = [], []
    for _ in range(n):
        x, y = torch.randint(5, 30, (2,), generator=random).tolist()
        picture = torch.full((3, 64, 80), 90, dtype=torch.uint8)
        picture[:, y : y + 30, x : x + 20] = 250
        pictures.append(picture)
        boxes.append(torch.tensor([[x, y, x + 20, y + 30]], dtype=torch.float32))
    return DetectionImages(pictures, boxes, [str(i) for i in range(n)])


class Fixed(nn.Module):
    """A detector that answers with given boxes and scores."""

    def __init__(self, answers):
        super().__init__()
        self.answers = iter(answers)

    def forward(self, pictures, targets=None):
        boxes, scores = next(self.answers)
        return [
            {
                "boxes": boxes,
                "scores": torch.tensor(scores),
                "labels": torch.ones(len(boxes), dtype=torch.int64),
            }
        ]


def test_average_precision_by_hand():
    """Two people; ranked: right, wrong, right. Precision 1 up to recall 1/2, then 2/3 up to 1."""
    data = images(2)
    far = torch.tensor([[60.0, 50, 70, 60]])
    answers = [
        (data.boxes[0], [0.9]),
        (torch.cat([far, data.boxes[1]]), [0.8, 0.7]),
    ]
    # 101 recalls 0, 0.01, ..., 1: 51 of them up to 1/2
    assert average_precision(Fixed(answers), data) == pytest.approx(
        (51 * 1 + 50 * 2 / 3) / 101, abs=1e-6
    )


def test_boxes_below_half_overlap_do_not_count_and_nothing_found_is_zero():
    data = images(1)
    x1, y1, x2, y2 = data.boxes[0][0].tolist()
    shifted = torch.tensor([[x1 + 7, y1, x2 + 7, y2]])  # IoU 13 / 27
    assert average_precision(Fixed([(shifted, [0.9])]), data) == 0.0
    nearer = torch.tensor([[x1 + 6, y1, x2 + 6, y2]])  # IoU 14 / 26
    assert average_precision(Fixed([(nearer, [0.9])]), data) == pytest.approx(1.0)
    assert average_precision(Fixed([(torch.zeros(0, 4), [])]), data) == 0.0


def test_the_whole_backbone_trains_and_the_loss_falls():
    torch.manual_seed(0)
    resnet = resnet18()
    model = detector(resnet, SMALL)
    before = [parameter.detach().clone() for parameter in resnet.parameters()]
    losses = train_detector(
        model, images(), SMALL.model_copy(update={"epochs": 4, "decay_every": 4}), seed=1
    )
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    assert all(not torch.equal(a, b) for a, b in zip(resnet.parameters(), before, strict=True))


def test_a_run_is_reproducible_and_tests_on_other_images():
    def run(seed):
        torch.manual_seed(0)
        result = run_detection(resnet18(), images(), 3, SMALL, seed, "cpu")
        del result["seconds"]
        return result

    first = run(1)
    assert (first["n_train"], first["n_test"]) == (5, 3)
    assert 0 <= first["ap50"] <= 1
    assert run(1) == first
    assert run(2)["train_loss"] != first["train_loss"]


def test_only_resnets_are_taken():
    with pytest.raises(ConfigError, match="not Sequential"):
        detector(nn.Sequential(), SMALL)
