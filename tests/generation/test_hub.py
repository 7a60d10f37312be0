"""Model folders by name: pushed to and read from a stand-in of the hub by processes of their own; refusals."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_world import TOKEN, Hub, Repository, hub
from pipeline_world import write_text_image_model
from retrofit_world import mdlm_weights, store

from mmprime import from_pretrained

ROOT = Path(__file__).resolve().parents[2]
REFUSED = """
from mmprime import from_pretrained
def tell(work):
    try:
        work()
    except ValueError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    with hub() as answering:
        yield answering


def python(code: str, home: Path, url: str, **environment: str) -> str:
    """What a new process prints."""
    known = {
        "HF_ENDPOINT": url, "HF_TOKEN": TOKEN, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **known, **environment},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_a_model_is_pushed_and_read_by_its_name(tmp_path: Path, server: Hub) -> None:
    model = write_text_image_model(tmp_path)
    sample = "print(pipe.card.name, pipe.generate('red apple', 2).y.tolist())"
    start = f"from mmprime import from_pretrained\npipe = from_pretrained({str(model)!r})\n"
    here = python(f"{start}print(pipe.push_to_hub('user/tiny'))\n{sample}", tmp_path / "home", server.url).splitlines()
    assert here[0].startswith(f"{server.url}/user/tiny/commit/")
    files = server.repositories["user/tiny"].files
    assert {"README.md", "config.json", "generation_config.json", "model.safetensors"} < set(files)
    assert {"text_tokenizer/tokenizer.json", "image_tokenizer/model.safetensors"} < set(files)
    assert len([each for each in server.asked if each.startswith("PUT /uploads/")]) == 2
    files["evil.pkl"] = b"cos\nsystem\n"
    server.asked.clear()
    code = f"from mmprime import from_pretrained\npipe = from_pretrained('user/tiny')\n{sample}"
    named = python(code, tmp_path / "elsewhere", server.url)
    assert named == here[1].replace("model ", "user/tiny ", 1) + "\n", "the same samples from another process"
    assert not any("evil" in each for each in server.asked), "nothing but JSON, safetensors and text is fetched"
    code += "\nfrom mmprime.training.pretrained import read_start\nfrom mmprime.training.schema import ModelConfig\n"
    code += "print(read_start(ModelConfig(init='user/tiny')).config['weights_sha256'])"
    again = python(code, tmp_path / "elsewhere", "http://127.0.0.1:9", HF_HUB_OFFLINE="1").splitlines()
    assert again[:-1] == named.splitlines(), "what was fetched once is read without a network"
    assert again[-1] == json.loads(files["config.json"])["weights_sha256"], "a training starts from it, too"


TOKENIZERS = """
from mmprime.training.config import ConfigError, check_paths, tokenizer_path
from mmprime.training.schema import DataConfig
from mmprime.tokenizers import TextTokenizer, load_image_tokenizer
def told(work):
    try:
        work()
    except ConfigError as error:
        print(error)
def data(**names):
    config = DataConfig(**names)
    check_paths(config)
    return config
print(TextTokenizer.load(tokenizer_path(data(text_tokenizer="user/words").text_tokenizer)).vocab_size)
print(load_image_tokenizer(tokenizer_path(data(image_tokenizer="user/codes").image_tokenizer)).num_codes)
told(lambda: tokenizer_path("user/none"))
told(lambda: data(path="user/data"))
told(lambda: data(text_tokenizer="tests/none"))
"""


def test_a_config_names_its_tokenizers_on_the_hub(tmp_path: Path, server: Hub) -> None:
    model = write_text_image_model(tmp_path)
    for name, part in (("user/words", "text_tokenizer"), ("user/codes", "image_tokenizer")):
        files = {each.name: each.read_bytes() for each in (model.parent / part).iterdir()}
        server.repositories[name] = Repository(files, [part[0].encode().hex() * 20])
    lines = python(TOKENIZERS, tmp_path / "home", server.url).splitlines()
    pipe = from_pretrained(model)
    assert lines[:2] == [str(pipe.text_tokenizer.vocab_size), str(pipe.image_tokenizer.num_codes)]
    assert lines[2].startswith("the hub has no model user/none, or it is private")
    assert lines[3].startswith("path=user/data: no such file or folder")
    assert lines[4].startswith("text_tokenizer=tests/none: no such file or folder")
    assert len(lines) == 5


ADAPTERS = """
from pathlib import Path
from mmprime.generation.foreign_text import convert_text_model
from mmprime.io import read_json
from mmprime.models import choose_trained, load_model, save_model
model = convert_text_model("mdlm", "user/base", Path("{out}/whole"))
entry = read_json("{out}/whole/config.json")["checkpoint"]
choose_trained(model, "lora", 2)
save_model("{out}/adapters", model, extra=dict(checkpoint=entry))
print(load_model("{out}/adapters")[2]["adapter_of"]["name"])
"""


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="needs mmprime[lora]")
def test_adapters_find_their_checkpoint_on_the_hub(tmp_path: Path, server: Hub) -> None:
    base = store(tmp_path / "base", mdlm_weights())
    files = {each.name: each.read_bytes() for each in base.iterdir()}
    server.repositories["user/base"] = Repository(files, ["b" * 40])
    assert python(ADAPTERS.format(out=tmp_path), tmp_path / "home", server.url) == "user/base\n"


def test_what_the_hub_refuses_is_one_line(tmp_path: Path, server: Hub) -> None:
    """A folder of the hub names no files outside of itself, either."""
    model = write_text_image_model(tmp_path)
    server.repositories["user/old"] = Repository({f.name: f.read_bytes() for f in model.iterdir()}, ["f" * 40])
    code = f"""{REFUSED}
tell(lambda: from_pretrained("user/none"))
tell(lambda: from_pretrained("a b"))
tell(lambda: from_pretrained("no/such/folder"))
tell(lambda: from_pretrained({str(model)!r}).push_to_hub("user/other", token="hf_wrong"))
tell(lambda: from_pretrained("user/old"))
"""
    lines = python(code, tmp_path / "home", server.url).splitlines()
    assert lines[0].startswith("the hub has no model user/none, or it is private: hf auth login")
    assert lines[1].startswith("'a b' is no folder here and no name on the hub")
    assert lines[2].startswith("no/such/folder: there is no model folder here")
    assert "user/other: the hub answers: " in lines[3]
    assert "401" in lines[3]
    assert lines[3].endswith("hf auth login")
    assert lines[4].startswith("user/old: its tokenizer '../image_tokenizer' lies outside")
    assert len(lines) == 5


@pytest.mark.parametrize("offline", [pytest.param("0", marks=pytest.mark.slow), "1"])
def test_without_a_network_one_line_says_so(offline: str, tmp_path: Path) -> None:
    model = write_text_image_model(tmp_path)
    code = f"""{REFUSED}
tell(lambda: from_pretrained("user/tiny"))
tell(lambda: from_pretrained({str(model)!r}).push_to_hub("user/tiny"))
"""
    lines = python(code, tmp_path / "home", "http://127.0.0.1:9", HF_HUB_OFFLINE=offline).splitlines()
    sentence = "user/tiny: the hub cannot be reached; connect to the network, or give the path of a model folder"
    assert lines == [sentence] * 2
