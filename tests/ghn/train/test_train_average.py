"""Averages of weights, schedules that can be made longer, and callbacks that see what they need."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from train_setting import Batch, make_ghn, meta_batches, step_losses

from datasets.images import ImageTensors
from ghn.checkpoint import from_pretrained
from ghn.errors import ConfigError
from ghn.models import GHN
from ghn.train import Callback, StepRecord, TrainConfig, Training, train
from ghn.train.schedule import learning_rate

CONFIG = TrainConfig(
    steps=8, meta_batch_size=2, batch_size=8, warmup_steps=1, lr=1e-3, checkpoint_every=2
)


class _StopError(Exception):
    pass


def _broken_at(step: int) -> object:
    def batches(start: int) -> Iterator[Batch]:
        for t, batch in enumerate(meta_batches(2)(start), start):
            if t == step:
                raise _StopError
            yield batch

    return batches


def _same(one: Path, other: Path) -> bool:
    first, second = (
        from_pretrained(path / "ghn.safetensors").state_dict() for path in (one, other)
    )
    return all(torch.equal(value, second[name]) for name, value in first.items())


class _Weights(Callback):
    """Keeps the weights after each step, as an averaging callback would."""

    def __init__(self) -> None:
        self.seen: list[list[torch.Tensor]] = []
        self.moments = 0

    def on_step(self, training: Training, record: StepRecord) -> None:
        self.seen.append([parameter.detach().clone() for parameter in training.ghn.parameters()])
        self.moments = len(training.optimizer.state)


def test_the_average_is_published_evaluated_and_resumes_to_the_bit(
    digits: ImageTensors, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"ema": 0.6, "evaluate_every": 4})
    watcher, ghn = _Weights(), make_ghn()
    expected = [parameter.detach().clone() for parameter in ghn.parameters()]
    evaluated: list[torch.Tensor] = []

    def evaluate(published: GHN) -> dict[str, float]:
        evaluated.append(next(published.parameters()).detach().clone())
        return {"accuracy": 0.1}

    train(
        config, ghn, meta_batches(2), digits, tmp_path / "whole", callbacks=[watcher],
        evaluate=evaluate,
    )  # fmt: skip
    assert watcher.moments == len(expected)
    for t, weights in enumerate(watcher.seen):
        decay = min(0.6, (t + 1) / (t + 10))
        expected = [
            decay * old + (1 - decay) * new for old, new in zip(expected, weights, strict=True)
        ]
    published = from_pretrained(tmp_path / "whole" / "ghn.safetensors")
    for found, wanted in zip(published.parameters(), expected, strict=True):
        torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(evaluated[-1], expected[0])
    assert not torch.equal(next(ghn.parameters()), next(published.parameters()))

    with pytest.raises(_StopError):
        train(config, make_ghn(), _broken_at(5), digits, tmp_path / "cut", evaluate=evaluate)
    train(config, make_ghn(7), meta_batches(2), digits, tmp_path / "cut", evaluate=evaluate)
    assert step_losses(tmp_path / "cut") == step_losses(tmp_path / "whole")
    assert _same(tmp_path / "cut", tmp_path / "whole")


def test_a_constant_rate_falls_over_the_last_steps_only() -> None:
    config = TrainConfig(
        steps=100, warmup_steps=10, lr=1e-3, warmup_lr=0, schedule="constant", decay_steps=20
    )
    rates = [learning_rate(step, config) for step in range(101)]
    assert rates[5] == pytest.approx(5e-4)
    assert set(rates[10:81]) == {1e-3}
    assert rates[90] == pytest.approx(5e-4)
    assert rates[100] == 0
    with pytest.raises(ValueError, match="decay_steps = 5 needs schedule = constant"):
        TrainConfig(decay_steps=5)
    with pytest.raises(ValueError, match=r"warmup_steps \+ decay_steps = 110"):
        TrainConfig(steps=100, warmup_steps=90, decay_steps=20, schedule="constant")


def test_a_run_of_constant_rate_can_be_made_longer(digits: ImageTensors, tmp_path: Path) -> None:
    fields = {"schedule": "constant", "decay_steps": 3, "keep_checkpoints": 1}
    long = CONFIG.model_copy(update=fields)
    short = long.model_copy(update={"steps": 6})
    train(long, make_ghn(), meta_batches(2), digits, tmp_path / "long")
    train(short, make_ghn(), meta_batches(2), digits, tmp_path / "grown")  # falls from step 3 on
    train(long, make_ghn(3), meta_batches(2), digits, tmp_path / "grown")
    assert step_losses(tmp_path / "grown") == step_losses(tmp_path / "long")
    assert _same(tmp_path / "grown", tmp_path / "long")
    shorter = long.model_copy(update={"steps": 5})
    with pytest.raises(ConfigError, match="learning rate has fallen, for an end at step 8"):
        train(shorter, make_ghn(), meta_batches(2), digits, tmp_path / "long")


def test_a_callback_stops_a_run_early(digits: ImageTensors, tmp_path: Path) -> None:
    class Patience(Callback):
        def on_step(self, training: Training, record: StepRecord) -> None:
            if record.step == 3:
                training.stop()

    for _ in range(2):  # the second call trains no further
        train(CONFIG, make_ghn(), meta_batches(2), digits, tmp_path, callbacks=[Patience()])
        assert len(step_losses(tmp_path)) == 3
    assert from_pretrained(tmp_path / "ghn.safetensors").metadata["step"] == 3
