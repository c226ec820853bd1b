"""Runs: from a recipe to a run directory, and a model's errors on labelled data."""

from foundation.run.evaluation import evaluate_model
from foundation.run.training import describe_errors, train

__all__ = ["describe_errors", "evaluate_model", "train"]
