"""Batch norm over several processes is batch norm of one: values, gradients and running statistics."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from debeton.nets.models import make_model
from debeton.nets.shared_statistics import share_statistics, trained_batch_norms
from debeton.system import distributed
from debeton.system.errors import UsageError

Together = Callable[[int, Callable[[int], Any]], list[Any]]


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> Together:
    """together(P, work): the results of work(rank) in P threads, which `distributed` takes for P processes."""

    def run(processes: int, work: Callable[[int], Any]) -> list[Any]:
        place, meeting = threading.local(), threading.Barrier(processes, timeout=60)
        given: list[Tensor] = [torch.empty(0)] * processes

        def add_up(tensor: Tensor) -> Tensor:
            given[place.rank] = tensor.clone()
            meeting.wait()
            tensor.copy_(torch.stack(given).sum(0))
            meeting.wait()
            return tensor

        monkeypatch.setattr(distributed, "rank", lambda: place.rank)
        monkeypatch.setattr(distributed, "world_size", lambda: processes)
        monkeypatch.setattr(distributed, "sum_over_processes", add_up)

        def begin(rank: int) -> Any:
            place.rank = rank
            return work(rank)

        with ThreadPoolExecutor(processes) as pool:
            return list(pool.map(begin, range(processes)))

    return run


def small_network() -> nn.Module:
    """A network with every kind of batch norm: 2d and 1d, without weights, and with a cumulative average."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 4, 3, bias=False),
        nn.BatchNorm2d(4, affine=False, momentum=None),
        nn.Flatten(),
        nn.Linear(64, 5, bias=False),
        nn.BatchNorm1d(5, momentum=0.3),
        nn.Linear(5, 2),
    )


NETWORKS = {"all kinds": small_network, "small_resnet": lambda: make_model("small_resnet", 2)}


def activated_network() -> nn.Module:
    """A network with timm's batch norm, which activates what it has normalised."""
    from timm.layers import BatchNormAct2d

    return nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), BatchNormAct2d(6), nn.Flatten(), nn.Linear(216, 2))


NETWORKS["with activation"] = activated_network


