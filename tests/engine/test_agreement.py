"""The codes that agree with visible digits, and the softmax head that asks for no others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmprime.engine import MASK_ID, BaseDenoiser, Canvas, Codec, Guidance, NonFiniteLogits, SoftmaxHead, Span
from mmprime.engine.denoiser import Wrapper
from mmprime.engine.guidance import Guided
from mmprime.engine.heads import Request, Tokens
from mmprime.models import DiTConfig, PrimeDiT

CODECS = {
    "base": Codec.base(1000, 3),
    "padded bits": Codec.base(300, 12),
    "shuffled": Codec.shuffled(400, 2, 1),
    "shuffled and full": Codec.shuffled(256, 2, 1),
    "mixed": Codec.mixed_radix((7, 2, 30), 401),
    "product": Codec.product((8, 4, 16)),
    "one digit": Codec.base(50, 1),
}
CPU = torch.device("cpu")


class Linear(BaseDenoiser):
    """Hidden states are rows of a table, logits a linear map of them; counts the logits it was asked for."""

    def __init__(self, codec: Codec) -> None:
        self.asked = 0
        self.canvas = Canvas([Span("text", 60, codec)])
        self.weight = torch.randn(codec.num_codes, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()

    def logits(self, hidden: Tensor, span: Span) -> Tensor:
        self.asked += len(hidden) * len(self.weight)
        return hidden @ self.weight.T


class Choosing(Linear):
    def code_logits(self, hidden: Tensor, span: Span, codes: Tensor) -> Tensor:
        self.asked += codes.numel()
        return torch.einsum("md,mkd->mk", hidden, self.weight[codes])


def tokens_of(codec: Codec, count: int = 60) -> tuple[Tokens, Tensor]:
    """Tokens with every number of visible digits, and their true digits."""
    generator = torch.Generator().manual_seed(2)
    y = codec.encode(torch.randint(codec.num_codes, (count,), generator=generator))
    hide = torch.rand(y.shape, generator=generator) < torch.rand(count, 1, generator=generator)
    hidden = torch.randn(count, 8, generator=generator)
    return Tokens(Span("text", count, codec), hidden, y.masked_fill(hide, MASK_ID), torch.arange(count)), y


def expected(network: Linear, tokens: Tokens, y: Tensor) -> Tensor:
    """log p (M, C) in code order, by comparing every code with every visible digit."""
    digits = tokens.span.codec.encode(torch.arange(tokens.span.codec.num_codes))
    agree = ((y[:, None] < 0) | (y[:, None] == digits)).all(-1)
    return (tokens.hidden @ network.weight.T).masked_fill(~agree, -torch.inf).log_softmax(-1)


@pytest.mark.parametrize("name", CODECS)
def test_listed_codes_are_those_that_agree(name: str) -> None:
    codec = CODECS[name]
    tokens, _ = tokens_of(codec)
    agreement, seen = codec.agreement(CPU), []
    digits = codec.encode(torch.arange(codec.num_codes))
    for rows, position in agreement.groups(tokens.visible):
        seen.append(rows)
        for row, places in zip(rows.tolist(), [None] * len(rows) if position is None else position):
            visible = tokens.visible[row]
            want = ((visible < 0) | (visible == digits)).all(-1)
            assert torch.equal(
                agreement.agree(agreement.key, visible[None])[0], want[agreement.code(torch.arange(len(want)))]
            )
            if places is not None:
                codes = agreement.code(places[places >= 0])
                assert codes.tolist() == sorted(want.nonzero()[:, 0].tolist(), key=lambda x: digits[x].tolist())
    assert torch.cat(seen).sort().values.tolist() == list(range(len(tokens)))


@pytest.mark.parametrize("kind", [Linear, Choosing])
@pytest.mark.parametrize("name", CODECS)
def test_nats_and_gradients_are_those_of_all_logits(name: str, kind: type[Linear]) -> None:
    codec = CODECS[name]
    tokens, y = tokens_of(codec)
    network, code = kind(codec), codec.decode(y)
    part = torch.where(torch.rand(y.shape, generator=torch.Generator().manual_seed(3)) < 0.5, y, tokens.visible)
    log_p = expected(network, tokens, tokens.visible)
    whole = -log_p.gather(1, code[:, None])[:, 0]
    digits = codec.encode(torch.arange(codec.num_codes))
    agree = ((part[:, None] < 0) | (part[:, None] == digits)).all(-1)
    some = -log_p.masked_fill(~agree, -torch.inf).logsumexp(-1)
    want = torch.stack([whole, some])
    found = SoftmaxHead().nats(network, tokens, torch.stack([y, part]))
    assert torch.allclose(found, want.clamp(min=0), rtol=2e-6, atol=2e-6)
    a, b = (torch.autograd.grad(nats.sum(), network.weight)[0] for nats in (found, want))
    assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("unit", ["token", "digit", "each"])
@pytest.mark.parametrize("name", CODECS)
def test_units_are_those_of_all_logits(name: str, unit: str) -> None:
    """Also of what is described as if it were masked; what is drawn agrees with what is visible."""
    codec = CODECS[name]
    tokens, y = tokens_of(codec)
    network, visible, levels = Choosing(codec), tokens.visible, range(codec.num_digits)
    again = (visible >= 0).all(-1, keepdim=True).expand_as(visible) if unit != "each" else visible >= 0
    asked = (visible < 0) | again if unit != "each" else visible < 0
    u = torch.rand(len(y), 1, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    drawn = SoftmaxHead().sample(network, tokens, Request(asked, u, unit=unit, again=again))
    assert bool(((visible < 0) | (drawn.digits == visible)).all())
    codec.decode(drawn.digits)  # raises where no code is
    digits = codec.encode(torch.arange(codec.num_codes))
    p = expected(network, tokens, visible if unit == "each" else visible.masked_fill(again, MASK_ID)).exp().double()
    probs, order = drawn.unit.probs, codec.agreement(CPU).code(torch.arange(codec.num_codes))
    for row in range(len(y)):
        if unit == "token":
            assert torch.allclose(probs[row, 0], p[row, order], atol=1e-6)
            assert digits[order[drawn.unit.value[row, 0]]].tolist() == drawn.digits[row].tolist()
            continue
        for level in levels if unit == "each" else [int(asked[row].long().argmax())]:
            alone = visible[row].clone()
            alone[level] = MASK_ID
            masked = unit == "each" and bool(again[row, level])
            mass = expected(network, tokens[row : row + 1], alone[None])[0].exp().double() if masked else p[row]
            want = torch.zeros(max(codec.radices), dtype=torch.float64).index_add(0, digits[:, level], mass)
            assert torch.allclose(probs[row, level if unit == "each" else 0], want, atol=1e-6)


def test_few_logits_are_computed_where_digits_are_visible() -> None:
    codec = CODECS["base"]
    tokens, _ = tokens_of(codec)
    tokens = tokens[((tokens.visible >= 0).sum(-1) == 2).nonzero()[:, 0]]
    network = Choosing(codec)
    aim = codec.encode(torch.zeros(len(tokens), dtype=torch.int64))
    SoftmaxHead().nats(network, tokens, aim[None])
    assert len(tokens) > 5
    assert network.asked == 10 * len(tokens)
    assert SoftmaxHead().size(tokens.span) == 1000  # no cell without a code


def test_the_network_gives_chosen_logits_with_their_gradients() -> None:
    canvas = Canvas([Span("text", 8, Codec.base(100, 2))])
    model = PrimeDiT(canvas, DiTConfig(preset="nano", depth=1))
    linear = model.heads["text"].linear
    for tensor in (linear.weight, linear.bias):
        torch.nn.init.normal_(tensor)
    hidden = torch.randn(5, model.config.width, requires_grad=True)
    codes = torch.randint(100, (5, 7))
    weight = torch.randn(5, 7)
    found, inputs = [], (hidden, linear.weight, linear.bias)
    for logits in (
        model.code_logits(hidden, canvas.spans[0], codes),
        model.logits(hidden, canvas.spans[0]).gather(1, codes),
    ):
        found.append((logits, *torch.autograd.grad((logits * weight).sum(), inputs)))
    for a, b in zip(*found):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-4)


def test_wrappers_say_of_chosen_codes_what_they_say_of_all() -> None:
    class Doubled(Wrapper):
        def logits(self, hidden: Tensor, span: Span) -> Tensor:
            return 2 * super().logits(hidden, span)

    codec = CODECS["base"]
    network, tokens = Choosing(codec), tokens_of(codec)[0]
    codes = torch.randint(1000, (60, 4), generator=torch.Generator().manual_seed(5))
    guided = torch.cat([tokens.hidden, tokens.hidden.flip(0), torch.arange(60.0)[:, None] % 3], -1)
    for wrapper, hidden in ((Doubled(network), tokens.hidden), (Guided(network, Guidance(1.0)), guided)):
        want = wrapper.logits(hidden, tokens.span).gather(1, codes)
        assert torch.allclose(wrapper.code_logits(hidden, tokens.span, codes), want, rtol=1e-5, atol=1e-5)


def test_a_chosen_logit_that_is_none_is_refused_by_its_code() -> None:
    codec = CODECS["base"]
    network, (tokens, y) = Choosing(codec), tokens_of(codec)
    row = int(((tokens.visible >= 0).sum(-1) == 2).nonzero()[0])
    code = int(codec.decode(y[row]))
    with torch.no_grad():
        network.weight[code] = torch.nan
    one = tokens[torch.tensor([row])]
    with pytest.raises(NonFiniteLogits, match=rf"span 'text', token {row}: the logit of code {code} is nan"):
        SoftmaxHead().nats(network, one, y[None, row : row + 1])
