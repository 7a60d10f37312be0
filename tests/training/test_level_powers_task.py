"""Level powers, fixed and learned, in a diffusion task."""

import pytest
import torch
from diffusion_world import sampled, task

from mmprime.engine import Schedule, sampler_of
from mmprime.engine.masking import IndependentMasking
from mmprime.evaluation.likelihood import Effort, ScoredRows, estimate
from mmprime.evaluation.quantities import Quantity
from mmprime.evaluation.tasks import evaluation_tasks
from mmprime.generation.defaults import read_sampling
from mmprime.models import load_model
from mmprime.training.schema import ObjectiveConfig


@torch.no_grad()
def test_level_powers_are_judged_sampled_and_told(tmp_path):
    built = task(tmp_path, objective=ObjectiveConfig(masking="independent", level_powers=[1.0, 4.0]))
    for p in built.modules.parameters():  # else every state costs the same
        p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    value = built.validate(generators[0])["val/nelbo/image|text"]
    effort = Effort(seed=int(torch.randint(1 << 62, (), generator=generators[1])))
    view = next(task for task in evaluation_tasks(built.canvas) if task.name == "image|text")
    data = ScoredRows(built._rows(built.validation["val"]).y)

    def bound(schedule):
        quantity = Quantity("nelbo", IndependentMasking(schedule))
        return estimate(built.modules, built.canvas, data, view, quantity, effort).per_token[0]

    assert value == pytest.approx(bound(Schedule.levels([1.0, 4.0], built.canvas)), rel=1e-5)
    assert abs(value - bound(None)) > 1e-3
    assert built.samples.configs["image"].sampler.schedule.powers == (1.0, 4.0)
    assert sampled(built).shape == (40, 9)
    built.export(tmp_path / "model")
    assert load_model(tmp_path / "model")[2]["level_powers"] == [1.0, 4.0]
    plain = task(tmp_path / "plain", objective=ObjectiveConfig(masking="independent"))
    plain.export(tmp_path / "plain")
    assert "level_powers" not in load_model(tmp_path / "plain")[2]


def test_learned_powers_are_trained_exported_and_sampled_by(tmp_path):
    built = task(tmp_path, objective=ObjectiveConfig(masking="independent", learned_steps=4))
    terms = list(built.losses(torch.arange(8), torch.Generator().manual_seed(0), 0))
    assert [term[0] for term in terms] == ["model", "powers"]
    terms[1][1].backward()
    assert built.objective.learned.log_powers.grad.abs().sum() > 0
    assert all(p.grad is None for p in built.model.parameters())  # the model learns nothing from this loss
    with torch.no_grad():
        built.parameter_groups()["powers"][0].copy_(torch.tensor([3.0, 1.5, 0.5, 2.0]).log())
    built.export(tmp_path / "model")
    entries = load_model(tmp_path / "model")[2]
    assert entries["level_powers"] == [3.0, 1.5, 0.5, 2.0]
    sampler = read_sampling(tmp_path / "model", built.canvas, "independent")["image"].sampler
    assert sampler == sampler_of("ancestral", {"schedule": "levels:3.0,1.5,0.5,2.0"}, 4)
    before = built.modules.state_dict()
    assert "powers.log_powers" in before
    again = task(tmp_path / "again", objective=ObjectiveConfig(masking="independent", learned_steps=4))
    again.modules.load_state_dict(before)
    assert again.objective.level_powers == [3.0, 1.5, 0.5, 2.0]
