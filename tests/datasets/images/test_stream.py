import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.images import load, stream
from datasets.images.order import Order
from ghn.errors import ConfigError


class Counting:
    """A table that notes in a file, which processes share, which blocks were opened."""

    def __init__(self, table, log: Path):
        self.table, self.log = table, log

    def __getattr__(self, name):
        return getattr(self.table, name)

    def open(self, block):
        with self.log.open("a") as file:
            file.write(f"{block}\n")
        return self.table.open(block)

    def opened(self) -> Counter[int]:
        return Counter(map(int, self.log.read_text().split()))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_covers_an_epoch_whatever_the_workers(tmp_path, parquet, workers: int) -> None:
    parquet(tmp_path / "big.parquet", range(200), group=7)
    images = stream("big", tmp_path, "all", 16, workers=workers, lanes=4)
    seen = []
    for x, y in images.batches(5, seed=1, drop_last=False):
        colours = (x[:, 0, 4, 4] * 0.229 + 0.485).mul(255).round().int().tolist()
        assert [c % 2 for c in colours] == y.tolist()
        seen += colours
    assert sorted(seen) == list(range(200))
    assert seen != sorted(seen)
    alone = stream("big", tmp_path, "all", 16, lanes=4)
    rest, whole = images.batches(8, 1, 0, True, start=3), list(alone.batches(8, 1, 0, True))
    for (a, b), (c, d) in zip(rest, whole[3:], strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", [0, 3])
def test_a_row_group_is_read_once_per_epoch(tmp_path, parquet, workers: int, start: int) -> None:
    parquet(tmp_path / "big.parquet", range(230), group=3)
    images = stream("big", tmp_path, "all", 16, workers=workers, lanes=4)
    counting = Counting(images.table, tmp_path / f"log{workers}{start}")
    images = replace(images, table=counting, pool=24)
    for _ in images.batches(6, seed=2, epoch=1, augment=True, start=start):
        pass
    opened = counting.opened()
    assert set(opened.values()) == {1}
    assert len(opened) > (70 if start == 0 else 50)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=60),
    batch=st.integers(1, 12),
    lanes=st.integers(1, 8),
    pool=st.integers(1, 60),
    drop_last=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_every_epoch_has_the_same_number_of_batches(
    sizes, batch, lanes, pool, drop_last, seed
) -> None:
    ends = np.cumsum(sizes)
    blocks = list(zip(ends - sizes, ends, strict=True))
    rows = np.flatnonzero(np.random.default_rng(seed).random(ends[-1]) < 0.8)
    if not len(rows):
        return
    order = Order(blocks, rows, lanes, pool)
    for epoch in range(3):
        slots = order.slots(batch, seed, epoch, drop_last)
        filled = [slot for slot in slots if len(slot)]
        assert len(filled) == order.n_batches(batch, drop_last)
        taken = np.concatenate([*filled, np.empty(0, dtype=np.int64)])
        assert len(np.unique(taken)) == len(taken)
        assert set(taken) <= set(rows)
        if drop_last:
            assert all(len(slot) == batch for slot in filled)
        else:
            assert np.array_equal(np.sort(taken), rows)
        lane_of = {}  # a block is read by one lane only
        for k, slot in enumerate(slots):
            for block in order.block_of(slot).tolist():
                assert lane_of.setdefault(block, k % lanes) == k % lanes


def test_a_run_resumes_in_a_later_epoch_exactly(tmp_path, parquet) -> None:
    """The training loop finds its place by dividing the step by `n_batches`."""
    parquet(tmp_path / "big.parquet", range(150), group=11)
    images = stream("big", tmp_path, "all", 16, lanes=4)
    n = images.n_batches(8)
    whole = [y for epoch in range(4) for _, y in images.batches(8, 5, epoch, True)]
    assert len(whole) == 4 * n
    for step in (n - 1, n, 2 * n + 3, 3 * n + 1):
        epoch, start = divmod(step, n)
        _, labels = next(images.batches(8, 5, epoch, True, start=start))
        assert torch.equal(labels, whole[step])
    assert not torch.equal(torch.cat(whole[:n]), torch.cat(whole[n : 2 * n]))


def test_stored_order(tmp_path, parquet) -> None:
    parquet(tmp_path / "big.parquet", range(30), group=4)
    images = stream("big", tmp_path, "all", 16, workers=2, lanes=2)
    labels = torch.cat([y for _, y in images.batches(8, shuffle=False)])
    assert labels.tolist() == [v % 2 for v in range(30)]
    assert [len(y) for _, y in images.batches(8, shuffle=False, drop_last=True)] == [8, 8, 8]


def test_streamed_digits_are_normalised_like_loaded_ones_and_never_mirrored() -> None:
    streamed, loaded = stream("digits", split="all", image_size=32), load("digits", split="all")
    assert not streamed.traits.flip
    assert not loaded.flip
    assert (streamed.traits.mean, streamed.traits.std) == (loaded.mean, loaded.std)
    (x, y), (a, b) = (next(images.batches(32, shuffle=False)) for images in (streamed, loaded))
    torch.testing.assert_close(x, a)
    assert torch.equal(y, b)


def test_too_few_images_and_odd_workers_say_what_to_do(tmp_path, parquet) -> None:
    parquet(tmp_path / "small.parquet", range(20))
    images = stream("small", tmp_path, "all", 16)
    with pytest.raises(ConfigError, match="load it into memory"):
        images.n_batches(16)
    with pytest.raises(ConfigError, match="load it into memory"):
        next(images.batches(16, augment=True))
    with pytest.raises(ConfigError, match="multiple of workers"):
        stream("small", tmp_path, "all", 16, workers=3)


def test_it_prints_in_one_line(tmp_path, parquet) -> None:
    parquet(tmp_path / "small.parquet", range(20))
    assert re.fullmatch(
        r"ImageStream\('small': 20 images, crops of 16 pixels, 2 classes\)",
        repr(stream("small", tmp_path, "all", 16)),
    )


@pytest.mark.data
def test_imagenet_sample_streams_at_224_pixels(data_root: Path) -> None:
    images = stream("imagenet-sample-1000", data_root, "all", 224)
    assert images.num_classes == 1000
    x, y = next(images.batches(16, augment=True))
    assert x.shape == (16, 3, 224, 224)
    assert y.dtype == torch.int64
    assert 0.5 < x.std() < 2
