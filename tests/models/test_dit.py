"""PrimeDiT keeps the contract of a denoiser."""

import math

import pytest
import torch
from model_world import IMAGE, TEXT, make_canvas, make_model, random_state

from mmprime.engine import MASKINGS, Canvas, Codec, Span, nelbo, sample, sampler_of
from mmprime.models import DiTConfig, PrimeDiT, autocast


def all_logits(model: PrimeDiT, y: torch.Tensor, canvas: Canvas, **cond: torch.Tensor) -> torch.Tensor:
    """All logits of all spans, flat for each example: (B, ·)."""
    hidden = model(y, canvas, cond or None)
    rows = [model.logits(hidden[:, canvas.token_slice(s.name)].flatten(0, 1), s).view(len(y), -1) for s in canvas.spans]
    return torch.cat(rows, 1)


@pytest.mark.parametrize("masking", MASKINGS)
def test_untrained_model_costs_exactly_ln_c_per_token(masking: str) -> None:
    canvas = Canvas([Span("text", 4, Codec.base(16, 2)), Span("image", (2, 3), Codec.shuffled(16, 2, seed=1))])
    model = make_model(canvas, randomise=False)
    y0 = random_state(canvas, masked=0.0)
    nats = nelbo(model, canvas, y0, masking=masking, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(nats, torch.full((3,), canvas.num_tokens * math.log(16)))


@pytest.mark.parametrize("token_embedding", [True, False])
def test_every_digit_and_its_masking_matter(token_embedding: bool) -> None:
    canvas = make_canvas(length=2, grid=(1, 2))
    model = make_model(canvas, token_embedding=token_embedding)
    y = torch.zeros(1, canvas.num_subtokens, dtype=torch.int64)
    hidden = model(y, canvas)
    for n in range(canvas.num_subtokens):
        for value in (-1, 1):
            changed = y.clone()
            changed[0, n] = value
            token = canvas.token_of[n]
            assert (model(changed, canvas) - hidden)[0, token].abs().max() > 1e-3, (n, value)


def test_whole_token_embedding_is_added_only_when_complete() -> None:
    canvas = make_canvas(length=1, grid=(1, 1))
    model = make_model(canvas)
    embedding = model.embedders["image"]
    states = torch.tensor([[1, 2, 3], [1, 2, -1], [-1, -1, -1]])[:, None]
    before = embedding(states, canvas.span("image"))
    with torch.no_grad():
        embedding.tokens.weight[:-1] += 1.0
    added = embedding(states, canvas.span("image")) - before
    torch.testing.assert_close(added[:, 0], torch.tensor([[1.0], [0.0], [0.0]]).expand(3, 64))
    code = IMAGE.decode(states[0, 0])
    assert embedding._codes(states)[:, 0].tolist() == [int(code), IMAGE.num_codes, IMAGE.num_codes]


def test_a_masked_canvas_still_knows_positions() -> None:
    canvas = make_canvas()
    hidden = make_model(canvas)(torch.full((1, canvas.num_subtokens), -1), canvas)
    image = hidden[0, canvas.token_slice("image")]
    assert torch.pdist(image).min() > 1e-3


def test_spans_in_another_order_give_the_same_tokens() -> None:
    canvas = make_canvas()
    other = Canvas(canvas.spans[::-1])
    model = make_model(canvas)
    y = random_state(canvas)
    turned = torch.cat([y[:, canvas.subtoken_slice(name)] for name in ("image", "text")], 1)
    a, b = model(y, canvas), model(turned, other)
    for name in ("text", "image"):
        torch.testing.assert_close(a[:, canvas.token_slice(name)], b[:, other.token_slice(name)], atol=1e-5, rtol=1e-4)


def test_examples_do_not_see_each_other() -> None:
    canvas = make_canvas()
    model = make_model(canvas, num_classes=4)
    y, label = random_state(canvas, batch=4), torch.tensor([0, 1, 2, 4])
    order = torch.tensor([2, 0, 3, 1])
    whole = all_logits(model, y, canvas, label=label)
    shuffled = all_logits(model, y[order], canvas, label=label[order])
    torch.testing.assert_close(whole[order], shuffled, atol=1e-5, rtol=1e-4)


def test_no_modulation_without_a_condition() -> None:
    canvas = make_canvas()
    names = [name for name, _ in make_model(canvas).named_parameters()]
    assert not [name for name in names if "modulation" in name or "condition" in name or "final" in name]
    conditional = [name for name, _ in make_model(canvas, num_classes=3).named_parameters()]
    assert [name for name in conditional if "modulation" in name]


@pytest.mark.parametrize("mlp", ["swiglu", "gelu"])
def test_conditional_blocks_start_as_the_identity(mlp: str) -> None:
    canvas = make_canvas()
    model = make_model(canvas, randomise=False, mask_rate=True, mlp=mlp)
    x = torch.randn(2, canvas.num_tokens, 64)
    condition = torch.randn(2, 1, 64)
    block = model.blocks[0](x, model.rotary(canvas, x.device), condition)
    torch.testing.assert_close(block, x)


def test_every_condition_matters_and_the_null_class_is_no_label() -> None:
    canvas = make_canvas()
    model = make_model(canvas, num_classes=3, guidance_scale=True)
    y = random_state(canvas)
    cond = {"label": torch.tensor([0, 1, 2]), "guidance": torch.tensor([1.0, 2.0, 3.0])}
    base = all_logits(model, y, canvas, **cond)
    for name, value in cond.items():
        assert (all_logits(model, y, canvas, **{**cond, name: value.roll(1)}) - base).abs().max() > 1e-3, name
    null = model.null_condition({"label": cond["label"]})
    torch.testing.assert_close(all_logits(model, y, canvas, **null), all_logits(model, y, canvas))


def test_mask_rate_is_read_from_the_state() -> None:
    model = make_model(make_canvas(), mask_rate=True)
    y = torch.tensor([[0, -1], [-1, -1], [1, 0]])
    read = model.conditioning(y, None)[:, 0]
    torch.testing.assert_close(read, model.conditioning.mask_rate(torch.tensor([0.5, 1.0, 0.0])))


def test_checkpointing_gives_the_same_gradients() -> None:
    canvas = make_canvas()
    y = random_state(canvas)
    grads = []
    for checkpointing in ("none", "full", "selective"):
        model = make_model(canvas, checkpointing=checkpointing, num_classes=2)
        all_logits(model, y, canvas).square().mean().backward()
        grads.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    for other in grads[1:]:
        assert grads[0].keys() == other.keys()
        for name, grad in grads[0].items():
            torch.testing.assert_close(grad, other[name], msg=name)


@pytest.mark.slow
def test_compiled_blocks_compute_the_same() -> None:
    canvas = make_canvas()
    y = random_state(canvas)
    plain, compiled = make_model(canvas), make_model(canvas)
    compiled.compile_blocks()
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    for model in (plain, compiled):
        all_logits(model, y, canvas).square().mean().backward()
    for (name, a), b in zip(plain.named_parameters(), compiled.parameters()):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-3, msg=name)


