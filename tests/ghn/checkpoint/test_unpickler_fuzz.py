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


class Samples(dict[str, bytes]):
    """Files by name, which no failure prints."""

    def __repr__(self) -> str:
        return "samples"


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
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
    return Samples({path.name: path.read_bytes() for path in sorted(directory.iterdir())})


def loads(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        load_checkpoint(path)
    except GHNError as error:
        assert str(error)  # noqa: PT017, one is as good as none


KINDS = ["compressed", "joblib", "legacy", "pickle", "safetensors", "torch"]


# the beginning and the end have what there is besides numbers
PLACES = st.one_of(st.integers(0, 2000), st.integers(-3000, -1), st.integers(0, 10**9))


@FUZZ
@given(
    kind=st.sampled_from(KINDS),
    changes=st.lists(st.tuples(PLACES, st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.one_of(st.none(), st.floats(0, 1)),
)
def test_damaged_files(
    samples: Samples,
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    changes: list[tuple[int, int]],
    cut: float | None,
) -> None:
    content = bytearray(samples[kind])
    for at, byte in changes:
        content[at % len(content)] = byte
    end = None if cut is None else int(cut * len(content))
    loads(tmp_path_factory.mktemp("fuzz") / "weights.pt", bytes(content[:end]))


def test_lengths_that_no_file_has(tmp_path: Path) -> None:
    for opcode in (pickle.BYTEARRAY8, pickle.BINBYTES8):
        content = opcode + b"os\nsystem\n" + b"."
        loads(tmp_path / "weights.pt", content)
        with pytest.raises(GHNError, match=r"weights\.pt"):
            load_checkpoint(tmp_path / "weights.pt")


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
