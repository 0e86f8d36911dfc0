"""Multi-query attention: the mean of the last L rows as query source, two branches and their weights."""

import pytest
import torch
from conftest import mechanism

from seqgen.attention import SequenceMask
from seqgen.attention.multi_query import LQueryAttention, branches
from seqgen.attention.softmax import SoftmaxAttention
from seqgen.errors import SettingError


@pytest.mark.parametrize("window", [1, 2, 3, 5])
@pytest.mark.parametrize("num_columns", [1, 2, 4, 7])
def test_source_is_the_mean_of_the_last_rows(window: int, num_columns: int) -> None:
    layer = LQueryAttention(hidden_dim=2, max_len=7, window=window, num_heads=1, dropout=0.0, out_proj=False)
    x = torch.randn(3, num_columns, 2, dtype=torch.float64)
    lengths = torch.tensor([num_columns, 1, (num_columns + 1) // 2])
    source = layer.source(x, SequenceMask(lengths, num_columns))
    assert source.shape == x.shape
    for b, length in enumerate(lengths.tolist()):
        for t in range(length):
            last = [x[b, s] for s in range(t, max(t - window, -1), -1)]
            torch.testing.assert_close(source[b, t], sum(last) / len(last))


def test_branches_are_the_short_query_and_the_long_one() -> None:
    (alpha, short), (rest, long) = mechanism("multi_query", window=4, alpha=0.3, num_heads=2)
    assert (alpha, rest) == pytest.approx((0.3, 0.7))
    assert [make(hidden_dim=4, max_len=5).window for make in (short, long)] == [1, 4]
    assert [weight for weight, _ in mechanism("multi_query", alpha=1.0)] == [1.0, 0.0]


@pytest.mark.parametrize("last", [False, True])
def test_given_its_query_it_is_softmax_attention(last: bool) -> None:
    layer = LQueryAttention(hidden_dim=4, max_len=5, window=3, num_heads=2, dropout=0.0, out_proj=True)
    softmax = SoftmaxAttention(hidden_dim=4, max_len=5, num_heads=2, dropout=0.0, out_proj=True)
    softmax.load_state_dict(layer.state_dict())
    mask = SequenceMask(torch.tensor([5, 2]), 5, last=last)
    context, query = torch.randn(2, 5, 4), mask.query_rows(torch.randn(2, 5, 4))
    hidden, aux = layer(query, context, mask)
    assert aux == {}
    assert torch.equal(hidden, softmax(query, context, mask)[0])


@pytest.mark.parametrize("setting", [{"window": 0}, {"alpha": -0.1}, {"alpha": 1.1}])
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    [(name, value)] = setting.items()
    given = {"window": 3, "alpha": 0.5, "num_heads": 1, "dropout": 0.0, "out_proj": False}
    with pytest.raises(SettingError, match=rf"^{name}={value} must"):
        branches(**given | setting)
