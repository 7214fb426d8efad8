"""MLflow: every stage is a run (`stage_run`), every pipeline the parent of its stages' runs
(`pipeline_run`).
"""

from flows.tracking.pipeline import pipeline_run
from flows.tracking.run import stage_run

__all__ = ["pipeline_run", "stage_run"]
