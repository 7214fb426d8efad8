import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from train_setting import Batch, make_ghn, meta_batches, step_losses

from datasets.images import ImageTensors
from ghn.checkpoint import from_pretrained
from ghn.errors import ConfigError, DamagedFileError
from ghn.models import GHN
from ghn.train import Callback, DivergedError, StepRecord, TrainConfig, Training, train
from ghn.train.divergence import DivergenceWatch
from ghn.train.log import read_log

CONFIG = TrainConfig(
    steps=12,
    meta_batch_size=2,
    batch_size=16,
    warmup_steps=3,
    lr=1e-3,
    checkpoint_every=4,
    log_every=4,
    max_skipped=2,
)


class _Record(Callback):
    def __init__(self) -> None:
        self.events: list[tuple[str, object]] = []

    def on_report(self, training: Training, record: StepRecord) -> None:
        self.events.append(("report", record))

    def on_warning(self, training: Training, message: str) -> None:
        self.events.append(("warning", message))

    def on_checkpoint(self, training: Training, path: Path) -> None:
        self.events.append(("checkpoint", path.name))

    def on_evaluation(self, training: Training, metrics: Mapping[str, float]) -> None:
        self.events.append(("evaluation", (training.step, dict(metrics))))

    def close(self) -> None:
        self.events.append(("close", None))

    def of(self, kind: str) -> list[object]:
        return [value for name, value in self.events if name == kind]


def test_training_learns_and_leaves_a_loadable_hypernetwork(
    digits: ImageTensors, tmp_path: Path
) -> None:
    watcher = _Record()
    config = CONFIG.model_copy(
        update={"steps": 60, "lr": 3e-3, "warmup_steps": 5, "checkpoint_every": 25}
    )
    ghn = make_ghn()
    result = train(config, ghn, meta_batches(2), digits, tmp_path, callbacks=[watcher])
    losses = step_losses(tmp_path)
    assert len(losses) == 60
    assert sum(losses[-15:]) / 15 < sum(losses[:15]) / 15 - 0.05
    again = from_pretrained(result.weights)
    for name, value in again.state_dict().items():
        torch.testing.assert_close(value, ghn.state_dict()[name])
    reports = watcher.of("report")
    assert len(reports) == 15
    assert all(report.images_per_second > 0 and 0 <= report.waited < 1 for report in reports)
    assert watcher.of("checkpoint") == [f"step-{n:08}.safetensors" for n in (25, 50, 60)]
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == sorted(
        f"step-{n:08}.{kind}" for n in (50, 60) for kind in ("safetensors", "sha256", "state")
    )
    assert watcher.events[-1] == ("close", None)


def test_an_interrupted_run_goes_on_to_the_bit(digits: ImageTensors, tmp_path: Path) -> None:
    train(CONFIG, make_ghn(), meta_batches(2), digits, tmp_path / "whole")

    class StopError(Exception):
        pass

    def broken(step: int) -> Iterator[Batch]:
        for t, batch in enumerate(meta_batches(2)(step), step):
            if t == 7:
                raise StopError
            yield batch

    with pytest.raises(StopError):
        train(CONFIG, make_ghn(), broken, digits, tmp_path / "cut")
    assert len(step_losses(tmp_path / "cut")) == 7
    ghn = make_ghn(seed=5)  # its weights must not matter
    train(CONFIG, ghn, meta_batches(2), digits, tmp_path / "cut")
    assert step_losses(tmp_path / "cut") == step_losses(tmp_path / "whole")
    whole = from_pretrained(tmp_path / "whole" / "ghn.safetensors").state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in ghn.state_dict().items())


def test_a_finished_run_is_not_repeated(digits: ImageTensors, tmp_path: Path) -> None:
    train(CONFIG, make_ghn(), meta_batches(2), digits, tmp_path)
    before = step_losses(tmp_path)

    def never(step: int) -> Iterator[Batch]:
        raise AssertionError("asked for data")

    train(CONFIG, make_ghn(), never, digits, tmp_path)
    assert step_losses(tmp_path) == before


