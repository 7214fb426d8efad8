import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.detection import DetectionImages, load_pennfudan
from datasets.detection.pennfudan import N_IMAGES, parse_boxes
from ghn.errors import ConfigError, DamagedFileError

ANNOTATION = """# Details for pedestrian 1 ("PASpersonWalking")
Bounding box for object 1 "PASpersonWalking" (Xmin, Ymin) - (Xmax, Ymax) : (160, 182) - (302, 431)
Bounding box for object 2 "PASpersonWalking" (Xmin, Ymin) - (Xmax, Ymax) : (1, 1) - (2, 3)
"""


@pytest.fixture(scope="module")
def everything(data_root):
    if not (data_root / "PennFudanPed.zip").exists():
        pytest.skip(f"PennFudanPed.zip is not in {data_root}")
    return load_pennfudan(data_root)


@pytest.fixture
def tree(tmp_path):
    folder = tmp_path / "PennFudanPed"
    for name in ("Annotation", "PNGImages"):
        (folder / name).mkdir(parents=True)
    for stem in ("b", "a"):
        (folder / "Annotation" / f"{stem}.txt").write_text(ANNOTATION)
        Image.fromarray(np.full((440, 310, 3), 7, dtype=np.uint8)).save(
            folder / "PNGImages" / f"{stem}.png"
        )
    return tmp_path


def test_boxes_count_from_zero_and_end_past_the_last_pixel():
    assert parse_boxes(ANNOTATION).tolist() == [[159, 181, 302, 431], [0, 0, 2, 3]]
    assert parse_boxes("nothing").shape == (0, 4)


@pytest.mark.data
def test_all_images_have_boxes_within_them(everything):
    assert len(everything) == N_IMAGES
    assert sum(map(len, everything.boxes)) == 423
    for image, boxes in zip(everything.images, everything.boxes, strict=True):
        height, width = image.shape[1:]
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2] <= width).all()
        assert (boxes[:, 3] <= height).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()


@pytest.mark.data
def test_boxes_agree_with_the_masks(everything, data_root):
    """The masks are an independent record of the same people."""
    with zipfile.ZipFile(data_root / "PennFudanPed.zip") as file:
        for i in (0, 57, 120):
            with file.open(f"PennFudanPed/PedMasks/{everything.names[i]}_mask.png") as mask_file:
                mask = np.array(Image.open(mask_file))
            for number, box in enumerate(everything.boxes[i].tolist(), 1):
                y, x = np.nonzero(mask == number)
                assert np.allclose(box, [x.min(), y.min(), x.max() + 1, y.max() + 1], atol=12)


def test_folder_and_archive_give_the_same(tree, tmp_path):
    from_folder = load_pennfudan(tree)
    other = tmp_path / "zipped"
    other.mkdir()
    with zipfile.ZipFile(other / "PennFudanPed.zip", "w") as file:
        for path in sorted((tree / "PennFudanPed").rglob("*.*")):
            file.write(path, path.relative_to(tree))
    from_archive = load_pennfudan(other)
    assert from_folder.names == from_archive.names == ["a", "b"]
    assert from_folder.digest == from_archive.digest


def test_missing_and_damaged_data_say_what_is_wrong(tree, tmp_path):
    with pytest.raises(ConfigError, match="GHN_DATA_ROOT"):
        load_pennfudan(tmp_path / "nowhere")
    (tree / "PennFudanPed" / "PNGImages" / "b.png").write_bytes(b"not a picture")
    with pytest.raises(DamagedFileError, match=r"PNGImages/b\.png: none of BMP, GIF"):
        load_pennfudan(tree)
    other = tmp_path / "broken"
    other.mkdir()
    (other / "PennFudanPed.zip").write_bytes(b"PK")
    with pytest.raises(DamagedFileError, match="download it again"):
        load_pennfudan(other)


def test_an_image_without_its_annotation_is_missed(tree):
    (tree / "PennFudanPed" / "Annotation" / "b.txt").unlink()
    with pytest.raises(DamagedFileError, match="b has no annotation"):
        load_pennfudan(tree)


def test_an_incomplete_set_is_said_to_be_one(tree, caplog):
    load_pennfudan(tree)
    assert "has 2 images, Penn-Fudan has 170" in caplog.text


def test_a_box_outside_of_its_image_is_damage(tree):
    annotation = ANNOTATION.replace("(302, 431)", "(902, 431)")
    (tree / "PennFudanPed" / "Annotation" / "b.txt").write_text(annotation)
    with pytest.raises(DamagedFileError, match=r"b\.txt has a box outside"):
        load_pennfudan(tree)


def test_any_flipped_bit_of_an_archive_is_named_or_harmless(tree, tmp_path):
    folder, archive = tree / "PennFudanPed", tmp_path / "zip" / "PennFudanPed.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.rglob("*.*")):
            file.write(path, path.relative_to(tree))
    whole, expected = archive.read_bytes(), load_pennfudan(tree).digest
    for bit in range(0, 8 * len(whole), 397):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        archive.write_bytes(data)
        try:
            found = load_pennfudan(archive.parent).digest
        except DamagedFileError as error:
            found = str(error)
        assert found == expected or str(archive) in found


def test_it_prints_in_one_line():
    assert repr(images(3)) == "DetectionImages(3 images, 3 boxes)"


def images(n=6):
    pixels = [
        torch.arange(24, dtype=torch.uint8).reshape(1, 4, 6).repeat(3, 1, 1) + i for i in range(n)
    ]
    return DetectionImages(pixels, [torch.tensor([[1.0, 0, 3, 2]])] * n, [str(i) for i in range(n)])


def test_mirroring_keeps_the_pixels_in_the_box():
    data = images()
    mirrored = 0
    for (image,), (target,) in data.batches(1, seed=1, augment=True):
        x1, y1, x2, y2 = target["boxes"][0].int().tolist()
        crop = (image[:, y1:y2, x1:x2] * 255).round()
        sources = [source[:, 0:2, 1:3].float() for source in data.images]
        straight = any(torch.equal(crop, source) for source in sources)
        flipped = any(torch.equal(crop, source.flip(-1)) for source in sources)
        assert straight or flipped
        mirrored += flipped
    assert 0 < mirrored < 6
    assert all(
        target["labels"].tolist() == [1] for _, targets in data.batches(4) for target in targets
    )


def test_the_split_is_disjoint_and_by_seed():
    rest, test = images().split(2, seed=3)
    assert sorted([*rest.names, *test.names]) == list("012345")
    assert len(test) == 2
    assert images().split(2, seed=3)[1].names == test.names
    assert any(images().split(2, seed=seed)[1].names != test.names for seed in range(5))
    with pytest.raises(ConfigError, match="leaves none"):
        images().split(6, seed=0)
