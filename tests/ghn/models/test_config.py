"""Variants have the published numbers of parameters; bad configurations are refused."""

from __future__ import annotations

import pytest

from ghn.errors import ConfigError
from ghn.models import GHN, VARIANTS, GHNConfig

PUBLISHED = {  # millions, paper tables 2, 5 and 11
    "ghn3-t": 6.91, "ghn3-s": 35.81, "ghn3-l": 214.7, "ghn3-xl": 654.37, "ghn2": 2.32,
    "ghn3-t-no-backward": 6.90, "ghn3-t-no-edges": 6.88, "ghn3-t-mlp": 6.74,
    "ghn3-32": 2.37, "ghn3-t-no-centrality": 6.89, "ghn3-t-no-input-distance": 6.84,
    "ghn3-t-no-structure": 6.80,
    "ghn2-128": 34.73, "ghn3-t-wide-decoder": 38.86,
}  # fmt: skip
EXACT = {  # of the reference implementation
    "ghn3-t": 6_906_632, "ghn3-s": 35_810_368, "ghn3-l": 214_668_960, "ghn3-xl": 654_365_184,
    "ghn2": 2_319_720, "ghn1": 2_319_624, "mlp": 2_313_288,
}  # fmt: skip


def count(name: str, num_classes: int = 1000) -> int:
    return sum(
        parameter.numel()
        for parameter in GHN.empty(GHNConfig.variant(name, num_classes)).parameters()
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameter_counts(name: str) -> None:
    digits = len(str(PUBLISHED[name]).split(".")[1])
    assert count(name) / 1e6 == pytest.approx(PUBLISHED[name], abs=0.51 * 10**-digits)


def test_ghn2_s_is_near_its_published_size() -> None:
    """Table 1 says 35.0 million; nothing more of it was published."""
    assert count("ghn2-s") / 1e6 == pytest.approx(35.0, rel=0.005)


@pytest.mark.parametrize("name", EXACT)
def test_exact_parameter_counts(name: str) -> None:
    assert count(name) == EXACT[name]


def test_counts_for_ten_classes() -> None:
    assert [count(name, 10) for name in ("ghn2", "ghn1", "mlp")] == [
        1_620_764,
        1_620_668,
        1_614_332,
    ]


@pytest.mark.parametrize("name", VARIANTS)
def test_configurations_survive_json(name: str) -> None:
    config = GHNConfig.variant(name, 10)
    assert GHNConfig.from_dict(config.to_dict()) == config
    assert config.decoder_kernel == (16 if config.decoder == "low-rank" else 11)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden": 30}, "hidden is 30; it must be a multiple of 4"),
        ({"hidden": 32, "heads": 5}, "multiple of heads = 5"),
        ({"layers": 0}, "layers is 0"),
        ({"heads": "8"}, "heads is '8'"),
        ({"layers": True}, "layers is True; it must be a positive integer"),
        ({"centrality": "yes"}, "centrality is 'yes'; it must be true or false"),
        ({"window": "middle"}, "window is 'middle'; use one of center, corner"),
        ({"message_passing": "gnn"}, "transformer, gated, mlp"),
    ],
)
def test_bad_values_are_named(fields: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GHNConfig(**fields)


def test_unknown_names_are_named() -> None:
    with pytest.raises(ConfigError, match="no hypernetwork variant 'ghn4'; use one of ghn3-t"):
        GHNConfig.variant("ghn4")
    with pytest.raises(ConfigError, match="no field 'hid'"):
        GHNConfig.from_dict({"hid": 3})
