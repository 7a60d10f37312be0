"""Floating-point operations of the matrix products of a denoiser, trunk and heads apart.

    trunk      2 N a position, N the weights of its matrices, and 4 P D a layer and position for attention to P of them
    patches    10 D² a token, to join and to unfold
    softmax    2 D C a token, or 2 D K where only K codes are left
    factored   2 D Σ b_j a token
    chain      2 D (Σ b_j + d) a token, and 2 d (6 d + b) a digit asked for; d is the width inside the chain

A multiply-add is two. Norms, activations and lookups are no products, and what checkpointing computes anew does not
count: *model* FLOPs, as in PaLM (arXiv 2204.02311, appendix B). A backward pass takes one such product for the gradient
of what comes in, where that is needed, and one for that of each weight that is trained: 6 N a token where all are.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from mmprime.models import PrimeDiT
from mmprime.models.heads import ChainNet, FactoredNet, SoftmaxNet


def denoiser_of(modules: nn.Module) -> PrimeDiT | None:
    """The denoiser among the modules of a task, None where there is none."""
    return next((module for module in modules.modules() if isinstance(module, PrimeDiT)), None)


def trunk_flops(model: PrimeDiT, rows: int, length: int) -> float:
    """Of one forward pass of `rows` examples of `length` tokens: embeddings, patches, blocks and modulation."""
    positions = length * model.patches.coarse(model.canvas).num_tokens / model.canvas.num_tokens
    attention = 4 * positions * model.config.width * len(model.blocks)
    blocks = positions * (2 * _matrices(model.blocks, "modulation") + attention)
    return rows * (embedding_flops(model, length) + blocks + 2 * _once(model))


def embedding_flops(model: PrimeDiT, length: int) -> float:
    """Of one forward pass of an example of `length` tokens: embeddings and patches."""
    each = 0.0
    for embedder in model.embedders.values():
        share = model.canvas.span(str(embedder.name)).num_tokens / model.canvas.num_tokens
        maps = [embedder.mix.weight] if embedder.mix is not None else []  # type: ignore[union-attr]
        maps += [embedder.digits.weight] if embedder.ordinal else []  # type: ignore[union-attr]
        each += share * sum(weight.numel() for weight in maps)  # type: ignore[misc, operator]
        each += share * 5 * model.config.width**2 * (str(embedder.name) in model.patches.maps)
    return 2 * length * each


def _once(model: PrimeDiT) -> float:
    """Weights of the matrices that see an example once, not each of its tokens."""
    modulations = [block.modulation for block in model.blocks]
    parts = [part for part in (*modulations, model.final, model.conditioning) if isinstance(part, nn.Module)]
    linear = [each for part in parts for each in part.modules() if isinstance(each, nn.Linear)]
    return sum(each.weight.numel() for each in linear)


def _matrices(module: nn.Module, but: str) -> float:
    return sum(p.numel() for name, p in module.named_parameters() if p.ndim == 2 and but not in name)


def head_flops(net: nn.Module, tokens: int, asked: int) -> float:
    """Of one forward pass of the network behind a head for `tokens` tokens. asked: codes for each token (softmax), or
    digits of all tokens together (factored, chain)."""
    if isinstance(net, SoftmaxNet):
        return 2.0 * tokens * asked * net.linear.in_features
    assert isinstance(net, FactoredNet)
    flops = 2.0 * tokens * net.linear.weight.numel()
    if isinstance(net, ChainNet):
        inner = net.down.out_features
        flops += 2.0 * tokens * net.state.weight.numel() + 2.0 * asked * inner * (6 * inner + net.out.shape[-1])
    return flops


def step_factor(weights: Iterable[nn.Parameter], reached: bool) -> float:
    """FLOPs of forward and backward over those of forward. reached: weights before these are trained, so the gradient
    goes on to them."""
    sizes = [(p.numel(), p.requires_grad) for p in weights if p.ndim >= 2]
    trained = sum(size for size, wanted in sizes if wanted)
    return 1.0 + (reached or trained > 0) + trained / max(1, sum(size for size, _ in sizes))
