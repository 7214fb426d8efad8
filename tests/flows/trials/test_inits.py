"""Names of initialisations, and predictions that are orthogonalised."""

import pytest
import torch

from flows.networks.build import build_network
from flows.settings.inits import BASELINES, hypernetwork_name, orthogonal_from, selected_file
from flows.trials.initialise import initialise
from flows.trials.inits import is_hypernetwork, source
from flows.trials.weights import weights_content
from ghn.baselines import GradInitConfig, MetaInitConfig, NIOConfig
from ghn.checkpoint import save_checkpoint
from ghn.models import GHN, GHNConfig


@pytest.mark.parametrize(
    ("init", "name", "layer", "file"),
    [
        ("ghn3", "ghn3", None, None),
        ("models:/ghn3@champion", "models:/ghn3@champion", None, None),
        ("ghn3+orth12", "ghn3", 12, None),
        ("models:/ghn3@champion+orth1", "models:/ghn3@champion", 1, None),
        ("ghn3+orth", "ghn3+orth", None, None),
        ("selection=a/b+orth1.pt", "selection=a/b+orth1.pt", None, "a/b+orth1.pt"),
    ],
)
def test_names(init, name, layer, file):
    assert (hypernetwork_name(init), orthogonal_from(init), selected_file(init)) == (
        name,
        layer,
        file,
    )
    assert is_hypernetwork(init) == (file is None)


def test_baselines_are_no_hypernetworks():
    assert not any(map(is_hypernetwork, BASELINES))


def test_a_prediction_is_orthogonalised_from_its_layer_on(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    config = GHNConfig(hidden=8, heads=2, layers=1, num_classes=10, decoder_channels=8)
    save_checkpoint(GHN(config), tmp_path / "ghn.safetensors")
    name = str(tmp_path / "ghn.safetensors")
    assert source(f"{name}+orth3") == name
    assert weights_content(f"{name}+orth3") == weights_content(name)

    def predicted(init):
        torch.manual_seed(0)
        model, graph = build_network("shufflenet_v2_x0_5", 10, 32)
        initialise(
            model,
            graph,
            init,
            seed=1,
            train=None,
            image_shape=(3, 32, 32),
            num_classes=10,
            beta=1e-5,
            gradinit_config=GradInitConfig(),
            metainit_config=MetaInitConfig(),
            nio_config=NIOConfig(),
        )
        return [p.detach() for p in model.parameters() if p.dim() >= 2]

    plain, changed = predicted(name), predicted(f"{name}+orth3")
    same = [torch.equal(one, other) for one, other in zip(plain, changed, strict=True)]
    assert same == [True, True, *[False] * (len(plain) - 3), True]
    matrix = changed[5].reshape(len(changed[5]), -1)
    values = torch.linalg.svdvals(matrix)
    torch.testing.assert_close(values, torch.ones_like(values), atol=1e-3, rtol=0)
