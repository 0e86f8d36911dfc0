"""What a host tells beforehand, against plain loops."""

import pytest
import torch

from seqgen.data.ragged import Cases, Sequences, most_seen, places


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_places_of_a_mask_are_in_order(share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    for size in (0, 1, 2, 500):
        mask = torch.rand(size, generator=generator) < share
        wanted = mask.nonzero()[:, 0]
        assert places(mask, len(wanted)).equal(wanted)


def test_most_seen_counts_an_item_once_and_nothing_after_the_part() -> None:
    # The longest history holds the fewest items; the second has three until its end, and a fourth held out.
    histories = [[1] * 9, [1, 2, 3, 2, 2, 4], [5, 6], [7]]
    lengths = torch.tensor([0, *map(len, histories)])
    values = torch.tensor([item for history in histories for item in history], dtype=torch.int32)
    sequences = Sequences(values=values, offsets=lengths.cumsum(0))
    start, stop = sequences.offsets[:-1], sequences.offsets[1:].clone()
    stop[1] -= 1
    cases = Cases(users=torch.arange(4), start=start, stop=stop, seen_stop=stop)
    assert most_seen(sequences, cases) == 3
    assert most_seen(sequences, cases[torch.tensor([0, 2, 3])]) == 2
    assert most_seen(sequences, cases[torch.arange(0)]) == 0
