"""A process that encodes a folder of pictures slowly, in small units: python encoding_world.py PICTURES OUT."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from datafixtures import MeanTokenizer
from torch import Tensor

from mmprime.data import encoding
from mmprime.data.views import Views

UNIT_EXAMPLES, BATCH = 16, 8


class SlowTokenizer(MeanTokenizer):
    def encode(self, images: Tensor) -> Tensor:
        time.sleep(0.05)
        return super().encode(images)


def encode(pictures: Path | str, out: Path | str, tokenizer: MeanTokenizer) -> None:
    how = encoding.Encoding(Views(16, flip=True), say=lambda line: None)
    encoding.encode_folder(pictures, tokenizer, out, how)


if __name__ == "__main__":
    encoding.UNIT_EXAMPLES, encoding.BATCH = UNIT_EXAMPLES, BATCH
    encode(sys.argv[1], sys.argv[2], SlowTokenizer())
