"""Several processes of this machine that train one hypernetwork together: `torchrun` without its
command line.

A rank per GPU; or per core, since on a CPU the many small operations of the target networks keep
one core busy and no more. The launcher starts the ranks, ends all of them as soon as one fails, and
passes signals on.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from uuid import uuid4


def run_ranks(processes: int, module: str, *arguments: str) -> int:
    """Runs `python -m MODULE ARGUMENTS` as `processes` ranks and returns 0, or the exit code of the
    first that failed.

    Ctrl-C and SIGTERM reach every rank, which then have half a minute to write a checkpoint.

    Args:
        processes: ranks.
        module: what they run; it finds RANK, WORLD_SIZE and so on in its environment, as under
            `torchrun`.
        arguments: of its command line.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # A failed rank has said why; the launcher's account of which process that was helps nobody.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // processes))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", module, *arguments)
    except ChildFailedError as error:
        return _exit_code(error.get_first_failure()[1].exitcode)
    except SignalException as error:
        return _exit_code(-int(error.sigval))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def _exit_code(code: int) -> int:
    """As a shell counts them: 128 + n for signal n."""
    return code if code >= 0 else 128 - code
