"""An engine's sampler behind diffusers' interface: the same samples as the engine's own loop, and inside a pipeline."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmprime.engine import MASK_ID, BaseDenoiser, Canvas, Codec, Span, sample, sampler_of, seeded
from mmprime.generation.pipeline import seeds_of
from mmprime.generation.scheduler import DiscreteScheduler

CODES, LENGTH, MASK = 12, 10, 99
TABLE = torch.randn(CODES + 1, LENGTH, CODES, generator=torch.Generator().manual_seed(0))


def logits_of(codes: Tensor) -> Tensor:
    """(B, L) codes, -1 masked -> (B, L, C): depends on every token."""
    mixed = TABLE[codes, torch.arange(codes.shape[1])].cumsum(1)
    return mixed.roll(1, 1)


class Network(BaseDenoiser):
    def __call__(self, y: Tensor, canvas: Canvas, cond: object = None) -> Tensor:
        digits = canvas.view(y, "tokens")
        codes = torch.full(digits.shape[:2], MASK_ID)
        whole = (digits >= 0).all(-1)
        codes[whole] = canvas.span("tokens").codec.decode(digits[whole])
        return logits_of(codes) + digits.sum(-1, keepdim=True)

    def logits(self, hidden: Tensor, span: Span) -> Tensor:
        return hidden


def by_engine(name: str, codec: Codec, given: Tensor, steps: int) -> Tensor:
    canvas = Canvas([Span("tokens", LENGTH, codec)])
    streams = seeded(*seeds_of(torch.Generator().manual_seed(5), len(given)))
    return sample(Network(), canvas, sampler_of(name, None, steps), given.flatten(1), streams).y.view_as(given)


@pytest.mark.parametrize("name", ["p2", "remdm", "confidence", "token_synchronous", "first_hitting", "nested"])
@pytest.mark.parametrize("digits", [1, 2])
def test_the_loop_of_diffusers_gives_the_samples_of_the_engine(name: str, digits: int) -> None:
    codec = Codec.product((CODES,)) if digits == 1 else Codec.base(CODES, 2)
    given = torch.full((3, LENGTH, digits), MASK_ID)
    given[1, 2:5] = 1
    expected = by_engine(name, codec, given, 4)
    scheduler = DiscreteScheduler(codec=codec, sampler=name)
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == [1.0, 0.75, 0.5, 0.25]
    now, generator, network = given, torch.Generator().manual_seed(5), Network()
    canvas = Canvas([Span("tokens", LENGTH, codec)])
    for time in scheduler.timesteps:
        logits = network(now.flatten(1), canvas)
        shaped = now[..., 0] if digits == 1 else now
        out = scheduler.step(logits, time, shaped, generator=generator)
        guess = out.pred_original_sample.view_as(now)
        now = out.prev_sample.view_as(now)
        assert bool((guess >= 0).all())
        assert torch.equal(guess[now >= 0], now[now >= 0])
    assert torch.equal(now, expected)
    assert torch.equal(now[1, 2:5], given[1, 2:5]), "what was known stays"


def test_a_mask_of_its_own_and_a_map_of_tokens() -> None:
    scheduler = DiscreteScheduler(MASK, CODES, "p2")
    scheduler.set_timesteps(3)
    now = torch.full((2, 2, 5), MASK)
    now[:, 0, 0] = 7
    for time in scheduler.timesteps:
        codes = torch.where(now == MASK, -1, now).flatten(1)
        logits = logits_of(codes).transpose(1, 2).unflatten(2, (2, 5))
        now = scheduler.step(logits, time, now, generator=torch.Generator().manual_seed(1), return_dict=False)[0]
        assert now.shape == (2, 2, 5)
        assert now[:, 0, 0].tolist() == [7, 7]
    assert int(now.max()) < CODES
    noisy = scheduler.add_noise(now, 0.5, torch.Generator().manual_seed(0))
    assert 0 < int((noisy == MASK).sum()) < 20
    assert bool((scheduler.add_noise(now, scheduler.timesteps[0]) == MASK).all())


def test_a_run_may_begin_late_and_anew() -> None:
    scheduler = DiscreteScheduler(MASK, CODES, "confidence")
    scheduler.set_timesteps(4)
    start = torch.full((1, LENGTH), MASK)
    start[:, :5] = 3
    for _ in range(2):
        now = start
        for time in scheduler.timesteps[2:]:
            now = scheduler.step(logits_of(torch.where(now == MASK, -1, now)), time, now).prev_sample
        assert bool((now != MASK).all()), "two steps are left, and they suffice"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({}, "give num_codes, or a codec"),
        ({"num_codes": 8, "mask_token_id": 3}, "mask_token_id=3 is one of the 8 codes"),
        ({"num_codes": 8, "sampler": "entropy_bounded"}, "'entropy_bounded' decides its number of steps itself"),
        ({"num_codes": 8, "sampler": "absent"}, "absent"),
    ],
)
def test_what_cannot_be_is_one_line(options: dict, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        DiscreteScheduler(**options)


def test_shapes_and_times_are_checked() -> None:
    scheduler, codes = DiscreteScheduler(MASK, CODES), torch.full((1, LENGTH), MASK)
    with pytest.raises(ValueError, match=r"timestep 1 is none of timesteps \(none: call set_timesteps\)"):
        scheduler.step(torch.zeros(1, LENGTH, CODES), 1.0, codes)
    scheduler.set_timesteps(2)
    with pytest.raises(ValueError, match=r"logits are \(1, 10, 5\); \(1, 10, 12\) \(batch, tokens, codes\) is needed"):
        scheduler.step(torch.zeros(1, LENGTH, 5), 1.0, codes)
    with pytest.raises(ValueError, match=r"codes span \[50, 50\], but lie in \[0, 12\) or are masked"):
        scheduler.step(torch.zeros(1, LENGTH, CODES), 1.0, torch.full((1, LENGTH), 50))
    with pytest.raises(ValueError, match="num_inference_steps=0"):
        scheduler.set_timesteps(0)


def test_inside_a_pipeline_of_diffusers() -> None:
    """Needs diffusers and transformers."""
    diffusers = pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    network = diffusers.UVit2DModel(
        hidden_size=32, cond_embed_dim=32, micro_cond_encode_dim=2, micro_cond_embed_dim=10, encoder_hidden_size=32,
        vocab_size=64, codebook_size=32, in_channels=32, block_out_channels=32, num_res_blocks=1, block_num_heads=2,
        num_hidden_layers=1, num_attention_heads=2, downsample=True, upsample=True, intermediate_size=32,
        use_bias=False, hidden_dropout=0.0, attention_dropout=0.0, sample_size=32, layer_norm_eps=1e-6,
    ).eval()  # fmt: skip
    vqvae = diffusers.VQModel(
        act_fn="silu", block_out_channels=[32], down_block_types=["DownEncoderBlock2D"], in_channels=3,
        latent_channels=32, layers_per_block=1, norm_num_groups=32, num_vq_embeddings=32, out_channels=3,
        up_block_types=["UpDecoderBlock2D"], mid_block_add_attention=False, lookup_from_codebook=True,
    ).eval()  # fmt: skip
    steps = []
    for name in ("p2", "halton"):
        scheduler = DiscreteScheduler(63, 32, name)
        pipe = diffusers.AmusedPipeline(vqvae, None, None, network, scheduler)
        pipe.set_progress_bar_config(disable=True)
        embeds = {"prompt_embeds": torch.zeros(1, 32), "encoder_hidden_states": torch.zeros(1, 4, 32)}
        run = dict(embeds, num_inference_steps=4, height=16, width=16, guidance_scale=1.0, callback_steps=1)
        out = pipe(
            **run,
            generator=torch.Generator().manual_seed(0),
            output_type="latent",
            callback=lambda step, time, codes: steps.append((float(time), int((codes == 63).sum()))),
        ).images
        assert out.shape[0] == 1
        assert int(out.max()) < 32
        assert pipe(**run, output_type="pil").images[0].size[0] > 0
    assert [time for time, _ in steps] == [1.0, 0.75, 0.5, 0.25] * 2
    masked = [count for _, count in steps]
    assert masked[3] == masked[7] == 0
    assert masked == sorted(masked[:4], reverse=True) + sorted(masked[4:], reverse=True)
