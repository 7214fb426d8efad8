"""Penn-Fudan pedestrians: 170 photographs with 423 people in boxes (Wang et al., 2007; paper table
8).
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ghn.errors import ConfigError, DamagedFileError

N_IMAGES = 170
PERSON = 1
"""The label of a person; 0 is background."""

DEFAULT_ROOT = Path("../shared/data")
_BOX = re.compile(r"\(Xmin, Ymin\) - \(Xmax, Ymax\) : \((\d+), (\d+)\) - \((\d+), (\d+)\)")


@dataclass(frozen=True, eq=False)
class DetectionImages:
    """Photographs of different sizes with boxes, decoded, in memory (0.1 GB for all of Penn-Fudan).

    Attributes:
        images: uint8 (3, H, W) each.
        boxes: float32 (n, 4) each: x1, y1, x2, y2 in pixels, x2 and y2 past the last pixel.
        names: of the files.
    """

    images: Sequence[Tensor]
    boxes: Sequence[Tensor]
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, index: Sequence[int]) -> DetectionImages:
        """The images at `index`, in that order."""
        parts = ([values[i] for i in index] for values in (self.images, self.boxes, self.names))
        return DetectionImages(*parts)  # type: ignore[arg-type]

    def split(self, n_test: int, seed: int) -> tuple[DetectionImages, DetectionImages]:
        """A random `n_test` images apart: (rest, test)."""
        if not 0 < n_test < len(self):
            raise ConfigError(f"n_test={n_test} of {len(self)} images leaves none on one side")
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed)).tolist()
        return self.subset(order[n_test:]), self.subset(order[:n_test])

    def batches(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        epoch: int = 0,
        augment: bool = False,
        shuffle: bool = True,
    ) -> Iterator[tuple[list[Tensor], list[dict[str, Tensor]]]]:
        """Lists of images, float 0..1, and of targets as torchvision's detectors take them.

        Order and mirroring (if `augment`, with probability 1/2) depend on (seed, epoch) alone.
        """
        random = np.random.default_rng((seed, epoch))
        order = random.permutation(len(self)) if shuffle else np.arange(len(self))
        mirrored = random.random(len(self)) < 0.5
        for start in range(0, len(order), batch_size):
            images, targets = [], []
            for i in order[start : start + batch_size].tolist():
                image, boxes = self.images[i].float() / 255, self.boxes[i].clone()
                if augment and mirrored[i]:
                    image = image.flip(-1)
                    boxes[:, [0, 2]] = image.shape[-1] - boxes[:, [2, 0]]
                images.append(image)
                targets.append({"boxes": boxes, "labels": torch.full((len(boxes),), PERSON)})
            yield images, targets

    @cached_property
    def digest(self) -> str:
        """SHA-256 of pixels and boxes."""
        sha = hashlib.sha256()
        for image, boxes in zip(self.images, self.boxes, strict=True):
            sha.update(repr(tuple(image.shape)).encode())
            sha.update(image.contiguous().numpy().data)
            sha.update(boxes.contiguous().numpy().data)
        return sha.hexdigest()


def load_pennfudan(root: str | os.PathLike[str] | None = None) -> DetectionImages:
    """All photographs and boxes, in the order of their names.

    Args:
        root: the directory that holds `PennFudanPed.zip` or the unpacked `PennFudanPed/`; by
            default the environment's GHN_DATA_ROOT, else ../shared/data.

    Raises:
        ConfigError: neither is there.
        DamagedFileError: an image or annotation is missing or broken; says which.
    """
    base = Path(root or os.environ.get("GHN_DATA_ROOT") or DEFAULT_ROOT)
    archive, folder = base / "PennFudanPed.zip", base / "PennFudanPed"
    if folder.is_dir():
        stems = sorted(path.stem for path in (folder / "Annotation").glob("*.txt"))
        return _read(stems, lambda name: (folder / name).read_bytes(), str(folder))
    if archive.is_file():
        try:
            with zipfile.ZipFile(archive) as file:
                names = [Path(name) for name in file.namelist() if name.endswith(".txt")]
                stems = sorted(name.stem for name in names if name.parts[1:2] == ("Annotation",))
                return _read(stems, lambda name: file.read(f"PennFudanPed/{name}"), str(archive))
        except zipfile.BadZipFile as error:
            raise DamagedFileError(f"{archive}: {error}; download it again") from error
    raise ConfigError(
        f"Penn-Fudan is not in {base}: neither PennFudanPed.zip nor PennFudanPed/; set"
        " GHN_DATA_ROOT to its directory (https://www.cis.upenn.edu/~jshi/ped_html/)"
    )


def _read(stems: Sequence[str], read: Callable[[str], bytes], where: str) -> DetectionImages:
    if not stems:
        raise DamagedFileError(f"{where} has no annotations")
    images, boxes = [], []
    for stem in stems:
        try:
            annotation = read(f"Annotation/{stem}.txt").decode("latin-1")
            with Image.open(io.BytesIO(read(f"PNGImages/{stem}.png"))) as image:
                pixels = np.array(image.convert("RGB"))
        except (OSError, KeyError) as error:
            raise DamagedFileError(f"{where}: {stem}: {error}") from error
        found = parse_boxes(annotation)
        if not len(found):
            raise DamagedFileError(f"{where}: Annotation/{stem}.txt has no boxes")
        images.append(torch.from_numpy(pixels).permute(2, 0, 1).contiguous())
        boxes.append(found)
    return DetectionImages(images, boxes, list(stems))


def parse_boxes(annotation: str) -> Tensor:
    """The boxes of an annotation in the format PASCAL 1.00, whose pixels count from 1 and include
    the last.
    """
    corners = [[float(number) for number in match.groups()] for match in _BOX.finditer(annotation)]
    boxes = torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)
    boxes[:, :2] -= 1
    return boxes
