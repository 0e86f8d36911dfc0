"""Batches by index arithmetic against lists per user."""

import random
from collections import Counter
from dataclasses import fields, is_dataclass, replace
from itertools import chain, pairwise

import pytest
import torch

from seqgen import noise
from seqgen.data.ragged import Cases, Sequences, count_transitions, ragged, transitions_occur
from seqgen.data.sequences import evaluation_batch, one_target, sliced, training_batch
from seqgen.data.split import leave_one_out


def make_histories(seed, *, shortest=1):
    """Users of 1, 2, 3, about 10 and about 100 items. No item stands at two places, so a slip shows, but for a few."""
    rng = random.Random(seed)
    lengths = [1, 2, 3, *(rng.randint(4, 12) for _ in range(8)), *(rng.randint(60, 130) for _ in range(3)), 3, 2, 1]
    lengths = [length for length in lengths if length >= shortest]
    rng.shuffle(lengths)
    fresh = iter(rng.sample(range(1, 5000), 2000))
    histories = [[next(fresh) for _ in range(length)] for length in lengths]
    for history in histories:
        if len(history) > 9:
            history[-2] = history[1]  # seen twice
    return histories


def flat(histories):
    lengths = torch.tensor([0, *map(len, histories)])
    return Sequences(values=torch.tensor([*chain(*histories)], dtype=torch.int32), offsets=lengths.cumsum(0))


def random_cases(histories, seed):
    """Three histories of each user, in mixed order: (user, first, stop) with an item at stop, and the Cases."""
    rng = random.Random(seed)
    chosen = []
    for user, history in enumerate(histories):
        for _ in range(3):
            stop = rng.randint(1, len(history) - 1)
            chosen.append((user, rng.choice([0, rng.randint(0, stop - 1)]), stop))
    rng.shuffle(chosen)
    offsets = flat(histories).offsets
    users, start, stop = torch.tensor(chosen).T
    ends = offsets[users] + stop
    return chosen, Cases(users=users, start=offsets[users] + start, stop=ends, seen_stop=ends)


def check_groups(batch, inputs, num_rows):
    """Each row once, right-padded, cut to the group's longest, with rows of like length; inputs() in their order."""
    rows = [row for group in batch.groups for row in group.rows.tolist()]
    assert sorted(rows) == list(range(num_rows))
    for group in batch.groups:
        expected = [inputs[row] for row in group.rows.tolist()]
        longest = max(map(len, expected))
        assert group.items.tolist() == [items + [0] * (longest - len(items)) for items in expected]
        assert group.lengths.tolist() == [len(items) for items in expected]
        real = [i * longest + t for i, items in enumerate(expected) for t in range(len(items))]
        assert group.flat_index.tolist() == real
        assert longest <= max(4, 2 * min(map(len, expected)))
    assert batch.inputs().tolist() == [item for row in rows for item in inputs[row]]
    return rows


def check_seen(batch, histories):
    seen = [[] for _ in histories]
    for row, item in zip(batch.seen_rows.tolist(), batch.seen_items.tolist(), strict=True):
        seen[row].append(item)
    assert list(map(sorted, seen)) == list(map(sorted, histories))


@pytest.mark.parametrize("max_len", [1, 3, 10, 64])
@pytest.mark.parametrize("seed", range(3))
def test_training_batch(seed, max_len):
    histories = make_histories(seed)
    index = random.Random(seed).sample(range(len(histories)), 11)
    batch = training_batch(
        flat(histories), leave_one_out(flat(histories), held_out=0), torch.tensor(index), max_len=max_len
    )
    chosen = [histories[i] for i in index]
    windows = [history[-max_len - 1 :] for history in chosen]
    rows = check_groups(batch, [window[:-1] for window in windows], len(index))
    pairs = [pair for row in rows for pair in zip(windows[row], windows[row][1:], strict=False)]
    assert list(zip(batch.inputs().tolist(), batch.targets.tolist(), strict=True)) == pairs
    assert batch.target_rows.tolist() == [row for row in rows for _ in windows[row][1:]]
    assert batch.normalizer == len(pairs)
    assert batch.users.tolist() == batch.cases.tolist() == index
    assert len(batch) == len(index)
    check_seen(batch, chosen)


