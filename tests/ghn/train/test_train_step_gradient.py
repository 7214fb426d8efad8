import math

import pytest
import torch
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from train_setting import make_batch, make_ghn

from ghn.train import TrainConfig, meta_batch_losses
from ghn.train.optimizer import LossScaler, make_optimizer
from ghn.train.schedule import learning_rate


def _data(b: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    images = torch.randn(b, 3, 32, 32, generator=draw).to(memory_format=torch.channels_last)
    return images, torch.randint(10, (b,), generator=draw)


def _gradients(ghn: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in ghn.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("penalty", ["norm", "square"])
def test_gradient_is_that_of_the_whole_loss_in_one_backward(penalty: str) -> None:
    ghn, batch = make_ghn(), make_batch([1, 2])  # no dropout in these two
    images, labels = _data()
    config = TrainConfig(
        meta_batch_size=2, batch_size=8, gamma=1e-3, penalty=penalty, label_smoothing=0.1
    )
    losses, pending = meta_batch_losses(ghn, batch, images, labels, config)
    pending.run()
    found = _gradients(ghn)
    ghn.zero_grad()
    total = torch.zeros(())
    for network, parameters in zip(batch.networks, ghn(batch.graphs).parameters, strict=True):
        logits = functional_call(network, parameters, (images,))
        norms = [parameter.norm() for parameter in parameters.values()]
        regulariser = sum(norm if penalty == "norm" else norm**2 for norm in norms)
        total = (
            total + (cross_entropy(logits, labels, label_smoothing=0.1) + 1e-3 * regulariser) / 2
        )
    total.backward()
    expected = _gradients(ghn)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
    torch.testing.assert_close(losses.loss, total.detach())


def test_every_parameter_of_the_hypernetwork_gets_a_gradient() -> None:
    ghn, batch = make_ghn(), make_batch([0, 1, 2])
    _, pending = meta_batch_losses(ghn, batch, *_data(), TrainConfig())
    pending.run()
    assert not [
        name for name, p in ghn.named_parameters() if p.grad is None or not p.grad.isfinite().all()
    ]


def test_dropout_depends_on_seed_and_step_alone() -> None:
    ghn, batch = make_ghn(), make_batch([0, 0])  # two fully connected layers with dropout between
    config = TrainConfig()
    first = meta_batch_losses(ghn, batch, *_data(), config, step=3)[0].loss
    torch.manual_seed(99)
    assert meta_batch_losses(ghn, batch, *_data(), config, step=3)[0].loss == first
    assert meta_batch_losses(ghn, batch, *_data(), config, step=4)[0].loss != first
    alone = meta_batch_losses(ghn, make_batch([0], first=1), *_data(), config, step=3)[0].loss
    other = meta_batch_losses(ghn, make_batch([0]), *_data(), config, step=3)[0].loss
    torch.testing.assert_close((alone + other) / 2, first)


def test_loss_scale_multiplies_gradients_only() -> None:
    ghn, batch, config = make_ghn(), make_batch([1, 2]), TrainConfig()
    plain, pending = meta_batch_losses(ghn, batch, *_data(), config)
    pending.run()
    expected = _gradients(ghn)
    ghn.zero_grad()
    scaled, pending = meta_batch_losses(ghn, batch, *_data(), config, scale=64.0)
    pending.run()
    assert scaled.loss == plain.loss
    for name, gradient in _gradients(ghn).items():
        torch.testing.assert_close(gradient / 64, expected[name], rtol=1e-4, atol=1e-7)


def test_network_clip_bounds_what_each_network_sends() -> None:
    ghn, batch = make_ghn(), make_batch([1, 2])
    _, pending = meta_batch_losses(
        ghn, batch, *_data(), TrainConfig(meta_batch_size=2, network_clip=0.01)
    )
    parameters = ghn(batch.graphs).parameters
    assert [own.keys() for own in pending.leaves.returned] == [own.keys() for own in parameters]
    for own in pending.leaves.returned:
        norm = torch.stack([gradient.norm() for gradient in own.values()]).norm()
        assert norm * 2 == pytest.approx(0.01, rel=1e-3)  # a mean over two networks
    free = meta_batch_losses(ghn, batch, *_data(), TrainConfig(meta_batch_size=2))[1]
    loose = meta_batch_losses(
        ghn, batch, *_data(), TrainConfig(meta_batch_size=2, network_clip=1e6)
    )[1]
    pairs = zip(free.leaves.gradients, loose.leaves.gradients, strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("decoders", [False, True])
def test_bf16_is_close_to_full_precision(decoders: bool) -> None:
    ghn, batch = make_ghn(), make_batch([1, 2])
    full = meta_batch_losses(ghn, batch, *_data(), TrainConfig())[0]
    config = TrainConfig(amp="bf16", amp_decoders=decoders)
    half, pending = meta_batch_losses(ghn, batch, *_data(), config)
    pending.run()
    assert full.loss.dtype == half.loss.dtype == torch.float32
    torch.testing.assert_close(half.loss, full.loss, rtol=0.02, atol=0)
    gradients = _gradients(ghn)
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    # What decoders predict is float32 in any case; their weights' gradients tell how it was made.
    made_in_half = torch.equal(
        gradients["tensors.block.bias"], gradients["tensors.block.bias"].bfloat16().float()
    )
    assert made_in_half is decoders
    assert {stack.tensor.dtype for stack in ghn(batch.graphs).stacks} == {torch.float32}


def test_decoders_in_float16_are_refused() -> None:
    with pytest.raises(ValueError, match="amp_decoders needs amp = bf16; it is fp16"):
        TrainConfig(amp="fp16", amp_decoders=True)
    assert "amp_decoders" not in TrainConfig(amp="bf16").recipe()  # runs of before go on


def test_learning_rate_warms_up_and_decays_to_zero() -> None:
    config = TrainConfig(steps=100, warmup_steps=10, lr=1e-3, warmup_lr=1e-5)
    rates = [learning_rate(step, config) for step in range(101)]
    assert rates[0] == 1e-5
    assert rates[10] == pytest.approx(1e-3)
    assert rates[55] == pytest.approx(5e-4)
    assert rates[100] == pytest.approx(0, abs=1e-12)
    assert rates == sorted(rates[:11]) + sorted(rates[11:], reverse=True)


def test_loss_scale_grows_halves_on_overflow_and_stops_at_the_floor() -> None:
    layer = torch.nn.Linear(2, 1)
    config = TrainConfig(amp="fp16", amp_growth_interval=2, weight_decay=0)
    optimizer, scaler = make_optimizer(layer, config), LossScaler(config, torch.device("cpu"))
    before = layer.weight.clone()
    assert scaler.scale == 65536

    def step(gradient: float) -> float:
        for parameter in layer.parameters():
            parameter.grad = torch.full_like(parameter, gradient)
        return scaler.step(optimizer, 5.0)

    assert math.isinf(step(math.inf))
    assert torch.equal(layer.weight, before)
    assert scaler.scale == 32768
    for _ in range(10):
        step(math.inf)
    assert scaler.scale == 1024
    assert step(1.0) > 0
    assert not torch.equal(layer.weight, before)
    step(1.0)
    assert scaler.scale == 2048
