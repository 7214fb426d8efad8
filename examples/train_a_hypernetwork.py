"""Train a small hypernetwork from nothing, on architectures of DeepNets-1M.

    python examples/train_a_hypernetwork.py                # 300 steps on digits
    python examples/train_a_hypernetwork.py 20 trained 64  # steps, directory, architectures

The pipeline does this at full size (`ghn generate`, `ghn train`), on several processes or GPUs.
"""

import sys
from pathlib import Path

import torch

import ghn
from datasets import deepnets
from datasets.images import load
from ghn.finetune import FinetuneConfig, evaluate
from ghn.train import ProgressBar, TrainConfig, train

steps, out, size = (sys.argv[1:] + ["300", "trained", "500"][len(sys.argv) - 1 :])[:3]

# Architectures by the published rules, but cheap ones: the time of a step is that of its networks.
# No two of a split are isomorphic, and none of train is in an evaluation split.
cheap = {"max_multiply_adds": 1e7, "norm": "always"}
splits = {"train": {"size": int(size), **cheap}, "val": {"size": 20, **cheap}}
rules = deepnets.GenerateConfig(shard_size=250, splits=splits)
for split in splits:
    deepnets.generate_split(Path(out), split, rules)

# A meta-batch is a function of the step: a few architectures with drawn widths, as graphs and as
# networks without parameters of their own.
widths = deepnets.MetaBatchConfig(channels=(16, 32), fc_dim=(64, 64))
train_split = deepnets.open_split(out, "train")
batches = deepnets.MetaBatches(train_split, size=4, seed=1, config=widths)

# A small GHN-3; the largest of the paper has 654 million parameters.
torch.manual_seed(1)
hypernetwork = ghn.GHN(ghn.GHNConfig(num_classes=10, hidden=32, heads=4, decoder_channels=16))
print(f"{sum(p.numel() for p in hypernetwork.parameters()):,} parameters")

images, held_out = (load("digits", split=split) for split in ("train", "val"))
config = TrainConfig(steps=int(steps), warmup_steps=5, lr=3e-3, meta_batch_size=4, batch_size=16)
result = train(
    config, hypernetwork, lambda step: deepnets.meta_batches(batches, step), images,
    Path(out) / "run", callbacks=[ProgressBar()],
)  # fmt: skip

# How good it is: networks that it has not seen, with predicted parameters and no training. Chance
# is 10 %; what more steps reach is in docs/pipeline.md.
hypernetwork = ghn.from_pretrained(result.weights)
unseen = deepnets.open_split(out, "val")
for number in range(5):
    network = deepnets.Network(unseen[number], channels=32)
    hypernetwork(network, unseen.graph(number, channels=32))
    print(f"{evaluate(network, held_out, FinetuneConfig(), images):.1%}")
