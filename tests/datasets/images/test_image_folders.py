"""Folder trees: hidden ones, missing classes, one numbering for all splits."""

import errno
import os
from pathlib import Path

import pytest

from datasets.images import MissingImagesError, find_source, load
from ghn.errors import ConfigError, DamagedFileError


def both(root: Path):
    return tuple(load("tree", root, split, 16) for split in ("train", "test"))


def test_a_class_without_test_images_keeps_the_numbering(tmp_path, folder, caplog) -> None:
    for name in "abc":
        folder(tmp_path / "tree", "train", name)
    for name in "ac":
        folder(tmp_path / "tree", "test", name)
    train, test = both(tmp_path)
    assert train.classes == test.classes == ("a", "b", "c")
    assert test.labels.unique().tolist() == [0, 2]
    assert "has no images of 1 classes (b)" in caplog.text


def test_a_folder_that_the_training_split_lacks_is_refused(tmp_path, folder) -> None:
    for name in ("n01", "n02"):
        folder(tmp_path / "tree", "train", name)
    folder(tmp_path / "tree", "val", "images")  # as Tiny ImageNet has it
    with pytest.raises(ConfigError, match=r"tree/val has folders .*: images"):
        both(tmp_path)


@pytest.mark.parametrize("split", ["train", ""])
def test_a_class_without_training_images_is_refused(tmp_path, folder, split: str) -> None:
    folder(tmp_path / "tree", split, "a")
    (tmp_path / "tree" / split / "b").mkdir()
    with pytest.raises(ConfigError, match=r"/b has no images"):
        find_source("tree", tmp_path)


@pytest.mark.parametrize(
    "name", [".ipynb_checkpoints", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found"]
)
def test_hidden_folders_and_files_are_not_looked_at(tmp_path, folder, name: str) -> None:
    for split in ("train", "test"):
        for of_class in ("cat", "dog"):
            folder(tmp_path / "tree", split, of_class)
        folder(tmp_path / "tree", split, name)
        (tmp_path / "tree" / split / "cat" / "._000.png").write_bytes(b"resource fork")
        folder(tmp_path / "tree" / split, "cat", name)
    train, test = both(tmp_path)
    assert train.classes == test.classes == ("cat", "dog")
    assert len(test) == 20


def test_files_that_are_left_out_are_said(tmp_path, folder, caplog) -> None:
    for split in ("train", "test"):
        folder(tmp_path / "tree", split, "cat")
    (tmp_path / "tree" / "train" / "cat" / "Thumbs.db").touch()
    both(tmp_path)
    assert caplog.text == ""
    (tmp_path / "tree" / "train" / "cat" / "photo.heic").touch()
    (tmp_path / "tree" / "train" / "of_no_class.png").touch()
    (tmp_path / "tree" / "train" / "cat" / "000.png").rename(
        tmp_path / "tree" / "train" / "cat" / "000.jfif"
    )
    train, _ = both(tmp_path)
    assert "tree/train: 2 files are not read" in caplog.text
    assert len(train) == 9  # of ten, one is for validation


def test_splits_go_by_their_usual_names(tmp_path, folder) -> None:
    for split in ("Training", "Testing", "dev"):
        folder(tmp_path / "tree", split, "cat")
    assert set(find_source("tree", tmp_path)) == {"train", "test", "val"}
    folder(tmp_path / "tree", "validation", "cat")
    with pytest.raises(ConfigError, match="are the same split"):
        find_source("tree", tmp_path)


def test_without_a_training_split_the_classes_are_those_of_all(tmp_path, folder) -> None:
    folder(tmp_path / "tree", "test", "b")
    folder(tmp_path / "tree", "val", "a")
    assert load("tree", tmp_path, "test").classes == ("a", "b")


def test_classes_that_lie_deeper_are_no_single_class(tmp_path, folder) -> None:
    """An archive that was unpacked into a folder of its own."""
    for name in ("cat", "dog"):
        folder(tmp_path / "tree", "archive", name)
    with pytest.raises(ConfigError, match=r"tree/archive would be the only class.*\(cat, dog\)"):
        find_source("tree", tmp_path)
    assert find_source("archive", tmp_path / "tree")["all"].classes == ("cat", "dog")
    folder(tmp_path / "one", "train", "cat/left")
    folder(tmp_path / "one", "train", "cat/right")
    (tmp_path / "one/train/cat/0.png").write_bytes(
        (tmp_path / "one/train/cat/left/000.png").read_bytes()
    )
    assert find_source("one", tmp_path)["train"].classes == ("cat",)


@pytest.mark.parametrize("name", ["photos/horizontal", "horizontal"])
def test_images_without_folders_of_classes_are_said(tmp_path, folder, monkeypatch, name) -> None:
    folder(tmp_path, "photos", "horizontal", [1])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingImagesError, match="photos/horizontal has images but no folder per"):
        find_source(name, "photos")


