"""Which device each process computes on."""

import pytest
import torch

from tocsr.devices import pick_device
from tocsr.errors import TocsrError, is_out_of_memory


@pytest.fixture
def second_of_two(monkeypatch):
    """The environment that torchrun gives the second of two processes."""
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)


def test_the_cpu_is_the_cpu_whatever_the_process(second_of_two):
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="needs a machine without a second GPU")
def test_a_process_asks_for_the_gpu_of_its_own_number(second_of_two):
    with pytest.raises(TocsrError, match="device 'cuda:1' cannot be used"):
        pick_device("cuda")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_process_takes_the_gpu_of_its_own_number(second_of_two):
    assert pick_device("cuda") == torch.device("cuda:1")


@pytest.mark.parametrize("name", ["cuda:0", "mps"])
def test_a_device_that_all_processes_would_share_is_refused(second_of_two, name):
    with pytest.raises(TocsrError, match=f"2 processes train on device cuda or cpu, got '{name}'"):
        pick_device(name)


def test_an_allocation_that_torch_refuses_counts_as_memory_that_ran_out():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
