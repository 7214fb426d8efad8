"""Your network and your images: is a prediction better than random parameters, and by how much?

    python examples/own_network_own_images.py                  # the digits of scikit-learn
    python examples/own_network_own_images.py path/to/images   # a folder with a folder per class
    python examples/own_network_own_images.py path/to/images 100 3    # steps of training, seeds

A folder of 120 images is enough to ask; the answer says how sure it is.
"""

import sys

import torch
from torch import Tensor, nn

import ghn
from datasets.images import load
from ghn.compare import compare
from ghn.finetune import FinetuneConfig

source, steps, seeds = (sys.argv[1:] + ["digits", "40", "3"][len(sys.argv) - 1 :])[:3]

# Cut into training, validation and test images by a seed, resized to what the hypernetwork knows.
train, val, test = (load(source, split=split) for split in ("train", "val", "test"))


# The network: any module whose logits are as many as there are classes.
class SmallCNN(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.down = nn.Conv2d(32, 64, 3, stride=2, padding=1)
        self.head = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.down(x + self.block(x)).relu()
        return self.head(x.mean((2, 3)))


# One call makes it ready to use: parameters predicted, noise between channels that are alike, and
# batch norm's statistics from a few batches. The report tells what was predicted, and what is known
# to be of no help.
hypernetwork = ghn.from_pretrained()
torch.manual_seed(0)
model = SmallCNN(train.num_classes)
ghn.init_(model, hypernetwork, batches=train.batches(min(64, len(train))), seed=0)
print(hypernetwork.reports[0])

# Better than random? The same images, steps and learning rates from three kinds of parameters.
config = FinetuneConfig(steps=int(steps), batch_size=32)
make = lambda: SmallCNN(train.num_classes)  # noqa: E731
result = compare(make, train, val, test, hypernetwork, config, seeds=int(seeds), name="SmallCNN")
print(f"{len(train)} training and {len(test)} test images, {train.num_classes} classes")
for start in result.starts:
    before, after = (sum(v) / len(v) for v in (start.untrained, start.trained))
    print(f"{start.kind:<12}{before:>8.1%} untrained{after:>8.1%} after {steps} steps")
print(result.verdict())