@pytest.mark.parametrize("name", ["photos", "photos.zip"])
def test_what_is_there_and_holds_nothing_that_is_read_is_not_called_absent(tmp_path, name) -> None:
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "cat" / "1.heic").touch()
    (tmp_path / "photos.zip").touch()
    with pytest.raises(MissingImagesError, match=f"{name} holds nothing that is read"):
        find_source(name, tmp_path)


def test_folders_that_links_lead_to_count_once(tmp_path, folder) -> None:
    for name in "ab":
        folder(tmp_path / "tree", "train", name)
    folder(tmp_path / "elsewhere", "", "more")
    before = len(load("tree", tmp_path, "train", 16))
    inside = tmp_path / "tree" / "train" / "a"
    (inside / "link").symlink_to(tmp_path / "elsewhere" / "more")
    (inside / "round").symlink_to(inside)  # or this would never end
    images = load("tree", tmp_path, "train", 16)
    assert len(images) > before
    assert len(find_source("tree", tmp_path)["train"].files) == len(
        [path for top in (inside, inside.parent / "b", tmp_path / "elsewhere")
         for path in top.rglob("*.png")]
    )  # fmt: skip


def test_a_link_to_the_folder_of_all_classes_adds_no_images_to_one(tmp_path, folder) -> None:
    for name in "ab":
        folder(tmp_path / "tree", "train", name)
    before = find_source("tree", tmp_path)["train"].files
    (tmp_path / "tree" / "train" / "a" / "all").symlink_to(tmp_path / "tree" / "train")
    assert find_source("tree", tmp_path)["train"].files == before


def test_a_folder_that_cannot_be_read_is_named(tmp_path, folder, monkeypatch) -> None:
    for name in "ab":
        folder(tmp_path / "tree", "train", name)
    locked = tmp_path / "tree" / "train" / "b"
    scan = os.scandir

    def refuse(path):
        if Path(path) == locked:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DamagedFileError, match=r"train/b: cannot be read \(Permission denied\)"):
        load("tree", tmp_path, "train", 16)


def test_a_class_may_be_called_as_a_split_is(tmp_path, folder) -> None:
    for name in ("bus", "test", "train"):
        folder(tmp_path, "tree", name)
    assert find_source("tree", tmp_path)["all"].classes == ("bus", "test", "train")


def test_folders_beside_splits_without_images_are_ignored(tmp_path, folder) -> None:
    for split in ("train", "test"):
        for name in "ab":
            folder(tmp_path / "tree", split, name)
    (tmp_path / "tree" / "docs" / "deep").mkdir(parents=True)
    (tmp_path / "tree" / "docs" / "deep" / "read.me").write_text("nothing")
    assert find_source("tree", tmp_path).keys() == {"train", "test"}


@pytest.mark.parametrize("beside", [("bus", "car"), ("extra",)])
def test_splits_or_classes_is_asked_and_not_guessed(tmp_path, folder, beside) -> None:
    for name in ("steam", "electric"):
        folder(tmp_path / "tree", "train", name)
    for name in beside:
        folder(tmp_path, "tree", name)
    message = rf"train may be splits or classes, as {', '.join(beside)} beside .*; if classes, move"
    with pytest.raises(ConfigError, match=message):
        find_source("tree", tmp_path)
    if "bus" in beside:  # the second way out
        (tmp_path / "tree").rename(tmp_path / "train")
        (tmp_path / "tree").mkdir()
        (tmp_path / "train").rename(tmp_path / "tree" / "train")
        assert find_source("tree", tmp_path)["train"].classes == ("bus", "car", "train")
