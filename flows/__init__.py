"""The pipeline: its stages, experiments, servers and commands."""

from flows.settings.imports import prefer_own_datasets

prefer_own_datasets()
