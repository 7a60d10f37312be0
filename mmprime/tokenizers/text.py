"""Text as ids and back without loss: byte-level BPE (arXiv 1508.07909, over bytes as in GPT-2), or plain bytes.

Two ids are not text: ``<end>`` closes a text, ``<pad>`` fills a row after it. They never come out of ``encode``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from mmprime.io import read_json, sha256, whole_folder

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

PAD, END = "<pad>", "<end>"
_END_NAMES = (END, "<|endoftext|>", "</s>", "<|end_of_text|>", "[SEP]")
_PAD_NAMES = (PAD, "[PAD]", "<|padding|>")
_LEARNED_AT_ONCE = 1000  # bytes of an unbroken run: the trainer's time grows with the square of its length
_INDENTED = 10_000  # ids; the file of more is written without blanks, half as long
_GPT2_PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))


class TextTokenizer:
    """Ids in [0, ``vocab_size``); made by :meth:`train`, :meth:`bytes` or :meth:`load`.

    ``lowercase``: texts are lower-cased before encoding, so the round trip is lossless up to case. It is Unicode's rule
    for no language in particular: I becomes i (not the Turkish ı), İ becomes i and a combining dot, ẞ becomes ß.
    """

    def __init__(self, inner: Tokenizer, lowercase: bool = False) -> None:
        self._inner = inner
        self.lowercase = lowercase
        self._inner.add_special_tokens([self._name_of(PAD), self._name_of(END)])  # also where they were ordinary ones
        self.pad_id, self.end_id = self._id_of(PAD), self._id_of(END)
        self._inner.encode_special_tokens = True  # "<end>" in a text is text
        self._inner.no_truncation()  # a foreign file may ask for both
        self._inner.no_padding()
        self.vocab_size: int = self._inner.get_vocab_size(with_added_tokens=True)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, lowercase: bool = False) -> TextTokenizer:
        """A byte-level BPE of at most ``vocab_size`` ids learned from ``texts``; id 0 is pad, id 1 is end.

        No merge is learned across each 1000th byte of an unbroken run of letters, digits, signs or blanks.

        Raises:
            ValueError: if ``vocab_size`` cannot hold the 256 bytes, pad and end.
        """
        from tokenizers import Regex
        from tokenizers.pre_tokenizers import Sequence, Split
        from tokenizers.trainers import BpeTrainer

        if vocab_size < 258:
            raise ValueError(f"vocab_size={vocab_size} is below 258 = 256 bytes + {PAD} + {END}")
        inner = _byte_level({}, [])
        trainer = BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[PAD, END],
            initial_alphabet=_byte_characters(),
            show_progress=False,
        )
        runs = inner.pre_tokenizer
        inner.pre_tokenizer = Sequence([runs, Split(Regex(f".{{1,{_LEARNED_AT_ONCE}}}"), "isolated")])
        inner.train_from_iterator((t.lower() if lowercase else t for t in texts), trainer)
        inner.pre_tokenizer = runs
        return cls(inner, lowercase)

    @classmethod
    def bytes(cls) -> TextTokenizer:
        """Ids 0-255 are the bytes of UTF-8, 256 is pad, 257 is end."""
        vocabulary = dict(zip(_byte_characters(), range(256)))
        return cls(_byte_level(vocabulary, []))

    @classmethod
    def load(cls, path: str | Path) -> TextTokenizer:
        """From a folder written by :meth:`save`, any ``tokenizer.json``, or a folder with GPT-2's vocab and merges.

        Raises:
            ValueError: if there is no tokenizer at ``path``, or it cannot represent every text.
        """
        from tokenizers import Tokenizer

        path = Path(path)
        if not path.exists():
            raise ValueError(f"{path}: no such tokenizer; give a folder or a tokenizer.json")
        file = path / "tokenizer.json" if path.is_dir() else path
        if file.is_file():
            try:
                inner = Tokenizer.from_file(str(file))
            except Exception as error:  # the library raises bare Exception
                raise ValueError(f"{file} is no tokenizer.json: {error}") from error
            return cls(inner, _read_options(file))
        for vocabulary, merges in _GPT2_PAIRS:
            if (path / vocabulary).is_file() and (path / merges).is_file():
                return cls(_read_gpt2(path / vocabulary, path / merges))
        pairs = " or ".join(" + ".join(pair) for pair in _GPT2_PAIRS)
        raise ValueError(f"{path} holds neither tokenizer.json nor {pairs}")

    def save(self, directory: str | Path) -> None:
        """Write ``tokenizer.json`` and ``config.json``, which holds the hash of the former."""
        with whole_folder(directory) as folder:
            self._inner.save(str(folder / "tokenizer.json"), pretty=self.vocab_size < _INDENTED)
            content = {
                "kind": "text_tokenizer",
                "lowercase": self.lowercase,
                "vocab_size": self.vocab_size,
                "tokenizer_sha256": sha256(folder / "tokenizer.json"),
            }
            (folder / "config.json").write_text(json.dumps(content, indent=2) + "\n")

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``, without pad and end."""
        return self._inner.encode(text.lower() if self.lowercase else text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ``ids`` up to the first end; pad is dropped, bytes that are no UTF-8 become U+FFFD.

        Raises:
            ValueError: if an id lies outside [0, ``vocab_size``).
        """
        kept = []
        for index in map(int, ids):
            if not 0 <= index < self.vocab_size:
                raise ValueError(f"text id {index} must lie in [0, {self.vocab_size})")
            if index == self.end_id:
                break
            if index != self.pad_id:
                kept.append(index)
        return self._inner.decode(kept, skip_special_tokens=False)

    def piece(self, index: int) -> str:
        """One id by itself, pad and end by their names; bytes that are no UTF-8 alone become U+FFFD."""
        names = {self.pad_id: PAD, self.end_id: END}
        return names[index] if index in names else self.decode([index])

    def encode_padded(self, text: str, length: int, truncate: bool = False) -> list[int]:
        """Exactly ``length`` ids: the text, end, then pad; a text cut short by ``truncate`` still ends with end.

        Raises:
            ValueError: if text and end need more than ``length`` ids and ``truncate`` is false.
        """
        ids = self.encode(text)
        if len(ids) + 1 > length:
            if not truncate or length < 1:
                raise ValueError(
                    f"{text[:60]!r} needs {len(ids) + 1} ids with its end but the length is {length}; "
                    "shorten it or ask for truncation"
                )
            ids = ids[: length - 1]
        return [*ids, self.end_id] + [self.pad_id] * (length - len(ids) - 1)

    def id_of(self, *words: str) -> int | None:
        """The id of the first of these entries of the vocabulary that there is."""
        known = (self._inner.token_to_id(word) for word in words)
        return next((index for index in known if index is not None), None)

    def count_tokens(self, ids: Tensor) -> Tensor:
        """Padded ids (..., L) -> (...): tokens of the text and its end, padding left out."""
        return ids.ne(self.pad_id).sum(-1)

    def fingerprint(self) -> str:
        """Hash of vocabulary, merges and options: equal for tokenizers that make the same ids."""
        content = f"{self.lowercase} {self.pad_id} {self.end_id} {self._inner.to_str()}"
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def _id_of(self, role: str) -> int:
        index = self._inner.token_to_id(self._name_of(role))
        assert index is not None, f"{role} was added on opening"
        return index

    def _name_of(self, role: str) -> str:
        """What the vocabulary calls pad or end; its own name where there is none."""
        words = _END_NAMES if role == END else _PAD_NAMES
        return next((word for word in words if self._inner.token_to_id(word) is not None), role)


def _byte_characters() -> list[str]:
    """The printable character byte-level BPE writes for each byte 0-255.

    Printable Latin-1 stands for itself; the other bytes take U+0100, U+0101, ... in order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(value) if value in printable else chr(next(others)) for value in range(256)]


