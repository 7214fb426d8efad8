"""Training on a list of networks: what is drawn, errors that name the entry, exact resumption."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torchvision.models import ShuffleNetV2

from datasets.deepnets import GenerateConfig, generate_split
from datasets.deepnets.networks.batch import Networks
from datasets.deepnets.space.widths import MetaBatchConfig
from datasets.images import load
from flows.settings.population import PopulationEntry
from flows.settings.train import TrainStageConfig
from flows.training import members as members_module
from flows.training.members import member
from flows.training.phases import phases, settings
from flows.training.population import Population, PopulationBatches
from ghn.architectures import build
from ghn.errors import ConfigError, GHNError, UnknownArchitectureError
from ghn.models import GHN, GHNConfig
from ghn.models.batch import GraphBatch
from ghn.tracing import trace
from ghn.train import Ranks, TrainConfig, meta_batch_losses
from ghn.train.functional import placed

OWN = """
from torch import nn

WIDTH = 8

class Net(nn.Module):
    def __init__(self, num_classes=10, width=WIDTH):
        super().__init__()
        self.scale = nn.Parameter(nn.init.uniform_(__import__("torch").empty(width, 1, 1)))
        self.body = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.head((self.body(x) * self.scale).mean((2, 3)))

def wide(num_classes):
    return Net(num_classes, 24)

def five(num_classes):
    return Net(5)

class Named(Net):
    def forward(self, x):
        return {"features": x, "logits": super().forward(x)}
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own_nets.py").write_text(OWN)
    torch.set_num_threads(1)


def entries(*given: object) -> list[PopulationEntry]:
    return [
        PopulationEntry(networks=one) if isinstance(one, str) else PopulationEntry(**one)
        for one in given
    ]


def batches(population: Population, size: int = 4, rank: int = 0, world: int = 1, **options):
    found = population.members(10, 16, seed=1)
    return PopulationBatches(
        population, found, size, MetaBatchConfig(), seed=1, rank=rank, world=world, **options
    )


def test_patterns_own_networks_and_weights() -> None:
    population = Population(
        entries(
            {"networks": "squeezenet1_?", "weight": 3.0, "exclude": ["*_9"], "max_gmacs": 1.0},
            {"networks": "own_nets.py:Net"},
        )
    )
    assert population.names == [["squeezenet1_0", "squeezenet1_1"], ["own_nets.py:Net"]]
    made = batches(population)
    names = [slot.member.name for step in range(200) for slot in made.slots(step)]
    share = {name: names.count(name) / len(names) for name in set(names)}
    assert share["own_nets.py:Net"] == pytest.approx(1 / 4, abs=0.05)
    assert share["squeezenet1_0"] == pytest.approx(3 / 8, abs=0.05)


def test_every_rank_gets_its_part_of_the_same_meta_batch() -> None:
    population = Population(entries("squeezenet1_1", "own_nets.py:Net", "own_nets.py:wide"))
    whole = batches(population)
    halves = [batches(population, rank=rank, world=2) for rank in range(2)]
    for step in (0, 7):
        got = [half[step] for half in halves]
        assert sorted(i for half in got for i in half.index) == list(whole[step].index)
        by_slot = {
            i: graph.name
            for half in got
            for i, graph in zip(half.index, half.graphs.graphs, strict=True)
        }
        wanted = [slot.member.name for slot in whole.slots(step)]
        assert [by_slot[i] for i in range(4)] == wanted
        costs = [sum(whole.slots(step)[i].cost for i in half.index) for half in got]
        loads = sorted(slot.cost for slot in whole.slots(step))
        assert abs(costs[0] - costs[1]) <= loads[-1] - loads[0]  # dealt back and forth


