"""`ghn run --dry`: the stages in their order, what each waits for, and whether and why it would
run; `ghn run --dag`: their picture. (`dvc repro --dry` fails where data is not there yet, and `dvc
dag` draws the experiments too, in thousands of columns.)
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple


class Step(NamedTuple):
    """A stage of the plan.

    Attributes:
        name: as in dvc.yaml.
        after: the stages whose outputs it reads, without what follows an @.
        why: why it would run; empty if it would not.
    """

    name: str
    after: tuple[str, ...]
    why: str


def plan(tree: Mapping[str, Any]) -> list[Step]:
    """What `dvc repro` would do.

    Args:
        tree: params.yaml, for the placeholders of dvc.yaml.

    Raises:
        GHNError: DVC cannot tell.
    """
    from flows.orchestration.order import upstream
    from flows.settings.dvcfile import read_stages

    sources = upstream(read_stages(tree))
    found = _status([*sources])
    steps: list[Step] = []
    for name in sources:
        before = [other for other in steps if other.name in sources[name]]
        after = tuple(dict.fromkeys(other.name.partition("@")[0] for other in before))
        running = {other.name.partition("@")[0] for other in before if other.why}
        running -= {"sources"}  # runs each time; whether it found a change shows in its outputs
        why = _reason(found.get(name, [])) or (f"after {', '.join(running)}" if running else "")
        steps.append(Step(name, after, why))
    return steps


def picture(tree: Mapping[str, Any]) -> str:
    """The stages as `dvc dag` draws them, but those of a `foreach` as one, and without the arrows
    that follow from others, so that they fit in 80 columns.

    Args:
        tree: params.yaml, for the placeholders of dvc.yaml.
    """
    import networkx as nx
    from dvc.dagascii import draw

    from flows.orchestration.order import upstream
    from flows.settings.dvcfile import read_stages

    graph: nx.DiGraph = nx.DiGraph()
    for name, sources in upstream(read_stages(tree)).items():
        stage = name.partition("@")[0]
        graph.add_node(stage)
        graph.add_edges_from((stage, source.partition("@")[0]) for source in sources)
    arrows = nx.transitive_reduction(graph).edges
    return str(draw(sorted(graph), sorted(arrows)))  # DVC's edges point from a stage to its sources


def _status(names: list[str]) -> dict[str, list[Any]]:
    """What DVC finds changed, by stage."""
    from flows.compute.shell import environment
    from ghn.errors import GHNError

    command = [sys.executable, "-m", "dvc", "status", "--json", *names]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    if done.returncode:
        raise GHNError(f"dvc status: {done.stderr.strip().splitlines()[-1]}")
    found: dict[str, list[Any]] = json.loads(done.stdout)
    return found


def _reason(changes: list[Any]) -> str:
    """The changes of a stage in a line: parameters first, then data, code and outputs."""
    reasons: list[tuple[int, str]] = []
    for change in changes:
        if isinstance(change, str):
            reasons.append((0, "looks each time" if change == "always changed" else change))
            continue
        for kind, paths in change.items():
            if isinstance(paths, str):
                reasons.append((0, f"{kind}: {paths}"))
                continue
            for path, state in paths.items():
                if isinstance(state, dict):
                    reasons += [(1, f"{name} {how}") for name, how in state.items()]
                else:
                    missing = state in ("deleted", "not in cache")
                    order = 3 if "outs" in kind else 2
                    reasons.append((order, f"{path} {'is not there' if missing else state}"))
    shown = [text for _, text in sorted(reasons, key=lambda pair: pair[0])]
    more = f" and {len(shown) - 1} more" if len(shown) > 1 else ""
    return f"{shown[0]}{more}" if shown else ""
