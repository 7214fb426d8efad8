"""Versions in the MLflow registry: look-up, evaluation, promotion, registration."""
