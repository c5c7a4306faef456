"""Training through CUDA graphs is training: the same gradients, statistics and random numbers."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.running import folder_of, lines_of, run
from torch import nn
from torch.nn import functional

from debeton.diffusion.model import Shape, make_network
from debeton.nets.models import make_model
from debeton.train.graphs import AFTER, Graphed, reason_against_graph

COMMON = [
    "--data.dataset",
    "toy",
    "--training.lr_scheduler",
    "constant",
    "--training.decoder_train",
    "simple",
    "--training.decoder_val",
    "simple",
    "--training.augment",
    "flip",
    "--training.batch_size",
    "100",
    "--logging.progress",
    "off",
    "--model.arch",
    "small_resnet",
    "--training.selection",
    "last",
]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({}, ""),
        ({"on_gpu": False}, "on a CPU"),
        ({"processes": 2}, "several processes"),
        ({"compiled": True}, "training.compile"),
        ({"calls_once": False}, "more than once a step"),
    ],
)
def test_why_a_network_is_not_replayed_is_said(changed, reason):
    found = reason_against_graph(**{"on_gpu": True, "processes": 1, "compiled": False, "calls_once": True, **changed})
    assert reason in found
    assert bool(reason) == bool(found)


def test_without_a_gpu_a_run_that_asks_for_graphs_says_that_it_has_none(toy_betons, tmp_path):
    args = [*COMMON, "--training.device", "cpu", "--training.data_root", toy_betons, "--training.outdir", tmp_path]
    assert run([*args, "--training.epochs", "1", "--training.cuda_graphs", "true"]) == 0
    assert "phase 'train' uses no CUDA graph: there are none on a CPU" in (folder_of(tmp_path) / "log.txt").read_text()


def gradients(model: nn.Module) -> list[torch.Tensor]:
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.gpu
@pytest.mark.parametrize("bf16", [False, True])
def test_gradients_statistics_and_partial_batches_are_those_of_the_network_itself(bf16):
    torch.manual_seed(0)
    eager = make_model("small_resnet", 5).cuda().train()
    model = copy.deepcopy(eager)
    graphed = Graphed(model)
    for step in range(AFTER + 4):
        images = torch.randn(16 if step != AFTER + 2 else 7, 3, 16, 16, device="cuda")
        labels = torch.randint(5, (len(images),), device="cuda")
        found = []
        for network, forward in ((eager, eager), (model, graphed)):
            network.zero_grad(set_to_none=True)
            with torch.autocast("cuda", torch.bfloat16, enabled=bf16):
                logits = forward(images)
            functional.cross_entropy(logits.float(), labels).backward()
            found.append(gradients(network))
        tolerance = {"atol": 2e-2, "rtol": 2e-2} if bf16 else {"atol": 1e-5, "rtol": 1e-4}
        torch.testing.assert_close(found[1], found[0], **tolerance)
        for ours, theirs in zip(model.buffers(), eager.buffers()):
            torch.testing.assert_close(ours, theirs, **tolerance)
    assert len(graphed._replays) == 1


@pytest.mark.gpu
def test_a_diffusion_network_is_replayed_and_the_random_state_is_as_without():
    torch.manual_seed(0)
    eager = make_network(3, (16, 16), Shape((32, 64), 1, 1)).cuda().to(memory_format=torch.channels_last).train()
    model = copy.deepcopy(eager)
    graphed, states = Graphed(model), []
    for network, forward in ((eager, eager), (model, graphed)):
        torch.cuda.manual_seed(1)
        for _ in range(AFTER + 3):
            network.zero_grad(set_to_none=True)
            noisy = torch.randn(8, 3, 16, 16, device="cuda").to(memory_format=torch.channels_last)
            t, condition = torch.randint(1000, (8,), device="cuda"), torch.randint(4, (8,), device="cuda")
            forward(noisy, t, condition).square().mean().backward()
        states.append(torch.cuda.get_rng_state())
    torch.testing.assert_close(gradients(model), gradients(eager), atol=1e-5, rtol=1e-3)
    assert torch.equal(*states)


@pytest.mark.gpu
def test_a_run_with_graphs_is_the_run_without(toy_betons, tmp_path):
    accuracies = []
    for graphs in ("false", "true"):
        args = [*COMMON, "--training.data_root", toy_betons, "--training.outdir", tmp_path / graphs]
        assert run([*args, "--training.epochs", "3", "--training.lr", "0.01", "--training.cuda_graphs", graphs]) == 0
        lines = lines_of(folder_of(tmp_path / graphs))
        accuracies.append([line["metrics"]["accuracy"] for line in lines if line["split"] == "train"])
    assert len(accuracies[0]) == 3
    assert accuracies[1] == pytest.approx(accuracies[0], abs=0.02)


def test_no_graph_replays_a_network_that_sees_a_batch_in_parts():
    conditions = {"on_gpu": True, "processes": 1, "compiled": False, "calls_once": True}
    assert reason_against_graph(**conditions) == ""
    assert "training.accumulate calls the network once for each part" in reason_against_graph(
        **conditions, in_parts=True
    )
