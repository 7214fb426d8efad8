import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from flows.params import Params, load_params
from flows.settings import paths
from flows.settings.train import TrainStageConfig
from flows.stages import generate, images, train
from flows.stages.runner import start
from flows.tracking import stage_run
from flows.training.budget import Budget
from flows.training.curve import Curve
from flows.training.curve import curve as train_curve
from flows.training.live import LiveNumbers
from flows.training.lock import BusyError, only_one
from flows.training.phases import fitted, settings
from ghn.checkpoint import from_pretrained, save_checkpoint
from ghn.errors import ConfigError, DamagedFileError
from ghn.train import ProgressBar, StepRecord, Training

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """The laptop profile, made tiny, in an empty tree with its architectures and images."""
    loaded = load_params(ROOT / "params.yaml")
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    tree = loaded.model_dump(by_alias=True)
    tree["generate"]["splits"] = {
        "train": {"size": 12, "n_cells": (4, 5), "steps": (1, 2), "max_multiply_adds": 1.5e7},
        "val": {"size": 3, "n_cells": (4, 5), "steps": (1, 2)},
    }
    tree["images"]["image_size"] = 32
    tree["train"] |= {
        "ghn": {"hidden": 16, "decoder_channels": 16, "layers": 1},
        "networks": {"channels": (16, 16), "fc_dim": (64, 64)},
        "steps": 4, "warmup_steps": 1, "meta_batch_size": 2, "batch_size": 8, "evaluate_every": 2,
        "log_every": 1, "initial": None, "output_gain": 5,
        "curve_architectures": 2, "curve_images": 64,
    }  # fmt: skip
    small = Params.model_validate(tree)
    for name in ("train", "val"):
        with stage_run("generate", {}, connect_after_seconds=1e9) as run:
            start(generate.run, small, run, split=name)
    with stage_run("images", {}, connect_after_seconds=1e9) as run:
        start(images.run, small, run)
    return small


def test_the_stage_leaves_a_hypernetwork_its_curve_and_nothing_else(params: Params) -> None:
    with stage_run("train", {}, connect_after_seconds=1e9) as run:
        start(train.run, params, run)
    output = paths.model(params.base.ghn)
    curve = json.loads((output / train.CURVE_NAME).read_text())
    assert [point["step"] for point in curve] == [2, 4]
    assert all(0 <= point["val_mean"] <= point["val_best"] <= 1 for point in curve)
    assert json.loads((output / train.SUMMARY_NAME).read_text()) == curve[-1]
    (run_,) = (output / "checkpoints").iterdir()
    assert {path.stem for path in (run_ / "checkpoints").glob("step-*")} == {"step-00000004"}
    ghn = from_pretrained(paths.weights(params.base.ghn))
    assert ghn.config.hidden == 16
    assert ghn.metadata["images"] == "digits"
    log = "".join(path.read_text() for path in Path(".mlflow-spool").glob("*.jsonl"))
    assert '"curve/val_mean"' in log
    assert '"images_per_second"' in log
    sent = [entry["metrics"] for entry in map(json.loads, log.splitlines()) if "metrics" in entry]
    steps = [metrics for metrics in sent if "cross_entropy" in metrics]
    assert len(steps) == 4
    for metrics in steps:  # what MLflow draws without spikes
        logarithm = metrics["cross_entropy_log10"]
        assert 10**logarithm == pytest.approx(metrics["cross_entropy"])


