import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import pad

from datasets.images import ImageTensors, load
from datasets.images.augment import crop_and_flip, normalize
from ghn.errors import ConfigError


@pytest.fixture(scope="module")
def digits() -> ImageTensors:
    return load("digits", cache=None)


def test_digits_are_rgb_at_32_pixels_and_the_splits_partition_the_data(
    digits: ImageTensors,
) -> None:
    parts = [load("digits", split=split, cache=None) for split in ("train", "val", "test")]
    assert parts[0].images.shape[1:] == (3, 32, 32)
    assert parts[0].images.dtype == torch.uint8
    assert sum(map(len, parts)) == 1797 == len(load("digits", split="all", cache=None))
    # no overlap
    assert len({image.numpy().tobytes() for part in parts for image in part.images}) >= 1790
    assert digits.num_classes == 10
    pixels = digits.images.float() / 255
    torch.testing.assert_close(pixels.mean(), torch.tensor(digits.mean[0]), atol=2e-3, rtol=0)
    torch.testing.assert_close(pixels.std(), torch.tensor(digits.std[0]), atol=2e-3, rtol=0)


def test_a_split_depends_on_its_seed() -> None:
    assert load("digits", cache=None, seed=1).digest != load("digits", cache=None, seed=2).digest
    assert load("digits", cache=None, seed=1).digest == load("digits", cache=None, seed=1).digest


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    size=st.integers(2, 12),
    padding=st.integers(0, 3),
    flip=st.booleans(),
)
def test_crop_and_flip_equals_a_loop_over_images(
    seed: int, size: int, padding: int, flip: bool
) -> None:
    images = torch.randint(256, (5, 3, size, size), dtype=torch.uint8)
    out = crop_and_flip(images, torch.Generator().manual_seed(seed), padding, flip)
    draw = torch.Generator().manual_seed(seed)
    top = torch.randint(2 * padding + 1, (5, 1), generator=draw)
    left = torch.randint(2 * padding + 1, (5, 1), generator=draw)
    mirrored = torch.rand((5, 1), generator=draw) < 0.5
    for i in range(5):
        image = pad(images[i], (padding,) * 4)
        image = image[:, int(top[i]) : int(top[i]) + size, int(left[i]) : int(left[i]) + size]
        if flip and mirrored[i]:
            image = image.flip(-1)
        assert torch.equal(out[i], image)
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_normalize_is_the_textbook_formula() -> None:
    images = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    expected = (images / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(normalize(images, mean, std), expected)


def test_an_epoch_resumes_at_any_batch(digits: ImageTensors) -> None:
    whole = list(digits.batches(64, seed=3, epoch=2, augment=True))
    rest = list(digits.batches(64, seed=3, epoch=2, augment=True, start=7))
    assert len(whole) == digits.n_batches(64) == len(digits) // 64
    assert len(rest) == len(whole) - 7
    for (a, b), (c, d) in zip(whole[7:], rest, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)
    other = next(digits.batches(64, seed=3, epoch=3, augment=True))
    assert not torch.equal(other[1], whole[0][1])


def test_without_augmentation_every_image_comes_once(digits: ImageTensors) -> None:
    labels = torch.cat([y for _, y in digits.batches(100)])
    assert torch.equal(labels.bincount(), digits.labels.bincount())
    images, _ = next(digits.batches(100, shuffle=False))
    torch.testing.assert_close(images, normalize(digits.images[:100], digits.mean, digits.std))


def test_too_large_a_batch_is_an_error_not_an_empty_epoch(digits: ImageTensors) -> None:
    with pytest.raises(ConfigError, match="fewer than batch_size=5000"):
        next(digits.batches(5000, augment=True))


def test_few_shot_is_balanced_and_seeded(digits: ImageTensors) -> None:
    few = digits.few_shot(105, seed=1)
    counts = few.labels.bincount()
    assert counts.sum() == 105
    assert counts.max() - counts.min() == 1
    assert few.digest == digits.few_shot(105, seed=1).digest != digits.few_shot(105, seed=2).digest
    with pytest.raises(ConfigError, match="are asked for"):
        digits.few_shot(5000)


def test_the_cache_is_used_and_rebuilt_when_it_rots(tmp_path, monkeypatch) -> None:
    first = load("digits", cache=tmp_path)
    path = tmp_path / "digits" / "train-32px.safetensors"
    stamp = path.stat().st_mtime_ns
    monkeypatch.setattr(
        "datasets.images.loading.decode_rows", lambda *_: pytest.fail("decoded again")
    )
    assert load("digits", cache=tmp_path).digest == first.digest
    assert path.stat().st_mtime_ns == stamp
    monkeypatch.undo()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert load("digits", cache=tmp_path).digest == first.digest
    # another seed is another split
    assert load("digits", cache=tmp_path, seed=5).digest != first.digest
    assert not [p for p in path.parent.iterdir() if p.name.startswith(".tmp")]


def test_labels_match_the_pixels_of_the_source(digits: ImageTensors) -> None:
    from sklearn.datasets import load_digits

    source = load_digits()
    whole = load("digits", split="all", cache=None, image_size=8)
    grey = np.rint(source.images * 255 / 16).astype(np.uint8)
    assert np.array_equal(whole.images[:, 0].numpy(), grey)
    assert np.array_equal(whole.labels.numpy(), source.target)
