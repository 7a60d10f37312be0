"""Numbers that a change of shape must leave as they are, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import golden
import pytest
import torch

QUICK_SAMPLERS = ("token_synchronous", "confidence", "remdm")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_first_losses_bounds_of_texts_and_some_samples_are_those_of_the_file() -> None:
    numbers: golden.Numbers = dict(golden.losses("toy", 5)) | dict(golden.bounds("text"))
    numbers |= dict(golden.samples(QUICK_SAMPLERS))
    known, exact = golden.read()
    assert len(numbers) == 5 + 9 + len(QUICK_SAMPLERS)
    assert golden.differences({name: known[name] for name in numbers}, numbers, exact) == []


def test_what_differs_is_told() -> None:
    known: golden.Numbers = {"a": 1.0, "b": "x", "c": 2.0}
    numbers: golden.Numbers = {"a": 1.00001, "b": "y", "d": 2.0}
    gone = ["c: only in one of the two", "d: only in one of the two"]
    assert golden.differences(known, numbers, exact=True) == ["a: 1.0 became 1.00001", "b: x became y", *gone]
    assert golden.differences(known, numbers, exact=False) == gone
    assert golden.differences({"a": 1.0}, {"a": 1.001}, exact=False) == ["a: 1.0 became 1.001"]
    late: golden.Numbers = {"loss toy 15": 1.001, "loss toy 16": 1.001}
    found = golden.differences(dict.fromkeys(late, 1.0), late, exact=False)
    assert found == ["loss toy 15: 1.0 became 1.001"]


def test_numbers_of_other_machines_stay_where_they_differ_by_rounding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(golden, "FILE", tmp_path / "golden.json")
    for name, number in (("here", 1.0), ("there", 1.00001), ("there too", 2.0), ("there", 2.0), ("here", 2.0)):
        monkeypatch.setattr(golden, "machine", lambda name=name: name)
        golden.write({"a": number})
        assert golden.read() == ({"a": number}, True)
        held = {(other, numbers["a"]) for other, numbers in json.loads(golden.FILE.read_text()).items()}
        assert ("here", 1.0) in held or number == 2.0
    assert held == {("here", 2.0), ("there", 2.0), ("there too", 2.0)}
    monkeypatch.setattr(golden, "machine", lambda: "elsewhere")
    assert golden.read()[1] is False


@pytest.mark.slow
def test_all_numbers_are_those_of_the_file() -> None:
    known, exact = golden.read()
    assert golden.differences(known, golden.measure(), exact) == []
