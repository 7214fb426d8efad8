"""The servers on one machine: PostgreSQL, Prefect, MLflow and two workers (`make up`, `ghn
stack`).
"""
