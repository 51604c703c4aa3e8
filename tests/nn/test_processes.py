"""Who is who among processes, and what passes between them, without starting any; two real ones are in test_following."""

import os

import numpy as np
import pytest
import torch.distributed

from habitus.errors import InputError, TrainingError
from habitus.nn import processes
from habitus.nn.processes import Group, share, together

VARIABLES = {
    "WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1",
}  # fmt: skip


def pair() -> tuple[Group, Group]:
    store = torch.distributed.HashStore()
    return Group(store, 0, 2, 2), Group(store, 1, 2, 2)


def test_several_are_those_that_torchrun_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process whose surroundings happen to name a rank would wait for others that do not exist."""
    assert not processes.several()
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    assert processes.several()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not processes.several()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in VARIABLES:
        with monkeypatch.context() as without:
            without.delenv(name)
            assert not processes.several()
    assert {name: os.environ[name] for name in VARIABLES} == VARIABLES


def test_machines_with_unlike_numbers_of_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fabric would say that a product does not match, or wait for a machine with as many processes as this one."""
    for name, value in {**VARIABLES, "WORLD_SIZE": "3"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="here are 2 of 3"):
        processes.group()


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes would share a GPU, which NCCL does not do, after it has waited for a while."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="2 processes on this machine need as many GPUs; it has 1"):
        pair()[0].fabric("cuda", "32-true")


def test_only_the_first_of_those_that_train_together_does_what_is_done_once() -> None:
    """What is measured after a training would be measured by all, or by nobody where one process trains alone."""
    first, second = pair()
    assert processes.current() is None and processes.is_first()
    with together(first):
        assert processes.is_first()
    with together(second):
        assert not processes.is_first() and processes.current() is second
    assert processes.current() is None


def test_jobs_arrive_in_order_until_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job would be done twice or not at all, or one be posted to processes that are still at another."""
    monkeypatch.setattr(processes, "_GRACE", 0.0)
    first, second = pair()
    assert first.post({"name": "a"}) == 0
    with pytest.raises(TrainingError, match="stuck"):
        first.post({"name": "b"})
    jobs = second.jobs()
    assert next(jobs) == (0, {"name": "a"})
    assert not second.has_ended(0)
    first.end(0)
    assert second.has_ended(0)
    second._store.set("left/0/1", "")  # as it does when it asks for the next one, which would have it wait here
    assert first.post({"name": "b"}) == 1
    assert next(jobs) == (1, {"name": "b"})
    first._store.set("job/2", '"over"')
    assert list(jobs) == []


def test_one_of_those_in_trouble_says_so() -> None:
    """Every process would say why it failed, or none."""
    store = torch.distributed.HashStore()
    groups = [Group(store, rank, 3, 3) for rank in range(3)]
    assert not groups[0].is_in_trouble()
    assert [group.is_first_in_trouble() for group in groups[1:]] == [True, False]
    assert groups[0].is_in_trouble()


def test_share_of_nobody_and_of_few() -> None:
    """A log with fewer users than processes would end the training."""
    assert share(np.zeros(0), np.zeros(0, int), 3).tolist() == []
    assert share(np.array([5.0]), np.array([0]), 4).tolist() in [[1], [2]]
    assert share(np.ones(2), np.array([0, 0]), 2).tolist() == [0, 1]
    assert share(np.array([3.0, 1, 1, 1]), np.zeros(4, int), 2).tolist() == [0, 1, 1, 1]
    assert share(np.ones(6), np.array([0, 0, 0, 0, 1, 1]), 2).tolist() == [0, 0, 0, 1, 1, 1], "the first file has two thirds"
    assert share(np.ones(8), np.array([0, 0, 0, 0, 0, 1, 1, 1]), 2).tolist() == [0] * 5 + [1] * 3, "five eighths, a quarter above its due"
