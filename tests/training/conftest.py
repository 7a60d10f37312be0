import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def threads_of_other_tests():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def one_thread():
    """These models are too small for two threads, which only wait for each other on a busy machine."""
    torch.set_num_threads(1)
