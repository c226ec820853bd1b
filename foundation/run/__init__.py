"""Runs: from a recipe to a run directory, and a model's errors on labelled data."""

from foundation.run.evaluate import evaluate_model
from foundation.run.train import describe_errors, train

__all__ = ["describe_errors", "evaluate_model", "train"]
