"""The bytes of generated splits, recorded: no change of the code may change what is drawn."""

from __future__ import annotations

import h5py
import pyarrow as pa
import pytest

from datasets.deepnets import EVALUATION_SPLITS, PUBLISHED, GenerateConfig, generate_split
from datasets.deepnets.store.files import paths_of
from ghn.files import sha256

CHEAP = {"size": 60, "max_multiply_adds": 2.0e7, "norm": "always", "seed": 1}
CONFIG = GenerateConfig(
    shard_size=20,
    splits={
        **{name: {"size": 60} for name in PUBLISHED},
        "cheap": {**CHEAP, "disjoint_from": EVALUATION_SPLITS},
    },
)

RECORDED = {
    "train": (
        "6758de3c7e020357f16864600f34e625faef70bb2a480a94338b24e3963eb734",
        "6794926f0e6f1eac274d39f615c652d0d7b17a3543ed1562ece95a2e3785f691",
        "e88fb61bfe9c77f195d2e1ab00b5f6d70d006af8acfeb798cf40443400682a12",
    ),
    "val": (
        "49a7121352841af3512b4626a34567597549f1b83bc209186adeab6401d228d1",
        "281a1fc4e335055584ff2002924748a4c8551c9a48e6c0983026e14df1df06d6",
        "c7c7250291d1472f2d42590b09fe29deaaedaf4e236663720149b657e7fede76",
    ),
    "test": (
        "4fb7ea27688c309444770ccad3306168cc485607418ccbd649b5afae96296979",
        "07e6d8a224cd38ee83264cc0f81357989743f5baeeb1a6c3e25df97575b43b7f",
        "fc69673a763fc219f91a099858d4e6dc065b5682e3e87ad8d8e7b45379a63e92",
    ),
    "wide": (
        "6dcf5d65fca4d03e8bacb4468ba6cc71e1c28928078f4a1f879ed58a6a445ee6",
        "9471102a12e67a4ce3c42edc6ba4701251cee5287a631dd27338693affb41a13",
        "3ae4bfd24e7068d54b7cd715ff5587c0fe95de9d39660bff08298cbd8e732691",
    ),
    "deep": (
        "30487313d6b75ab44add78101e5972d8dee90bcc55d0e4acc117c9efef75cb49",
        "a975b0a0b23ad4c009c3e8d97c40516396ff0433ab4873a95d01d5c20ef49dfa",
        "9488e773fcead67f8d8598496b5930358f36ebf8a7d59a2006ede3bb14cf4802",
    ),
    "dense": (
        "c1472966c808eebfe5ca7f2208a2fd394fd3143f3f9d74ce82ce94e52d1c5448",
        "9ae2f822d8abd21a4cfb21d94b1aa349179087fabe56a6f9609821793845ca61",
        "7f9ae63c50908a1cfb9b723e0e26c19809da897a4bd7eac9ccab1993147910c6",
    ),
    "bnfree": (
        "8d0da6998aafde511eb01f82d2ec26f94b379a3ad17c63525542ff267f9d2da8",
        "a952cdf4371fbdf1ce883831c105e9316492240072e61e8bab20813fc88057f2",
        "17f248e0988350834a62d585f6d025fff34be55e7602c4611db8fe48cdfe8475",
    ),
    "search": (
        "e4840ea55c0b0c85c02920e092099961c3b5a01210461ece2f9502d68c007021",
        "72a90decc39e6ca12c98e136d6320079d55c3659ff4cefff42ab1f7041783807",
        "f4d9613701dc362d01110bd47f1239cd50989d353f03727a80435b33dca336dc",
    ),
    "cheap": (
        "0e36ebca60d1926d9383cbf287dee8ea34d88d502510818f0d8fb993c8996f5b",
        "05f96e30229fe451dcd9a9678b3ffac94cdde91d584db0574483ee7d3e4b2ddd",
        "24e0780b7123cd36aecfd8fe1f5c99f3347875513a47df457149c1b7bdd289e4",
    ),
}
"""By split: digest of the graphs' checksums; of the HDF5 and of the Parquet file."""

WRITERS = ("2.0.0", "25.0.1")
"""Versions of HDF5 and of pyarrow that wrote the recorded files; others may write other bytes."""


@pytest.mark.parametrize("name", RECORDED)
def test_a_split_is_drawn_as_ever(name, tmp_path):
    split = generate_split(tmp_path, name, CONFIG).split
    content, *files = RECORDED[name]
    assert split.content == content
    if (h5py.version.hdf5_version, pa.__version__) == WRITERS:
        assert [sha256(path) for path in paths_of(tmp_path, name)] == files