def three_steps(model: nn.Module, image: Tensor, label: Tensor, rank: int, processes: int) -> tuple[list[float], Any]:
    """Take three steps of gradient descent on a process's rows. Return its loss sums, and the final state."""
    own, losses = slice(rank, None, processes), []
    model.train()
    for step in range(3):
        loss = functional.cross_entropy(model(image[step][own]), label[own], reduction="sum")
        model.zero_grad()
        (loss / len(label)).backward()
        for parameter in model.parameters():
            assert parameter.grad is not None
            gradient = parameter.grad if processes == 1 else distributed.sum_over_processes(parameter.grad)
            parameter.data -= 0.1 * gradient
        losses.append(float(loss.detach()))
    return losses, model.state_dict()


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(
    ("rows", "processes", "dtype", "tolerance"),
    [
        (8, 2, torch.float64, 1e-9),
        (9, 2, torch.float64, 1e-9),  # unequal shares
        (2, 3, torch.float64, 1e-9),  # a process without rows
        (9, 2, torch.float32, 1e-5),
    ],
)
def test_losses_weights_and_statistics_are_those_of_one_process(
    together: Together, network: str, rows: int, processes: int, dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    one = NETWORKS[network]().to(dtype)
    networks = [copy.deepcopy(one) for _ in range(processes)]
    image, label = torch.randn(3, rows, 3, 8, 8, dtype=dtype), torch.arange(rows) % 2
    expected, state = three_steps(one, image, label, 0, 1)
    for model in networks:
        share_statistics(model)
        share_statistics(model)  # a second call changes nothing
    results = together(processes, lambda rank: three_steps(networks[rank], image, label, rank, processes))
    losses = torch.tensor([found for found, _ in results], dtype=torch.float64).sum(0)
    torch.testing.assert_close(losses, torch.tensor(expected, dtype=torch.float64), rtol=tolerance, atol=tolerance)
    for _, found in results:
        assert found.keys() == state.keys()
        for name, value in state.items():
            torch.testing.assert_close(found[name], value, rtol=10 * tolerance, atol=10 * tolerance, msg=name)


def test_own_statistics_would_give_other_losses() -> None:
    torch.manual_seed(0)
    model, image = small_network().train(), torch.randn(8, 3, 8, 8)
    assert not torch.allclose(model(image)[::2], model(image[::2]), atol=1e-2)


def test_layers_in_evaluation_mode_use_their_running_statistics_and_send_nothing(monkeypatch) -> None:
    monkeypatch.setattr(distributed, "sum_over_processes", lambda tensor: pytest.fail("a sum over processes"))
    torch.manual_seed(0)
    model, image = small_network(), torch.randn(4, 3, 8, 8)
    model[1].running_mean += 1
    expected = copy.deepcopy(model).eval()(image)
    share_statistics(model)
    assert torch.equal(model.eval()(image), expected)


def test_sharing_changes_neither_layers_nor_weights_nor_copies(together: Together) -> None:
    model = small_network()
    layers, state = dict(model.named_modules()), {name: value.clone() for name, value in model.state_dict().items()}
    share_statistics(model)
    assert dict(model.named_modules()) == layers
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    twin = copy.deepcopy(model)
    together(2, lambda rank: (model, copy.deepcopy(model))[rank].train()(torch.randn(2, 3, 8, 8)))
    assert int(model[1].num_batches_tracked) == 1
    assert int(twin[1].num_batches_tracked) == 0


def test_a_batch_norm_with_a_forward_pass_of_its_own_is_refused() -> None:
    class Activated(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).relu()

    with pytest.raises(UsageError, match=r"the layer 1 of Sequential is a Activated, .* set --dist\.sync_bn false"):
        share_statistics(nn.Sequential(nn.Conv2d(3, 6, 3), Activated(6)))


def test_a_single_value_per_channel_over_all_processes_is_an_error(together: Together) -> None:
    model = nn.BatchNorm1d(3)
    share_statistics(model)
    with pytest.raises(ValueError, match="more than one value per channel in training; found 1"):
        together(2, lambda rank: model(torch.ones(1 - rank, 3)))


def test_layers_that_a_hold_freezes_do_not_train() -> None:
    model = small_network()
    assert list(trained_batch_norms(model)) == ["1", "4", "7"]
    assert list(trained_batch_norms(model, lambda network: network[4].eval())) == ["1", "7"]  # type: ignore[index,func-returns-value]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [9, 2])
def test_on_a_gpu_values_and_gradients_are_those_of_one_process(together: Together, rows: int, dtype: torch.dtype):
    torch.manual_seed(0)
    one = nn.BatchNorm2d(6).cuda().train()
    shared = [copy.deepcopy(one) for _ in range(3)]
    image = (torch.randn(rows, 6, 5, 5, device="cuda") * 3 + 1).to(dtype, memory_format=torch.channels_last)
    weight = torch.randn_like(image)
    expected_image = image.clone().requires_grad_()
    expected = one(expected_image)
    (expected * weight).float().sum().backward()

    def work(rank: int) -> tuple[Tensor, Tensor]:
        own = image[rank::3].detach().requires_grad_()
        share_statistics(shared[rank])
        output = shared[rank](own)
        with torch.autograd.set_multithreading_enabled(False):
            (output * weight[rank::3]).float().sum().backward()
        assert own.grad is not None
        return output.detach(), own.grad

    tolerance = 1e-4 if dtype == torch.float32 else 5e-2
    for rank, (output, gradient) in enumerate(together(3, work)):
        torch.testing.assert_close(output, expected[rank::3].detach(), rtol=tolerance, atol=tolerance)
        assert expected_image.grad is not None
        torch.testing.assert_close(gradient, expected_image.grad[rank::3], rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(shared[rank].running_var, one.running_var, rtol=1e-3, atol=1e-4)
