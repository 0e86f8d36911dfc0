"""CDDRec on a generated set that is built in a blink."""

import torch
from conftest import QUIET, TINY

from seqgen import config
from seqgen.check import check

CROPPED = ("model.views.crop=0.5",)
SIZES = ("model.hidden_dim=16", "data.max_len=10", "diffusion.steps=6", "data.source.max_length=16")
RATIOS = {"crop": 0.6, "mask": 0.3, "reorder": 0.6}
STILL = ("model.decoder.dropout=0", "attention.dropout=0")


def built(folder, *overrides, seed=0):
    cfg = config.compose(["model=cddrec", *TINY, *QUIET, *SIZES, *overrides], output_dir=folder)
    check(cfg)
    data = config.build(cfg, "data")
    torch.manual_seed(seed)
    return config.build(cfg, "model", catalog=data.catalog), data


def first_batch(data):
    return next(iter(data.train_dataloader()))


def silent(monkeypatch):
    """No noise in targets and predictions."""
    constant(monkeypatch, torch.zeros)


def unit(monkeypatch):
    """All noise is one, so that its weights show."""
    constant(monkeypatch, torch.ones)


def constant(monkeypatch, values):
    monkeypatch.setattr("seqgen.model.cddrec.draw", lambda sample, shape, **how: values(shape))
    monkeypatch.setattr("seqgen.model.cddrec._noise", lambda batch, like: values(like.shape))
