"""Every kind of image file has one defined result, or a refusal that names it."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from datasets.images import load
from datasets.images.pixels import MAX_PIXELS, decode, fit
from ghn.errors import DamagedFileError, GHNError, UnsupportedFormatError

RAMP = np.linspace(0, 255, 32 * 24).reshape(24, 32)  # grey levels of 8 bits, as fractions
GREEN, RED = (0, 255, 0), (255, 0, 0)


def grey(encoded: bytes) -> np.ndarray:
    image = decode(encoded, "here")
    assert image.mode == "RGB"
    return np.asarray(image)[..., 0].astype(float)


def array(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM"])
def test_16_bits_of_grey_are_scaled_by_their_range(encode, file_format: str) -> None:
    values = np.rint(RAMP * 257).astype(np.uint16)
    assert abs(grey(encode(array(values), file_format)) - RAMP).max() <= 0.6


def test_grey_of_16_bits_that_is_transparent_is_white(encode) -> None:
    values = np.array([[0, 32768], [65535, 1000]], np.uint16)
    encoded = encode(Image.fromarray(values), "PNG")
    end = encoded.index(b"IDAT") - 4
    chunk = b"tRNS" + struct.pack(">H", 1000)
    chunk = struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk))
    found = decode(encoded[:end] + chunk + encoded[end:], "file")
    assert np.asarray(found)[..., 0].tolist() == [[0, 128], [255, 255]]


def test_a_transparent_colour_of_16_bits_is_refused() -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    pixels = np.array([1, 2, 3, 9, 9, 9], ">u2").tobytes()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
    key = chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3))
    rest = chunk(b"IDAT", zlib.compress(b"\0" + pixels)) + chunk(b"IEND", b"")
    signature = b"\x89PNG\r\n\x1a\n"
    assert decode(signature + header + rest, "here").size == (2, 1)
    with pytest.raises(UnsupportedFormatError, match="here: one colour of 16 bits is transparent"):
        decode(signature + header + key + rest, "here")


def test_a_grey_map_of_12_bits_is_scaled_by_its_range() -> None:
    values = np.rint(RAMP / 255 * 4095).astype(">u2")
    assert abs(grey(b"P5\n32 24\n4095\n" + values.tobytes()) - RAMP).max() <= 0.6


def test_16_bits_of_colour_keep_their_upper_half() -> None:
    rows = b"".join(b"\0" + struct.pack(">3H", 0xFFFF, 0x8000, 0x0100) * 4 for _ in range(4))
    encoded = _png(4, 4, 16, 2, rows)
    assert decode(encoded, "here").getpixel((0, 0)) == (255, 128, 1)


def test_floats_are_fractions_or_refused(encode) -> None:
    fractions = (RAMP / 255).astype(np.float32)
    assert abs(grey(encode(array(fractions), "TIFF")) - RAMP).max() <= 0.6
    for wrong in (RAMP, fractions - 0.5, np.where(RAMP > 9, np.nan, fractions)):
        with pytest.raises(UnsupportedFormatError, match="here: float pixels from"):
            decode(encode(array(wrong.astype(np.float32)), "TIFF"), "here")


def test_grey_whose_white_is_zero_is_inverted(encode) -> None:
    values = np.rint((255 - RAMP) * 257).astype(np.uint16)
    assert abs(grey(encode(array(values), "TIFF", tiffinfo={262: 0})) - RAMP).max() <= 0.6
    values = ((255 - RAMP) / 255).astype(np.float32)
    assert abs(grey(encode(array(values), "TIFF", tiffinfo={262: 0})) - RAMP).max() <= 0.6


def test_integers_of_unknown_range_are_refused(encode) -> None:
    with pytest.raises(UnsupportedFormatError, match="here: integer pixels of 32 bits"):
        decode(encode(array((RAMP * 257).astype(np.int32)), "TIFF"), "here")


def test_palettes_are_looked_up_and_transparency_is_white(encode) -> None:
    image = Image.new("RGB", (8, 8), GREEN).quantize(4)
    assert decode(encode(image), "here").getpixel((0, 0)) == GREEN
    assert decode(encode(image, transparency=0), "here").getpixel((0, 0)) == (255, 255, 255)
    half = Image.new("RGBA", (8, 8), (*RED, 0))
    half.paste((*GREEN, 255), (0, 0, 4, 8))
    pixels = decode(encode(half), "here")
    assert (pixels.getpixel((0, 0)), pixels.getpixel((7, 0))) == (GREEN, (255, 255, 255))
    assert decode(encode(Image.new("LA", (8, 8), (0, 0))), "here").getpixel((0, 0)) == (255,) * 3
    keyed = encode(Image.new("RGB", (8, 8), RED), transparency=RED)
    assert decode(keyed, "here").getpixel((0, 0)) == (255, 255, 255)
    opaque = encode(Image.new("RGBA", (8, 8), (7, 8, 9, 255)))
    assert decode(opaque, "here").getpixel((0, 0)) == (7, 8, 9)


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [("1", 1, (255,) * 3), ("L", 77, (77,) * 3), ("CMYK", (0, 255, 255, 0), RED)],
)
def test_other_modes_are_converted(encode, mode: str, colour, expected) -> None:
    encoded = encode(Image.new(mode, (16, 16), colour), "TIFF")
    assert decode(encoded, "here").getpixel((3, 3)) == expected


def test_a_cmyk_photograph(encode) -> None:
    encoded = encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    assert np.abs(np.array(decode(encoded, "here").getpixel((3, 3))) - RED).max() < 8


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_stand_upright_whatever_the_camera_did(
    encode, orientation: int, file_format: str
) -> None:
    """The quadrants of an image have four greys; the stored one is turned as EXIF says."""
    upright = np.kron(np.array([[20, 90], [160, 230]], dtype=np.uint8), np.ones((16, 24), np.uint8))
    stored = {  # EXIF: where the first row and the first column of the stored image belong
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.T, 6: np.rot90(upright), 7: np.rot90(upright, 2).T, 8: np.rot90(upright, 3),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[274] = orientation
    options = {"tiffinfo": {274: orientation}} if file_format == "TIFF" else {"exif": exif}
    if file_format == "WEBP":
        options["lossless"] = True
    image = Image.fromarray(np.ascontiguousarray(stored)).convert("RGB")
    pixels = grey(encode(image, file_format, **options))
    assert pixels.shape == upright.shape
    assert abs(pixels - upright).mean() < 4


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_broken_exif_block_says_nothing_about_the_pixels(encode) -> None:
    whole = encode(Image.new("RGB", (16, 16), GREEN), "JPEG", quality=95, exif=b"Exif\0\0MM\0*junk")
    assert np.abs(np.array(decode(whole, "here").getpixel((3, 3))) - GREEN).max() < 8


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_several_frames_are_refused(encode, file_format: str) -> None:
    frames = [Image.new("RGB", (8, 8), (i, 90 * i, 0)) for i in range(3)]
    encoded = encode(frames[0], file_format, save_all=True, append_images=frames[1:])
    with pytest.raises(UnsupportedFormatError, match="here: it has several frames"):
        decode(encoded, "here")
    one = encode(frames[1], file_format)
    assert decode(one, "here").size == (8, 8)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "BMP", "PPM", "TIFF", "WEBP", "GIF"])
def test_truncated_files_are_refused(encode, file_format: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    whole = encode(array(noise), file_format)
    decode(whole, "here")
    for share in (0.0, 0.01, 0.3, 0.6, 0.9):
        with pytest.raises(DamagedFileError, match=r"^here: "):
            decode(whole[: int(share * len(whole))], "here")


def _png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + checksum

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


@pytest.mark.parametrize("side", [10_000, 14_000, 100_000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # as users may have it
def test_decompression_bombs_are_refused_before_they_are_decoded(side: int, monkeypatch) -> None:
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *_: pytest.fail("decoded"))
    assert side * side > MAX_PIXELS
    with pytest.raises(UnsupportedFormatError, match=r"here: .*bomb"):
        decode(_png(side, side, 8, 2, b"\0"), "here")


def test_a_bomb_of_text_is_refused(encode) -> None:
    text = b"zTXt" + b"comment\0\0" + zlib.compress(b"a" * 2**27)
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    whole = encode(Image.new("RGB", (8, 8)))
    with pytest.raises(DamagedFileError, match="here: not a readable image"):
        decode(whole[:33] + chunk + whole[33:], "here")


def test_a_very_long_image_is_cut_before_it_is_resized() -> None:
    """Its shorter side made 32 pixels long, the other would be 32 x 10^6."""
    image = Image.new("L", (1_000_000, 1), 9).convert("RGB")
    assert fit(image, 32).size == (32, 32)
    assert fit(image.transpose(Image.Transpose.ROTATE_90), 224).size == (224, 224)


def test_programs_are_not_started_for_an_image(encode) -> None:
    encoded = encode(Image.new("RGB", (8, 8)), "EPS")
    with pytest.raises(DamagedFileError, match="none of BMP, GIF"):
        decode(encoded, "here")


def _samples() -> list[bytes]:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (12, 9, 3), dtype=np.uint8))
    samples = []
    for file_format in ("PNG", "JPEG", "BMP", "PPM", "TIFF", "WEBP", "GIF"):
        buffer = io.BytesIO()
        noise.save(buffer, file_format)
        samples.append(buffer.getvalue())
    return samples


def outcome(encoded: bytes) -> str:
    """The mode of the image, or what the project's error says; other errors are faults."""
    try:
        return decode(encoded, "here").mode
    except GHNError as error:
        return str(error)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
