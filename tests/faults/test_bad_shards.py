"""Shards that come wrong: from a server that fails, and with a bit that is another one."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path

import pytest
from faults_world import ROOT, assert_nothing_lost, finish, newest, train, wait_for
from stores_world import serving

from mmprime.data.shards import read_index, split_shards

CODES = ROOT / "assets/emoji_codes"
NAMES = [entry["file"] for entry in split_shards(read_index(CODES), "train")]
STEPS = 320  # of 64: two epochs and more
STREAMED = [
    "configs/imagenet_vq.yaml", f"train.steps={STEPS}", "train.batch=64", "train.accumulate=1", "train.save_every=5",
    "train.log_every=5", "train.validate_every=0", "train.samples_every=0", "run.threads=1", "data.stream=true",
    "data.buffer=2000", "data.validation=[]", "model.width=32", "model.depth=1", "model.heads=2",
]  # fmt: skip


def answers(chance: random.Random) -> list[str]:
    """Of a server, to six requests of a shard: each is met after one to three failures of any kind."""
    faults: list[str] = []
    for _ in range(6):
        faults += [*(chance.choice(("500", "short", "altered", "hang")) for _ in range(chance.randint(1, 3))), ""]
    return faults


@pytest.mark.slow
def test_a_server_that_fails_in_every_way_gives_the_same_weights(tmp_path: Path) -> None:
    """The cache holds one shard, so each is asked for in each epoch. One is not given any more in the midst of the
    run, which ends, and goes on when it is."""
    seed = time.time_ns()
    chance, run = random.Random(seed), tmp_path / "run"
    room = {"MMPRIME_CACHE": str(tmp_path / "cache"), "MMPRIME_CACHE_GB": "1e-6"}
    with serving(CODES) as server:
        server.faults = {name: answers(chance) for name in NAMES}
        server.faults[NAMES[0]][:1] = ["stall"]  # for longer than is waited
        settings = [*STREAMED, f"data.path={server.url}"]
        process = train(run, *settings, **room)
        wait_for(run, 5, process)
        dead = chance.choice(NAMES)
        server.faults[dead] = ["500"] * 10_000
        printed, _ = process.communicate(timeout=900)
        assert process.returncode == 2, printed
        assert f"{dead} cannot be fetched: HTTP Error 500" in printed.splitlines()[-1]
        assert "(4 tries)" in printed.splitlines()[-1]
        kept = newest(run)
        assert 5 <= kept < STEPS
        server.faults[dead] = answers(chance)
        finish(train(run, *settings, **room))
        print(f"seed {seed}: {dead} was gone at step {kept}; {sum(server.served.values())} requests")
        assert sum(server.served.values()) > 4 * len(NAMES)
    finish(train(tmp_path / "straight", *STREAMED, f"data.path={CODES}"))
    assert_nothing_lost(run, tmp_path / "straight")


@pytest.mark.slow
def test_a_flipped_bit_is_named_and_nothing_is_trained_on_it(tmp_path: Path) -> None:
    """Any bit of any shard, flipped while a run reads them; put right, the run goes on to the weights of one that met
    no fault. With a budget it goes on without the shard."""
    seed = time.time_ns()
    chance, data, run = random.Random(seed), tmp_path / "codes", tmp_path / "run"
    shutil.copytree(CODES, data)
    settings = [*STREAMED, f"data.path={data}"]
    damaged = data / chance.choice(NAMES)
    whole = damaged.read_bytes()
    at, bit = chance.randrange(len(whole)), 1 << chance.randrange(8)
    process = train(run, *settings)
    wait_for(run, 5, process)
    damaged.write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
    printed, _ = process.communicate(timeout=600)
    assert process.returncode == 2, printed
    assert f"shard {damaged} is corrupt: its sha256 differs from the index" in printed.splitlines()[-1]
    kept = newest(run)
    print(f"seed {seed}: bit {bit} of byte {at} of {damaged.name}, told at step {kept}")
    assert 5 <= kept < STEPS
    shutil.copytree(run, tmp_path / "skipping")
    printed = finish(train(tmp_path / "skipping", *settings, "data.skip_shards=1"))
    assert f"{damaged.name} is corrupt" in printed
    assert "skipped (1 of at most 1): examples of another shard stand in the place" in printed
    assert newest(tmp_path / "skipping") == STEPS
    damaged.write_bytes(whole)
    finish(train(run, *settings))
    finish(train(tmp_path / "straight", *STREAMED, f"data.path={CODES}"))
    assert_nothing_lost(run, tmp_path / "straight")
