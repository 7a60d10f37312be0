"""What the parts above ask of a denoiser that is a torch module: its canvas, its layers, what of it is trained."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from mmprime.engine import BaseDenoiser, Canvas


class Network(nn.Module, BaseDenoiser):
    """A denoiser with weights.

    canvas: of its spans. config: its options, a dataclass whose `RUN_SWITCHES` are not stored. heads: by span.
    ADAPTED: how names of modules begin that get low-rank adapters; ALWAYS_TRAINED: how those of weights begin that are
    trained beside the adapters and beside the heads.
    """

    ADAPTED: ClassVar[tuple[str, ...]] = ("blocks.", "heads.")
    ALWAYS_TRAINED: ClassVar[tuple[str, ...]] = ()
    canvas: Canvas
    config: Any
    heads: nn.ModuleDict

    @property
    def layers(self) -> nn.ModuleList:
        """The blocks of the trunk, in order."""
        raise NotImplementedError

    def compile_blocks(self) -> None:
        """torch.compile each block in place; names and weights stay as they are."""
        for block in self.layers:
            block.compile()

    def fill_buffers(self) -> None:
        """Compute what is derived from the config and not stored, after weights were put into shapes."""
