"""Networks behind the heads, and a model of 2^36 codes from training to samples."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mmprime.engine import (
    MASK_ID,
    MASKINGS,
    SAMPLERS,
    Canvas,
    Codec,
    DigitQuery,
    Span,
    generator_of,
    joint_loss,
    nelbo,
    sample,
    sampler_of,
)
from mmprime.engine.denoiser import Wrapper
from mmprime.models import DiTConfig, PrimeDiT, load_model, save_model
from mmprime.models.heads import ChainNet, FactoredNet, SoftmaxNet

RADICES = (2, 5, 3)
LARGE = Canvas([Span("image", (2, 2), Codec.product((8,) * 12))])
SMALL = {"width": 16, "depth": 1, "heads": 2}


def filled(net: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(3)
    for weight in net.parameters():
        weight.data = torch.randn(weight.shape, generator=generator) * 0.5
    return net


def model(head: str, canvas: Canvas = LARGE, **options: object) -> PrimeDiT:
    torch.manual_seed(1)
    return PrimeDiT(canvas, DiTConfig(head=head, **SMALL, **options))  # type: ignore[arg-type]


def every_digit(tokens: int, known: torch.Tensor) -> DigitQuery:
    token, level = torch.ones(tokens, len(RADICES)).nonzero(as_tuple=True)
    return DigitQuery(token, level, known[token])


def test_nats_of_codes_are_those_of_the_logits_and_so_is_their_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    net = filled(SoftmaxNet(8, Codec.base(27, 3))).double()
    hidden = torch.randn(7, 8, dtype=torch.float64, requires_grad=True)
    true = torch.tensor([0, 26, 13, 13, 5, 1, 2])
    monkeypatch.setattr("mmprime.models.heads._NUMBERS_AT_ONCE", 2 * 27)  # two tokens at a time
    assert torch.allclose(
        net(hidden, true=true), torch.nn.functional.cross_entropy(net(hidden), true, reduction="none")
    )
    parameters = (hidden, net.linear.weight, net.linear.bias)
    assert torch.autograd.gradcheck(lambda h, *_: net(h, true=true), parameters)
    with torch.autocast("cpu", torch.bfloat16):
        single = net.float()(hidden.float(), true=true)
    assert single.dtype == torch.float32
    assert torch.allclose(single, net(hidden.float(), true=true), rtol=0.02, atol=0.05)


@pytest.mark.parametrize("digits", [1, 2])
def test_a_training_step_asks_for_no_logits_of_tokens_with_nothing_visible(
    digits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    canvas = Canvas([Span("text", 12, Codec.base(600, digits))])
    network, codes = filled(model("softmax", canvas)), torch.randint(600, (3, 12))
    found = {}
    for name, asked in (("nats", network), ("logits", Wrapper(network))):  # a wrapper knows the logits alone
        loss = joint_loss(asked, canvas, canvas.pack({"text": codes}), generator=torch.Generator().manual_seed(5))
        found[name] = [loss, *torch.autograd.grad(loss.sum(), list(network.parameters()), allow_unused=True)]
    for a, b in zip(*found.values()):
        assert (a is None and b is None) or torch.allclose(a, b, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(type(network), "logits", None)
    joint_loss(network, canvas, canvas.pack({"text": codes})).sum().backward()


@pytest.mark.parametrize("kind", [FactoredNet, ChainNet])
def test_values_beyond_a_radix_are_impossible_and_all_others_alike_at_first(kind: type) -> None:
    codec = Codec.product(RADICES)
    net = FactoredNet(8, codec) if kind is FactoredNet else ChainNet(8, codec, 6)
    query = every_digit(4, torch.full((4, 3), MASK_ID))
    logits = net(torch.randn(4, 8), query).view(4, 3, 5)
    for level, base in enumerate(RADICES):
        assert bool((logits[:, level, :base] == 0).all())
        assert bool(torch.isneginf(logits[:, level, base:]).all())


def test_factored_logits_are_those_of_a_linear_map_a_level() -> None:
    net = filled(FactoredNet(8, Codec.product(RADICES)))
    hidden = torch.randn(3, 8)
    query = DigitQuery(torch.tensor([2, 0, 1]), torch.tensor([1, 0, 2]), torch.full((3, 3), MASK_ID))
    every = net.linear(torch.nn.functional.rms_norm(hidden, (8,))).split(RADICES, -1)
    found = net(hidden, query)
    for row, (token, level) in enumerate([(2, 1), (0, 0), (1, 2)]):
        assert torch.allclose(found[row, : RADICES[level]], every[level][token], atol=1e-5)


def test_a_chain_sees_known_digits_and_their_levels() -> None:
    """It tells which digit has which value, and gives each row what it would get alone."""
    net = filled(ChainNet(8, Codec.product((3, 3, 3)), 6))
    hidden = torch.randn(1, 8).expand(4, -1)
    known = torch.tensor([[-1, -1, -1], [1, -1, -1], [-1, 1, -1], [2, -1, -1]])
    query = DigitQuery(torch.arange(4), torch.full((4,), 2), known)
    found = net(hidden, query)
    for a in range(4):
        for b in range(a):
            assert not torch.allclose(found[a], found[b])
        alone = net(hidden[:1], DigitQuery(torch.tensor([0]), torch.tensor([2]), known[a : a + 1]))
        assert torch.allclose(alone[0], found[a], atol=1e-5)


@pytest.mark.parametrize("head", ["factored", "chain"])
def test_a_model_of_2_to_the_36_codes_is_trained_scored_and_sampled(head: str) -> None:
    """Two drawings that differ in every digit are learned by heart and drawn by every sampler; with a factored head by
    those that reveal digits apart, for the digits of a whole token are independent there."""
    net = model(head, digit_embedding="linear")
    pair = torch.randint(0, 8, (1, 48), generator=torch.Generator().manual_seed(2))
    rows = torch.cat([pair, 7 - pair]).repeat(16, 1)
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    generator = generator_of(1)
    for _ in range(250):
        optimizer.zero_grad()
        joint_loss(net, LARGE, rows, masking="independent", generator=generator).mean().backward()
        optimizer.step()
    net.eval()
    ln_codes = LARGE.num_tokens * 36 * torch.tensor(2.0).log()
    for masking in MASKINGS:
        found = nelbo(net, LARGE, rows, 16, masking, generator=generator_of(2)).mean()
        assert found.item() < 0.5 * float(ln_codes)
    for name in SAMPLERS:
        if name == "regions":
            continue
        sampler = sampler_of(name, {"steps": 48} if "steps" in fields_of(name) else {})
        y = sample(net, LARGE, sampler, batch=4, generator=3, temperature=0.2).y
        assert y.min() >= 0
        if head == "chain" or not sampler.whole_tokens:
            right = torch.stack([(y == row).float().mean(-1) for row in rows[:2]]).amax(0)
            assert float(right.mean()) > 0.65, (name, right)


def fields_of(name: str) -> set[str]:
    return set(type(sampler_of(name)).__dataclass_fields__)


@pytest.mark.parametrize("options", [{"head": "chain", "head_rounds": 4, "head_width": 8}, {"head": "factored"}])
def test_a_model_of_product_codes_is_saved_and_read(options: dict, tmp_path: Path) -> None:
    net = filled(model(**options))
    save_model(tmp_path / "m", net)
    again, canvas, config = load_model(tmp_path / "m")
    assert canvas.span("image").codec == Codec.product((8,) * 12)
    assert config["canvas"][0]["codec"] == "product"
    assert again.config == net.config
    y = torch.full((1, 48), MASK_ID)
    plans = [sample(each.eval(), LARGE, sampler_of("ancestral", {"steps": 4}), generator=1).y for each in (net, again)]
    assert torch.equal(*plans)
    assert torch.equal(net(y, LARGE), again(y, LARGE))
    entry = json.loads((tmp_path / "m/config.json").read_text())
    entry["canvas"][0]["codec"] = "hash"
    (tmp_path / "m/config.json").write_text(json.dumps(entry))
    with pytest.raises(ValueError, match=r"'image': codec 'hash' is none; there is 'product'"):
        load_model(tmp_path / "m")


def test_a_head_that_does_not_fit_the_weights_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path / "m", model("factored"))
    entry = json.loads((tmp_path / "m/config.json").read_text())
    entry["model"]["head"] = "chain"
    (tmp_path / "m/config.json").write_text(json.dumps(entry))
    with pytest.raises(ValueError, match=r"heads\.image"):
        load_model(tmp_path / "m")


def test_each_span_has_its_head() -> None:
    canvas = Canvas([Span("text", 3, Codec.base(6, 1)), *LARGE.spans])
    net = PrimeDiT(canvas, DiTConfig(**SMALL))  # type: ignore[arg-type]
    assert [net.head(span).name for span in canvas.spans] == ["softmax", "factored"]
    net = PrimeDiT(canvas, DiTConfig(span_heads={"image": "chain"}, head_rounds=2, **SMALL))  # type: ignore[arg-type]
    assert [net.head(span).name for span in canvas.spans] == ["softmax", "chain"]
    y = torch.full((2, canvas.num_subtokens), MASK_ID)
    assert sample(net.eval(), canvas, sampler_of("p2", {"steps": 3}), y, generator=1).y.min() >= 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"head": "softmax"}, r"68719476736 codes takes 274877906944 bytes a token.*'factored' or 'chain'"),
        ({"head": "flow"}, r"unknown head 'flow'; there are auto, softmax, factored, chain"),
        ({"head": "factored", "head_rounds": 3}, r"head_rounds=3 is for head=chain, not head=factored"),
        ({"head": "chain", "head_rounds": -1}, r"head_rounds and head_width must be >= 0, got -1 and 0"),
    ],
)
def test_options_that_do_not_fit(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        model(**options)


def test_the_values_of_ordinal_digits_are_embedded_linearly() -> None:
    """e(0) and e(7) lie on a line with e(3) between, and a masked digit is neither."""
    embed = model("factored", digit_embedding="linear").embedders["image"]
    y = torch.tensor([[0] * 12, [7] * 12, [3] * 12, [MASK_ID] * 12])
    low, high, middle, masked = embed.content(y)
    assert torch.allclose(middle, low + (high - low) * 3 / 7, atol=1e-5)
    assert bool((masked == 0).all())


def test_chosen_codes_of_no_token() -> None:
    net = filled(SoftmaxNet(8, Codec.base(16, 2)))
    hidden, codes = torch.zeros(0, 8, requires_grad=True), torch.zeros(0, 3, dtype=torch.int64)
    logits = net(hidden, codes)
    assert logits.shape == (0, 3)
    logits.sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.shape == (0, 8)
