"""A traced text as one HTML file: a slider of steps, and every token as far as it is known at that step.

The page needs no network (its Content-Security-Policy forbids any: its one style and one script are named by hash) and
works by keyboard. Whatever comes from a model or a user is escaped, in the markup and in the data of the script.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape

HIDDEN = "░░░"
INK, UNKNOWN, KNOWN = (26, 26, 26), (232, 232, 232), (126, 203, 240)


@dataclass(frozen=True)
class Digit:
    """A digit as it ended: value, and the rank, entropy (nats) and confidence of its draw; None where it was given."""

    value: int
    rank: int
    entropy: float | None
    confidence: float | None


@dataclass(frozen=True)
class Token:
    """changes: (step, one 0 or 1 for each digit, text), from step 0 on, wherever what is known or shown changes."""

    digits: list[Digit]
    changes: list[tuple[int, str, str]]

    @property
    def given(self) -> bool:
        return all(digit.rank == 0 for digit in self.digits)


def page(
    title: str,
    about: Mapping[str, object],
    texts: Sequence[Sequence[Token]],
    steps: int,
    table: Sequence[tuple[int, str, str]],
    curve: bytes,
) -> str:
    """The whole page. table: (step, mean entropy, mean confidence) in words; curve: the same as a PNG figure."""
    places = len(texts[0][0].digits)
    style = _STYLE + _shades(places)
    data = json.dumps({"steps": steps, "texts": [[asdict(token) for token in text] for text in texts]})
    policy = f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(_SCRIPT)}"
    body = "\n".join(_listbox(number, text) for number, text in enumerate(texts))
    rows = "".join(f"<tr><td>{step}</td><td>{nats}</td><td>{sure}</td></tr>" for step, nats, sure in table)
    facts = "".join(f"<dt>{escape(str(key))}</dt><dd>{escape(str(value))}</dd>" for key, value in about.items())
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
<dl>{facts}</dl>
<noscript><p>The slider needs scripts; the texts below are shown as they ended.</p></noscript>
<div class="bar">
<label for="step">Step</label> <input type="range" id="step" min="0" max="{steps}" value="{steps}">
<output id="clock" for="step">{steps} of {steps}</output>
</div>
<p class="legend">{_legend(places)}</p>
<p>Arrow keys move from token to token. A partly known token shows the likeliest code that agrees with its known digits,
given all that is visible at that step. Entropy and confidence belong to the law over whole codes that a digit was drawn
from: its entropy, and the probability of the code drawn.</p>
{body}
<section id="detail" aria-live="polite" aria-label="Digits of the chosen token"><p>Choose a token.</p></section>
<h2>Entropy and confidence of what was drawn, by step</h2>
<img alt="Two curves against the step: mean entropy in nats, mean confidence. The table below has the numbers."
 src="data:image/png;base64,{base64.b64encode(curve).decode()}">
<details><summary>The numbers</summary>
<table><thead><tr><th scope="col">step</th><th scope="col">mean entropy, nats</th>
<th scope="col">mean confidence</th></tr></thead><tbody>{rows}</tbody></table></details>
</main>
<script type="application/json" id="trace">{_inert(data)}</script>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def shade(known: int, places: int) -> tuple[int, int, int]:
    """The background (red, green, blue) of a token of which `known` of `places` digits are known."""
    share = known / places
    red, green, blue = (round(low + share * (high - low)) for low, high in zip(UNKNOWN, KNOWN))
    return red, green, blue


def _shades(places: int) -> str:
    return "".join(f".k{known} {{ background: rgb{shade(known, places)}; }}\n" for known in range(places + 1))


def _legend(places: int) -> str:
    swatches = [
        f'<span class="token k{known}{_edge(known, places)}">{known} of {places} digits known</span>'
        for known in range(places + 1)
    ]
    return " ".join([*swatches, '<span class="token given">given</span>'])


def _edge(known: int, places: int) -> str:
    """The line below a token says the same as its colour."""
    return " none" if known == 0 else " whole" if known == places else " part"


def _listbox(number: int, text: Sequence[Token]) -> str:
    options = "".join(
        f'<span role="option" aria-selected="false" tabindex="{-1 if index else 0}" data-text="{number}" '
        f'data-token="{index}" class="token {"given" if token.given else f"k{len(token.digits)} whole"}">'
        f"{escape(token.changes[-1][2])}</span>"
        for index, token in enumerate(text)
    )
    return (
        f'<h2 id="text{number}">Text {number + 1}</h2>\n'
        f'<div role="listbox" aria-orientation="horizontal" aria-labelledby="text{number}" class="text">{options}</div>'
    )


def _inert(data: str) -> str:
    """JSON that cannot end the script element it lies in: no <, > or & is left."""
    return data.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


_STYLE = f"""
:root {{ color-scheme: light; }}
body {{ margin: 0; background: #fff; color: rgb{INK}; font: 16px/1.5 system-ui, sans-serif; }}
main {{ max-width: 60rem; margin: 0 auto; padding: 1rem; }}
h1 {{ font-size: 1.4rem; }} h2 {{ font-size: 1.1rem; }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; margin: 0; }} dd {{ margin: 0; }}
dd {{ overflow-wrap: anywhere; }}
.bar {{ position: sticky; top: 0; background: #fff; padding: .6rem 0; display: flex; gap: .8rem; flex-wrap: wrap; }}
.bar input {{ flex: 1 1 16rem; }}
.text {{ font: 1.05rem/2 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }}
.token {{ border-bottom: 2px solid transparent; padding: .1em 0; margin-right: 1px; cursor: default; }}
.legend .token {{ padding: .1em .4em; white-space: nowrap; }}
.none {{ border-bottom: 2px dotted #666; }} .part {{ border-bottom: 2px dashed #333; }}
.whole {{ border-bottom: 2px solid #0b5a80; }} .given {{ background: #fff; border-bottom: 2px double rgb{INK}; }}
.token:focus {{ outline: 3px solid #a3003c; outline-offset: 1px; }} .token:hover {{ outline: 1px solid rgb{INK}; }}
#detail {{ position: sticky; bottom: 0; background: #fff; border-top: 1px solid #666; padding: .4rem 0; }}
#detail p {{ margin: 0 0 .3rem; white-space: pre-wrap; }}
table {{ border-collapse: collapse; }} th, td {{ padding: .1rem .8rem .1rem 0; text-align: left; }}
img {{ max-width: 100%; }}
"""

_SCRIPT = """
"use strict";
const trace = JSON.parse(document.getElementById("trace").textContent);
const slider = document.getElementById("step");
const clock = document.getElementById("clock");
const detail = document.getElementById("detail");
const boxes = Array.from(document.querySelectorAll("[role=option]"));
let chosen = null;

const tokenOf = box => trace.texts[box.dataset.text][box.dataset.token];
const now = token => token.changes.filter(change => change[0] <= slider.value).pop();
const isGiven = token => token.digits.every(digit => digit.rank === 0);
const count = digits => digits.split("1").length - 1;

function show() {
  let known = 0, drawn = 0;
  for (const box of boxes) {
    const token = tokenOf(box), [, digits, text] = now(token), places = digits.length, have = count(digits);
    token.digits.forEach((digit, place) => {
      drawn += digit.rank > 0;
      known += digit.rank > 0 && digits[place] === "1";
    });
    const edge = have === 0 ? "none" : have === places ? "whole" : "part";
    box.textContent = text;
    box.className = "token " + (isGiven(token) ? "given" : `k${have} ${edge}`);
    const words = isGiven(token) ? "given" : `${have} of ${places} digits known`;
    box.setAttribute("aria-label", have ? `${text.trim() || "space"}, ${words}` : "hidden");
  }
  clock.textContent = `${slider.value} of ${trace.steps}: ${known} of ${drawn} drawn digits known`;
  slider.setAttribute("aria-valuetext", `step ${clock.textContent}`);
  if (chosen) describe(chosen);
}

function make(name, text, parent) {
  const element = document.createElement(name);
  if (text !== null) element.textContent = text;
  parent.append(element);
  return element;
}

function describe(box) {
  const token = tokenOf(box), [, digits, text] = now(token), last = token.changes[token.changes.length - 1][2];
  detail.replaceChildren();
  const said = count(digits) === digits.length ? `“${text}”` : count(digits) ? `“${text}” (likeliest)` : "hidden";
  const name = `Token ${+box.dataset.token + 1} of text ${+box.dataset.text + 1}`;
  make("p", `${name}: ${said} now, “${last}” in the end`, detail);
  const table = make("table", null, detail), head = make("tr", null, make("thead", null, table));
  for (const name of ["digit", "value", "known at step", "entropy, nats", "confidence"]) {
    make("th", name, head).scope = "col";
  }
  const body = make("tbody", null, table);
  token.digits.forEach((digit, place) => {
    const row = make("tr", null, body), number = value => value === null ? "–" : value.toFixed(3);
    make("td", place + 1, row);
    make("td", digits[place] === "1" ? digit.value : "hidden", row);
    make("td", digit.rank === 0 ? "given" : digit.rank, row);
    make("td", number(digit.entropy), row);
    make("td", number(digit.confidence), row);
  });
}

const MOVES = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity };
for (const list of document.querySelectorAll("[role=listbox]")) {
  const own = Array.from(list.children);
  list.addEventListener("focusin", event => {
    if (chosen) chosen.setAttribute("aria-selected", "false");
    own.forEach(box => { box.tabIndex = box === event.target ? 0 : -1; });
    chosen = event.target;
    chosen.setAttribute("aria-selected", "true");
    describe(chosen);
  });
  list.addEventListener("keydown", event => {
    if (!(event.key in MOVES) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    const place = own.indexOf(event.target) + MOVES[event.key];
    own[Math.max(0, Math.min(own.length - 1, place))].focus();
  });
  list.addEventListener("mouseover", event => { if (event.target !== list) describe(event.target); });
  list.addEventListener("mouseleave", () => { if (chosen) describe(chosen); });
}
slider.addEventListener("input", show);
show();
"""
