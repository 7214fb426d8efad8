"""The images stage and those who read what it left."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import flows
from datasets.images import ImageStream
from flows.params import merge, read_yaml, validate
from flows.settings import paths
from flows.stages import images
from flows.stages.runner import start
from flows.trials.images import ImagesSpec, images_digest, trial_images
from ghn.errors import ConfigError, DamagedFileError, GHNError

DEFAULTS = read_yaml(Path(flows.__file__).parents[1] / "params.yaml")


class Metrics(dict):
    def log_metrics(self, values, **_):
        self.update(values)


def params(root: Path, name: str = "pets", **changes):
    section = {"name": name, "root": str(root), "image_size": 8, **changes}
    return validate(merge(DEFAULTS, {"images": section}), "params.yaml")


def fill(root: Path, name: str = "pets", value: int = 50) -> None:
    for split, n in (("train", 20), ("test", 6)):
        for label in ("cat", "dog"):
            (root / name / split / label).mkdir(parents=True, exist_ok=True)
            for i in range(n):
                pixels = np.full((8, 8, 3), value + i, np.uint8)
                Image.fromarray(pixels).save(root / name / split / label / f"{i:02}.bmp")


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "source")
    return tmp_path / "source"


@pytest.mark.parametrize("name", ["pets", "CIFARmini", "pets.v2", "pets.parquet"])
def test_what_the_stage_writes_is_what_later_stages_read(root, name: str) -> None:
    fill(root, name)
    given, metrics = params(root, name), Metrics()
    start(images.run, given, metrics)
    lengths = {
        split: len(images.load_split(given.images, given.base.seed, split))
        for split in ("train", "val", "test")
    }
    assert lengths == {"train": 36, "val": 4, "test": 12}
    assert metrics == {f"{split}_images": n for split, n in lengths.items()}


@pytest.mark.parametrize("name", ["..", ".", ".hidden", "a/b", ""])
def test_names_that_are_no_names_are_refused(root, name: str) -> None:
    with pytest.raises(ConfigError, match=r"images\.name"):
        params(root, name)


def test_a_split_of_one_image_is_refused_with_what_to_set(root) -> None:
    with pytest.raises(ConfigError, match=r"split val of pets has a single.*images\.val_fraction"):
        start(images.run, params(root, val_fraction=0.02), Metrics())


def test_equal_sources_give_equal_bytes(root, tmp_path, monkeypatch) -> None:
    def outputs():
        start(images.run, params(root), Metrics())
        return {path.name: path.read_bytes() for path in Path("data/images/pets").iterdir()}

    first = outputs()
    monkeypatch.chdir(tmp_path / "source")
    assert outputs() == first


def test_a_run_without_changes_decodes_nothing_and_leaves_nothing_of_other_parameters(
    root, monkeypatch
) -> None:
    """DVC keeps the outputs and runs the stage every time, to see whether the source changed."""
    start(images.run, params(root, image_size=9), Metrics())
    start(images.run, params(root), Metrics())
    before = {path: path.read_bytes() for path in Path("data/images/pets").iterdir()}
    assert len(before) == 4
    monkeypatch.setattr("datasets.images.loading.decode_rows", lambda *_: pytest.fail("again"))
    start(images.run, params(root), Metrics())
    assert {path: path.read_bytes() for path in Path("data/images/pets").iterdir()} == before


def test_without_the_source_the_stage_needs_its_outputs(root) -> None:
    start(images.run, params(root), Metrics())
    root.rename(root.with_name("elsewhere"))
    start(images.run, params(root), Metrics())
    with pytest.raises(DamagedFileError, match="other parameters"):
        start(images.run, params(root, val_fraction=0.3), Metrics())
    Path("data/images/pets/val-8px.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="run the images stage first"):
        start(images.run, params(root), Metrics())
    Path("data/images/pets/about.json").unlink()
    with pytest.raises(ConfigError, match="no images named 'pets'"):
        start(images.run, params(root), Metrics())


def test_a_changed_source_is_never_answered_by_what_was_decoded(root) -> None:
    given = params(root)
    start(images.run, given, Metrics())
    fill(root, value=100)
    for read in (
        images.load_split,
        lambda *_: images.training_images(given.images, given.base.seed),
    ):
        with pytest.raises(DamagedFileError, match=r"are not those .*dvc repro images"):
            read(given, "train")
    start(images.run, given, Metrics())
    assert images.load_split(given.images, given.base.seed, "train").images.min() == 100


def test_other_parameters_than_the_stage_had_are_not_answered(root) -> None:
    start(images.run, params(root), Metrics())
    for changes in ({"val_fraction": 0.3}, {"image_size": 9}, {"test_fraction": 0.5}):
        with pytest.raises((DamagedFileError, FileNotFoundError), match=r"images stage"):
            images.load_split(
                params(root, **changes).images, params(root, **changes).base.seed, "val"
            )


def test_a_training_of_other_images_reads_what_trials_decoded(root) -> None:
    """A hypernetwork trained on demand has its own seed and fractions."""
    start(images.run, params(root), Metrics())
    given = params(root, val_fraction=0.3)
    trial_images(spec(root, val_fraction=0.3, seed=DEFAULTS["base"]["seed"]))
    assert len(images.load_split(given.images, given.base.seed, "val")) == 12
    assert len(images.training_images(given.images, given.base.seed)) == 28
    fill(root, value=100)
    with pytest.raises(DamagedFileError, match="other parameters"):
        images.load_split(given.images, given.base.seed, "val")


def test_a_worker_without_the_source_reads_the_outputs(root) -> None:
    given = params(root)
    start(images.run, given, Metrics())
    root.rename(root.with_name("elsewhere"))
    assert len(images.load_split(given.images, given.base.seed, "train")) == 36


def test_a_stream_is_of_the_source_that_the_stage_saw(root) -> None:
    given = params(root, stream=True)
    with pytest.raises(FileNotFoundError, match="run the images stage first"):
        images.training_images(given.images, given.base.seed)
    start(images.run, given, Metrics())
    assert isinstance(images.training_images(given.images, given.base.seed), ImageStream)
    fill(root, value=100)
    with pytest.raises(DamagedFileError, match="dvc repro images"):
        images.training_images(given.images, given.base.seed)


def test_a_damaged_summary_or_one_of_another_run_is_named(root) -> None:
    given = params(root)
    with pytest.raises(FileNotFoundError, match="run the images stage first"):
        images.load_split(given.images, given.base.seed, "val")
    start(images.run, given, Metrics())
    path = Path("data/images/pets/about.json")
    whole = path.read_bytes()
    about = json.loads(whole)
    for damaged in (whole[:40], b"[1]", b'{"val": 3}', json.dumps(about | {"val": 3}).encode()):
        path.write_bytes(damaged)
        with pytest.raises(GHNError, match=r"about\.json.*run the images stage again"):
            images.load_split(given.images, given.base.seed, "val")


def spec(root: Path, **changes) -> ImagesSpec:
    return ImagesSpec(name="pets", root=str(root), image_size=8, **changes)


def test_trials_read_the_stages_outputs_and_never_rewrite_them(root) -> None:
    start(images.run, params(root), Metrics())
    outputs = Path("data/images/pets")
    before = {path: path.stat().st_mtime_ns for path in outputs.iterdir()}
    same = trial_images(spec(root, seed=DEFAULTS["base"]["seed"]))
    assert (
        same[1].digest
        == images.load_split(params(root).images, params(root).base.seed, "val").digest
    )
    assert not (paths.CACHE / "images").exists()
    others = [spec(root, seed=7), spec(root, val_fraction=0.3), spec(root, seed=7)]
    digests = [images_digest(other) for other in others]
    assert digests[0] == digests[2] != digests[1]
    assert {path: path.stat().st_mtime_ns for path in outputs.iterdir()} == before
    assert len(list((paths.CACHE / "images").rglob("train-8px.safetensors"))) == 2


def test_a_trial_sees_changed_images_in_the_same_process(root) -> None:
    one = spec(root, seed=3)
    before, levels = images_digest(one), trial_images(one)[0].images.float().mean()
    fill(root, value=100)
    assert images_digest(one) != before
    assert trial_images(one)[0].images.float().mean() > levels + 40


def test_programs_outside_may_give_whole_parameters(root):
    given = params(root)
    images.run(given, Metrics())
    assert len(images.load_split(given, "train")) == 36
