"""The lock file of the committed tree is that of one run: what one stage wrote others read."""

import json
from collections import defaultdict
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


def hashes(lock: dict) -> dict[str, dict[str, str]]:
    """By path: the hash that each stage saw or wrote there."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for name, stage in lock["stages"].items():
        for entry in (*stage.get("deps", ()), *stage.get("outs", ())):
            found[entry["path"]][name] = entry["md5"]
    return found


@pytest.fixture(scope="module")
def lock() -> dict:
    return yaml.safe_load((ROOT / "dvc.lock").read_text())


def test_stages_agree_on_the_hash_of_every_path(lock: dict) -> None:
    differing = {path: seen for path, seen in hashes(lock).items() if len(set(seen.values())) > 1}
    assert differing == {}, "run `dvc repro`; a lock that was only committed says what never was"


def test_the_registration_is_of_the_same_run(lock: dict) -> None:
    record = json.loads((ROOT / "results" / "registration.json").read_text())["dvc"]
    known = {path: set(seen.values()) for path, seen in hashes(lock).items()}
    assert {path for path, md5 in record.items() if md5 not in known.get(path, {md5})} == set()
