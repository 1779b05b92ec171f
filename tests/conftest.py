from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def global_state_is_left_alone():
    """No test, and nothing that it calls, may touch torch's global generator or default type."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before), "the global random state was used"
    assert torch.get_default_dtype() is torch.float32
