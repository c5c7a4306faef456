"""Several processes that act as one."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from tests.pair import free_port

from debeton.system import distributed
from debeton.system.errors import DataError


def test_a_single_process_raises_its_own_problem() -> None:
    distributed.raise_together("")
    with pytest.raises(DataError, match=r"^the file was cut$"):
        distributed.raise_together("the file was cut")


def tell_problem(rank: int, port: int, answers: Any) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    with distributed.process_group("gloo", torch.device("cpu")):
        distributed.raise_together("")
        try:
            distributed.raise_together("the file was cut" if rank else "")
        except DataError as error:
            answers.put((rank, str(error)))


@pytest.mark.slow
def test_all_processes_raise_the_problem_of_one() -> None:
    context = torch.multiprocessing.get_context("spawn")
    answers = context.Queue()
    torch.multiprocessing.spawn(tell_problem, (free_port(), answers), nprocs=2)
    assert sorted(answers.get(timeout=5) for _ in range(2)) == [(0, "the file was cut"), (1, "the file was cut")]
