"""Features that are colours only in place of those of networks."""

from __future__ import annotations

from pathlib import Path

import pytest
from picture_world import colours_only

from mmprime.evaluation.images import extractors
from mmprime.evaluation.images.extractors import FeatureExtractor


@pytest.fixture
def colour_extractors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(extractors, "effnet", lambda: FeatureExtractor("EffNet-Lite0", 3, "e" * 16, colours_only))
    monkeypatch.setenv("MMPRIME_CACHE", str(tmp_path / "cache"))
    for name in ("MMPRIME_INCEPTION", "RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