def _byte_level(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return inner


def _read_gpt2(vocabulary: Path, merges: Path) -> Tokenizer:
    lines = merges.read_text(encoding="utf-8").split("\n")
    pairs = [line.split(" ") for line in lines if line.strip() and not line.startswith("#version")]
    odd = [pair for pair in pairs if len(pair) != 2]
    if odd:
        raise ValueError(f"{merges}: {' '.join(odd[0])!r} is no merge of two symbols")
    ids = read_json(vocabulary)
    absent = [c for c in _byte_characters() if c not in ids]
    if absent:
        raise ValueError(f"{vocabulary} lacks {len(absent)} of the 256 byte symbols, first {absent[0]!r}")
    inner = _byte_level(ids, [(left, right) for left, right in pairs])
    inner.add_special_tokens([name for name in _END_NAMES if name in ids])
    return inner


def _read_options(file: Path) -> bool:
    """``lowercase`` of a folder of ours; False beside a foreign tokenizer.json. Raises ValueError on another hash."""
    path = file.parent / "config.json"
    if not path.is_file():
        return False
    content = read_json(path)
    if content.get("kind") != "text_tokenizer":
        return False
    expected, digest = content.get("tokenizer_sha256"), sha256(file)
    if expected not in (None, digest):
        recorded = str(expected)[:12]
        raise ValueError(f"{file}: sha256 {digest[:12]}…, config.json expects {recorded}…; damaged or exchanged")
    return bool(content.get("lowercase", False))
