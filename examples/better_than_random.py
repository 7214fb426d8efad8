"""Your images: are predicted parameters a better start than random ones, and by how much?

    python examples/better_than_random.py                   # the digits of scikit-learn
    python examples/better_than_random.py path/to/images    # a folder per class, or Parquet files
    python examples/better_than_random.py path/to/images resnet18 200 3

The last line names a network (`ghn list`), steps of fine-tuning and seeds.
"""

import sys
from statistics import mean, stdev

import torch
from torch import nn

import ghn
from datasets.images import load
from ghn.architectures import build
from ghn.baselines import orthogonal
from ghn.finetune import FinetuneConfig, break_symmetry, evaluate, finetune

source, network = (sys.argv[1:3] + ["digits", "shufflenet_v2_x0_5"][len(sys.argv[1:3]) :])[:2]
steps, seeds = (int(sys.argv[i]) if len(sys.argv) > i else n for i, n in ((3, 20), (4, 2)))

# Decoded, resized to 32 pixels, and cut into training, validation and test images by a seed.
train, val, test = (load(source, split=split) for split in ("train", "val", "test"))
hypernetwork = ghn.from_pretrained()


def start(kind: str, seed: int) -> nn.Module:
    """The network, freshly initialised. A network of your own takes the place of `build`."""
    torch.manual_seed(seed)
    model = build(network, num_classes=train.num_classes, image_size=32)
    if kind == "predicted":
        hypernetwork(model)
        break_symmetry(model, seed=seed)  # predicted channels repeat; a little noise parts them
    elif kind == "orthogonal":
        orthogonal(model, seed=seed)
    return model


# A fair comparison: the same images, steps and learning rates for all, and of the networks only the
# best on validation images meets the test images. Each row is a mean over seeds.
print(f"{network} on {train.name}: {len(train):,} images, {train.num_classes} classes")
print(f"test accuracy, mean (standard deviation) of {seeds} seeds")
print(f"{'':<12}{'untrained':>10}{f'{steps} steps':>10}")
for kind in ("predicted", "random", "orthogonal"):
    before, after = [], []
    for seed in range(seeds):
        best = -1.0
        for lr in (0.1, 0.01):
            config = FinetuneConfig(steps=steps, lr=lr, batch_size=64)
            model = start(kind, seed)
            curve = finetune(model, train, val, config, seed=seed)
            if curve.val_accuracy[-1] > best:
                best, accuracy = curve.val_accuracy[-1], evaluate(model, test, config, train)
        before.append(evaluate(start(kind, seed), test, config, train))
        after.append(accuracy)
    spread = f" ({100 * stdev(after):.1f})" if seeds > 1 else ""
    print(f"{kind:<12}{mean(before):>10.1%}{mean(after):>10.1%}{spread}")