@pytest.mark.parametrize("max_len", [1, 3, 10, 64])
@pytest.mark.parametrize("seed", range(3))
def test_evaluation_batch(seed, max_len):
    histories = make_histories(seed, shortest=2)
    chosen, cases = random_cases(histories, seed)
    index = random.Random(seed).sample(range(len(chosen)), 20)
    batch = evaluation_batch(flat(histories), cases, torch.tensor(index), max_len=max_len, mask_seen=True)
    chosen = [chosen[i] for i in index]
    known = [histories[user][first:stop] for user, first, stop in chosen]
    check_groups(batch, [history[-max_len:] for history in known], len(index))
    assert batch.targets.tolist() == [histories[user][stop] for user, _, stop in chosen]
    assert batch.target_rows.tolist() == list(range(len(index)))
    assert batch.newest().tolist() == [history[-1] for history in known]
    assert batch.users.tolist() == [user for user, _, _ in chosen]
    assert batch.cases.tolist() == index
    check_seen(batch, known)


def test_seen_items_only_where_asked_for():
    sequences = flat([[1, 2, 3, 4]])
    cases = leave_one_out(sequences, held_out=1)
    batch = evaluation_batch(sequences, cases, torch.tensor([0]), max_len=2, mask_seen=False)
    assert batch.seen_rows.tolist() == batch.seen_items.tolist() == []


def test_leave_one_out():
    sequences = flat([[5, 6, 7], [1, 2, 3, 4]])
    for held_out, stop in ((2, [1, 5]), (1, [2, 6])):
        cases = leave_one_out(sequences, held_out=held_out)
        assert cases.users.tolist() == [0, 1]
        assert cases.start.tolist() == [0, 3]
        assert cases.stop.tolist() == stop


def test_one_item_gives_no_target():
    batch = training_batch(
        flat([[7], [8]]), leave_one_out(flat([[7], [8]]), held_out=0), torch.tensor([0, 1]), max_len=5
    )
    assert batch.targets.tolist() == batch.inputs().tolist() == []
    assert batch.normalizer > 0  # a loss is divided by it


def test_an_empty_slice_of_a_batch():
    # Evaluation with more processes than users in the last batch.
    sequences = flat([[1, 2, 3]])
    cases = leave_one_out(sequences, held_out=1)
    batch = evaluation_batch(sequences, cases, torch.empty(0, dtype=torch.long), max_len=5, mask_seen=True)
    assert len(batch) == len(batch.targets) == len(batch.inputs()) == len(batch.newest()) == len(batch.seen_rows) == 0


def test_long_histories_make_few_groups():
    histories = [[1] * length for length in range(2, 500)]
    sequences = flat(histories)
    batch = training_batch(sequences, leave_one_out(sequences, held_out=0), torch.arange(len(histories)), max_len=512)
    assert len(batch.groups) <= 8


def test_ragged():
    start, length = [4, 0, 9, 2, 7], [3, 0, 1, 0, 2]
    row, index = ragged(torch.tensor(start), torch.tensor(length))
    assert row.tolist() == [0, 0, 0, 2, 4, 4]
    assert index.tolist() == [4, 5, 6, 9, 7, 8]
    row, index = ragged(torch.tensor([3]), torch.tensor([0]))
    assert row.tolist() == index.tolist() == []


@pytest.mark.parametrize("last", [None, 1, 2, 5])
@pytest.mark.parametrize("time_span", [1, 3])
@pytest.mark.parametrize("seed", range(2))
def test_count_transitions(seed, time_span, last):
    rng = random.Random(seed)
    histories = [[rng.randint(1, 6) for _ in range(rng.choice([1, 2, 3, 9]))] for _ in range(30)]
    expected = Counter()
    for history in histories:
        kept = history if last is None else history[-last:]
        for i in range(len(kept)):
            for j in range(i + 1, min(i + time_span, len(kept) - 1) + 1):
                expected[kept[i], kept[j]] += 1
    head, tail, count = count_transitions(flat(histories), num_items=6, time_span=time_span, last=last)
    found = list(zip(head.tolist(), tail.tolist(), count.tolist(), strict=True))
    assert found == [(i, j, n) for (i, j), n in sorted(expected.items())]


def test_count_transitions_of_fewer_items_than_the_span():
    head, tail, count = count_transitions(flat([[3, 1]]), num_items=3, time_span=5)
    assert (head.tolist(), tail.tolist(), count.tolist()) == ([3], [1], [1])


