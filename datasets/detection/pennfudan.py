"""Penn-Fudan pedestrians: 170 photographs with 423 people in boxes (Wang et al., 2007; paper table
8).
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets.images.pixels import decode
from datasets.images.sources.find import data_root
from ghn.errors import ConfigError, DamagedFileError

N_IMAGES = 170
PERSON = 1
"""The label of a person; 0 is background."""

_log = logging.getLogger(__name__)
_BOX = re.compile(r"\(Xmin, Ymin\) - \(Xmax, Ymax\) : \((\d+), (\d+)\) - \((\d+), (\d+)\)")


_BROKEN = (OSError, KeyError, RuntimeError, EOFError, zlib.error, zipfile.BadZipFile)
"""What reading a file or a member of an archive raises."""


@dataclass(frozen=True, eq=False, repr=False)
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

    def __repr__(self) -> str:
        return f"DetectionImages({len(self)} images, {sum(map(len, self.boxes))} boxes)"

    def subset(self, index: Sequence[int]) -> DetectionImages:
        """The images at `index`, in that order."""
        parts = ([values[i] for i in index] for values in (self.images, self.boxes, self.names))
        return DetectionImages(*parts)  # type: ignore[arg-type]

    def split(self, n_test: int, seed: int) -> tuple[DetectionImages, DetectionImages]:
        """A random `n_test` images apart: (rest, test)."""
        if not 0 < n_test < len(self):
            raise ConfigError(f"n_test={n_test} of {len(self)} images leaves none on one side")
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self), generator=generator, device="cpu").tolist()
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
    base = data_root(root)
    archive, folder = base / "PennFudanPed.zip", base / "PennFudanPed"
    if folder.is_dir():
        names = [path.relative_to(folder).as_posix() for path in sorted(folder.glob("*/*.*"))]
        return _read(names, lambda name: (folder / name).read_bytes(), str(folder))
    if archive.is_file():
        try:
            with zipfile.ZipFile(archive) as file:
                names = sorted(name.removeprefix("PennFudanPed/") for name in file.namelist())
                return _read(names, lambda name: file.read(f"PennFudanPed/{name}"), str(archive))
        except _BROKEN as error:
            raise DamagedFileError(f"{archive}: {error}; download it again") from error
    raise ConfigError(
        f"Penn-Fudan is not in {base}: neither PennFudanPed.zip nor PennFudanPed/; set"
        " GHN_DATA_ROOT to its directory (https://www.cis.upenn.edu/~jshi/ped_html/)"
    )


def _read(names: Sequence[str], read: Callable[[str], bytes], where: str) -> DetectionImages:
    stems = _stems(names, where)
    images, boxes = [], []
    for stem in stems:
        try:
            annotation = read(f"Annotation/{stem}.txt").decode("latin-1")
            encoded = read(f"PNGImages/{stem}.png")
        except _BROKEN as error:
            raise DamagedFileError(f"{where}: {stem}: {error}; download it again") from error
        pixels = np.array(decode(encoded, f"{where}: PNGImages/{stem}.png"))
        images.append(torch.from_numpy(pixels).permute(2, 0, 1).contiguous())
        boxes.append(_boxes_within(annotation, pixels.shape, f"{where}: Annotation/{stem}.txt"))
    return DetectionImages(images, boxes, stems)


def _stems(names: Sequence[str], where: str) -> list[str]:
    """The names, without suffix, of the images that have an annotation, which all must have."""
    paths = [Path(name) for name in names if not Path(name).name.startswith(".")]
    kinds = {"Annotation": ".txt", "PNGImages": ".png"}
    annotated, pictured = (
        {path.stem for path in paths if (str(path.parent), path.suffix) == kind}
        for kind in kinds.items()
    )
    if alone := sorted(annotated ^ pictured):
        raise DamagedFileError(
            f"{where}: {alone[0]} has no {'image' if alone[0] in annotated else 'annotation'}"
            f" ({len(alone)} such files); unpack or download it again"
        )
    if not annotated:
        raise DamagedFileError(f"{where} has no annotations; unpack or download it again")
    if len(annotated) != N_IMAGES:
        _log.warning("%s has %d images, Penn-Fudan has %d", where, len(annotated), N_IMAGES)
    return sorted(annotated)


def _boxes_within(annotation: str, shape: tuple[int, ...], where: str) -> Tensor:
    boxes = parse_boxes(annotation)
    height, width = shape[:2]
    x1, y1, x2, y2 = boxes.unbind(1)
    whole = (x1 >= 0) & (x1 < x2) & (x2 <= width) & (y1 >= 0) & (y1 < y2) & (y2 <= height)
    if not len(boxes) or not whole.all():
        what = "has a box outside of its image" if len(boxes) else "has no boxes"
        raise DamagedFileError(f"{where} {what}; unpack or download it again")
    return boxes


def parse_boxes(annotation: str) -> Tensor:
    """The boxes of an annotation in the format PASCAL 1.00, whose pixels count from 1 and include
    the last.
    """
    corners = [[float(number) for number in match.groups()] for match in _BOX.finditer(annotation)]
    boxes = torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)
    boxes[:, :2] -= 1
    return boxes
