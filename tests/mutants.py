"""Does every test fail when its formula is broken? Break them one at a time in a copy and see.

    python tests/mutants.py              # all mutants, a Markdown table; exit status 1 if one survives
    python tests/mutants.py joint float  # those whose name contains a word

A mutant is one textual replacement in one file of `mmprime/engine`. The copy lies in a temporary folder; the test file
named beside the mutant (or one test of it, where the file is slow) runs on it until its first failure. Not a test
itself: run on demand (minutes).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


class Mutant(NamedTuple):
    name: str
    file: str
    old: str
    new: str
    test: str  # a file, or a file::test where the file is slow

    @property
    def file_of_test(self) -> str:
        return self.test.partition("::")[0]


def m(name: str, file: str, old: str, new: str, test: str) -> Mutant:
    test, *node = test.split("::")
    return Mutant(name, f"mmprime/engine/{file}.py", old, new, "::".join([f"tests/engine/test_{test}.py", *node]))


NUCLEUS = "sampling::test_temperature_and_nucleus_on_one_token"
UNIFORMS = "sampling::test_uniforms_are_finer_than_float32"
IDLE = "sampling::test_idle_steps_are_not_computed_and_compacting_changes_no_digit"
JOINT = "next_events(canvas, law, y0, y_t, hidden, weight)"
MUTANTS = [
    # codecs
    m("base-b by a float root", "codec", "    base = max(1, round(num_codes ** (1.0 / num_digits)))",
      "    return math.ceil(num_codes ** (1.0 / num_digits))", "codec"),
    m("cells without a code may be drawn", "codec", "code_at < 0, -math.inf", "code_at < 0, 0.0", "codec"),
    m("gradient of the grid in cell order", "codec", "grad.index_select(-1, cell)", "grad[..., : len(cell)]", "codec"),
    m("clusters by the global generator", "clustering", "torch.randperm(len(points), generator=generator)",
      "torch.randperm(len(points))", "codec"),
    m("svd by the global generator", "cooccurrence", "with torch.random.fork_rng(devices=[]):", "if True:",
      "cooccurrence"),
    m("neighbours of one side only", "cooccurrence", "rows += [left, right]", "rows += [left, left]", "cooccurrence"),
    # schedules, forward process
    m("weight without the minus of the derivative", "schedule", "hidden > 0, -derivative", "hidden > 0, derivative",
      "schedule"),
    m("window does not rescale the derivative", "schedule", "inside, derivative / width", "inside, derivative",
      "schedule"),
    m("cosine derivative without pi/2", "schedule", "-math.pi / 2 * torch.sin(angle)", "-torch.sin(angle)", "schedule"),
    m("transition keeps with alpha_t, not alpha_t / alpha_s", "masking", "stay = alpha_t / alpha_s", "stay = alpha_t",
      "masking"),
    m("corrupt shows what it should hide", "masking", "(u < alpha)", "(u > alpha)", "masking"),
    # plans
    m("ranks cut with ceil for floor", "plan", "(time * steps).floor()", "(time * steps).ceil()", "plan"),
    m("compact keeps idle steps", "plan", "used.cumsum(-1)]", "torch.ones_like(used).cumsum(-1)]", "plan"),
    m("digits of a token draw times of their own", "law", "u = u[:, token_start(canvas).to(u.device)]", "u = u.clone()",
      "plan"),
    m("nested times not sorted", "law", "u = _sort_in_token(canvas, u, free)", "u = u.clone()", "plan"),
    m("nested sort counts given digits", "law", "torch.where(free, u, 1.5)", "u", "plan"),
    m("pace off by one step", "plan", "1 - torch.arange(1, steps + 1, dtype", "1 - torch.arange(0, steps, dtype",
      "plan"),
    m("one seed, one stream for plan and sample", "rng", "mix(source, purpose, b)", "mix(source, b)", "sampling"),
    m("stream depends on the batch size", "rng", "mix(source, purpose, b)", "mix(source, purpose, b, batch)", "plan"),
    # likelihood
    m("weight n/m replaced by 1", "law", "(n.to(weight.dtype) / m", "(m.to(weight.dtype) / m", "likelihood"),
    m("m uniform in 0..n-1", "law", "1 + (u[:, g] * n).long()", "(u[:, g] * n).long()", "likelihood"),
    m("threshold > for >=", "law", "(order.key >= threshold)", "(order.key > threshold)", "likelihood"),
    m("joint loss where the bound stands", "likelihood", JOINT, JOINT.replace("law", '"token_synchronous"'),
      "likelihood"),
    m("nested events without multiplicity", "law", "(count * rate)[None]", "rate[None]", "likelihood"),
    m("coarse_first without its share of time", "law", "+ u) / num_places(canvas)", "+ u) / (1 + num_places(canvas))",
      "plan"),
    m("coarse_first by count: n/m for n/a", "law", "weight * hidden.sum(-1, keepdim=True) * chance",
      "weight * total * chance", "likelihood"),
    m("coarse_first by time: the rate of the whole row", "law", "left = (digit + 1) / places - alpha",
      "left = 1 - alpha + 0 * digit", "likelihood"),
    m("coarse_first reveals finer places too", "law", "(hidden & (digit == coarsest))", "hidden", "likelihood"),
    m("exact: coarse_first places share their times", "exact", "(num_places(canvas) * alpha - canvas.digit_of)",
      "(num_places(canvas) * alpha)", "exact"),
    m("place powers: the race is not counted", "law", "torch.where(hidden, race.to(weight), 0.0)",
      "hidden.to(weight.dtype)", "places"),
    m("place powers: joint loss in the plain order", "likelihood",
      "        order = in_time(order, schedule)\n    share", "    share", "places"),
    m("place powers upside down", "schedule", "(power == p, Polynomial(p))", "(power == p, Polynomial(1 / p))",
      "places"),
    m("exact: orders of a race equally likely", "exact", "min(1.0, rate / left)", "1 / (len(units) - place)", "places"),
    m("finite T without the factor T", "likelihood", "nats = steps * _one_step", "nats = _one_step", "likelihood"),
    m("step sees itself: <= for <", "likelihood", "(rank < step[:, None])", "(rank <= step[:, None])", "likelihood"),
    m("absent values are seen", "likelihood", "hidden | (order.key == torch.inf)", "hidden", "likelihood"),
    m("times not stratified over samples", "likelihood", "(sample + offset) / samples", "offset / samples",
      "likelihood"),
    m("times drawn as u for 1 - u squared", "likelihood", "time = 1 - u ", "time = (1 - u) ** 2 ", "likelihood"),
    m("spans timed together", "likelihood", "in canvas.spans] if independent_spans",
      "in canvas.spans] if False", "likelihood"),
    m("joint loss counts digits one by one", "likelihood", 'next_events(canvas, "token_synchronous",',
      'next_events(canvas, "independent",', "likelihood"),
    m("exact: Jensen the other way", "exact", "torch.logsumexp(log_weight - plan_nats, 0)",
      "torch.logsumexp(log_weight + plan_nats, 0)", "exact"),
    m("exact: chances of the grid reversed", "exact", "alpha.diff(dim=0)", "alpha.diff(dim=0).flip(0)", "exact"),
    m("exact: nested ranks not sorted", "exact", "sorted(rank[n] for n in places)", "[rank[n] for n in places]",
      "exact"),
    # grid, head, sampling, guidance
    m("carry-over on the wrong axis", "grid", "digit = y[:, axis]", "digit = y[:, -1 - axis]", "exact"),
    m("posterior forgets what is visible", "grid", "cells = constrain(grid, y).flatten(1)\n    posterior",
      "cells = grid.flatten(1)\n    posterior", "exact"),
    m("draw forgets what is visible", "grid", "logits = constrain(grid, y)", "logits = grid", "sampling"),
    m("temperature multiplies", "grid", "score /= torch.where(heat", "score *= torch.where(heat", NUCLEUS),
    m("nucleus one code short", "grid", "ordered.cumsum(-1) - ordered", "ordered.cumsum(-1)", NUCLEUS),
    m("digits of a cell reversed", "grid", "torch.stack(digits[::-1], -1)", "torch.stack(digits, -1)", "sampling"),
    m("uniforms in float32", "rng", "torch.rand(width, generator=g, dtype=torch.float64)",
      "torch.rand(width, generator=g).double()", UNIFORMS),
    m("entries of weight zero can be drawn", "rng", "right=True", "right=False", UNIFORMS),
    m("idle examples are forwarded", "run", "active = reveal.any(-1).nonzero()[:, 0]",
      "active = torch.arange(len(reveal))", IDLE),
    m("chunks misaligned", "denoiser", "aim[:, batch, token][:, part],", "aim[:, batch, token].flip(1)[:, part],",
      "head"),
    m("guidance w - 1 for w", "guidance", "own + weight * (own - without)",
      "own + (weight - 1) * (own - without)", "guidance"),
    m("guidance ramp downwards", "guidance", "(free & (y >= 0))", "(free & (y < 0))", "guidance"),
    m("guidance drops parts of spans", "guidance", ".all(-1, keepdim=True)", ".any(-1, keepdim=True)", "guidance"),
    m("guidance counted once", "guidance", "return 1 + self._weight(y, cond).any(-1).long()",
      "return torch.ones_like(y[:, 0])", "guidance"),
    m("guidance interval the other way", "guidance", "(low <= p) & (p < high)", "(low > p) | (p >= high)", "guidance"),
    m("guidance power forgotten", "guidance", "math.pi * p**power", "math.pi * p", "guidance"),
    m("guidance forwards all twice", "guidance", "rows = weight.any(-1).nonzero()[:, 0]",
      "rows = torch.arange(len(y))", "guidance"),
    m("tilting without its scale", "tilting", "(scale[rows] * scores)", "scores", "tilting"),
    m("particles weighed anew each time", "particles", "chosen = _resample(after - before",
      "chosen = _resample(after", "particles"),
    m("particles forget whose score it was", "particles", "after.flatten()[chosen].view_as(before)", "after",
      "particles"),
    m("corrector hides without showing more", "policies/corrector", "(after - (1 - sigma) * before)",
      "(after - before)", "corrector"),
    m("corrector hides beyond its limit", "policies/corrector", "min(self.beta(step) * (after - before), 1 - after)",
      "self.beta(step) * (after - before)", "corrector"),
    m("corrector takes the time from the other end", "policies/corrector", "tau = (step - 1) / self.last_step",
      "tau = 1 - (step - 1) / self.last_step", "corrector"),
    m("what shows nothing is forwarded", "adaptive", "self._propose(example, digits.reveal, digits.reveal,",
      "self._propose(example, hidden, hidden,", "corrector"),
    m("given digits are hidden again", "adaptive", "features), free & ~hidden",
      "features), ~hidden", "corrector"),
    m("mixture counts the share anew at each step", "policies/mixture",
      "self._planned(done + quota) - self._planned(done)", "self._planned(quota)", "mixture"),
    m("the rule takes what the plan has taken", "policies/mixture", "hidden = look.hidden & ~by_plan",
      "hidden = look.hidden", "mixture"),
    m("all examples follow the first one's plan", "policies/mixture", "order[look.example.to",
      "order[0 * look.example.to", "mixture"),
    m("a step forgets that the rest is hidden", "steps", "(after - before) / torch.where(hidden > 0, hidden, 1.0)",
      "(after - before) / 1.0", "steps"),
    m("a step takes the time from the other end", "steps", "for k in (step - 1, step))", "for k in (step, step - 1))",
      "steps"),
    m("a step of coarse first by alpha alone", "steps", "* alpha - canvas.digit_of.to(time.device))", "* alpha)",
      "steps"),
    m("prefixes without their number of ways", "steps", "ways[shown][count] * of_token", "of_token", "steps"),
    m("sets forget what does not come", "steps", "c if take else 1 - c", "c if take else torch.ones_like(c)", "steps"),
    # streams, impossible codes, runs and batches
    m("streams of 32 bits", "rng", "states[:, 0] = root", "root = root & 0xFFFFFFFF",
      "streams::test_every_bit_of_a_seed_counts"),
    m("a hash of 63 bits", "rng", "    return state\n\n\ndef check_seed", "    return state >> 1\n\n\ndef check_seed",
      "streams::test_every_bit_of_a_seed_counts"),
    m("logits that are no distribution are drawn from", "denoiser", "if not bool(top.isfinite().all()):", "if False:",
      "impossible::test_no_likelihood_is_made_of_what_is_no_distribution"),
    m("an impossible state is NaN", "grid", "if bool(posterior[:, 0].isnan().any()):", "if False:",
      "impossible::test_of_an_impossible_state_everything_that_follows_is_impossible"),
    m("nothing times infinite nats", "likelihood", "nats.masked_fill(weight == 0, 0.0) * weight", "nats * weight",
      "impossible::test_nothing_is_nan_where_the_impossible_is_visible"),
    m("guidance revives the impossible", "guidance", "torch.where(own.isneginf(), never, own + ",
      "torch.where(own.isneginf(), 0.0, own + ", "impossible::test_guidance_leaves_impossible_codes_impossible"),
    m("idle steps after the end", "run", "~used & (used.flip(-1).cumsum(-1).flip(-1) > 0)", "~used",
      "alone_and_together::test_idle_steps_end_with_the_example"),
    m("path planning forgets what is given", "adaptive", "again = whole & self", "again = whole | True & self",
      "alone_and_together::test_path_planning_judges_an_unmasked_token_with_its_given_digits"),
    m("regions judge the batch as one", "regional", "~(free & part.mask).any(-1)).nonzero()",
      "~(free & part.mask).any()).nonzero()", "alone_and_together::test_regions_treat_an_example_alone_as_in_a_batch"),
    m("particles of other examples", "particles", "picked + particles * torch", "picked + 0 * torch", "particles"),
]  # fmt: skip


def run(mutant: Mutant, folder: Path) -> tuple[bool, str]:
    """Break the copy in `folder`, run the named file, mend the copy. Returns (killed, the first failing test)."""
    path, log = folder / mutant.file, folder / "log.txt"
    source = path.read_text(encoding="utf-8")
    if source.count(mutant.old) != 1:
        raise SystemExit(f"mutant {mutant.name!r}: {mutant.old!r} occurs {source.count(mutant.old)} times, want 1")
    path.write_text(source.replace(mutant.old, mutant.new), encoding="utf-8")
    process = multiprocessing.get_context("fork").Process(target=_pytest, args=(mutant.test, folder, log))
    try:
        process.start()
        process.join()
    finally:
        path.write_text(source, encoding="utf-8")
    failed = re.search(r"^(?:FAILED|ERROR) \S+?::(\S+)", log.read_text(encoding="utf-8"), re.MULTILINE)
    if process.exitcode == 99:
        raise SystemExit("the tests imported another copy of the package than the broken one")
    return failed is not None, failed[1] if failed else f"status {process.exitcode}"


def _pytest(test: str, folder: Path, log: Path) -> None:
    """In a forked child, which has torch but not the package: the package found is the copy."""
    os.chdir(folder)
    with log.open("w", encoding="utf-8") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
        status = pytest.main(["-x", "-q", "--no-header", "--tb=line", "-p", "no:cacheprovider", test])
        sys.stdout.flush()
        package = sys.modules.get("mmprime.engine")
    where = Path(str(package.__file__)).resolve() if package else None
    os._exit(int(status) if where is None or folder.resolve() in where.parents else 99)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("word", nargs="*", help="run the mutants whose name contains one of these words")
    words = parser.parse_args().word
    chosen = [mutant for mutant in MUTANTS if not words or any(word in mutant.name for word in words)]
    survivors = 0
    torch.set_num_threads(1)
    sys.dont_write_bytecode = True  # a stale .pyc must not outlive a mutant
    print("| what is broken | where | killed by |\n|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("mmprime/engine", "tests/engine"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        for part in ("mmprime/__init__.py", "tests/oracle.py", "pyproject.toml"):
            shutil.copy(ROOT / part, folder / part)
        for mutant in chosen:
            killed, detail = run(mutant, folder)
            survivors += not killed
            verdict = f"`{Path(mutant.file_of_test).name}::{detail}`" if killed else f"**survived** ({detail})"
            print(f"| {mutant.name} | `{Path(mutant.file).name}` | {verdict} |", flush=True)
    print(f"\n{len(chosen) - survivors} of {len(chosen)} mutants killed", flush=True)
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())
