"""Networks of transformers, built from configurations: graphs, and what would be predicted of
them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import ghn
from ghn.graph import Graph
from ghn.models import GHNConfig
from ghn.tracing import trace

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed (pip install transformers)"
)

GPT2 = {"gpt2": (768, 12, 12), "gpt2-medium": (1024, 24, 16), "gpt2-large": (1280, 36, 20)}
LOW_RANK = GHNConfig.variant("logah-t")


def build(name: str, config: str, **fields: Any) -> torch.nn.Module:
    with torch.device("meta"):
        model: torch.nn.Module = getattr(transformers, name)(
            getattr(transformers, config)(**fields)
        )
    return model


def check(model: torch.nn.Module) -> Graph:
    graph = trace(model, extensions="all")
    graph.validate()
    for config in (GHNConfig(), LOW_RANK):
        report = ghn.coverage(model, config, graph)
        assert report.n_predicted >= 0.99 * report.n_parameters, str(report)
    return graph


@pytest.mark.parametrize("name", GPT2)
def test_gpt2(name: str) -> None:
    width, layers, heads = GPT2[name]
    fields = {"n_embd": width, "n_layer": layers, "n_head": heads}
    model = build("GPT2LMHeadModel", "GPT2Config", **fields)
    graph = check(model)
    names = list(graph.param)
    assert names.count("transformer.wte.weight") == 2  # the head is the table of tokens
    assert graph.head == (graph.n_nodes - 1,)
    assert sum(name.endswith("attn.c_attn.weight") for name in names) == layers
    without = ghn.coverage(model)
    assert without.n_predicted < 0.5 * without.n_parameters


def test_llama() -> None:
    fields = {
        "hidden_size": 256,
        "intermediate_size": 688,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "vocab_size": 1000,
    }
    graph = check(build("LlamaForCausalLM", "LlamaConfig", **fields))
    assert sum(name.endswith("layernorm.weight") for name in graph.param) == 6


def test_bert() -> None:
    check(build("BertModel", "BertConfig"))


SMALL: dict[str, tuple[str, dict[str, int]]] = {
    "GPT2LMHeadModel": ("GPT2Config", {"n_embd": 48, "n_layer": 2, "n_head": 4}),
    "LlamaForCausalLM": (
        "LlamaConfig",
        {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2},
    ),
    "BertForMaskedLM": (
        "BertConfig",
        {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2,
         "num_attention_heads": 4},
    ),
}  # fmt: skip
SIZES = {"hidden": 16, "heads": 2, "layers": 1, "num_classes": 10, "decoder_channels": 16}
DECODERS = [{}, {"decoder": "low-rank", "rank": 4, "factor_length": 256}]


@pytest.mark.parametrize("decoder", DECODERS, ids=["tiled", "low-rank"])
@pytest.mark.parametrize("name", SMALL)
def test_a_language_network_runs_with_predicted_parameters(
    name: str, decoder: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    config, fields = SMALL[name]
    kind = getattr(transformers, config)
    model = getattr(transformers, name)(kind(**fields, vocab_size=96)).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    hypernetwork = ghn.GHN(GHNConfig(**SIZES, **decoder))
    hypernetwork(model, trace(model, extensions="all"))
    state = dict(model.named_parameters())
    changed = sum(p.numel() for key, p in state.items() if not torch.equal(p, before[key]))
    assert changed >= 0.99 * sum(p.numel() for p in state.values())
    head = model.get_output_embeddings().weight
    tied = model.get_input_embeddings().weight
    assert (head is tied) == (name != "LlamaForCausalLM")
    ids = torch.randint(96, (2, 12))
    one, other = (model(input_ids=x).logits for x in (ids, ids.roll(1, 0)))
    assert torch.isfinite(one).all()
    torch.testing.assert_close(one.roll(1, 0), other)
    assert one.std() > 0


Inputs = Callable[[], dict[str, Tensor]]


def tokens() -> Tensor:
    return torch.empty(2, 16, dtype=torch.int64, device="meta")


def numbers(*shape: int) -> Tensor:
    return torch.empty(2, *shape, device="meta")


def text() -> dict[str, Tensor]:
    return {"input_ids": tokens()}


def padded() -> dict[str, Tensor]:
    return {"input_ids": tokens(), "attention_mask": tokens()}


def pair() -> dict[str, Tensor]:
    return {"input_ids": tokens(), "decoder_input_ids": tokens()}


def image() -> dict[str, Tensor]:
    return {"pixel_values": numbers(3, 224, 224)}


def sound() -> dict[str, Tensor]:
    return {"input_values": numbers(16000)}


def spectrum() -> dict[str, Tensor]:
    return {"input_features": numbers(80, 3000), "decoder_input_ids": tokens()}


PLAIN: dict[str, tuple[Inputs, Sequence[str]]] = {
    "text, from left to right": (
        text,
        (
            "BioGptForCausalLM",
            "BloomForCausalLM",
            "CTRLLMHeadModel",
            "GPTJForCausalLM",
            "GPTNeoForCausalLM",
            "GPTNeoXForCausalLM",
            "Gemma2ForCausalLM",
            "LlamaForCausalLM",
            "MistralForCausalLM",
            "OPTForCausalLM",
            "OlmoForCausalLM",
            "Phi3ForCausalLM",
            "PhiForCausalLM",
            "Qwen3ForCausalLM",
            "StableLmForCausalLM",
        ),
    ),
    "text, both ways": (
        text,
        (
            "AlbertForMaskedLM",
            "BertForMaskedLM",
            "DistilBertForMaskedLM",
            "ElectraForMaskedLM",
            "MPNetForMaskedLM",
            "ModernBertForMaskedLM",
            "RobertaForMaskedLM",
        ),
    ),
    "text, with a mask": (padded, ("DebertaV2ForMaskedLM",)),
    "text to text": (
        pair,
        (
            "BartForConditionalGeneration",
            "BlenderbotForConditionalGeneration",
            "LongT5ForConditionalGeneration",
            "M2M100ForConditionalGeneration",
            "MT5ForConditionalGeneration",
            "MarianMTModel",
            "PegasusForConditionalGeneration",
            "ProphetNetForConditionalGeneration",
            "T5ForConditionalGeneration",
        ),
    ),
    "images": (
        image,
        (
            "BeitForImageClassification",
            "CLIPVisionModel",
            "ConvNextForImageClassification",
            "Dinov2ForImageClassification",
            "LevitForImageClassification",
            "PoolFormerForImageClassification",
            "PvtForImageClassification",
            "RegNetForImageClassification",
            "ResNetForImageClassification",
            "SegformerForImageClassification",
            "SiglipVisionModel",
            "SwinForImageClassification",
            "Swinv2ForImageClassification",
            "ViTForImageClassification",
        ),
    ),
}
"""Networks of which at least 99 % are predicted without any extension."""

EXTENDED: dict[str, tuple[Inputs, float, Sequence[str]]] = {
    "FalconForCausalLM": (text, 0.042, ["matmul"]),
    "GPT2LMHeadModel": (text, 0.316, ["addmm"]),
    "MambaForCausalLM": (text, 0.977, ["matmul", "conv1d"]),
    "FunnelForMaskedLM": (text, 0.936, ["einsum"]),
    "XLNetLMHeadModel": (text, 0.650, ["einsum"]),
    "HubertForCTC": (sound, 0.905, ["conv1d"]),
    "SEWForCTC": (sound, 0.929, ["conv1d"]),
    "UniSpeechSatForCTC": (sound, 0.905, ["conv1d"]),
    "Wav2Vec2ForCTC": (sound, 0.905, ["conv1d"]),
    "WavLMForCTC": (sound, 0.905, ["conv1d"]),
    "WhisperForConditionalGeneration": (spectrum, 0.985, ["conv1d"]),
}
"""The share that is predicted without extensions, rounded down, and the extensions with which it is
at least 99 %.
"""


def share(model: torch.nn.Module, inputs: dict[str, Tensor], extensions: Any) -> float:
    graph = trace(model, inputs, extensions=extensions)
    graph.validate()
    report = ghn.coverage(model, None, graph)
    return report.n_predicted / report.n_parameters


def default(name: str) -> torch.nn.Module:
    with torch.device("meta"):
        kind = getattr(transformers, name)
        model: torch.nn.Module = kind(kind.config_class())
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "inputs"),
    [(name, inputs) for inputs, names in PLAIN.values() for name in names],
)
def test_without_extensions(name: str, inputs: Inputs) -> None:
    model = default(name)
    without, with_all = (share(model, inputs(), extensions) for extensions in ((), "all"))
    assert 0.99 <= without <= with_all


@pytest.mark.slow
@pytest.mark.parametrize("name", EXTENDED)
def test_with_extensions(name: str) -> None:
    inputs, stated, extensions = EXTENDED[name]
    model = default(name)
    assert stated <= share(model, inputs(), ()) < stated + 0.001
    assert share(model, inputs(), extensions) >= 0.99
