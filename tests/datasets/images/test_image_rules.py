"""What decoding and cutting give, so that a change of it is one on purpose."""

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.images import load
from datasets.images.loading import RULES

EXPECTED = {
    "stratified, upright, full range": (
        "e14789bc4bc7c0cf4c85d8f1161ccd697ce5ef4d23d67fd2e5483bced8544efe"
    ),
}
"""A change that alters the digest needs another text of `RULES`: decoded files are recognised by
it. Only the newest entry stays."""


def fill(root: Path) -> None:
    draw = np.random.default_rng(0)
    for split, n in (("train", 30), ("test", 9)):
        for k in range(n):
            path = root / "pets" / split / "abc"[k % 3] / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            side = 8 + k
            exif = Image.Exif()
            exif[274] = 1 + k % 8
            if k % 5 == 0:
                pixels = draw.integers(0, 2**16, (side, 20), dtype=np.uint16)
            else:
                pixels = draw.integers(0, 256, (side, 20, 3 + k % 2), dtype=np.uint8)
            Image.fromarray(pixels).save(path, exif=exif)


def test_the_same_source_gives_the_same_images_and_splits(tmp_path) -> None:
    fill(tmp_path)
    digests = [load("pets", tmp_path, split, 16).digest for split in ("train", "val", "test")]
    digests += [load("digits", split=split).digest for split in ("train", "val", "test")]
    found = hashlib.sha256("".join(digests).encode()).hexdigest()
    assert {RULES: found} == EXPECTED
