"""Codecs as files."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from mmprime.codecs import load_codec, save_codec
from mmprime.engine import Codec


def test_codec_files_that_were_changed_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "c.safetensors"
    save_codec(file, Codec.base(10, 2), {"source": "none"})
    assert load_codec(file) == (Codec.base(10, 2), {"source": "none"})
    body, swapped = file.read_bytes(), load_file(file)["digits"].flip(0)
    size = int.from_bytes(body[:8], "little")
    head = json.loads(body[8 : 8 + size])["__metadata__"]
    save_file({"digits": swapped}, file, head)
    with pytest.raises(ValueError, match=r"the table has fingerprint \w+, its header"):
        load_codec(file)
    save_file({"digits": swapped}, file)
    with pytest.raises(ValueError, match="no codec file: format None"):
        load_codec(file)
    file.write_bytes(b"{}")
    with pytest.raises(ValueError, match="no codec file"):
        load_codec(file)