def test_a_meta_batch_trains_and_goes_between_processes() -> None:
    population = Population(entries("squeezenet1_1", "own_nets.py:Net", "mobilenet_v3_small"))
    batch = batches(population, size=6)[0]
    sent = pickle.loads(pickle.dumps(batch))
    assert [type(network) for network in sent.networks] == [type(n) for n in batch.networks]
    assert len(pickle.dumps(batch)) < 2_000_000  # no weights
    torch.manual_seed(0)
    ghn = GHN(GHNConfig(hidden=16, layers=1, heads=2, decoder_channels=8, num_classes=10))
    x, y = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 3])
    losses, pending = meta_batch_losses(ghn, sent, x, y, TrainConfig(steps=2, warmup_steps=0))
    pending.run()
    assert losses.loss.isfinite()
    assert ghn.tensors.block.weight.grad is not None
    assert ghn.tensors.block.weight.grad.abs().sum() > 0


def test_a_member_keeps_what_is_not_predicted_and_nothing_else() -> None:
    state = torch.get_rng_state()
    one, again, other = (member("own_nets.py:Net", 10, 16, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    values = {name: p for name, p in one.network.named_parameters() if not p.is_meta}
    assert set(values) == {"scale"}
    assert torch.equal(values["scale"], again.network.scale)
    assert not torch.equal(values["scale"], other.network.scale)
    assert not list(one.network.buffers())


def test_the_logits_of_a_member_may_have_a_name() -> None:
    network = member("own_nets.py:Named", 10, 16, 0).network.to("meta")
    assert network(torch.empty(2, 3, 16, 16, device="meta")).shape == (2, 10)


@pytest.mark.parametrize("name", ["little_vit", "vit_b_32_gap"])
def test_positions_of_a_member_are_those_that_are_predicted(name: str) -> None:
    one = member(name, 10, 16, 0)
    torch.manual_seed(0)
    ghn = GHN(GHNConfig(hidden=16, layers=1, heads=2, decoder_channels=8, num_classes=10)).eval()
    batch = GraphBatch.from_graphs([one.graph])
    (parameters,) = ghn(batch).parameters
    seen: list[torch.Tensor] = []
    one.network.encoder.register_forward_pre_hook(
        lambda layer, _inputs: seen.append(layer.pos_embedding.detach().clone())
    )
    with placed(one.network, parameters):
        one.network(torch.randn(2, 3, 16, 16))
    model = build(name, 10, 16)
    expected = ghn(model, one.graph).encoder.pos_embedding
    grid = one.graph.shape[[p == "encoder.pos_embedding" for p in one.graph.param]][0][2:].prod()
    assert seen[0].shape == expected.shape
    torch.testing.assert_close(seen[0][:, -grid:], expected[:, -grid:])
    assert seen[0][:, :-grid].abs().sum() > 0 or name.endswith("_gap")  # as it was initialised


def test_graphs_are_traced_once_and_damage_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "little_shufflenet_v2"
    first = member(name, 10, 16, 0)
    (path,) = members_module.GRAPHS.glob("*.json")
    calls: list[object] = []

    def counting(*args: object) -> object:
        calls.append(args)
        return trace(*args)

    monkeypatch.setattr(members_module, "trace", counting)
    second = member(name, 10, 16, 0)
    assert not calls
    assert second.graph.canonical_hash() == first.graph.canonical_hash()
    assert (second.graph.param, second.cost) == (first.graph.param, first.cost)
    path.write_bytes(path.read_bytes()[:-30])
    assert member(name, 10, 16, 0).cost == first.cost
    assert len(calls) == 1


def test_the_graph_of_an_own_network_follows_what_its_file_reads() -> None:
    Path("width.txt").write_text("8")
    reads = 'WIDTH = int(__import__("pathlib").Path("width.txt").read_text())'
    Path("own_nets.py").write_text(OWN.replace("WIDTH = 8", reads))
    first = member("own_nets.py:Net", 10, 16, 0)
    Path("width.txt").write_text("16")
    assert member("own_nets.py:Net", 10, 16, 0).cost > first.cost
    Path("own_nets.py").write_text(OWN.replace("WIDTH = 8", "WIDTH = 24"))
    assert member("own_nets.py:Net", 10, 16, 0).cost > 2 * first.cost


def test_a_graph_from_the_cache_has_its_shuffled_columns() -> None:
    traced, kept = (member("little_shufflenet_v2", 10, 16, 0).graph for _ in range(2))
    assert kept.columns.keys() == traced.columns.keys()
    assert kept.columns
    assert all((kept.columns[name] == read).all() for name, read in traced.columns.items())


def test_the_content_is_that_of_names_code_and_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    given = entries("resnet*", "own_nets.py:Net")
    content = Population(given).content
    assert Population(given).content == content
    others = [
        entries("resnet*", "own_nets.py:wide"),
        entries("resnet*", {"networks": "own_nets.py:Net", "weight": 2.0}),
        entries({"networks": "resnet*", "exclude": ["resnet18"]}, "own_nets.py:Net"),
    ]
    assert content not in [Population(other).content for other in others]
    with monkeypatch.context() as patch:
        patch.setattr(members_module, "version", lambda package: "0.0")
        assert Population(given).content != content
    Path("own_nets.py").write_text(OWN + "\n# other code\n")
    assert Population(given).content != content


@pytest.mark.parametrize(
    ("entry", "kind", "said"),
    [
        ("resnot*", UnknownArchitectureError, r"\(resnot\*\): no network fits 'resnot\*'"),
        ("timm/resnot*", UnknownArchitectureError, "no network fits"),
        ("own_nets.py:Nat", UnknownArchitectureError, "has no 'Nat'; nearest: Net"),
        ("other.py:Net", UnknownArchitectureError, "other.py does not exist"),
        ("own_nets.py:five", ConfigError, r"shape \(2, 5\) for 2 images, not logits of 10"),
        ({"networks": "vgg*", "exclude": ["vgg*"]}, ConfigError, "exclude leaves none"),
        ({"networks": "vgg*", "exclude": ["vgg11", "vg19"]}, ConfigError, "'vg19' is none of"),
        ({"networks": "squeezenet1_1", "max_gmacs": 1e-6}, ConfigError, "1_1 takes .* GMACs"),
    ],
)
def test_errors_are_one_line_that_names_the_entry(entry, kind, said) -> None:
    with pytest.raises(kind, match=said) as caught:
        Population(entries("squeezenet1_1", entry)).members(10, 16, seed=0)
    named = entry if isinstance(entry, str) else entry["networks"]
    assert str(caught.value).startswith(f"train.population[1] ({named}): ")
    assert "\n" not in str(caught.value)


def test_too_many_nodes_are_drawn_again_or_refused() -> None:
    population = Population(entries("squeezenet1_1", "mobilenet_v3_small"))
    found = population.members(10, 16, seed=0)
    small, large = (one[0].graph.n_nodes for one in found)
    config = MetaBatchConfig(max_nodes=small * 4 + large * 4)
    made = PopulationBatches(population, found, 8, config)
    assert all(sum(s.n_nodes for s in made.slots(k)) <= config.max_nodes for k in range(20))
    with pytest.raises(ConfigError, match="no meta-batch of 8 has at most"):
        PopulationBatches(population, found, 8, MetaBatchConfig(max_nodes=small)).slots(0)
    with pytest.raises(GHNError, match="must divide among 3"):
        PopulationBatches(population, found, 8, config, world=3)


def test_a_phase_may_leave_the_population_out(tmp_path: Path) -> None:
    config = GenerateConfig(shard_size=20, splits={"train": {"size": 20}})
    split = generate_split(tmp_path, "train", config, 1).split
    section = {
        "steps": 4, "warmup_steps": 1, "meta_batch_size": 2, "batch_size": 4,
        "population": [{"networks": "little_shufflenet_v2"}],
        "phases": [{"steps": 2, "population": False}, {}],
    }  # fmt: skip
    stage = TrainStageConfig.model_validate(section)
    images = load("digits", split="train", image_size=16)
    population = Population(stage.population or [])
    found = settings(stage, 16)
    first, last = phases(found, split, images, 1, Ranks(), 0, population)
    assert isinstance(next(first.meta_batches(0)).networks, Networks)
    assert {type(one) for one in next(last.meta_batches(0)).networks} == {ShuffleNetV2}
    assert [setting.identity()["population"] for setting in found] == [False, True]
