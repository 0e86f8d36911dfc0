"""The augmented views of CDDRec: whose partner each of their positions is, and what it has seen."""

from functools import partial

import pytest
import torch
from cddrec_case import CROPPED, RATIOS, STILL, built, first_batch, silent
from test_properties import CHAIN, VIEWS

from seqgen.attention import SequenceMask


@pytest.fixture
def make(tmp_path):
    return partial(built, tmp_path)


def test_the_augmented_view_is_aligned_with_the_main_one(make, monkeypatch):
    """With a crop of the whole row both views are the same, so partners must predict the same."""
    silent(monkeypatch)
    model, data = make(*STILL, "model.views.crop=1.0")
    model.eval()
    batch = first_batch(data)
    start, steps = 0, torch.tensor([1, 3])
    for group in batch.groups:
        one, _ = model._decode(group, group.lengths, start, steps, None)
        torch.testing.assert_close(one.augmented, one.mean[:, one.partner - start])
        assert one.partner.tolist() == list(range(start, start + len(group.flat_index)))
        start += len(group.flat_index)


@pytest.mark.parametrize("kind", ["crop", "mask", "reorder"])
def test_partners_stand_for_the_same_target(make, kind):
    model, data = make(f"model.views.{kind}={RATIOS[kind]}", "model.contrast.weight=1")
    model.eval()  # dropout would draw before the view does
    batch = first_batch(data)
    inputs, start = batch.inputs(), 0
    for group in batch.groups:
        torch.manual_seed(5)
        view, _ = model.views(group.items, group.lengths, model.mask_token, group.lengths)
        torch.manual_seed(5)
        one, _ = model._decode(group, group.lengths, start, torch.tensor([1]), None)
        items, main = view.items[view.causal], inputs[one.partner]
        assert len(items) == len(main)
        if kind == "crop":
            assert items.equal(main)
        elif kind == "mask":
            assert ((items == main) | (items == model.mask_token)).all()
        else:
            whole = start + torch.arange(len(group.flat_index))
            assert set(one.partner.tolist()) < set(whole.tolist())
        # What a kept position of the view has seen lies in the past of its partner: no target is given away.
        offsets = start + group.lengths.cumsum(0) - group.lengths
        row, column = view.causal.nonzero(as_tuple=True)
        for b, t, partner in zip(row.tolist(), column.tolist(), one.partner.tolist(), strict=True):
            past = set(inputs[offsets[b] : partner + 1].tolist())
            assert set(view.items[b, : t + 1].tolist()) - {model.mask_token} <= past
        start += len(group.flat_index)


def test_each_position_of_both_views_is_fed_the_noisy_form_of_its_own_target(make):
    model, data = make(*STILL, *CHAIN, *VIEWS, "model.contrast.weight=1")
    model.eval()
    batch, steps, start = first_batch(data), torch.tensor([2, 6]), 0
    x_t = torch.randn(2, len(batch.targets), 16)

    def alone(context, row, column, target):
        past = SequenceMask(torch.tensor([column + 1]), column + 1, last=True)
        return model.decoder(context[row : row + 1, : column + 1], past, steps, x_t[:, target, None, None])[:, 0, 0]

    for group in batch.groups:
        torch.manual_seed(3)
        one, _ = model._decode(group, group.lengths, start, steps, x_t)
        torch.manual_seed(3)
        view, _ = model.views(group.items, group.lengths, model.mask_token, group.lengths)
        context, _ = model.encoder(model.embed(group.items, group.lengths - 1), group.lengths)
        other, _ = model.encoder(model.embed(view.items, group.lengths - 1 - view.columns[:, 0]), view.lengths)
        for n, index in enumerate(group.flat_index.tolist()):
            row, column = divmod(index, group.items.shape[1])
            torch.testing.assert_close(one.mean[:, n], alone(context, row, column, start + n), rtol=1e-4, atol=1e-5)
        for m, (row, column) in enumerate(view.causal.nonzero().tolist()):
            wanted = alone(other, row, column, int(one.partner[m]))
            torch.testing.assert_close(one.augmented[:, m], wanted, rtol=1e-4, atol=1e-5)
        start += len(group.flat_index)


def test_a_cropped_view_keeps_the_positions_of_the_main_one(make, monkeypatch):
    model, data = make(*STILL, *CROPPED)
    model.eval()
    embedded = []
    monkeypatch.setattr(model.encoder, "forward", lambda x, lengths, **_: (embedded.append(x), (x, {}))[1])
    group = max(first_batch(data).groups, key=lambda g: g.items.shape[1])
    torch.manual_seed(2)
    model._decode(group, group.lengths, 0, torch.tensor([1]), None)
    torch.manual_seed(2)
    view, _ = model.views(group.items, group.lengths, model.mask_token, group.lengths)
    main, cropped = embedded
    row, column = view.causal.nonzero(as_tuple=True)
    torch.testing.assert_close(cropped[row, column], main[row, view.columns[row, column]])
