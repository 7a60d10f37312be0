"""MDM-Prime's training step and sampling loop beside this package's (chen-hao-chao/mdm-prime, text).

Their `text/diffusion.py` and `text/models/dit.py` are imported from the checkout and run unchanged: `Diffusion._loss`,
backward and AdamW; `Diffusion._sample`. What they import for logging, data and metrics is replaced by empty modules,
and the flash-attention kernels, which need a GPU, by `scaled_dot_product_attention` and a rotation of halves. Their
carry-over of visible digits (`prime.carry_over`) is run off and on; this package always carries over. Same width,
depth, heads, codes, digits, tokens and batch; theirs in float32, for its autocast is of GPUs, this package by
--precision.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from cost import Case
from omegaconf import OmegaConf
from torch import Tensor, nn

from mmprime.engine import Canvas, Codec, Span, joint_loss, sample, sampler_of
from mmprime.models import DiTConfig, PrimeDiT, autocast

MARK = "text/diffusion.py"
DEFAULTS = {"codes": 50_257, "length": 512, "batch": 2, "width": 256, "depth": 6, "sampling_steps": 0}
COLUMNS = ("", "digits", "carry-over of theirs")


class _Lightning(nn.Module):
    """What `Diffusion` asks of a LightningModule when it is run by hand."""

    device, dtype = torch.device("cpu"), torch.float32

    def save_hyperparameters(self) -> None:
        pass


class _Absent(ModuleType):
    """A module of which every name is `_Anything`."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything


