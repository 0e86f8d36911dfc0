"""The optimisers of conf/optimizer against torch's plain loops."""

import pytest
import torch
from hydra.utils import instantiate

from seqgen import config


@pytest.mark.parametrize("name", ["adam", "adam_l2", "adamw"])
def test_a_fused_optimizer_steps_as_the_plain_one(name, tmp_path):
    found = []
    for fused in ("true", "false"):
        cfg = config.compose([f"optimizer={name}", f"optimizer.fused={fused}", "optimizer.lr=0.1"], output_dir=tmp_path)
        torch.manual_seed(1)
        parameter = torch.nn.Parameter(torch.randn(7, 5))
        optimizer = instantiate(cfg.optimizer, _convert_="all")([parameter])
        assert optimizer.defaults["fused"] is (fused == "true")
        for _ in range(5):
            parameter.grad = torch.randn(7, 5)
            optimizer.step()
        found.append(parameter.detach())
    torch.testing.assert_close(*found)