@pytest.mark.parametrize("held_out", [0, 1, 2])
def test_transitions_that_occur(monkeypatch, held_out):
    monkeypatch.setattr("seqgen.data.ragged.CASES_AT_ONCE", 3)
    rng = random.Random(held_out)
    histories = [[rng.randint(1, 6) for _ in range(rng.choice([1, 2, 3, 5]))] for _ in range(10)]
    pairs = {pair for history in histories for pair in pairwise(history[: len(history) - held_out])}
    asked = [(i, j) for i in range(1, 7) for j in range(1, 7)] * 2
    assert 0 < len(pairs) < 36
    head, tail = torch.tensor(asked, dtype=torch.int32).T
    sequences = flat(histories)
    cases = leave_one_out(sequences, held_out)
    found = transitions_occur(sequences, cases, head, tail, num_items=6)
    assert [pair for pair, occurs in zip(asked, found.tolist(), strict=True) if occurs] == [
        pair for pair in asked if pair in pairs
    ]


def all_training(histories, *, max_len):
    sequences = flat(histories)
    cases = leave_one_out(sequences, held_out=0)
    return training_batch(sequences, cases, torch.arange(len(histories)), max_len=max_len)


@pytest.mark.parametrize("max_len", [1, 3, 10, 64])
@pytest.mark.parametrize("seed", range(3))
def test_one_target_cuts_each_sequence_before_its_target(seed, max_len):
    histories = make_histories(seed, shortest=2)
    batch = all_training(histories, max_len=max_len)
    before = [(group.items.clone(), group.lengths.clone()) for group in batch.groups]
    torch.manual_seed(seed)
    cut = one_target(batch)
    windows = [history[-max_len - 1 :] for history in histories]
    target = 0
    for group, whole in zip(cut.groups, batch.groups, strict=True):
        assert group.items.shape == whole.items.shape
        columns = group.items.shape[1]
        for row, (items, length) in enumerate(zip(group.items.tolist(), group.lengths.tolist(), strict=True)):
            window = windows[group.rows[row]]
            assert 1 <= length < len(window)
            assert items == window[:length] + [0] * (columns - length)
            assert group.flat_index[row] == row * columns + length - 1
            assert cut.targets[target] == window[length]
            assert cut.target_rows[target] == group.rows[row]
            target += 1
    assert target == len(cut.targets) == cut.normalizer == len(histories)
    newest = cut.newest()[cut.target_rows].tolist()
    assert cut.inputs().tolist() == newest
    check_seen(cut, histories)
    for group, (items, lengths) in zip(batch.groups, before, strict=True):  # the batch itself is left as it was
        assert torch.equal(group.items, items)
        assert torch.equal(group.lengths, lengths)
    assert batch.normalizer == len(batch.targets) == sum(len(window) - 1 for window in windows)