class _Anything:
    """Stands for a metric, tokenizer or logger: takes what it is given, and does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> _Anything:
        return self

    def __getattr__(self, name: str) -> _Anything:
        return self


def _attention(qkv: Tensor, lengths: Tensor, longest: int, dropout: float, causal: bool = False) -> Tensor:
    """qkv (batch * tokens, 3, heads, width) -> (batch * tokens, heads, width)."""
    q, k, v = qkv.view(-1, longest, *qkv.shape[1:]).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1)


def _rotate(qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """qkv (batch, tokens, 3, heads, width), cos and sin (tokens, width / 2): queries and keys rotated."""
    first, second = qkv[:, :, :2].chunk(2, -1)
    cos, sin = cos[:, None, None], sin[:, None, None]
    turned = torch.cat([first * cos - second * sin, first * sin + second * cos], -1)
    return torch.cat([turned, qkv[:, :, 2:]], 2)


def load_peer(folder: Path) -> Any:
    """The class `Diffusion` of a checkout."""
    absent = "hydra hydra.utils lightning lightning.pytorch lightning.pytorch.utilities torchmetrics transformers"
    absent += " torchmetrics.aggregation dataloader utils.eval_utils flash_attn flash_attn.layers"
    absent += " flash_attn.layers.rotary flash_attn.flash_attn_interface"
    for name in absent.split():
        sys.modules[name] = module = _Absent(name)
        parent, _, child = name.rpartition(".")
        if parent in sys.modules:
            setattr(sys.modules[parent], child, module)
    modules = sys.modules
    modules["lightning"].LightningModule = _Lightning  # type: ignore[attr-defined]
    modules["flash_attn.layers.rotary"].apply_rotary_emb_qkv_ = _rotate  # type: ignore[attr-defined]
    modules["flash_attn.flash_attn_interface"].flash_attn_varlen_qkvpacked_func = _attention  # type: ignore[attr-defined]
    modules["torchmetrics"].MetricCollection = lambda _: _Anything()  # type: ignore[attr-defined]
    modules["transformers"].AutoTokenizer = _Anything()  # type: ignore[attr-defined]
    sys.path.insert(0, str(folder / "text"))
    import diffusion  # type: ignore[import-not-found]

    return diffusion.Diffusion


def peer_config(options: argparse.Namespace, digits: int, carry_over: bool) -> Any:
    """Their configs/config.yaml where `Diffusion` reads it, with this run's sizes."""
    base = options.codes if digits == 1 else math.ceil(options.codes ** (1 / digits))
    prime = {"target_length": digits, "base": base, "vocab_size": options.codes, "seq_length": options.length}
    model = {"hidden_size": options.width, "cond_dim": 128, "length": options.length, "n_blocks": options.depth}
    return OmegaConf.create(
        {
            "prime": {**prime, "carry_over": carry_over},
            "model": {**model, "n_heads": options.width // 64, "scale_by_sigma": True, "dropout": 0.0},
            "noise": {"type": "loglinear"},
            "sampling": {"predictor": "ddpm_cache", "sampling_dtype": "fp32", "noise_removal": True, "nucleus_p": 1.0},
            "training": {
                "antithetic_sampling": True, "importance_sampling": False, "change_of_variables": False, "ema": 0.0,
                "sampling_eps": 1e-3,
            },
            "eval": {"gen_ppl_eval_model_name_or_path": "", "compute_zero_shot": False, "checkpoint_path": ""},
            "optim": {"lr": 1e-5}, "loader": {"eval_batch_size": options.batch}, "backbone": "dit",
            "parameterization": "subs", "T": 0, "subs_masking": False, "time_conditioning": False,
        }
    )  # fmt: skip


class Peer:
    """Their model, loss and sampler."""

    def __init__(self, diffusion: Any, options: argparse.Namespace, digits: int, carry_over: bool) -> None:
        torch.manual_seed(0)
        tokenizer = SimpleNamespace(vocab_size=options.codes, mask_token=None)
        with redirect_stdout(StringIO()):
            self.model = diffusion(peer_config(options, digits, carry_over), tokenizer)
        nn.init.normal_(self.model.backbone.output_layer.linear.weight, std=0.02)
        self.optimizer = torch.optim.AdamW(self.model.backbone.parameters(), lr=1e-5)

    def step(self, codes: Tensor) -> None:
        self.model.train()
        self.model._loss(codes.clone(), torch.ones(codes.shape)).loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def sample(self, steps: int) -> None:
        self.model.eval()
        with torch.no_grad(), redirect_stdout(StringIO()):
            self.model._sample(num_steps=steps)


class Ours:
    """This package's model of the same size."""

    def __init__(self, options: argparse.Namespace, digits: int) -> None:
        torch.manual_seed(0)
        self.canvas = Canvas([Span("text", options.length, Codec.base(options.codes, digits))])
        size = DiTConfig(width=options.width, depth=options.depth, heads=options.width // 64)
        self.model = PrimeDiT(self.canvas, size)
        nn.init.normal_(self.model.heads["text"].get_parameter("linear.weight"), std=0.02)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=True)
        self.batch, self.random = options.batch, torch.Generator().manual_seed(0)
        self.precision = options.precision

    def step(self, codes: Tensor) -> None:
        self.model.train()
        with autocast(self.precision, "cpu"):
            loss = joint_loss(self.model, self.canvas, self.canvas.pack({"text": codes}), generator=self.random).mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def sample(self, steps: int) -> None:
        self.model.eval()
        with autocast(self.precision, "cpu"):
            sample(self.model, self.canvas, sampler_of("ancestral", steps=steps), batch=self.batch, generator=1)


def check(options: argparse.Namespace) -> None:
    """Raises ValueError on guidance: their model has no labels."""
    if options.guidance != [0.0]:
        raise ValueError("--guidance is for a checkout of Halton-MaskGIT")


def cases(folder: Path, options: argparse.Namespace) -> Iterator[Case]:
    """What is compared: the training step, and with `sampling_steps` a batch drawn in so many."""
    diffusion = load_peer(folder)
    codes = torch.randint(options.codes, (options.batch, options.length), generator=torch.Generator().manual_seed(0))
    for digits in options.digits:
        for carry_over in (True,) if digits == 1 else (False, True):
            peer, ours = Peer(diffusion, options, digits, carry_over), Ours(options, digits)
            about = (str(digits), "on" if carry_over else "off")
            step = partial(peer.step, codes), partial(ours.step, codes)
            yield Case(("training step", *about), *step, options.repeats)
            if count := options.sampling_steps:
                draw = partial(peer.sample, count), partial(ours.sample, count)
                yield Case((f"{count} sampling steps", *about), *draw)
