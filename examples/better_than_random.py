"""Your images: are predicted parameters a better start than random ones, and by how much?

    python examples/better_than_random.py                   # the digits of scikit-learn
    python examples/better_than_random.py path/to/images    # a folder per class, or Parquet files
    python examples/better_than_random.py path/to/images resnet18 200 3

The last line names a network (`ghn list`, or FILE.py:NAME), steps of training and seeds. `ghn
compare` does the same without a line of Python.
"""

import sys
from pathlib import Path
from statistics import mean, stdev

import ghn
from datasets.images import load
from ghn.architectures.own import network
from ghn.compare import compare
from ghn.finetune import FinetuneConfig

source, name, steps, seeds = (
    *sys.argv[1:],
    *("digits", "shufflenet_v2_x0_5", 20, 2)[len(sys.argv) - 1 :],
)

# Decoded, resized to 32 pixels, and cut into training, validation and test images by a seed.
train, val, test = (load(source, split=split) for split in ("train", "val", "test"))

# A fair comparison: predicted, random and orthogonal parameters meet the same images, steps and
# learning rates, and of each start only the best rate on validation images meets the test images.
# Predicted channels repeat, so a little noise parts them (`ghn.finetune.break_symmetry`).
found = compare(
    lambda: network(name, train.num_classes, 32),  # or a class of yours
    train,
    val,
    test,
    ghn.from_pretrained(),
    FinetuneConfig(steps=int(steps), batch_size=64),
    lrs=(0.1, 0.01, 0.001),
    seeds=int(seeds),
    name=name,
)

# What was predicted, and what not; then a row per start, a mean over seeds.
print(found.report)
print(f"{name} on {found.images}: {len(train):,} images, {train.num_classes} classes")
print(f"test accuracy, mean (standard deviation) of {seeds} seeds")
print(f"{'':<12}{'untrained':>10}{f'{steps} steps':>10}")
for start in found.starts:
    spread = f" ({100 * stdev(start.trained):.1f})" if len(start.trained) > 1 else ""
    print(f"{start.kind:<12}{mean(start.untrained):>10.1%}{mean(start.trained):>10.1%}{spread}")

# A gain within two standard errors, of the seeds and of the test images, is no gain.
print(found.verdict())
found.draw(Path("better_than_random.png"))  # validation accuracy against steps