@example(b"P6 1 1 255\n")
@example(b"II*\0\x08\0\0\0")
def test_arbitrary_bytes_give_an_image_or_the_projects_errors(encoded: bytes) -> None:
    assert outcome(encoded) == "RGB" or outcome(encoded).startswith("here: ")


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(_samples()), st.data())
def test_damaged_files_give_an_image_or_the_projects_errors(whole: bytes, data) -> None:
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole))))
    found = outcome(bytes(damaged[:end]))
    assert found == "RGB" or found.startswith("here: ")


def test_a_refusal_has_the_file_and_the_row(tmp_path, parquet, coloured, folder) -> None:
    files = [coloured(1)] * 5 + [None, b"", b"no image"]
    for bad in (5, 6, 7):
        parquet(tmp_path / "pets.parquet", images=[*files[:5], files[bad]], labels=[0, 1] * 3)
        with pytest.raises(DamagedFileError, match=r"pets\.parquet, row 1 of row group 1"):
            load("pets", tmp_path, "all")
    path = folder(tmp_path / "tree", "train", "cat") / "003.png"
    path.write_bytes(b"no image")
    with pytest.raises(DamagedFileError, match=r"tree/train/cat/003\.png"):
        load("tree", tmp_path, "train", val_fraction=0.01)