def test_an_interrupted_stage_goes_on_and_other_parameters_begin_anew(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StopError(Exception):
        pass

    calls = []

    def stop_at_second(self: Curve, ghn: object) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 1:
            return {"val_mean": 0.1, "val_best": 0.1}
        raise StopError

    short = params.model_copy(
        update={"train": params.train.model_copy(update={"checkpoint_every": 2})}
    )
    with monkeypatch.context() as patch:
        patch.setattr(Curve, "__call__", stop_at_second)
        with pytest.raises(StopError), stage_run("train", {}, connect_after_seconds=1e9) as run:
            start(train.run, short, run)
    runs = list((paths.model(params.base.ghn) / "checkpoints").iterdir())
    assert len(runs) == 1
    other = params.model_copy(update={"train": params.train.model_copy(update={"lr": 1e-4})})
    with stage_run("train", {}, connect_after_seconds=1e9) as run:
        start(train.run, other, run)
    assert runs[0] in (paths.model(params.base.ghn) / "checkpoints").iterdir()
    before = (runs[0] / "steps.jsonl").read_text()
    assert len(before.splitlines()) == 4
    with stage_run("train", {}, connect_after_seconds=1e9) as run:
        start(train.run, short, run)  # only the last evaluation was missing
    assert not runs[0].exists()


def test_training_goes_on_from_a_trained_hypernetwork_of_the_same_configuration(
    params: Params,
) -> None:
    trained = train.new_hypernetwork(params.train.hypernetwork(10), 7, 1.0)
    save_checkpoint(trained, Path("trained.safetensors"))
    onward = params.train.model_copy(
        update={
            "initial": "trained.safetensors",
            "lr": 1e-9,
            "warmup_lr": 1e-9,
            "weight_decay": 0.0,
        }
    )
    with stage_run("train", {}, connect_after_seconds=1e9) as run:
        start(train.run, params.model_copy(update={"train": onward}), run)
    found = from_pretrained(paths.weights(params.base.ghn)).state_dict()
    for name, tensor in trained.state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)
    taking = {"flattened": "kernels", "shuffled": "channels"}
    other = onward.model_copy(update={"ghn": {**onward.ghn, **taking}})
    start(train.run, params.model_copy(update={"train": other}), None)
    config = from_pretrained(paths.weights(params.base.ghn)).config
    assert {name: getattr(config, name) for name in taking} == taking
    channels = 2 * trained.config.decoder_channels
    repeated = onward.model_copy(update={"ghn": {**onward.ghn, "decoder_channels": channels}})
    start(train.run, params.model_copy(update={"train": repeated}), None)
    assert from_pretrained(paths.weights(params.base.ghn)).config.decoder_channels == channels
    wider = onward.model_copy(update={"ghn": {**onward.ghn, "hidden": 32}})
    with pytest.raises(
        ConfigError, match=r"trained.safetensors has hidden = 16, but .* ask for hidden = 32"
    ):
        start(train.run, params.model_copy(update={"train": wider}), None)


def test_a_training_from_another_hypernetwork_says_what_it_has_seen(params: Params) -> None:
    trained = train.new_hypernetwork(params.train.hypernetwork(7), 7, 1.0)
    save_checkpoint(trained, Path("seven.safetensors"), {"images": "birds", "classes": ["a"] * 7})
    onward = params.train.model_copy(update={"initial": "seven.safetensors"})
    with stage_run("train", {}, connect_after_seconds=1e9) as run:
        start(train.run, params.model_copy(update={"train": onward}), run)
    found = from_pretrained(paths.weights(params.base.ghn))
    assert found.num_classes == 10
    assert found.metadata["lineage"] == ["birds", params.images.name]
    assert train.lineage(found, "flowers") == ["birds", params.images.name, "flowers"]
    assert train.lineage(None, "flowers") == ["flowers"]


def test_a_training_takes_the_seed_of_the_pipeline_or_its_own(params: Params) -> None:
    still = params.train.model_copy(update={"lr": 1e-9, "warmup_lr": 1e-9, "weight_decay": 0.0})
    assert still.recipe_with(5).seed == 5
    for seed, section in ((params.base.seed, still), (7, still.model_copy(update={"seed": 7}))):
        with stage_run("train", {}, connect_after_seconds=1e9) as run:
            start(train.run, params.model_copy(update={"train": section}), run)
        fresh = train.new_hypernetwork(
            section.hypernetwork(10), seed, section.output_gain
        ).state_dict()
        for name, tensor in from_pretrained(paths.weights(params.base.ghn)).state_dict().items():
            torch.testing.assert_close(tensor, fresh[name], rtol=0, atol=1e-6)


def test_distance_gain_scales_the_embeddings_of_distance_and_nothing_else(params: Params) -> None:
    config = params.train.hypernetwork(10)
    before = train.new_hypernetwork(config, 7, 1.0)
    save_checkpoint(before, Path("trained.safetensors"))
    still = {
        "initial": "trained.safetensors",
        "lr": 1e-9,
        "warmup_lr": 1e-9,
        "weight_decay": 0.0,
        "distance_gain": 3.0,
    }
    with stage_run("train", {}, connect_after_seconds=1e9) as run:
        start(
            train.run,
            params.model_copy(update={"train": params.train.model_copy(update=still)}),
            run,
        )
    found = from_pretrained(paths.weights(params.base.ghn)).state_dict()
    for name, tensor in before.state_dict().items():
        factor = 3.0 if name == "embedding.input_distance.weight" else 1.0
        torch.testing.assert_close(found[name], tensor * factor, rtol=0, atol=1e-6)


