"""Whatever a file of weights has in it: a hypernetwork, or one of the project's own errors."""

from __future__ import annotations

import pickle
import pickletools
from pathlib import Path

import joblib
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ghn.checkpoint import load_checkpoint, save_checkpoint
from ghn.checkpoint.names import to_released
from ghn.errors import GHNError
from ghn.models import GHN, GHNConfig

FUZZ = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
SMALL = GHNConfig(hidden=8, heads=2, layers=1, num_classes=3, decoder_channels=4, decoder_kernel=3)
OPCODES = [opcode.code.encode("latin1") for opcode in pickletools.opcodes]
WORDS = st.sampled_from(
    [
        *OPCODES,
        b"os\nsystem\n",
        b"torch\nload\n",
        b"builtins\neval\n",
        b"torch._utils\n_rebuild_tensor_v2\n",
        b"collections\nOrderedDict\n",
        b"numpy.core.multiarray\n_reconstruct\n",
        b"\xff\xff\xff\x7f",
        b"\x00",
        b"9" * 20 + b"\n",
    ]
)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The same weights in each format."""
    directory = tmp_path_factory.mktemp("samples")
    torch.manual_seed(0)
    ghn = GHN(SMALL)
    state = to_released(ghn.state_dict())
    save_checkpoint(ghn, directory / "safetensors")
    joblib.dump({"state_dict": state}, directory / "joblib")
    joblib.dump({"state_dict": state}, directory / "compressed", compress=3)
    torch.save({"state_dict": state}, directory / "torch")
    torch.save({"state_dict": state}, directory / "legacy", _use_new_zipfile_serialization=False)
    (directory / "pickle").write_bytes(
        pickle.dumps({name: tensor.numpy() for name, tensor in state.items()})
    )
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def loads(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        load_checkpoint(path)
    except GHNError as error:
        assert str(error)  # noqa: PT017, one is as good as none


KINDS = ["compressed", "joblib", "legacy", "pickle", "safetensors", "torch"]


@FUZZ
@given(kind=st.sampled_from(KINDS), data=st.data())
def test_damaged_files(
    samples: dict[str, bytes],
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    data: st.DataObject,
) -> None:
    content = bytearray(samples[kind])
    # the beginning and the end have what there is besides numbers
    place = st.one_of(st.integers(0, 2000), st.integers(-3000, -1), st.integers(0, 10**9))
    for at in data.draw(st.lists(place, min_size=1, max_size=4)):
        content[at % len(content)] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.none(), st.integers(0, len(content))))
    loads(tmp_path_factory.mktemp("fuzz") / "weights.pt", bytes(content[:end]))


@FUZZ
@given(words=st.lists(WORDS, max_size=20), protocol=st.booleans())
def test_any_pickle(
    tmp_path_factory: pytest.TempPathFactory, words: list[bytes], protocol: bool
) -> None:
    content = (b"\x80\x02" if protocol else b"") + b"".join(words) + b"."
    loads(tmp_path_factory.mktemp("fuzz") / "weights.pt", content)


@FUZZ
@given(content=st.binary(max_size=300))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    loads(tmp_path_factory.mktemp("fuzz") / "weights.pt", content)