def test_every_weight_learns() -> None:
    canvas = make_canvas()
    model = make_model(canvas, num_classes=2, mask_rate=True)
    all_logits(model, random_state(canvas, masked=0.2), canvas).square().mean().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_head_rows_lie_in_code_order() -> None:
    canvas = Canvas([Span("text", 3, Codec.shuffled(10, 2, seed=3))])
    model = make_model(canvas, randomise=False)
    with torch.no_grad():
        model.heads["text"].linear.bias[7] = 50.0
    sampled = sample(model, canvas, sampler_of("first_hitting"), generator=0, batch=2)
    assert (canvas.unpack(sampled.y)["text"] == 7).all()


def test_class_guidance_runs_and_changes_the_sample() -> None:
    canvas = make_canvas()
    model = make_model(canvas, num_classes=3)
    cond = {"label": torch.tensor([0, 2])}
    plain, guided = (
        sample(model, canvas, sampler_of("first_hitting"), guidance=w, generator=1, cond=cond, batch=2).y
        for w in (None, 20.0)
    )
    assert (plain != guided).any()


def test_float64_model_agrees_with_float32() -> None:
    canvas = make_canvas()
    model = make_model(canvas)
    y = random_state(canvas)
    single = all_logits(model, y, canvas)
    double = all_logits(model.double(), y, canvas)
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, atol=1e-4, rtol=1e-3)


def test_bfloat16_is_near_and_the_residual_stays_float32() -> None:
    canvas = make_canvas()
    model = make_model(canvas)
    y = random_state(canvas)
    with autocast("bf16", "cpu"):
        hidden = model(y, canvas)
    assert hidden.dtype == torch.float32
    assert (hidden - model(y, canvas)).norm() < 0.05 * hidden.norm()
    with autocast("auto", "cpu"):
        assert torch.equal(model(y, canvas), model(y, canvas))
    with pytest.raises(ValueError, match="'fp8'"):
        autocast("fp8", "cpu")