def test_distance_gain_needs_embeddings_of_distance() -> None:
    from ghn.models import GHN, GHNConfig

    ghn2 = GHN(GHNConfig.variant("ghn2", 10))
    train.emphasize_distance(ghn2, 1.0)
    with pytest.raises(ConfigError, match="does not embed distances"):
        train.emphasize_distance(ghn2, 2.0)


def test_phases_change_size_and_networks_and_resume_in_between(params: Params) -> None:
    phases = [
        {"steps": 2, "image_size": 16, "channels": (8, 8), "batch_size": 16, "max_cost": 1e7},
        {"meta_batch_size": 1},
    ]
    tree = params.model_dump(by_alias=True)
    tree["train"] |= {"phases": phases, "population": None, "checkpoint_every": 1}
    phased = Params.model_validate(tree)
    seen: list[tuple[int, int]] = []

    class StopError(Exception):
        pass

    def train_until(stop: int, monkeypatch: pytest.MonkeyPatch) -> bytes:
        def report(self: ProgressBar, training: Training, record: StepRecord) -> None:
            ratio = record.images_per_second / record.architectures_per_second
            seen.append((training.step, round(ratio)))
            if training.step == stop:
                raise StopError

        with monkeypatch.context() as patch, stage_run("train", {}, connect_after_seconds=1e9) as r:
            patch.setattr(ProgressBar, "on_report", report)
            start(train.run, phased, r)
        return paths.weights(params.base.ghn).read_bytes()

    monkeypatch = pytest.MonkeyPatch()
    whole = train_until(0, monkeypatch)
    assert seen == [(1, 16), (2, 16), (3, 8), (4, 8)]
    for stop in (2, 3):
        shutil.rmtree(paths.model(params.base.ghn))
        with pytest.raises(StopError):
            train_until(stop, monkeypatch)
    assert train_until(0, monkeypatch) == whole
    assert from_pretrained(paths.weights(params.base.ghn)).metadata["image_size"] == 32


def test_phases_that_do_not_add_up_are_named() -> None:
    section = {"steps": 10, "warmup_steps": 1}
    for phases, message in (
        ([{"steps": 4}, {"steps": 5}], "phases take 9 steps"),
        ([{}, {"steps": 5}], "only the last of phases"),
        ([{"image_size": 20}], "multiple of 16"),
    ):
        with pytest.raises(ValueError, match=message):
            train.TrainStageConfig.model_validate(section | {"phases": phases})


@pytest.mark.parametrize(("steps", "widths"), [(3, [16]), (4, [16]), (5, [16, 32]), (9, [16, 32])])
def test_a_shorter_run_leaves_out_the_last_phases(steps: int, widths: list[int]) -> None:
    phases = [{"steps": 4, "channels": [16, 16], "batch_size": 8}, {"channels": [32, 32]}]
    section = {"steps": steps, "warmup_steps": 1, "batch_size": 16, "phases": phases}
    config = train.TrainStageConfig.model_validate(section)
    found = settings(config, 32)
    assert [setting.networks.channels[0] for setting in found] == widths
    assert found[-1].steps is None
    assert config.recipe_with(1).batch_size == (16 if len(widths) == 2 else 8)


def test_a_population_is_mixed_and_resumed_to_the_byte(params: Params) -> None:
    own = "from torch import nn\n\n\ndef net(num_classes):\n    return nn.Sequential("
    body = "nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), "
    Path("own_net.py").write_text(f"{own}{body}nn.Dropout(0.5), nn.Linear(8, num_classes))\n")
    population = [
        {"networks": "own_net.py:net", "weight": 2},
        {"networks": "squeezenet1_1"},
        {"networks": "deepnets1m"},
    ]
    tree = params.model_dump(by_alias=True)
    tree["train"] |= {"population": population, "phases": [], "checkpoint_every": 1}
    tree["train"]["curve_architectures"] = 1
    mixed = Params.model_validate(tree)

    class StopError(Exception):
        pass

    def train_until(stop: int) -> bytes:
        def report(self: ProgressBar, training: Training, record: StepRecord) -> None:
            if training.step == stop:
                raise StopError

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ProgressBar, "on_report", report)
            with stage_run("train", {}, connect_after_seconds=1e9) as run:
                start(train.run, mixed, run)
        return paths.weights(params.base.ghn).read_bytes()

    whole = train_until(0)
    shutil.rmtree(paths.model(params.base.ghn))
    with pytest.raises(StopError):
        train_until(2)
    assert train_until(0) == whole
    Path("own_net.py").write_text(Path("own_net.py").read_text().replace("(0.5)", "(0.1)"))
    shutil.rmtree(paths.model(params.base.ghn))
    assert train_until(0) != whole


