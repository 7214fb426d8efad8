"""One module per pipeline stage, named as the stage in dvc.yaml, and what runs them.

The convention that makes a module a stage:

- `run(<sections>, stage: StageRun, ...) -> None` does the work, in the current directory (the root
  of the tree), reading and writing the paths of `flows.settings.paths`. Its arguments before
  `stage` are named as the sections of params.yaml that it uses; further ones are the command's
  options (`split` of `generate`).
- Its typed section is in `flows.settings` (or `datasets`) and is composed into
  `flows.params.Params`.
- `flows/commands/stages.py` makes the command `ghn <stage>` of it, `dvc.yaml` calls that command, a
  Prefect task calls DVC.
- What happens over time goes to `stage.log_metrics({...}, step=...)`; what a person wants to see in
  MLflow goes to `stage.log_artifact(path)`. Results go to files through `ghn.files.atomic_path` or
  `flows.rows.schema`.
- Bad input raises a `ghn.errors.GHNError`; a single architecture that fails becomes a row with its
  error (`flows.rows.engine`).
"""