def test_one_target_is_cut_evenly_over_all_positions():
    lengths = [2, 4, 12]
    batch = all_training([[*range(1, length + 1)] for length in lengths for _ in range(3000)], max_len=20)
    torch.manual_seed(0)
    cut = one_target(batch)
    kept = torch.cat([group.lengths for group in cut.groups])
    for length in lengths:
        counts = kept[(cut.target_rows // 3000) == lengths.index(length)].bincount(minlength=length)
        expected = 3000 / (length - 1)
        assert counts[0] == 0
        assert len(counts) == length  # never the whole history, whose last item has no next
        assert ((counts[1:] - expected).abs() < 5 * expected**0.5 + 1e-9).all()


@pytest.mark.parametrize("processes", [2, 3, 5])
@pytest.mark.parametrize("one", [False, True])
def test_what_is_drawn_for_a_target_does_not_depend_on_the_number_of_processes(processes, one):
    histories = make_histories(0, shortest=2)
    sequences = flat(histories)
    cases, index = leave_one_out(sequences, held_out=0), torch.randperm(len(histories))
    lengths = (cases.stop[index] - cases.start[index] - 1).clamp(max=10)

    def drawn(rank, count):
        batch = training_batch(sequences, cases, index[rank::count], max_len=10)
        if count > 1:
            whole = sliced(lengths, rank, count)
            batch = replace(batch, whole=whole, normalizer=whole.targets / count)
        torch.manual_seed(3)
        batch = one_target(batch) if one else batch
        torch.manual_seed(4)
        values = batch.draw(torch.rand, (2, len(batch.targets), 3), dim=1).transpose(0, 1)
        users = batch.users[batch.target_rows].tolist()
        shares = count * batch.normalizer  # of all slices together
        return sorted(zip(users, batch.targets.tolist(), values.tolist(), strict=True)), shares

    whole, total = drawn(0, 1)
    slices = [drawn(rank, processes) for rank in range(processes)]
    assert sorted(case for cases, _ in slices for case in cases) == whole
    assert total == len(whole)
    assert all(shares == pytest.approx(total) for _, shares in slices)


@pytest.mark.parametrize("processes", [2, 3, 5])
def test_what_is_drawn_for_a_row_does_not_depend_on_the_number_of_processes(processes):
    histories = make_histories(0, shortest=2)
    sequences = flat(histories)
    cases, index = leave_one_out(sequences, held_out=0), torch.randperm(len(histories))
    lengths = (cases.stop[index] - cases.start[index] - 1).clamp(max=10)

    def drawn(rank, count):
        """Of each user two draws, a value of its own and one for each real item."""
        batch = replace(training_batch(sequences, cases, index[rank::count], max_len=10), seed=3)
        batch = replace(batch, whole=sliced(lengths, rank, count)) if count > 1 else batch
        found = {}
        for number, group in enumerate(batch.groups):
            with noise.rows(batch.rows_of_group(number)):
                first = noise.draw(torch.rand, (len(group.rows), 2), device=group.items.device)
                second = noise.draw(torch.randn, (*group.items.shape, 3), columns=(1,), device=group.items.device)
            for place, row in enumerate(group.rows.tolist()):
                own = second[place, : int(group.lengths[place])]
                found[int(batch.users[row])] = (first[place].tolist(), own.tolist())
        return found

    whole = drawn(0, 1)
    assert len(whole) == len(histories)
    assert {user: own for rank in range(processes) for user, own in drawn(rank, processes).items()} == whole
    assert len({tuple(own[0]) for own in whole.values()}) == len(whole)


def test_without_a_step_torchs_own_generator_draws():
    sequences = flat(make_histories(0, shortest=2))
    batch = training_batch(sequences, leave_one_out(sequences, held_out=0), torch.arange(3), max_len=10)
    assert batch.rows_of_group(0) is None
    torch.manual_seed(1)
    with noise.rows(None):
        drawn = noise.draw(torch.rand, (2, 3), device=batch.targets.device)
    torch.manual_seed(1)
    assert drawn.equal(torch.rand(2, 3))


def test_one_target_of_no_row():
    batch = training_batch(flat([[1, 2]]), leave_one_out(flat([[1, 2]]), held_out=0), torch.arange(0), max_len=5)
    cut = one_target(batch)
    assert len(cut.targets) == len(cut.target_rows) == 0
    assert cut.normalizer > 0


def tensors_of(value):
    if isinstance(value, torch.Tensor):
        return [value]
    if is_dataclass(value):
        value = [getattr(value, field.name) for field in fields(value)]
    return [*chain(*map(tensors_of, value))] if isinstance(value, tuple | list) else []


def test_to_moves_every_tensor():
    histories = make_histories(0)
    sequences = flat(histories)
    batch = training_batch(sequences, leave_one_out(sequences, held_out=0), torch.arange(len(histories)), max_len=20)
    moved = batch.to("meta")
    assert len(tensors_of(moved)) == len(tensors_of(batch)) == 6 + 4 * len(batch.groups)
    assert all(tensor.is_meta for tensor in tensors_of(moved))
    assert [type(group) for group in moved.groups] == [type(group) for group in batch.groups]
    assert moved.normalizer == batch.normalizer
    assert not any(tensor.is_meta for tensor in tensors_of(batch))


def test_rows_of_an_evaluation_batch_are_the_batch_of_those_rows():
    histories = make_histories(5, shortest=2)
    chosen, cases = random_cases(histories, 6)
    index, how = torch.arange(len(chosen)), {"max_len": 20, "mask_seen": True}
    whole = evaluation_batch(flat(histories), cases, index, **how)
    for start, stop in ((0, 1), (3, 11), (len(chosen) - 2, len(chosen)), (0, len(chosen))):
        piece = whole.rows(start, stop)
        alone = evaluation_batch(flat(histories), cases, index[start:stop], **how)
        check_groups(
            piece, [histories[u][max(first, end - 20) : end] for u, first, end in chosen[start:stop]], stop - start
        )
        for name in ("targets", "target_rows", "users", "cases", "seen_rows", "seen_items", "normalizer"):
            assert torch.equal(*(torch.as_tensor(getattr(batch, name)) for batch in (piece, alone))), name
        assert torch.equal(piece.newest(), alone.newest())
