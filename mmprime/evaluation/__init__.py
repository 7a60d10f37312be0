"""Numbers about a model: likelihood bounds, Fréchet distances, caption accuracy, each with its name and its error."""

from .report import Measure, table, to_json

__all__ = ["Measure", "table", "to_json"]