def test_a_curve_of_few_images_is_one_batch(params: Params) -> None:
    few = images.load_split(params.images, params.base.seed, "val").subset(range(10))
    found = train_curve(params.train, few, 0)
    assert [len(labels) for _, labels in found.batches] == [10]


def test_a_data_set_smaller_than_a_batch_is_trained_on_whole(
    params: Params, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    few = images.load_split(params.images, params.base.seed, "train").subset(range(5))
    monkeypatch.setattr("flows.stages.images.training_images", lambda *_: few)
    _train(params)
    assert "5 training images" in capfd.readouterr().err
    ghn = from_pretrained(paths.weights(params.base.ghn))
    assert ghn.metadata["train"]["batch_size"] == 5
    stretch = {"batch_size": 64, "steps": 2}
    config = TrainStageConfig(steps=4, warmup_steps=1, phases=[stretch, {}])
    assert [phase.batch_size for phase in fitted(config, 9).phases] == [9, None]
    assert fitted(config, 128) == config


def test_a_budget_of_minutes_ends_a_run_as_if_it_were_over(
    params: Params, capfd: pytest.CaptureFixture[str]
) -> None:
    tree = params.model_dump(by_alias=True)
    tree["train"] |= {"minutes": 1e-6, "checkpoint_every": 1}
    hurried = Params.model_validate(tree)
    _train(hurried)
    assert re.search(r"step 1/4 .* min left", capfd.readouterr().err)
    before = _outputs(params)
    assert from_pretrained(paths.weights(params.base.ghn)).metadata["step"] == 1
    assert [point["step"] for point in json.loads(before[train.CURVE_NAME])] == [1]
    _train(hurried)  # again: no step more
    assert _outputs(params) == before


def test_what_a_training_reports_is_written_with_dvclive(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("dvclive", reason="extra `live` is not installed")
    tree = params.model_dump(by_alias=True)
    tree["train"] |= {"live": True}
    _train(Params.model_validate(tree))
    live = tmp_path / "dvclive"
    assert json.loads((live / "metrics.json").read_text())["step"] == 4
    accuracies = (live / "plots" / "metrics" / "curve" / "val_mean.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in accuracies] == ["step", "2", "4"]
    assert not (tmp_path / "dvc.yaml").exists()  # the pipeline's own stays as it is


def test_without_dvclive_the_field_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dvclive.live", None)
    with pytest.raises(ConfigError, match=r"train\.live needs DVCLive: pip install"):
        LiveNumbers()


def test_a_budget_counts_what_a_run_took_before_an_interruption(tmp_path: Path) -> None:
    training, file = Training(None, None, steps=9), tmp_path / "seconds.txt"  # type: ignore[arg-type]
    budget = Budget(1, file)
    budget.on_start(training)
    budget.on_checkpoint(training, tmp_path)
    assert 0 <= float(file.read_text()) < 60
    file.write_text("60.5")
    budget.on_step(training, None)  # type: ignore[arg-type]
    assert not training.stopping
    training.step = 3
    budget.on_start(training)
    budget.on_step(training, None)  # type: ignore[arg-type]
    assert training.stopping
    for damaged in (b"", b"\xff\x00", b"6O.5"):
        file.write_bytes(damaged)
        with pytest.raises(DamagedFileError, match=r"seconds.*: no number of seconds"):
            budget.on_start(training)


def test_images_are_resized_by_area(params: Params) -> None:
    from flows.training.phases import resized

    held_out = images.load_split(params.images, params.base.seed, "val")
    small = resized(held_out, 16)
    mean = held_out.images.float().unflatten(2, (16, 2)).unflatten(4, (16, 2)).mean((3, 5))
    assert torch.equal(small.images, mean.round().to(torch.uint8))
    assert small.digest == resized(held_out, 16).digest
    assert resized(held_out, 32) is held_out


def test_a_second_training_of_a_tree_is_turned_away(params: Params) -> None:
    output = paths.model(params.base.ghn)
    with only_one(output), pytest.raises(BusyError, match="another process trains"):
        start(train.run, params, None)
    assert not (output / ".train.lock").exists()


def test_a_kill_while_publishing_loses_nothing(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(Exception):
        pass

    def killed(*arguments: object, **options: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KilledError):
            _train(params)
    before = _outputs(params)
    (paths.model(params.base.ghn) / "checkpoints" / ".tmp-1-killed").touch()
    with monkeypatch.context() as patch:
        patch.setattr("ghn.train.update.Updates.take", killed)  # no step is left to take
        _train(params)
    assert _outputs(params) == before
    curve = json.loads(before[train.CURVE_NAME])
    assert [point["step"] for point in curve] == [2, 4]


def test_a_kill_between_the_finished_name_and_the_end_of_the_stage_loses_nothing(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(Exception):
        pass

    def killed(*_: object, **__: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("flows.tracking.run.StageRun.log_artifact", killed)
        with pytest.raises(KilledError):
            _train(params)
    before = _outputs(params)
    (finished,) = (paths.model(params.base.ghn) / "checkpoints").iterdir()
    assert finished.name.startswith(".finished-")
    with monkeypatch.context() as patch:
        patch.setattr("ghn.train.update.Updates.take", killed)  # no step is left to take
        _train(params)
    assert _outputs(params) == before
    assert [*finished.parent.iterdir()] == [finished]


def test_a_kill_after_publishing_trains_no_second_time(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC, which notes the outcome, removes the outputs before it runs a stage again."""

    def again(*_: object) -> None:
        raise AssertionError("it trains again")

    _train(params)
    before = _outputs(params)
    for name in before:
        (paths.model(params.base.ghn) / name).unlink()
    with monkeypatch.context() as patch:
        patch.setattr("ghn.train.update.Updates.take", again)
        _train(params)
        assert _outputs(params) == before
        other = params.model_copy(
            update={"train": params.train.model_copy(update={"curve_images": 32})}
        )
        with pytest.raises(AssertionError, match="trains again"):
            _train(other)  # it has another curve


def _train(params: Params) -> None:
    with stage_run("train", {}, connect_after_seconds=1e9) as run:
        start(train.run, params, run)


def _outputs(params: Params) -> dict[str, bytes]:
    output = paths.model(params.base.ghn)
    return {path.name: path.read_bytes() for path in output.iterdir() if path.is_file()}


@pytest.fixture
def directories(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Where trainings would be that start from now on; they end at once."""
    found: list[Path] = []

    def directory(
        recipe: object, ghn: object, batches: object, data: object, path: Path, **_: object
    ) -> None:
        found.append(path)
        raise KeyboardInterrupt

    monkeypatch.setattr("ghn.train.train", directory)
    return found


def test_other_code_begins_a_new_run(
    params: Params, directories: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for digest in ("a", "a", "b"):
        monkeypatch.setattr(train, "code_digest", lambda module, digest=digest: digest)
        with pytest.raises(KeyboardInterrupt):
            start(train.run, params, None)
    assert directories[0] == directories[1] != directories[2]


def test_the_same_pixels_under_another_name_begin_a_new_run(
    params: Params, directories: list[Path]
) -> None:
    """The name decides whether images may be mirrored, and stands in the weights."""
    for name in ("letters", "mnist"):
        for number in range(60):
            path = Path("own", name, "ab"[number % 2], f"{number}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (32, 32), number).save(path)
        own = params.images.model_copy(update={"name": name, "root": "own"})
        changed = params.model_copy(update={"images": own})
        with stage_run("images", {}, connect_after_seconds=1e9) as run:
            start(images.run, changed, run)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                start(train.run, changed, None)
    assert directories[0] == directories[1] != directories[2] == directories[3]


@pytest.mark.slow
def test_torchrun_starts_the_same_stage(params: Params) -> None:
    Path("params.yaml").write_text(yaml.safe_dump(params.tree()))
    shutil.copy(ROOT / "dvc.yaml", "dvc.yaml")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [*torchrun, "-m", "flows.stages.train"], check=True, env=environment, timeout=600
    )
    two = json.loads((paths.model(params.base.ghn) / train.CURVE_NAME).read_text())
    shutil.rmtree(paths.model(params.base.ghn))
    with stage_run("train", {}, connect_after_seconds=1e9) as run:
        start(train.run, params, run)
    one = json.loads((paths.model(params.base.ghn) / train.CURVE_NAME).read_text())
    assert [point["step"] for point in two] == [point["step"] for point in one] == [2, 4]
