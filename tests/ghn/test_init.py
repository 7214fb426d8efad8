"""One call initialises: prediction, noise, statistics, as the pipeline does it in three."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import ghn
from datasets.images import load
from flows.trials.initialise import hypernetwork as pipeline_hypernetwork
from ghn.baselines import GradInitConfig, MetaInitConfig
from ghn.errors import ConfigError
from ghn.finetune import break_symmetry
from ghn.initialize import save_initialized


@pytest.fixture(scope="module")
def hypernetwork() -> ghn.GHN:
    return ghn.from_pretrained()


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 12 * 12, 10),
    )  # fmt: skip


def batches(n: int = 2) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    for _ in range(n):
        yield torch.randn(8, 3, 16, 16, generator=generator), torch.zeros(8)


def test_it_is_what_the_three_steps_give(hypernetwork: ghn.GHN) -> None:
    mine = ghn.init_(network(), hypernetwork, batches=batches(), seed=4)
    assert mine.training
    by_hand = network()
    hypernetwork(by_hand, example_inputs=torch.empty(2, 3, 16, 16))
    assert break_symmetry(by_hand, 1e-5, seed=4) == 2
    ghn.reestimate_batch_norm(by_hand, batches())
    for name, value in by_hand.state_dict().items():
        assert torch.equal(mine.state_dict()[name], value), name
    assert torch.equal(mine[1].num_batches_tracked, torch.tensor(2))


def test_the_report_asks_for_what_is_missing_alone(
    hypernetwork: ghn.GHN, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(hypernetwork.metadata["accuracy"], "no norm", 0.1)  # chance

    def told(model: nn.Module, *images: object) -> str:
        inputs = torch.empty(2, 3, 16, 16)
        ghn.init_(model, hypernetwork, batches=images[0] if images else None, example_inputs=inputs)
        return str(hypernetwork.reports[0])

    assert "running statistics of 1 norms are not predicted" in told(network())
    assert "running statistics" not in told(network(), batches())
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 196, 10))
    assert "not known to help" in told(plain, batches())


def test_it_is_what_the_pipeline_does(hypernetwork: ghn.GHN) -> None:
    from flows.trials import initialise

    assert pipeline_hypernetwork("ghn3-cifar10").config == hypernetwork.config
    theirs, graph = network(), ghn.trace(network(), torch.empty(2, 3, 16, 16))
    options = {"gradinit_config": GradInitConfig(), "metainit_config": MetaInitConfig()}
    if "nio_config" in initialise.initialise.__annotations__:
        options["nio_config"] = None
    initialise.initialise(
        theirs, graph, "ghn3-cifar10", seed=5, train=None, image_shape=(3, 16, 16),
        num_classes=10, beta=1e-5, **options,
    )  # fmt: skip
    mine = ghn.init_(network(), hypernetwork, graph=graph, seed=5)
    for name, value in theirs.state_dict().items():
        assert torch.equal(mine.state_dict()[name], value), name


def test_the_random_state_stays_and_the_seed_decides(hypernetwork: ghn.GHN) -> None:
    model, again, other = network(), network(), network()
    state = torch.get_rng_state()
    for made, seed in ((model, 0), (again, 0), (other, 1)):
        ghn.init_(made, hypernetwork, batches=batches(), seed=seed, noise=1e-3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model[0].weight, again[0].weight)
    assert not torch.equal(model[0].weight, other[0].weight)
    assert torch.equal(model[-1].weight, other[-1].weight)  # the classifier gets no noise


class Drawing(nn.Module):
    """Has a dropout that is never off."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.body, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(nn.functional.dropout(self.body(x))).mean((2, 3)))


