"""The model card for people, README.md of a model folder: YAML front matter as the Hugging Face Hub reads it
(https://huggingface.co/docs/hub/model-cards), then what the model is, how it is used, its data, licence and numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmprime.engine import Canvas, Span

from .model_folder import ModelCard

TASKS = {
    ("image", "text"): "text-to-image", ("image",): "unconditional-image-generation", ("text",): "text-generation",
}  # fmt: skip
NAME = "a model of mmprime"


@dataclass(frozen=True)
class Number:
    """A measured number of a model card: `where`, the split or the data; `how`, the command it comes from."""

    metric: str
    value: float
    stderr: float | None
    unit: str
    samples: int
    where: str = ""
    how: str = ""


def model_page(card: ModelCard, canvas: Canvas, parameters: int, numbers: Sequence[Number] = (), note: str = "") -> str:
    """The text of README.md. numbers: None given, those of training.json; note: machine and date of the others."""
    task = TASKS.get(tuple(sorted(span.name for span in canvas.spans)), "other")
    measured = numbers or training_numbers(card.training)
    name = card.name or NAME
    front = _front_matter(card, task, name, measured)
    return (
        "\n\n".join(
            [
                f"---\n{front.strip()}\n---",
                f"# {name}",
                _about(card, canvas, parameters),
                _usage(canvas),
                f"## Training data\n\n{_data(card)}",
                f"## Licence\n\n{_licence_words(card)}",
                f"## Measured\n\n{_table(measured, card, note)}",
            ]
        )
        + "\n"
    )


def training_numbers(training: Mapping[str, Any]) -> list[Number]:
    """The last validation of a training: nats per token, with the number of examples that training.json says."""
    metrics, config = training.get("metrics", {}), training.get("config", {})
    samples = int(config.get("data", {}).get("validate_examples", 0))
    how = f"validation at step {training.get('step', '?')} of training"
    numbers = []
    for name, value in metrics.items():
        if not name.endswith("_se") and isinstance(value, int | float):
            split, _, metric = name.rpartition("/") if name.count("/") == 1 else name.partition("/")
            numbers.append(Number(metric, value, metrics.get(f"{name}_se"), "nats/token", samples, split, how))
    return numbers


def licences(card: ModelCard) -> list[str]:
    """Of the training data, each once, as config.json records them; none that is unknown."""
    recorded = {str(entry.get("licence") or "unknown") for entry in card.training_data.get("licences", {}).values()}
    return sorted(recorded - {"unknown"})


def _front_matter(card: ModelCard, task: str, name: str, numbers: Sequence[Number]) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    known = [] if card.base else [licence.lower() for licence in licences(card)]  # that of the base is not recorded
    licence: dict[str, Any] = {"license": "other" if len(known) > 1 else known[0]} if known else {}
    if len(known) > 1:
        licence["license_name"] = "-and-".join(known)
    data = str(card.training_data.get("name", "unknown"))
    results = [
        EvalResult(
            task_type=task, dataset_type=data, dataset_name=data, dataset_split=number.where or None,
            metric_type=number.metric.split()[0], metric_name=f"{number.metric} ({number.unit})",
            metric_value=number.value, verified=None,
        )
        for number in numbers
    ]  # fmt: skip
    front = ModelCardData(
        **licence, library_name="mmprime", pipeline_tag=None if task == "other" else task,
        tags=["mmprime", "discrete-diffusion", "masked-diffusion", "mdm-prime"],
        model_name=name, eval_results=results or None,
    )  # fmt: skip
    return str(front.to_yaml())


def _about(card: ModelCard, canvas: Canvas, parameters: int) -> str:
    maskings = " and ".join(f"`{name}`" for name in card.trained_on or (card.masking,))
    size = (
        f"A partial-masking (MDM-Prime, arXiv 2505.18495) diffusion model of {parameters / 1e6:.1f} million parameters"
    )
    if card.base:
        size = f"{card.base} ({parameters / 1e6:.1f} million parameters) as a masked diffusion model"
    lines = [f"{size}, trained under the masking {maskings}.", ""]
    if card.adapter:
        lines += [
            "This folder has low-rank adapters alone, in the files of peft. The weights they belong to are found by the"
            f" name `{card.checkpoint.get('name')}`, or in the folder that the environment variable `MMPRIME_BASE` "
            "names, and compared by their sha256.",
            "",
        ]
    return "\n".join([*lines, *(f"* `{span.name}`: {span_words(span)}" for span in canvas.spans)])


def span_words(span: Span) -> str:
    """A span in words: how many tokens of how many codes, and their digits."""
    size = " × ".join(map(str, span.grid)) if span.grid else str(span.num_tokens)
    digits = " × ".join(map(str, span.codec.radices))
    return f"{size} tokens of {span.codec.num_codes:,} codes" + f", digits {digits}" * (span.codec.num_digits > 1)


def _usage(canvas: Canvas) -> str:
    lines = ["from mmprime import from_pretrained", "", 'pipe = from_pretrained("path/or/user/name")']
    if canvas.has("image"):
        asked = '"red apple"' if canvas.has("text") else ""
        lines.append(f'pipe({asked}).images[0].save("out.png")')
        if canvas.has("text"):
            lines.append('print(pipe(image="out.png").texts)')
    else:
        lines.append('print(pipe("It is").texts)')
    return "\n".join(["```python", *lines, "```"])


def _data(card: ModelCard) -> str:
    if not card.training_data:
        return "Not recorded."
    sizes = ", ".join(f"{count:,} in `{split}`" for split, count in card.training_data.get("splits", {}).items())
    lines = [f"`{card.training_data.get('name', 'unnamed')}`" + (f": {sizes}." if sizes else ".")]
    for key, entry in card.training_data.get("licences", {}).items():
        licence = "licence unknown" if entry.get("licence") == "unknown" else entry.get("licence")
        parts = [entry.get("name") or key, entry.get("author"), licence, entry.get("home")]
        lines.append("* " + ", ".join(str(part) for part in parts if part))
    return "\n".join([lines[0], "", *lines[1:]]).strip()


def _licence_words(card: ModelCard) -> str:
    known = licences(card)
    if card.base:
        data = f" What it was trained on since is under {', '.join(known)}." if known else ""
        return f"The licence of {card.base} goes with its weights; it is not recorded here.{data}"
    if not known:
        return "Not recorded; say here under which licence the weights may be used."
    return f"Trained on data under {', '.join(known)}; their terms, credits included, go with the weights."


def _table(numbers: Sequence[Number], card: ModelCard, note: str) -> str:
    if not numbers:
        return "Nothing is recorded."
    head = ["| metric | data | value | ± s.e. | unit | examples |", "|---|---|--:|--:|---|--:|"]
    rows = [
        f"| {number.metric.replace('|', chr(92) + '|')} | {number.where} | {number.value:.4f} "
        f"| {'' if number.stderr is None else f'{number.stderr:.4f}'} | {number.unit} | {number.samples:,} |"
        for number in numbers
    ]
    sources = [f"* `{how}`" for how in dict.fromkeys(number.how for number in numbers if number.how)]
    weights = f"Weights {card.weights[:16]}." if card.weights else ""
    return "\n".join([*head, *rows, "", f"{weights} {note}".strip(), "", *sources]).strip()