def test_another_recipe_or_other_data_does_not_resume(digits: ImageTensors, tmp_path: Path) -> None:
    train(CONFIG, make_ghn(), meta_batches(2), digits, tmp_path, identity={"images": "a"})
    with pytest.raises(ConfigError, match=r"lr = 0\.001 there, 0\.002 here"):
        train(
            CONFIG.model_copy(update={"lr": 2e-3}),
            make_ghn(),
            meta_batches(2),
            digits,
            tmp_path,
            identity={"images": "a"},
        )
    with pytest.raises(ConfigError, match="images = 'a' there, 'b' here"):
        train(CONFIG, make_ghn(), meta_batches(2), digits, tmp_path, identity={"images": "b"})
    looks = CONFIG.model_copy(update={"log_every": 1, "checkpoint_every": 3})
    train(looks, make_ghn(), meta_batches(2), digits, tmp_path, identity={"images": "a"})


def test_a_damaged_checkpoint_is_passed_over(digits: ImageTensors, tmp_path: Path) -> None:
    train(CONFIG, make_ghn(), meta_batches(2), digits, tmp_path)
    expected = step_losses(tmp_path)
    for suffix in ("state", "safetensors"):
        path = tmp_path / "checkpoints" / f"step-00000012.{suffix}"
        path.write_bytes(path.read_bytes()[:-100])
        watcher = _Record()
        train(CONFIG, make_ghn(), meta_batches(2), digits, tmp_path, callbacks=[watcher])
        assert step_losses(tmp_path) == expected
        assert [path.name in str(warning) for warning in watcher.of("warning")] == [True]
    for path in (tmp_path / "checkpoints").glob("*.sha256"):
        path.write_bytes(b"")
    with pytest.raises(DamagedFileError, match="no checkpoint is whole"):
        train(CONFIG, make_ghn(), meta_batches(2), digits, tmp_path)


def test_steps_that_are_not_finite_are_skipped_counted_and_bounded(
    digits: ImageTensors, tmp_path: Path
) -> None:
    bad = {3, 5, 6}

    def poison(step: int) -> Iterator[Batch]:
        for t, batch in enumerate(meta_batches(2)(step), step):
            if t in bad:
                network = batch.networks[1]
                forward = network.forward
                network.forward = lambda x, f=forward: f(x) * math.nan
            yield batch

    watcher = _Record()
    ghn = make_ghn()
    result = train(CONFIG, ghn, poison, digits, tmp_path / "a", callbacks=[watcher])
    assert result.skipped == 3
    assert len(watcher.of("warning")) == 3
    assert all(p.isfinite().all() for p in ghn.parameters())
    rows = read_log(tmp_path / "a" / "steps.jsonl")
    assert [row["step"] - 1 for row in rows if row["skipped"]] == sorted(bad)
    bad = set(range(4, 12))
    with pytest.raises(DivergedError, match="3 steps in a row"):
        train(CONFIG, make_ghn(), poison, digits, tmp_path / "b")


def test_steps_that_do_not_fit_into_memory_are_skipped(
    digits: ImageTensors, tmp_path: Path
) -> None:
    def greedy(step: int) -> Iterator[Batch]:
        def forward(images: torch.Tensor) -> torch.Tensor:
            return torch.empty(2**58, dtype=torch.uint8)

        for t, batch in enumerate(meta_batches(2)(step), step):
            if t == 4:
                batch.networks[1].forward = forward
            yield batch

    watcher = _Record()
    result = train(CONFIG, make_ghn(), greedy, digits, tmp_path, callbacks=[watcher])
    assert result.skipped == 1
    assert "out of memory" in str(watcher.of("warning")[0])