def test_so_they_do_for_a_network_that_draws_in_evaluation_mode(
    hypernetwork: ghn.GHN, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    with torch.random.fork_rng([]):
        models = [Drawing() for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        ghn.init_(model, hypernetwork, batches=batches(), seed=seed)
    assert torch.equal(torch.get_rng_state(), state)
    mean, again, other = (model.norm.running_mean for model in models)
    assert torch.equal(mean, again)
    assert not torch.equal(mean, other)
    images = load("digits", split="train", image_size=16)
    paths = [tmp_path / f"{number}.safetensors" for number in range(2)]
    for path in paths:
        save_initialized(f"{__file__}:Drawing", None, path, 10, 16, images=images)
    assert torch.equal(torch.get_rng_state(), state)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_old_statistics_are_replaced_and_not_warned_of(hypernetwork: ghn.GHN) -> None:
    model = network()
    for x, _ in batches():
        model(10 * x + 5)
    ghn.init_(model, hypernetwork, strict=True, batches=batches())  # refuses where it warns
    assert hypernetwork.reports[0].warnings == ()
    assert model[1].running_mean.abs().max() < 1
    with pytest.raises(ConfigError, match="running statistics"):
        ghn.init_(model, hypernetwork, strict=True, example_inputs=next(batches())[0])


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Flatten(1, 2))

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return self.body(one) - self.body(other)


def test_batches_that_the_network_does_not_take_write_nothing(hypernetwork: ghn.GHN) -> None:
    pair = torch.empty(2, 3, 16, 16), torch.empty(2, 3, 16, 16)
    grey = [torch.zeros(4, 1, 16, 16)]
    graph = ghn.trace(network(), torch.empty(2, 3, 16, 16))
    for model, given, told in (
        (Siamese(), batches(), {"example_inputs": pair}),
        (network(), grey, {"example_inputs": pair[0]}),
        (network(), grey, {"graph": graph}),
    ):
        model.train()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(ConfigError, match=r"batches: .* does not take inputs of shape \(2, "):
            ghn.init_(model, hypernetwork, batches=given, **told)  # type: ignore[arg-type]
        assert model.training
        for name, value in model.state_dict().items():
            assert torch.equal(before[name], value), name
    ghn.init_(Siamese(), hypernetwork, example_inputs=pair)


def test_bad_arguments_write_nothing(hypernetwork: ghn.GHN) -> None:
    model = network()
    model(next(batches())[0])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ConfigError, match="batches is empty"):
        ghn.init_(model, hypernetwork, batches=[])
    for wrong in (0, -1):
        with pytest.raises(ConfigError, match=f"n_batches={wrong}"):
            ghn.init_(model, hypernetwork, batches=batches(), n_batches=wrong)
    with pytest.raises(ConfigError, match="a dict without a tensor"):
        ghn.init_(model, hypernetwork, batches=[{"x": torch.zeros(4, 3, 16, 16)}])  # type: ignore[list-item]
    for noise in (-1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=f"noise={noise}"):
            ghn.init_(model, hypernetwork, noise=noise)
    with pytest.raises(ghn.GHNError):  # its images do not fit the linear layer
        ghn.init_(model, hypernetwork, batches=[torch.zeros(4, 3, 8, 8)])
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_what_is_no_network_is_refused_in_words(hypernetwork: ghn.GHN) -> None:
    for wrong in ("resnet18", [network(), network()]):
        with pytest.raises(ConfigError, match="one network"):
            ghn.init_(wrong, hypernetwork)  # type: ignore[arg-type]
    lazy = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(10))
    with pytest.raises(ConfigError, match=r"Sequential\.1\.weight has no shape yet"):
        ghn.init_(lazy, hypernetwork, batches=batches())


def test_the_note_of_norms_that_are_not_estimated_stays(hypernetwork: ghn.GHN) -> None:
    model = network()
    model[2] = nn.InstanceNorm2d(32, track_running_stats=True)
    ghn.init_(model, hypernetwork, batches=batches())
    (note,) = hypernetwork.reports[0].notes
    assert "1 norms (InstanceNorm2d) have running statistics that are not predicted" in note


def test_frozen_parameters_are_kept(hypernetwork: ghn.GHN) -> None:
    model = network()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    ghn.init_(model, hypernetwork, batches=batches(), noise=1e-2)
    assert torch.equal(model[0].weight, before)


def test_the_package_s_hypernetwork_is_the_default() -> None:
    model = ghn.init_(network(), batches=batches())
    named = ghn.init_(network(), "ghn3-cifar10", batches=batches())
    assert torch.equal(model[-1].weight, named[-1].weight)
