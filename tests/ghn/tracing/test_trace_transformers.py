"""Language networks, built from configurations: graphs, and what would be predicted of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

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
