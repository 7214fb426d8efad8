"""A run that a test kills: trains a tiny hypernetwork and resumes where it was."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from train_setting import make_ghn, meta_batches

from datasets.images import load
from ghn.train import TrainConfig, train

torch.set_num_threads(1)
config = TrainConfig(
    steps=30, meta_batch_size=2, batch_size=16, warmup_steps=3, lr=1e-3, checkpoint_every=3
)
train(config, make_ghn(), meta_batches(2), load("digits", cache=None), Path(sys.argv[1]))
