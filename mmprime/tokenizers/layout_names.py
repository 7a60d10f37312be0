"""What the layouts of published image tokenizers call the weights of `VQAutoencoder`."""

from __future__ import annotations

import re

_BOOK = {r"codebook": "quantize.embedding.weight"}
_TAMING = {
    **_BOOK,
    r"encoder\.levels\.": "encoder.down.",
    r"decoder\.levels\.": "decoder.up.",
    r"middle\.first": "mid.block_1",
    r"middle\.attention": "mid.attn_1",
    r"middle\.last": "mid.block_2",
    r"\.blocks\.": ".block.",
    r"\.attention\.": ".attn.",
    r"(attn(?:\.\d+|_1))\.out\.": r"\1.proj_out.",
    r"\.shortcut\.": ".nin_shortcut.",
    r"(encoder\.down\.\d+)\.resize\.": r"\1.downsample.conv.",
    r"(decoder\.up\.\d+)\.resize\.": r"\1.upsample.conv.",
}
_PLAIN = {
    **_BOOK,
    r"encoder\.levels\.": "encoder.down.",
    r"decoder\.levels\.": "decoder.up.",
    r"\.shortcut\.": ".nin_shortcut.",
}
_RULES = {
    "vqmodel": {
        **_BOOK,
        r"encoder\.levels\.": "encoder.down_blocks.",
        r"decoder\.levels\.": "decoder.up_blocks.",
        r"middle\.first": "mid_block.resnets.0",
        r"middle\.last": "mid_block.resnets.1",
        r"middle\.attention\.": "mid_block.attentions.0.",
        r"\.blocks\.": ".resnets.",
        r"\.shortcut\.": ".conv_shortcut.",
        r"(down_blocks\.\d+)\.resize\.": r"\1.downsamplers.0.conv.",
        r"(up_blocks\.\d+)\.resize\.": r"\1.upsamplers.0.conv.",
        r"norm_out": "conv_norm_out",
        r"(attentions\.0)\.norm\.": r"\1.group_norm.",
        r"(attentions\.0)\.([qkv])\.": r"\1.to_\2.",
        r"(attentions\.0)\.out\.": r"\1.to_out.0.",
    },
    "llamagen": {
        **_BOOK,
        r"coder\.levels\.": "coder.conv_blocks.",
        r"middle\.first": "mid.0",
        r"middle\.attention": "mid.1",
        r"middle\.last": "mid.2",
        r"\.blocks\.": ".res.",
        r"\.attention\.": ".attn.",
        r"((?:attn\.\d+|mid\.1))\.out\.": r"\1.proj_out.",
        r"\.shortcut\.": ".nin_shortcut.",
        r"(encoder\.conv_blocks\.\d+)\.resize\.": r"\1.downsample.conv.",
        r"(decoder\.conv_blocks\.\d+)\.resize\.": r"\1.upsample.conv.",
    },
    "taming": _TAMING,
    "maskgit": {
        **_PLAIN, r"middle\.": "mid.", r"\.blocks\.": ".block.", r"(up\.\d+)\.resize\.": r"\1.upsample_conv.",
    },
    "magvit2": {
        **_PLAIN, r"middle\.": "mid_block.", r"\.blocks\.": ".block.",
        r"(down\.\d+)\.resize\.": r"\1.downsample.", r"(up\.\d+)\.resize\.": r"\1.upsample.conv1.",
    },
    "ibq": _TAMING,
    "maskbit": {
        **_PLAIN, r"middle\.": "mid.res_blocks.", r"\.blocks\.": ".res_blocks.",
        r"(down\.\d+)\.resize\.": r"\1.down_conv.", r"(up\.\d+)\.resize\.": r"\1.upsample_conv.",
    },
    "cosmos": _TAMING,
}  # fmt: skip
_FINEST_FIRST = ("taming", "maskgit", "magvit2", "ibq", "cosmos")  # levels of the decoder
_LEFT_OUT = {
    "llamagen": r"quantize\.codebook_used",
    "maskbit": r"quantize\.(bits_to_indices|codebook)",
    "cosmos": r"(encoder\.patcher|decoder\.unpatcher|quantizer)\..*",
}
_TRAINING = r"(loss|model_ema)\..*"
LAYOUTS = tuple(_RULES)


def foreign_name(layout: str, name: str, levels: int) -> str:
    """What a layout calls one of our weights, of a network of so many levels."""
    if layout in _FINEST_FIRST:
        name = re.sub(r"decoder\.(levels|adaptive)\.(\d+)", lambda m: f"decoder.{m[1]}.{levels - 1 - int(m[2])}", name)
    for pattern, replacement in _RULES[layout].items():
        name = re.sub(pattern, replacement, name)
    return name


def is_left_out(layout: str, name: str) -> bool:
    """Whether a weight of a file belongs to training, or to what has no parameters."""
    return bool(re.fullmatch(_TRAINING, name) or re.fullmatch(_LEFT_OUT.get(layout, "(?!)"), name))
