"""A stage reads what another wrote, to the byte."""

import shutil
from pathlib import Path

import pytest

from flows.rows.provenance import dvc_hash
from flows.settings.dvcfile import Declaration
from flows.stages.outputs import NOTES, note, verify
from flows.stages.runner import run_stage
from ghn.errors import DamagedFileError


def declare(name: str, inputs: tuple[str, ...] = (), outputs: tuple[str, ...] = ()) -> Declaration:
    return Declaration(name, f"ghn {name}", (), inputs, (), outputs)


STAGES = {
    stage.name: stage
    for stage in (
        declare("make@a", outputs=("data/a.csv", "images", "metrics.json")),
        declare("make@b", outputs=("data/b.csv",)),
        declare("use", inputs=("data", "images")),
    )
}
CONTENT = {"data/a.csv": b"step,loss\n1,0.5\n", "images/x": b"x" * 100, "images/about.json": b"{}"}


@pytest.fixture(autouse=True)
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in (*CONTENT.items(), ("metrics.json", b"{}"), ("data/b.csv", b"b\n")):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(content)


def damage(name: str, place: int = 0) -> None:
    content = bytearray(Path(name).read_bytes())
    content[place] ^= 1
    Path(name).write_bytes(content)


def lock(*outputs: str) -> None:
    entries = "".join(f"    - path: {path}\n      md5: {dvc_hash(path)}\n" for path in outputs)
    Path("dvc.lock").write_text(f"stages:\n  make@a:\n    outs:\n{entries}")


def use() -> None:
    verify(STAGES["use"], STAGES)


def test_what_is_as_it_was_written_is_read() -> None:
    note(STAGES["make@a"], STAGES)
    note(STAGES["make@b"], STAGES)
    use()
    damage("metrics.json")  # no stage reads it
    use()


@pytest.mark.parametrize("name", CONTENT)
@pytest.mark.parametrize("place", [0, -1])
def test_a_changed_bit_anywhere_is_named(name: str, place: int) -> None:
    note(STAGES["make@a"], STAGES)
    damage(name, place)
    with pytest.raises(DamagedFileError, match=rf"{name}: .*`dvc repro make@a`") as raised:
        use()
    assert "about.json" in name or "about.json" not in str(raised.value)


def test_a_stage_that_ran_again_is_believed() -> None:
    note(STAGES["make@a"], STAGES)
    damage("data/a.csv")
    note(STAGES["make@a"], STAGES)
    use()


def test_files_of_nobody_are_the_stage_s_own_affair() -> None:
    damage("data/a.csv")
    Path("data/other.csv").touch()
    use()
    note(STAGES["make@a"], STAGES)
    Path("data/a.csv").unlink()
    use()


def test_what_dvc_checked_out_is_right_whatever_a_stage_wrote_here_before() -> None:
    note(STAGES["make@a"], STAGES)
    damage("data/a.csv")
    damage("images/x")
    lock("data/a.csv", "images")
    use()
    damage("images/x", -1)
    with pytest.raises(DamagedFileError, match="images/x"):
        use()


def test_what_dvc_pulled_is_held_against_its_lock() -> None:
    lock("data/a.csv", "images")
    use()
    damage("data/a.csv")
    with pytest.raises(DamagedFileError, match=r"data/a\.csv"):
        use()
    damage("data/a.csv")
    damage("images/about.json")
    with pytest.raises(DamagedFileError, match="images"):
        use()


@pytest.mark.parametrize("place", [0, 5, 60, -3])
def test_damaged_notes_are_named(place: int) -> None:
    note(STAGES["make@a"], STAGES)
    damage(str(NOTES / "make@a.json"), place)
    with pytest.raises(DamagedFileError, match=r"make@a\.json is damaged; delete it"):
        use()


def test_stages_note_and_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.tracking.run.CONNECT_AFTER_SECONDS", 1e9)
    root = Path(__file__).resolve().parents[2]
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(root / name, name)
    run_stage("sources")
    damage("data/sources/images.json", 12)
    with pytest.raises(DamagedFileError, match=r"data/sources/images\.json: .*`dvc repro sources`"):
        run_stage("images")
    run_stage("sources")
    run_stage("images")
