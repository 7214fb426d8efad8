"""Small data sets of known colours."""

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

Encode = Callable[..., bytes]
Write = Callable[..., Path]


def encoded(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


@pytest.fixture
def encode() -> Encode:
    """From a Pillow image to the bytes of a file."""
    return encoded


@pytest.fixture
def coloured() -> Callable[[int], bytes]:
    """A file whose red is the argument."""
    return lambda value: encoded(Image.new("RGB", (40, 32), (value, 0, 255 - value)))


@pytest.fixture
def parquet(coloured: Callable[[int], bytes]) -> Write:
    """Writes a Parquet file with an image per value, of that red, and labels value % 2."""

    def write(
        path: Path,
        values: Sequence[int] = range(10),
        *,
        images: Sequence[bytes | None] | None = None,
        labels: Any = None,
        kind: pa.DataType | None = None,
        names: str | None = "a,b",
        huggingface: Sequence[str] | None = None,
        group: int = 4,
    ) -> Path:
        files = [coloured(v) for v in values] if images is None else images
        image = pa.array([{"bytes": b, "path": None} for b in files], IMAGE)
        label = pa.array([v % 2 for v in values] if labels is None else labels, kind)
        metadata = {"class_names": names} if names else {}
        if huggingface:
            features = {"label": {"names": list(huggingface), "_type": "ClassLabel"}}
            metadata["huggingface"] = json.dumps({"info": {"features": features}})
        table = pa.table({"image": image, "label": label}).replace_schema_metadata(metadata)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, row_group_size=group)
        return path

    return write


@pytest.fixture
def folder(coloured: Callable[[int], bytes]) -> Write:
    """Writes `<root>/<split>/<class>/<value>.png` for every value."""

    def write(root: Path, split: str, name: str, values: Sequence[int] = range(10)) -> Path:
        path = root / split / name
        path.mkdir(parents=True)
        for value in values:
            (path / f"{value:03}.png").write_bytes(coloured(value))
        return path

    return write
