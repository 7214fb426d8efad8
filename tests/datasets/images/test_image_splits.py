"""Cutting splits: the same share of every class, by seed, and nothing lost."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.images import load
from datasets.images.splits import hold_out
from ghn.errors import ConfigError


@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**31),
)
def test_every_class_gives_its_share(counts, fraction, seed) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    labels = np.random.default_rng(seed).permutation(labels)
    rows = np.arange(len(labels)) * 3
    by_row = np.zeros(3 * len(labels), dtype=np.int64)
    by_row[rows] = labels
    rest, held_out = hold_out(by_row, rows, fraction, np.random.default_rng(seed))
    assert np.array_equal(np.sort(np.concatenate([rest, held_out])), rows)
    assert np.array_equal(rest, np.sort(rest))
    assert np.array_equal(held_out, np.sort(held_out))
    assert set(by_row[rest]) == set(range(len(counts)))  # no class loses its last image
    got = Counter(by_row[held_out].tolist())
    if min(counts) > 1 / (1 - fraction):  # rounding takes no class's last image
        assert len(held_out) == min(round(fraction * len(rows)), len(rows) - len(counts))
        for label, n in enumerate(counts):
            assert abs(got[label] - fraction * n) < 1
    again = hold_out(by_row, rows, fraction, np.random.default_rng(seed))
    assert np.array_equal(held_out, again[1])


def test_three_equal_classes(tmp_path, parquet) -> None:
    parquet(
        tmp_path / "pets/train.parquet", range(100), labels=[k % 3 for k in range(100)], names=None
    )
    parquet(tmp_path / "pets/test.parquet", range(3), labels=[0, 1, 2], names=None)
    for seed in range(5):
        val = load("pets", tmp_path, "val", 8, val_fraction=0.12, seed=seed)
        assert val.labels.bincount().tolist() == [4, 4, 4]
    assert load("pets", tmp_path, "val", 8, seed=1).digest != val.digest


def test_digits_are_cut_evenly() -> None:
    for split, share in (("val", 0.8 * 0.1), ("test", 0.2)):
        counts = load("digits", split=split, image_size=8).labels.bincount()
        of_all = load("digits", split="all", image_size=8).labels.bincount()
        assert (counts - share * of_all).abs().max() < 1.5


def test_a_split_that_would_be_empty_is_refused(tmp_path, parquet) -> None:
    parquet(tmp_path / "pets/train.parquet", range(4))
    parquet(tmp_path / "pets/test.parquet")
    with pytest.raises(ConfigError, match="split 'val' would be empty: of 4 images in 2 classes"):
        load("pets", tmp_path, "val")
    assert len(load("pets", tmp_path, "train")) == 4
