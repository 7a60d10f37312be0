"""A process that encodes a folder of pictures slowly, in small units: python encoding_world.py PICTURES OUT."""

from __future__ import annotations

import sys
import time

from datafixtures import MeanTokenizer
from torch import Tensor

from mmprime.data import encoding
from mmprime.data.views import Views


class SlowTokenizer(MeanTokenizer):
    def encode(self, images: Tensor) -> Tensor:
        time.sleep(0.05)
        return super().encode(images)


if __name__ == "__main__":
    encoding.UNIT_EXAMPLES, encoding.BATCH = 16, 8
    how = encoding.Encoding(Views(16, flip=True), say=lambda line: None)
    encoding.encode_folder(sys.argv[1], SlowTokenizer(), sys.argv[2], how)