def test_other_errors_are_not_swallowed(digits: ImageTensors, tmp_path: Path) -> None:
    def broken(step: int) -> Iterator[Batch]:
        def forward(images: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("shapes do not match")

        for batch in meta_batches(2)(step):
            batch.networks[0].forward = forward
            yield batch

    with pytest.raises(RuntimeError, match="shapes do not match"):
        train(CONFIG, make_ghn(), broken, digits, tmp_path)


def test_evaluation_keeps_the_best(digits: ImageTensors, tmp_path: Path) -> None:
    values = iter([0.3, 0.5, 0.4])
    seen: list[bool] = []

    def evaluate(ghn: GHN) -> dict[str, float]:
        seen.append(ghn.training)
        return {"accuracy": next(values)}

    config = CONFIG.model_copy(update={"evaluate_every": 4})
    result = train(config, make_ghn(), meta_batches(2), digits, tmp_path, evaluate=evaluate)
    assert seen == [False] * 3
    curve = read_log(tmp_path / "curve.jsonl")
    assert curve == [
        {"step": 4, "accuracy": 0.3},
        {"step": 8, "accuracy": 0.5},
        {"step": 12, "accuracy": 0.4},
    ]
    assert result.metrics == {"accuracy": 0.4}
    assert result.best is not None
    best, last = from_pretrained(result.best), from_pretrained(result.weights)
    assert not torch.equal(next(best.parameters()), next(last.parameters()))


@pytest.mark.parametrize(
    "changes",
    [
        {
            "message_passing": "gated",
            "centrality": False,
            "input_distance": False,
            "edge_embedding": "none",
        },
        {
            "message_passing": "mlp",
            "centrality": False,
            "input_distance": False,
            "edge_embedding": "none",
        },
        {"edge_embedding": "none", "centrality": False, "input_distance": False},
        {
            "normalize": False,
            "layer_norm": False,
            "virtual_edges": False,
            "message_passing": "gated",
        },
    ],
    ids=["ghn2", "mlp", "no structure", "ghn1"],
)
def test_every_kind_of_hypernetwork_trains_with_the_same_loop(
    digits: ImageTensors, tmp_path: Path, changes: dict[str, object]
) -> None:
    config = CONFIG.model_copy(update={"steps": 4, "warmup_steps": 1, "penalty": "square"})
    ghn = make_ghn(**changes)
    before = {name: value.clone() for name, value in ghn.state_dict().items()}
    result = train(config, ghn, meta_batches(2), digits, tmp_path)
    assert result.skipped == 0
    assert any(not torch.equal(value, before[name]) for name, value in ghn.state_dict().items())


def test_divergence_is_reported_once_and_early() -> None:
    watch = DivergenceWatch(window=20)
    falling = [watch.look(2.3 - 0.01 * t if t % 7 else 1e14, 1.0) for t in range(100)]
    assert not any(falling)  # a step in seven with a network that explodes is no divergence
    rising = [watch.look(1.3 + 0.05 * t, 1.0) for t in range(40)]
    assert sum(map(len, rising)) == 1
    assert next(t for t, warnings in enumerate(rising) if warnings) < 20
    wavering = [watch.look(1.3 + 0.3 * (t // 20 % 2), 1.0) for t in range(200)]
    assert sum(map(len, wavering)) == 0  # half of the rise stays: nothing new
    assert watch.look(3.3, 30.0) == ["gradient norm 30, ten times its median 1"]


def test_config_names_the_field() -> None:
    with pytest.raises(ValueError, match="warmup_steps = 10 must be below steps = 10"):
        TrainConfig(steps=10, warmup_steps=10)
    with pytest.raises(ConfigError, match="meta_batch_size = 8 must be a multiple of the 3 ranks"):
        TrainConfig().share(3)


def test_coefficients_of_the_optimizer_are_checked_first() -> None:
    for betas in ((1.5, 0.9), (0.9, 1.0), (-0.1, 0.9)):
        with pytest.raises(ValidationError, match="betas"):
            TrainConfig(betas=betas)
