"""Ranks on this machine: rank 0 is this process, the others end with it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flows.local_ranks import local_ranks

HELPER = """
import datetime, os, pathlib
import torch, torch.distributed as dist
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
total = torch.tensor(float(os.environ["RANK"]))
dist.all_reduce(total)
pathlib.Path(os.environ["OUT"]).write_text(f"{total.item()} {os.environ['OMP_NUM_THREADS']}")
dist.destroy_process_group()
"""


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module `rank_helper` that adds up the ranks and writes the sum down."""
    (tmp_path / "rank_helper.py").write_text(HELPER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("OUT", str(tmp_path / "sum"))
    monkeypatch.delenv("RANK", raising=False)
    return tmp_path / "sum"


def test_ranks_work_together_and_leave_the_environment_as_it_was(helper: Path) -> None:
    import torch
    import torch.distributed as dist

    before, threads = dict(os.environ), torch.get_num_threads()
    with local_ranks(2, "rank_helper"):
        assert os.environ["RANK"] == "0"
        dist.init_process_group("gloo")
        total = torch.tensor(10.0)
        dist.all_reduce(total)
        dist.destroy_process_group()
        assert total == 11.0
    assert helper.read_text().startswith("11.0 ")
    assert (dict(os.environ), torch.get_num_threads()) == (before, threads)


def test_an_error_ends_the_others(helper: Path) -> None:
    with pytest.raises(ValueError, match="this one"), local_ranks(2, "rank_helper"):
        raise ValueError("this one")
    assert not helper.exists()


def test_one_process_or_a_launcher_starts_nothing(helper: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with local_ranks(1, "rank_helper"):
        assert "RANK" not in os.environ
    monkeypatch.setenv("RANK", "3")
    with local_ranks(2, "rank_helper"):
        assert os.environ["RANK"] == "3"
    assert not helper.exists()
