"""Model folders by name: read from the Hugging Face Hub and pushed to it, by the mixin of huggingface_hub.

What cannot be had, without a network too, is one sentence. Only JSON, safetensors and text are fetched, and a folder
that comes from the hub may not name files outside of itself.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard as Page
from huggingface_hub import ModelHubMixin

from mmprime.models.folders import find_folder, in_one_sentence, is_path

from .model_folder import load_tokenizers, read_card
from .model_page import model_page
from .requests import ModelRequests
from .saving import write_model_folder


class HubModel(ModelRequests, ModelHubMixin, library_name="mmprime"):
    """A pipeline that is read from a folder or a name on the hub, saved as a folder, and pushed."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> Any:
        """The model in a folder, or of a name such as "user/model" on the hub.

        options: device ("cpu"), and those of `huggingface_hub.ModelHubMixin`: revision, token, cache_dir,
        force_download, local_files_only. Raises ValueError naming the file that is missing or does not fit, and in one
        sentence what the hub refuses.
        """
        name = str(pretrained_model_name_or_path)
        if is_path(name):
            return cls._from_pretrained(model_id=name, **options)
        with in_one_sentence(name):
            return super().from_pretrained(name, **options)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, device: torch.device | str = "cpu", **options: Any) -> Any:
        from mmprime.models import load_model
        from mmprime.models.device import find_device

        folder, remote = find_folder(model_id, **options), not is_path(model_id)
        device = find_device(device)
        model, canvas, config = load_model(folder, device)
        card = read_card(folder, config, canvas)
        card = replace(card, name=model_id) if remote else card
        return cls(model, canvas, *load_tokenizers(folder, config, canvas, device), card)

    def _save_pretrained(self, save_directory: Path) -> None:
        tokenizers = (self.text_tokenizer, self.image_tokenizer)
        card = replace(self.card, checkpoint={}, adapter=False, page="") if self.card.adapter else self.card  # merged
        write_model_folder(save_directory, self.model, self.canvas, card, self.sampling, tokenizers)

    def generate_model_card(self, *_: Any, **__: Any) -> Page:
        """README.md of the folder it was read from, else one made of what is known."""
        parameters = sum(weight.numel() for weight in self.model.parameters())
        return Page(self.card.page or model_page(self.card, self.canvas, parameters))

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Push the folder of `save_pretrained` to a name on the hub; returns the address of the commit.

        options: those of `huggingface_hub.ModelHubMixin.push_to_hub`. Raises ValueError in one sentence on what the hub
        refuses.
        """
        with in_one_sentence(repo_id):
            return str(super().push_to_hub(repo_id, **options))
