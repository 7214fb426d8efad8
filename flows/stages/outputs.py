"""What stages hand to each other is what was written: digests, noted as a stage ends and compared
as another begins.

The formats of weights, splits, images and rows guard what their readers look at. This guards every
byte of every file, those of formats without a digest too (JSON and CSV), in one place. A file is
right if it is as its stage noted it, or as dvc.lock has it: after `dvc checkout` or `dvc pull`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from flows.rows.digest import digest
from flows.rows.provenance import computed_hash, locked_hash
from flows.settings import paths
from flows.settings.dvcfile import Declaration
from ghn.errors import DamagedFileError
from ghn.files import atomic_path

NOTES = paths.CACHE / "outputs"
"""A file per stage: what it wrote, and a digest of that."""


def note(stage: Declaration, stages: Mapping[str, Declaration]) -> None:
    """Notes what `stage` has written, as far as any of `stages` reads it."""
    read = [Path(path) for other in stages.values() for path in other.inputs]
    handed_on = [o for o in stage.outputs if any(paths.overlap(Path(o), path) for path in read)]
    found = {file.as_posix(): computed_hash(file) for out in handed_on for file in _files(out)}
    with atomic_path(_notes(stage)) as temporary:
        temporary.write_text(json.dumps([digest(found), found]) + "\n")


def verify(stage: Declaration, stages: Mapping[str, Declaration]) -> None:
    """Holds what `stage` reads against what those of `stages` that wrote it noted.

    What is missing, and what no stage is known to have written, is the stage's own affair.

    Raises:
        DamagedFileError: a file is another than was written; the message names it.
    """
    for path in stage.inputs:
        for maker in stages.values():
            for output in maker.outputs:
                if paths.overlap(Path(output), Path(path)) and Path(output).exists():
                    _verify(output, maker)


def _verify(output: str, maker: Declaration) -> None:
    noted = _read(maker)
    if noted is None:
        expected = locked_hash(output)
        changed = [] if expected in (None, computed_hash(output)) else [output]
    else:
        files = (file.as_posix() for file in _files(output))
        changed = [file for file in files if file in noted and computed_hash(file) != noted[file]]
        if changed and computed_hash(output) == locked_hash(output):
            return
    if changed:
        raise DamagedFileError(
            f"{', '.join(changed)}: not as stage {maker.name} wrote it, its digest differs; delete"
            f" it and run `dvc repro {maker.name}`"
        )


def _read(maker: Declaration) -> dict[str, str] | None:
    """The hashes that a stage noted, by file; None if it noted none.

    Raises:
        DamagedFileError: the notes are not as they were written.
    """
    path = _notes(maker)
    try:
        expected, found = json.loads(path.read_bytes())
        whole = digest(found) == expected
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise DamagedFileError(
            f"{path} is damaged; delete it and run `dvc repro --force {maker.name}`"
        )
    return dict(found)


def _notes(stage: Declaration) -> Path:
    return NOTES / f"{stage.name}.json"


def _files(output: str) -> Iterator[Path]:
    path = Path(output)
    return (file for file in sorted([path, *path.rglob("*")]) if file.is_file())
