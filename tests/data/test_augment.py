"""Crop, mask and reorder: what each keeps and changes, of every row, and that all outcomes are as likely."""

import math
from collections import Counter

import pytest
import torch

from seqgen.data.augment import Views, crop, mask, reorder
from seqgen.errors import SettingError

LENGTHS = torch.tensor([1, 2, 3, 7, 12, 12, 5])
TOKEN = 99


@pytest.fixture
def rows():
    """Row r holds r * 100 + 1, r * 100 + 2, ..., then padding."""
    column = torch.arange(1, 13)
    items = torch.where(column <= LENGTHS[:, None], column + 100 * torch.arange(7)[:, None], 0)
    torch.manual_seed(0)
    return items


def lists(items, lengths):
    return [row[:length].tolist() for row, length in zip(items, lengths.tolist(), strict=True)]


def spans(ratio):
    return [max(1, math.floor(ratio * length)) for length in LENGTHS.tolist()]


@pytest.mark.parametrize("ratio", [0.1, 0.6, 1.0])
def test_crop_keeps_a_contiguous_span(rows, ratio):
    for _ in range(20):
        view = crop(rows, LENGTHS, ratio)
        assert view.lengths.tolist() == spans(ratio)
        assert (view.items[torch.arange(12) >= view.lengths[:, None]] == 0).all()
        for whole, part, columns in zip(
            lists(rows, LENGTHS), lists(view.items, view.lengths), lists(view.columns, view.lengths), strict=True
        ):
            start = whole.index(part[0])
            assert part == whole[start : start + len(part)]
            assert columns == list(range(start, start + len(part)))


@pytest.mark.parametrize("ratio", [0.1, 0.3, 1.0])
def test_mask_replaces_so_many_items_and_no_padding(rows, ratio):
    for _ in range(20):
        view = mask(rows, LENGTHS, ratio, TOKEN)
        changed = view.items != rows
        assert changed.sum(1).tolist() == spans(ratio)
        assert (view.items[changed] == TOKEN).all()
        assert not changed[rows == 0].any()
        assert view.columns.equal(torch.arange(12).expand(7, 12))


@pytest.mark.parametrize("ratio", [0.1, 0.6, 1.0])
def test_reorder_shuffles_one_contiguous_span(rows, ratio):
    moved = 0
    for _ in range(20):
        view = reorder(rows, LENGTHS, ratio)
        assert view.items.sort(1).values.equal(rows.sort(1).values)
        assert (view.items[rows == 0] == 0).all()
        for size, changed in zip(spans(ratio), (view.items != rows), strict=True):
            places = changed.nonzero().squeeze(1).tolist()
            moved += len(places)
            if places:
                assert places[-1] - places[0] < size
    assert (moved > 0) == (ratio > 0.1)


def test_every_outcome_is_as_likely():
    torch.manual_seed(1)
    items, lengths = torch.arange(1, 5).expand(24_000, 4), torch.full((24_000,), 4)
    for view, outcomes in (
        (crop(items, lengths, 0.5), 3),
        (mask(items, lengths, 0.5, TOKEN), 6),
        (reorder(items, lengths, 1.0), 24),
    ):
        counts = Counter(map(tuple, view.items.tolist()))
        assert len(counts) == outcomes
        expected = 24_000 / outcomes
        assert sum((count - expected) ** 2 / expected for count in counts.values()) < outcomes + 5 * outcomes**0.5 + 5


def test_the_same_seed_gives_the_same_view(rows):
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(torch.cat([f(rows, LENGTHS, 0.6).items for f in (crop, reorder)]))
    assert draws[0].equal(draws[1])
    assert not draws[0].equal(draws[2])


def test_a_mixed_view_draws_a_kind_for_each_row(rows):
    views, seen = Views(reorder=1.0, mask=1.0, crop=0.5), [Counter() for _ in LENGTHS]
    assert views
    for _ in range(600):
        view, learned = views(rows, LENGTHS, TOKEN, LENGTHS)
        assert learned.equal(view.causal.flatten().nonzero()[:, 0])
        for n, (row, whole) in enumerate(zip(lists(view.items, view.lengths), lists(rows, LENGTHS), strict=True)):
            kind = "mask" if set(row) == {TOKEN} else "crop" if len(row) < len(whole) else "reorder"
            assert kind != "reorder" or sorted(row) == whole
            seen[n][kind] += 1
    for counts, length in zip(seen, LENGTHS.tolist(), strict=True):
        if length > 1:  # a crop of a single item is all of it
            assert set(counts) == {"reorder", "mask", "crop"}
            assert all(abs(count - 200) < 60 for count in counts.values())


def test_a_ratio_of_0_leaves_a_kind_of_view_out(rows):
    assert not Views(crop=0.0, mask=0.0, reorder=0.0)
    view, _ = Views(crop=0.0, mask=1.0, reorder=0.0)(rows, LENGTHS, TOKEN, LENGTHS)
    assert view.items[rows > 0].unique().tolist() == [TOKEN]


@pytest.mark.parametrize("kind", ["crop", "mask", "reorder"])
@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_a_ratio_outside_0_to_1_is_refused(kind, ratio):
    with pytest.raises(SettingError, match=rf"^{kind}={ratio} must lie in \[0, 1\]"):
        Views(**{"crop": 0.0, "mask": 0.0, "reorder": 0.0} | {kind: ratio})
