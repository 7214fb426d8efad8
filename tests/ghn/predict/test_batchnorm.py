"""Running statistics: set from batches, left alone while the batch's own are used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ghn import batch_statistics, reestimate_batch_norm
from ghn.errors import ConfigError


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.Dropout(0.5),
        nn.Conv2d(4, 2, 1),
        nn.BatchNorm2d(2),
    )


def batches(n: int) -> list[torch.Tensor]:
    return [
        torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(i)) * 3 + 1
        for i in range(n)
    ]


def test_reestimated_statistics_are_averages_over_the_batches() -> None:
    net = model().eval()
    net[1].running_mean.fill_(100.0)
    net[1].train()
    assert reestimate_batch_norm(net, batches(4)) == 4
    features = [net[0](batch) for batch in batches(4)]
    mean = torch.stack([f.mean((0, 2, 3)) for f in features]).mean(0)
    variance = torch.stack([f.var((0, 2, 3)) for f in features]).mean(0)
    torch.testing.assert_close(net[1].running_mean, mean)
    torch.testing.assert_close(net[1].running_var, variance)
    assert [m.training for m in net.modules()] == [False, False, True, False, False, False]
    assert net[1].momentum == 0.1
    # Dropout was off: the statistics of what follows are those of evaluation mode with the batch's
    # statistics.
    torch.manual_seed(1)
    again = model().eval()
    reestimate_batch_norm(again, [(batch, torch.zeros(6)) for batch in batches(6)], n_batches=4)
    torch.testing.assert_close(again[4].running_mean, net[4].running_mean)


def test_norms_that_no_longer_track_are_estimated_all_the_same() -> None:
    """They are evaluated with the statistics that they have."""
    net, other = model(), model()
    for norm in (net[1], net[4]):
        norm.running_mean.fill_(100.0)
        norm.track_running_stats = False
    assert reestimate_batch_norm(net, batches(2)) == reestimate_batch_norm(other, batches(2)) == 2
    assert torch.equal(net.eval()(batches(1)[0]), other.eval()(batches(1)[0]))
    assert not net[1].track_running_stats


def test_after_it_evaluation_mode_is_close_to_batch_statistics() -> None:
    net = model()
    reestimate_batch_norm(net, batches(16))
    net.eval()
    (images,) = batches(1)
    plain = net(images)
    with batch_statistics(net):
        by_batch = net(images)
    assert (plain - by_batch).abs().mean() < 0.15
    assert by_batch.mean((0, 2, 3)).abs().max() < 1e-5


def test_batch_statistics_restores_everything() -> None:
    net = model()
    net[4].eval()
    modes = [module.training for module in net.modules()]
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}

    def fails() -> None:
        with batch_statistics(net) as inside:
            assert inside is net
            assert not net[2].training
            net(batches(1)[0])
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fails()
    assert [module.training for module in net.modules()] == modes
    assert net[1].track_running_stats
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


class Noisy(nn.Module):
    """Draws in evaluation mode, too."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.norm(x_BCHW + torch.randn_like(x_BCHW))


def test_what_a_network_draws_meanwhile_hangs_on_the_seed() -> None:
    def mean(seed: int) -> list[float]:
        network = Noisy()
        reestimate_batch_norm(network, batches(2), seed=seed)
        assert network.norm.running_mean is not None
        return network.norm.running_mean.tolist()

    before = torch.get_rng_state()
    first = mean(0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert mean(0) == first != mean(1)


def test_without_batch_norm_and_without_batches() -> None:
    assert reestimate_batch_norm(nn.Linear(3, 3), iter(())) == 0
    with pytest.raises(ConfigError, match="batches is empty"):
        reestimate_batch_norm(model(), [])


@pytest.mark.parametrize("batches", ["none", "wrong channels", "broken loader"])
def test_statistics_survive_an_estimate_that_fails(batches: str) -> None:
    def broken() -> Iterator[Tensor]:
        yield torch.randn(2, 3, 8, 8)
        raise OSError("no more images")

    given: dict[str, Any] = {
        "none": iter([]),
        "wrong channels": [torch.randn(2, 3, 8, 8), torch.randn(2, 1, 8, 8)],
        "broken loader": broken(),
    }
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    net(torch.randn(4, 3, 8, 8))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises((ConfigError, RuntimeError, OSError)):
        reestimate_batch_norm(net, given[batches])
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert (net[1].momentum, net.training) == (0.1, True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_images_of_loaders_suit_networks_of_another_precision(dtype: torch.dtype) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(dtype)
    images = torch.randn(2, 3, 8, 8)
    assert reestimate_batch_norm(net, [images]) == 1
    mean = net[0](images.to(dtype)).mean(dim=(0, 2, 3))
    torch.testing.assert_close(net[1].running_mean, mean, atol=0.01, rtol=0.01)


@pytest.mark.parametrize("n_batches", [0, -1])
def test_no_batches_are_refused(n_batches: int) -> None:
    with pytest.raises(ConfigError, match=f"n_batches={n_batches}: at least one"):
        reestimate_batch_norm(model(), batches(1), n_batches)