def test_bad_input_is_named() -> None:
    canvas = make_canvas()
    model = make_model(canvas)
    y = random_state(canvas)
    with pytest.raises(ValueError, match=r"int64 of shape \(B, 46\)"):
        model(y[:, :-1], canvas)
    with pytest.raises(ValueError, match="float32"):
        model(y.float(), canvas)
    wrong = y.clone()
    wrong[1, 0] = 6
    with pytest.raises(ValueError, match=r"'text': digits \[6, .* outside radices \[6, 6\]"):
        model(wrong, canvas)
    with pytest.raises(ValueError, match="no span 'sound'"):
        model(torch.zeros(1, 4, dtype=torch.int64), Canvas([Span("sound", 2, TEXT)]))
    with pytest.raises(ValueError, match="the model was built for"):
        model(torch.zeros(1, 4, dtype=torch.int64), Canvas([Span("text", 2, Codec.shuffled(30, 2, seed=1))]))
    with pytest.raises(ValueError, match="cannot be conditioned on label"):
        model(y, canvas, {"label": torch.zeros(3, dtype=torch.int64)})
    labelled = make_model(canvas, num_classes=3)
    with pytest.raises(ValueError, match=r"\[0, 4\], there are 3 classes"):
        labelled(y, canvas, {"label": torch.tensor([0, 4, 1])})
    with pytest.raises(ValueError, match=r"cond\['label'\] must be \(3,\)"):
        labelled(y, canvas, {"label": torch.tensor([0])})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"preset": "huge"}, "'huge'"),
        ({"width": 100}, "100 / heads 4"),
        ({"mlp": "relu"}, "'relu'"),
        ({"attention": "flash"}, "'flash'"),
        ({"dropout": 1.0}, "dropout"),
        ({"num_classes": 0}, "num_classes"),
        ({"conditioning": "film"}, "'film'; there are adaln_zero, added"),
        ({"depth": -1}, "-1"),
    ],
)
def test_bad_config_is_named(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DiTConfig(**options).resolve()


def test_an_added_condition_shifts_the_tokens_of_the_input_and_nothing_else() -> None:
    canvas = make_canvas()
    model, y = make_model(canvas, num_classes=3, conditioning="added"), random_state(canvas)
    assert not [name for name, _ in model.named_parameters() if "modulation" in name or "final" in name]
    label = torch.tensor([2, 0, 1])
    with torch.no_grad():
        assert model.conditioning is not None
        assert model.conditioning.label is not None
        shift = model.conditioning.label.weight.normal_()[label]
        seen = model(y, canvas, {"label": label})
        for embedding in model.embedders.values():
            embedding.register_forward_hook(lambda _, __, out: out + shift[:, None])
        model.conditioning.label.weight.zero_()
        torch.testing.assert_close(seen, model(y, canvas, {"label": label}))


def test_concatenated_digits_have_channels_of_their_own_and_move_the_token() -> None:
    canvas = make_canvas()
    with pytest.raises(ValueError, match=r"width 64 is not a multiple of 3, the digits of 'image'"):
        make_model(canvas, digit_embedding="concat")
    model = make_model(Canvas([canvas.span("text")]), digit_embedding="concat", token_embedding=False)
    embedding = model.embedders["text"]
    assert embedding.digits.weight.shape == (6 + 1 + 6 + 1, 32)
    channels = torch.linalg.solve(embedding.mix.weight, embedding.content(torch.tensor([[2, -1]]))[0])
    torch.testing.assert_close(channels, torch.cat([embedding.digits.weight[2], embedding.digits.weight[13]]))


@pytest.mark.parametrize("options", [{}, {"num_classes": 3}, {"num_classes": 3, "conditioning": "added"}])
def test_hidden_at_is_the_forward_pass_where_it_is_asked(options: dict[str, int]) -> None:
    canvas = make_canvas()
    model, y = make_model(canvas, **options), random_state(canvas)
    cond = {"label": torch.tensor([0, 1, 2])} if options else None
    wanted = torch.rand(3, canvas.num_tokens, generator=torch.Generator().manual_seed(1)) < 0.3
    wanted[1] = False
    found = model.hidden_at(y, canvas, cond, wanted)
    torch.testing.assert_close(found[wanted], model(y, canvas, cond)[wanted])
    assert not found[1, 1:].any()
