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
  let known = 0, sampled = 0;
  for (const box of boxes) {
    const token = tokenOf(box), [, digits, text] = now(token), levels = digits.length, have = count(digits);
    token.digits.forEach((digit, level) => {
      sampled += digit.rank > 0;
      known += digit.rank > 0 && digits[level] === "1";
    });
    const edge = have === 0 ? "none" : have === levels ? "whole" : "part";
    box.textContent = text;
    box.className = "token " + (isGiven(token) ? "given" : `k${have} ${edge}`);
    const words = isGiven(token) ? "given" : `${have} of ${levels} digits known`;
    box.setAttribute("aria-label", have ? `${text.trim() || "space"}, ${words}` : "masked");
  }
  clock.textContent = `${slider.value} of ${trace.steps}: ${known} of ${sampled} sampled digits known`;
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
  const said = count(digits) === digits.length ? `“${text}”` : count(digits) ? `“${text}” (likeliest)` : "masked";
  const name = `Token ${+box.dataset.token + 1} of text ${+box.dataset.text + 1}`;
  make("p", `${name}: ${said} now, “${last}” in the end`, detail);
  const table = make("table", null, detail), head = make("tr", null, make("thead", null, table));
  for (const name of ["digit", "value", "known at step", "entropy, nats", "confidence"]) {
    make("th", name, head).scope = "col";
  }
  const body = make("tbody", null, table);
  token.digits.forEach((digit, level) => {
    const row = make("tr", null, body), number = value => value === null ? "–" : value.toFixed(3);
    make("td", level + 1, row);
    make("td", digits[level] === "1" ? digit.value : "masked", row);
    make("td", digit.rank === 0 ? "given" : digit.rank, row);
    make("td", number(digit.entropy), row);
    make("td", number(digit.confidence), row);
  });
}

const MOVES = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity };
for (const list of document.querySelectorAll("[role=listbox]")) {
  const options = Array.from(list.children);
  list.addEventListener("focusin", event => {
    if (chosen) chosen.setAttribute("aria-selected", "false");
    options.forEach(box => { box.tabIndex = box === event.target ? 0 : -1; });
    chosen = event.target;
    chosen.setAttribute("aria-selected", "true");
    describe(chosen);
  });
  list.addEventListener("keydown", event => {
    if (!(event.key in MOVES) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    const position = options.indexOf(event.target) + MOVES[event.key];
    options[Math.max(0, Math.min(options.length - 1, position))].focus();
  });
  list.addEventListener("mouseover", event => { if (event.target !== list) describe(event.target); });
  list.addEventListener("mouseleave", () => { if (chosen) describe(chosen); });
}
slider.addEventListener("input", show);
show();
