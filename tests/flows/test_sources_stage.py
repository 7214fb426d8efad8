"""Files outside of the tree are dependencies: what changes, comes or goes is seen."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from flows.settings import paths
from flows.settings.base import BaseConfig
from flows.settings.dvcfile import read_stages
from flows.settings.finetune import FinetuneStageConfig
from flows.settings.images import ImagesConfig
from flows.settings.population import PopulationEntry
from flows.settings.train import TrainStageConfig
from flows.settings.transfer import TransferConfig
from flows.stages import sources

ROOT = Path(__file__).resolve().parents[2]


def picture(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(size).integers(0, 255, (size, size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "root"
    for name in ("cats/1.png", "cats/2.png", "dogs/1.png", "dogs/2.png"):
        picture(root / "mine" / name, 8)
    return root


def write(images: ImagesConfig, transfer: TransferConfig) -> None:
    sources.write(BaseConfig(), images, TrainStageConfig(), FinetuneStageConfig(), transfer)


def written(root: Path) -> tuple[bytes, bytes]:
    target = TransferConfig(target="other", root=str(root))
    write(ImagesConfig(name="mine", root=str(root)), target)
    return paths.SOURCE.read_bytes(), paths.TARGET_SOURCE.read_bytes()


def test_equal_files_give_equal_bytes_and_changed_ones_others(root: Path) -> None:
    first, target = written(root)
    assert written(root) == (first, target)
    assert json.loads(target) == {"name": "other", "splits": None}
    picture(root / "mine" / "cats" / "2.png", 9)
    second, _ = written(root)
    assert second != first
    (root / "mine" / "dogs" / "1.png").rename(root / "mine" / "cats" / "3.png")
    third, target_again = written(root)
    assert third not in (first, second)
    assert target_again == target


def test_a_data_set_that_comes_is_seen(root: Path) -> None:
    _, absent = written(root)
    picture(root / "other" / "birds" / "1.png", 8)
    _, there = written(root)
    assert there != absent
    assert json.loads(there)["splits"] is not None


def test_the_pipeline_s_own_digits_need_no_files(root: Path) -> None:
    write(ImagesConfig(root=str(root)), TransferConfig())
    assert json.loads(paths.SOURCE.read_bytes())["splits"].keys() == {"all"}
    assert json.loads(paths.TARGET_SOURCE.read_bytes()) == {"name": "cifar10", "splits": None}


def test_the_directory_of_one_s_own_images_is_not_that_of_the_target(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(root.parent / "shared" / "other" / "birds" / "1.png", 8)
    monkeypatch.setenv("GHN_DATA_ROOT", str(root.parent / "shared"))
    write(ImagesConfig(name="mine", root=str(root)), TransferConfig(target="other"))
    assert json.loads(paths.SOURCE.read_bytes())["splits"] is not None
    assert json.loads(paths.TARGET_SOURCE.read_bytes())["splits"] is not None


def test_weights_and_networks_from_elsewhere_are_seen(root: Path) -> None:
    start, selected, code = (root / name for name in ("start.safetensors", "vit.pt", "nets.py"))
    networks = (PopulationEntry(networks=f"{code}:Net"),)
    train = TrainStageConfig(initial=str(start), population=networks)
    finetune = FinetuneStageConfig(inits=("ghn", "randinit", f"selection={selected}"))
    transfer = TransferConfig(inits=("ghn", "./other"), target="other")

    def written() -> tuple[str, str]:
        sources.write(BaseConfig(), ImagesConfig(root=str(root)), train, finetune, transfer)
        return paths.START_SOURCE.read_text(), paths.INITS_SOURCE.read_text()

    seen = [written()]
    assert json.loads(seen[0][0]) == {"initial": {str(start): str(start)}, "population": None}
    assert json.loads(seen[0][1])[f"selection={selected}"] is None
    assert json.loads(seen[0][1]).keys() == {f"selection={selected}", "./other"}
    for path, text in (
        (start, "weights"),
        (code, "from torch import nn\n\nclass Net(nn.Linear):\n    pass\n"),
        (selected, "a"),
        (root.parent / "other", "b"),
    ):
        path.write_text(text)
        seen.append(written())
        assert written() == seen[-1]
    first, second = zip(*seen, strict=True)
    assert [len({*first[:n]}) for n in range(1, 6)] == [1, 2, 3, 3, 3]
    assert [len({*second[:n]}) for n in range(1, 6)] == [1, 1, 1, 2, 3]


def test_what_a_stage_writes_is_not_from_elsewhere(root: Path) -> None:
    """Or the next run would find it changed, each time."""
    own = paths.weights("mine")
    base = BaseConfig(ghn="mine")
    finetune = FinetuneStageConfig(inits=("mine", "mine+orth3", str(own), str(own.resolve())))
    train = TrainStageConfig(initial=str(own.parent))
    seen = set()
    for text in ("before", "after"):
        own.parent.mkdir(parents=True, exist_ok=True)
        own.write_text(text)
        sources.write(base, ImagesConfig(root=str(root)), train, finetune, TransferConfig())
        seen.add((paths.START_SOURCE.read_text(), paths.INITS_SOURCE.read_text()))
    assert len(seen) == 1


def test_what_params_name_outside_of_the_tree_is_looked_at() -> None:
    """Whatever these sections may name, `sources` depends on, and the stages on what it writes."""
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    stages = read_stages(tree, ROOT / "dvc.yaml")
    assert {"train", "finetune", "transfer"} <= set(stages["sources"].params)
    assert paths.START_SOURCE.as_posix() in stages["train"].inputs
    for stage in ("finetune", "transfer"):
        assert paths.INITS_SOURCE.as_posix() in stages[stage].inputs
