"""From the bytes of one image file to RGB pixels of 8 bits, upright and of a given size.

What is not plain 8-bit RGB has one defined result, or is refused by name:

- 16-bit grey (PNG, PPM, TIFF) is scaled by its full range; float TIFF must lie in 0..1.
- Palettes are looked up; CMYK, YCbCr and grey are converted; transparency is put on white.
- The EXIF orientation is applied.
- 32-bit integers (their white is unknown), one transparent colour of 16 bits, several frames or
  pages, images of more than `MAX_PIXELS` and formats other than `FORMATS` are refused.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from ghn.errors import DamagedFileError, GHNError, UnsupportedFormatError

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats as Pillow names them. The others include some that start programs (EPS)."""

MAX_PIXELS = 89_478_485
"""A quarter of a gigabyte of RGB, as in Pillow; a file of kilobytes can claim more."""

MAX_ASPECT = 16
"""Sides are cut to this ratio before resizing: the shorter side of 1 x 10^7 pixels, made 32 long,
would be 32 x 3.2 * 10^8.
"""

_BITS_PER_SAMPLE, _PHOTOMETRIC, _ORIENTATION = 258, 262, 274  # tags of TIFF and EXIF
_WHITE_IS_ZERO = 0
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(encoded: bytes | None, where: str) -> Image.Image:
    """The image that `encoded` holds, upright, RGB, 8 bits.

    Args:
        encoded: the bytes of an image file.
        where: the file (and row) for messages.

    Raises:
        DamagedFileError: the bytes are no image, a broken one, or missing.
        UnsupportedFormatError: it is an image whose pixels have no agreed 8-bit RGB values.
    """
    if not encoded:
        raise DamagedFileError(f"{where}: there are no image bytes; remove the row or the file")
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            _check_extent(image, where)
            _check_key(image, where)
            image.load()
            return to_rgb(_upright(image), where)
    except GHNError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(where, str(error)) from error
    except UnidentifiedImageError as error:
        raise DamagedFileError(
            f"{where}: none of {', '.join(FORMATS)}; replace or remove it"
        ) from error
    except Exception as error:  # Pillow's parsers raise anything: SyntaxError, struct.error, ...
        raise DamagedFileError(
            f"{where}: not a readable image ({type(error).__name__}: {error}); replace or remove it"
        ) from error


def fit(image: Image.Image, size: int) -> Image.Image:
    """Resizes the shorter side and crops the centre; at 64 pixels and above with the customary
    margin of 256 to 224.
    """
    if image.size == (size, size):
        return image
    image = _cut_to_aspect(image)
    width, height = image.size
    shorter = round(size * 256 / 224) if size >= 64 else size
    scale = shorter / min(width, height)
    image = image.resize(
        (max(size, round(width * scale)), max(size, round(height * scale))),
        Image.Resampling.BILINEAR,
    )
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def _cut_to_aspect(image: Image.Image) -> Image.Image:
    """The centre of a very long image."""
    limit = MAX_ASPECT * min(image.size)
    width, height = min(image.width, limit), min(image.height, limit)
    if (width, height) == image.size:
        return image
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _check_extent(image: Image.Image, where: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(where, f"{image.width} x {image.height} pixels")
    # A photograph of several cameras (MPO) has its main image first.
    if image.format not in ("JPEG", "MPO") and getattr(image, "is_animated", False):
        raise UnsupportedFormatError(
            f"{where}: it has several frames or pages, and which one the label means is unknown;"
            " keep the one that counts"
        )


def _check_key(image: Image.Image, where: str) -> None:
    """Refuses one transparent colour among those of 16 bits, which Pillow cuts to 8 first."""
    deep = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    if deep and image.mode == "RGB" and "transparency" in image.info:
        raise UnsupportedFormatError(
            f"{where}: one colour of 16 bits is transparent, and which pixels have it is not known"
            " after they are cut to 8; save it with an alpha channel or with 8 bits"
        )


def _too_large(where: str, what: str) -> UnsupportedFormatError:
    return UnsupportedFormatError(
        f"{where}: {what}, more than {MAX_PIXELS}; it may be a decompression bomb. Shrink or remove"
        " it"
    )


def _upright(image: Image.Image) -> Image.Image:
    """Applies the EXIF orientation (Pillow itself does so for TIFF)."""
    try:
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a broken EXIF block says nothing about the pixels
        return image
    return image if turn is None else image.transpose(turn)


def to_rgb(image: Image.Image, where: str) -> Image.Image:
    """An image of any mode as RGB of 8 bits.

    Raises:
        UnsupportedFormatError: its pixels have no agreed 8-bit RGB values.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _to_8_bits(image, where)
    if image.has_transparency_data:
        on_white = Image.new("RGBA", image.size, "white")
        on_white.alpha_composite(image.convert("RGBA"))
        image = on_white
    return image.convert("RGB")


def _to_8_bits(image: Image.Image, where: str) -> Image.Image:
    """Grey of more than 8 bits, scaled linearly so that its white is 255."""
    tags = getattr(image, "tag_v2", {})
    values = np.asarray(image, dtype=np.float32)
    if image.mode == "F":
        white = 1.0
        if not ((values >= 0) & (values <= 1)).all():
            raise UnsupportedFormatError(
                f"{where}: float pixels from {values.min():g} to {values.max():g}; only 0 to 1 has"
                " an agreed meaning. Rescale it"
            )
    elif image.mode == "I" and image.format != "PPM":
        raise UnsupportedFormatError(
            f"{where}: integer pixels of 32 bits or with a sign, whose white is unknown; save it"
            " with 8 or 16 bits"
        )
    else:
        white = 2.0 ** tags.get(_BITS_PER_SAMPLE, (16,))[0] - 1
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        values = white - values
    grey = np.rint(values * (255 / white)).astype(np.uint8)
    if (transparent := image.info.get("transparency")) is not None:  # one value of grey, in PNG
        grey[np.asarray(image) == transparent] = 255
    return Image.fromarray(grey)
