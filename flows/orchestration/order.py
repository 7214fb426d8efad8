"""Which stages a run needs, and in which order: from dvc.yaml, the only list of stages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from graphlib import TopologicalSorter
from pathlib import Path

from flows.orchestration.errors import StageFailedError
from flows.settings.dvcfile import Declaration
from flows.settings.paths import overlap


def touched(dependency: Path, outputs: Iterable[Path]) -> list[Path]:
    """Those outputs that a dependency is, lies in, or holds."""
    return [out for out in outputs if overlap(dependency, out)]


def upstream(stages: Mapping[str, Declaration]) -> dict[str, set[str]]:
    """For each stage the stages whose outputs it reads; a file in an output directory counts, and
    the reverse.
    """
    producers = {Path(out): name for name, stage in stages.items() for out in stage.outputs}

    def reads(dependency: Path) -> set[str]:
        return {producers[out] for out in touched(dependency, producers)}

    return {
        name: {source for dep in stage.inputs for source in reads(Path(dep))} - {name}
        for name, stage in stages.items()
    }


def needed(before: Mapping[str, set[str]], targets: Sequence[str]) -> list[str]:
    """The targets (`generate` for all `generate@…`) and all stages before them, in an order to run;
    no targets: all.

    Raises:
        StageFailedError: a target is no stage of dvc.yaml.
    """
    wanted: set[str] = set()
    queue = [
        name for name in before if not targets or name in targets or name.split("@")[0] in targets
    ]
    if unknown := [
        t
        for t in targets
        if t not in before and not any(name.startswith(f"{t}@") for name in before)
    ]:
        raise StageFailedError(
            f"no stage {', '.join(unknown)} in dvc.yaml; there are {', '.join(before)}", False
        )
    while queue:
        name = queue.pop()
        if name not in wanted:
            wanted.add(name)
            queue.extend(before[name])
    return [name for name in TopologicalSorter(before).static_order() if name in wanted]
