"""Schedules against torch's schedulers and closed forms; which parameters decay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from debeton.nets.networks import SmallResNet
from debeton.system.errors import UsageError
from debeton.train.layer_rates import lr_factors
from debeton.train.optim import (
    SCHEDULES,
    ScheduleSpec,
    check_resolution_ramp,
    make_optimizer,
    parameter_groups,
    ramped_resolution,
    set_lr,
)

SPEC = ScheduleSpec(epochs=10, steps_per_epoch=4, lr_peak_epoch=2, step_size=3, milestones=(2, 7), gamma=0.5)


def rates(name, spec=SPEC):
    return [SCHEDULES.get(name)(step, spec) for step in range(spec.total_steps)]


def torch_rates(make, steps, per_epoch=1):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, found = make(optimizer), []
    for step in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if (step + 1) % per_epoch == 0:
            scheduler.step()
    return found


def test_cosine_is_torchs_cosine_annealing():
    expected = torch_rates(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 40), 40)
    assert rates("cosine") == pytest.approx(expected, abs=1e-9)


def test_steplr_and_multisteplr_are_torchs():
    assert rates("steplr") == pytest.approx(torch_rates(lambda o: torch.optim.lr_scheduler.StepLR(o, 3, 0.5), 40, 4))
    expected = torch_rates(lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [2, 7], 0.5), 40, 4)
    assert rates("multisteplr") == pytest.approx(expected)


def test_cyclic_rises_from_zero_to_the_peak_epoch_and_falls_to_zero():
    found = rates("cyclic")
    assert found[0] == 0.0
    assert found[4] == 0.5
    assert found[8] == 1.0
    assert found[24] == 0.5
    assert found[39] == pytest.approx(1 / 32)


def test_cyclic_with_a_peak_beyond_the_end_only_rises():
    found = rates("cyclic", ScheduleSpec(epochs=2, steps_per_epoch=4, lr_peak_epoch=5))
    assert found == [step / 8 for step in range(8)]


def test_warm_up_is_linear_and_then_the_schedule_starts():
    found = rates("constant", ScheduleSpec(epochs=3, steps_per_epoch=4, warmup_epochs=1))
    assert found == [0.25, 0.5, 0.75, 1.0] + [1.0] * 8
    cosine = rates("cosine", ScheduleSpec(epochs=3, steps_per_epoch=4, warmup_epochs=1))
    assert cosine[3] == 1.0
    assert cosine[8] == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["steplr", "multisteplr", "plateau"])
def test_a_warm_up_multiplies_the_schedule_and_leaves_its_drops_where_they_are(name):
    warm = ScheduleSpec(epochs=10, steps_per_epoch=4, step_size=3, milestones=(2, 7), gamma=0.5, warmup_epochs=2.5)
    rise = [min(1.0, (step + 1) / 10) for step in range(40)]
    assert rates(name, warm) == pytest.approx([a * b for a, b in zip(rise, rates(name))])
    assert rates("plateau") == [1.0] * 40


def test_layers_have_the_rate_of_their_depth_and_the_head_its_own():
    """Depths 0 to 3 and a decay of 0.5 give 1/16 to 1/2."""
    model = SmallResNet(2)
    factors = lr_factors([model], head_lr_factor=10.0, layer_decay=0.5)
    optimizer = make_optimizer(model, "sgd", lr=1.0, weight_decay=0.1, decay_norm=False, lr_factors=factors)
    set_lr(optimizer, 0.2)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    found = {name: rate[id(p)] for name, p in model.named_parameters()}
    expected = {"stem.0": 0.0125, "stages.0.conv1": 0.025, "stages.1.conv2": 0.05, "stages.2.bn1": 0.1, "fc": 2.0}
    assert {name: found[f"{name}.weight"] for name in expected} == pytest.approx(expected)
    assert found["fc.bias"] == pytest.approx(2.0)
    assert {decay[id(p)] for p in model.parameters() if p.ndim > 1} == {0.1}
    assert {decay[id(p)] for p in model.parameters() if p.ndim <= 1} == {0.0}
    assert len(rate) == len(list(model.parameters()))


def test_without_decay_and_factor_the_optimizer_has_the_groups_that_it_had():
    model = SmallResNet(2)
    assert lr_factors([model], head_lr_factor=1.0, layer_decay=None) is None
    (group,) = make_optimizer(model, "sgd", lr=1.0, weight_decay=0.1).param_groups
    assert "lr_factor" not in group


def test_one_step_with_factors_moves_each_layer_by_its_own_rate():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    before = [p.detach().clone() for p in model.parameters()]
    factors = lr_factors([model], head_lr_factor=3.0, layer_decay=0.25)
    optimizer = make_optimizer(model, "sgd", lr=9.0, weight_decay=0.0, momentum=0.0, lr_factors=factors)
    set_lr(optimizer, 0.1)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    for p, old, rate in zip(model.parameters(), before, (0.025, 0.3)):
        torch.testing.assert_close(old - p.detach(), torch.full((2, 2), rate))


def test_norm_scales_and_biases_escape_weight_decay_where_asked():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    decayed, spared = parameter_groups(model, 0.1, decay_norm=False)
    assert [p.ndim for p in decayed["params"]] == [4, 2]
    assert sum(p.numel() for p in spared["params"]) == 4 + 4 + 4 + 2
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert len(parameter_groups(model, 0.1, decay_norm=True)) == 1


def test_frozen_parameters_are_left_out_and_none_left_is_an_error():
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    optimizer = make_optimizer(model, "adamw", lr=0.1, weight_decay=0.0)
    assert [len(g["params"]) for g in optimizer.param_groups] == [1]
    model.weight.requires_grad_(False)
    with pytest.raises(UsageError, match="no trainable parameter"):
        make_optimizer(model, "sgd", lr=0.1, weight_decay=0.0)


def test_one_sgd_step_follows_the_closed_form():
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 2.0)
    optimizer = make_optimizer(layer, "sgd", lr=0.1, weight_decay=0.5, momentum=0.9)
    for _ in range(2):
        layer.weight.grad = torch.ones(1, 1)
        optimizer.step()
    # v1 = 1 + .5*2 = 2, w1 = 1.8; v2 = .9*2 + 1 + .5*1.8 = 3.7, w2 = 1.43
    assert layer.weight.item() == pytest.approx(1.43)


def test_resolution_ramps_in_multiples_of_32_between_the_epochs():
    found = [ramped_resolution(e, min_res=160, max_res=192, start=11, end=13) for e in range(16)]
    assert found == [160] * 12 + [int(round(176 / 32)) * 32] + [192] * 3
    assert ramped_resolution(8, min_res=128, max_res=224, start=0, end=16) % 32 == 0
    with pytest.raises(UsageError, match="min_res <= max_res"):
        check_resolution_ramp([192, 160, 0, 1])
