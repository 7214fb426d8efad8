"""Pickles of tensors are read, in every format released files come in; anything else is refused and
not run.
"""

from __future__ import annotations

import argparse
import gzip
import io
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch

from ghn.checkpoint.unpickler import load_untrusted
from ghn.errors import DamagedFileError, UntrustedPickleError

WRITERS: dict[str, Callable[[Any, Path], object]] = {
    "joblib": joblib.dump,
    "joblib-zlib": lambda value, path: joblib.dump(value, path, compress=3),
    "joblib-gzip": lambda value, path: joblib.dump(value, path, compress=("gzip", 1)),
    "joblib-bz2": lambda value, path: joblib.dump(value, path, compress=("bz2", 1)),
    "joblib-xz": lambda value, path: joblib.dump(value, path, compress=("xz", 0)),
    "joblib-lzma": lambda value, path: joblib.dump(value, path, compress=("lzma", 0)),
    "torch": torch.save,
    "torch-legacy": lambda value, path: torch.save(
        value, path, _use_new_zipfile_serialization=False
    ),
    "pickle": lambda value, path: path.write_bytes(pickle.dumps(value)),
    "pickle-2": lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2)),
}


def content() -> dict[str, Any]:
    torch.manual_seed(0)
    weight = torch.randn(4, 6)
    state = OrderedDict(
        a=weight, view=weight[1:, ::2], half=torch.randn(3).half(), empty=torch.empty(0, 3)
    )
    state["parameter"] = torch.nn.Parameter(torch.randn(2))
    state["integers"] = torch.arange(5)
    config = argparse.Namespace(hid=32, max_shape=(64, 64, 11, 11), nested={"ve": True})
    return {
        "state_dict": state,
        "config": config,
        "epoch": 3,
        "accuracy": np.float64(0.5),
        "note": ["x", None, 1.5],
    }


@pytest.mark.parametrize("writer", WRITERS)
def test_tensors_and_containers_come_back(writer: str, tmp_path: Path) -> None:
    value = content()
    WRITERS[writer](value, path := tmp_path / "file.pt")
    loaded = load_untrusted(path)
    assert loaded["config"] == vars(value["config"])
    assert (loaded["epoch"], loaded["accuracy"], loaded["note"]) == (3, 0.5, ["x", None, 1.5])
    for name, tensor in value["state_dict"].items():
        assert torch.equal(loaded["state_dict"][name], tensor)
        assert loaded["state_dict"][name].dtype == tensor.dtype


@pytest.mark.parametrize("writer", ["joblib", "joblib-zlib"])
def test_arrays_come_back(writer: str, tmp_path: Path) -> None:
    arrays = {
        "c": np.arange(6.0).reshape(2, 3),
        "f": np.asfortranarray(np.eye(3)),
        "swapped": np.arange(3, dtype=">i4"),
    }
    WRITERS[writer](arrays, path := tmp_path / "file.pt")
    loaded = load_untrusted(path)
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name], array)


class Attack:
    """Creates a file when it is unpickled by a trusting reader."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("function", ["os.system", "eval", "getattr", "torch.load", "numpy.load"])
def test_malicious_files_are_refused_and_not_run(
    writer: str, function: str, tmp_path: Path
) -> None:
    trap = tmp_path / "trap"
    (tmp_path / "inner").write_bytes(pickle.dumps(Attack(os.system, f"touch {trap}")))
    attack = {
        "os.system": Attack(os.system, f"touch {trap}"),
        "eval": Attack(eval, f"open({str(trap)!r}, 'w')"),
        "getattr": Attack(getattr, "text", "upper"),
        "torch.load": Attack(torch.load, str(tmp_path / "inner")),
        "numpy.load": Attack(np.load, str(tmp_path / "inner"), None, True),
    }[function]
    path = tmp_path / "evil.pt"
    WRITERS[writer]({"state_dict": content()["state_dict"], "x": attack}, path)
    with pytest.raises(UntrustedPickleError, match=r"evil\.pt: refused: "):
        load_untrusted(path)
    assert not trap.exists()


def test_the_test_attacks_do_work(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    pickle.loads(pickle.dumps(Attack(os.system, f"touch {trap}")))
    assert trap.exists()


@pytest.mark.parametrize("compress", [0, 3])
def test_an_array_of_objects_is_refused(compress: int, tmp_path: Path) -> None:
    """joblib pickles such an array inside the file, and its own reader unpickles it without any
    restriction.
    """
    trap = tmp_path / "trap"
    array = np.array([Attack(os.system, f"touch {trap}")], dtype=object)
    joblib.dump({"x": array}, path := tmp_path / "evil.pt", compress=compress)
    with pytest.raises(UntrustedPickleError, match="array of object"):
        load_untrusted(path)
    assert not trap.exists()


def test_a_pickle_inside_a_tensor_is_refused(tmp_path: Path) -> None:
    """A tensor's storage is a pickle of its own (`torch.storage._load_from_bytes`)."""
    trap = tmp_path / "trap"
    inner = io.BytesIO()
    torch.save(Attack(os.system, f"touch {trap}"), inner, _use_new_zipfile_serialization=False)
    attack = Attack(torch.storage._load_from_bytes, inner.getvalue())
    (path := tmp_path / "evil.pt").write_bytes(pickle.dumps(attack))
    with pytest.raises(UntrustedPickleError):
        load_untrusted(path)
    assert not trap.exists()


def test_a_tensor_beyond_its_storage_is_refused(tmp_path: Path) -> None:
    storage = torch.storage.TypedStorage(
        wrap_storage=torch.zeros(4).untyped_storage(), dtype=torch.float32, _internal=True
    )
    attack = Attack(
        torch._utils._rebuild_tensor_v2, storage, 0, (1000,), (1,), False, OrderedDict()
    )
    (path := tmp_path / "evil.pt").write_bytes(pickle.dumps(attack))
    with pytest.raises(DamagedFileError, match="reaches beyond its 4 stored numbers"):
        load_untrusted(path)


def test_stand_ins_cannot_be_altered(tmp_path: Path) -> None:
    """BUILD, which sets attributes, on a function of the allow list."""
    data = b"\x80\x02ctorch.storage\n_load_from_bytes\n}X\x09\x00\x00\x00_functionK\x01sb."
    (path := tmp_path / "evil.pt").write_bytes(data)
    with pytest.raises(UntrustedPickleError, match="alteration of a Stand"):
        load_untrusted(path)


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("keep", [0, 1, 40, 0.5, 0.95])
def test_truncated_files_are_damaged(writer: str, keep: float, tmp_path: Path) -> None:
    WRITERS[writer](content(), path := tmp_path / "file.pt")
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises((DamagedFileError, UntrustedPickleError), match=r"file\.pt"):
        load_untrusted(path)


@pytest.mark.parametrize(
    "data", [b"hello", b"\x00" * 100, gzip.compress(b"hello", mtime=0), b"\x80\x04.", b"]" * 20]
)
def test_garbage_is_damaged(data: bytes, tmp_path: Path) -> None:
    (path := tmp_path / "file.pt").write_bytes(data)
    with pytest.raises(DamagedFileError, match=r"file\.pt"):
        load_untrusted(path)
