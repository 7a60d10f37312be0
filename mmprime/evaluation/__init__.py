"""Numbers about a model: likelihood bounds, Fréchet distances, caption accuracy, each with its name and its error."""

from .metric import Measure, read_rows, require_same, stamp, table, to_json

__all__ = ["Measure", "read_rows", "require_same", "stamp", "table", "to_json"]
