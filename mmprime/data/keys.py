"""Keys of samples, made of names."""

from __future__ import annotations

import re

from .shards import digest

LONGEST_KEY = 80  # a tar member holds 100 bytes: key, dot, ending


def safe_key(name: str) -> str:
    """A key of at most 80 letters, digits, `-` and `_`: anything else becomes `_hex_`, a long tail its hash.

    Injective (as far as 64 bits of SHA-256 are): a key holds an even number of `_`, one with a hash an odd number.

    >>> safe_key("a.b/c")
    'a_2e_b_2f_c'
    """
    key = re.sub(r"[^A-Za-z0-9\-]", lambda m: f"_{ord(m.group()):x}_" if m.group() != "_" else "__", name)
    if len(key) <= LONGEST_KEY:
        return key
    head = key[: LONGEST_KEY - 18]
    return f"{head}{'__' if head.count('_') % 2 else '_'}{digest(name)[:16]}"
