"""What all mechanisms share: the mask, the head arithmetic, the refusals, the map they show."""

from pathlib import Path

import pytest
import torch
from attention_cases import HEADS, MAX_LEN, WIDTH, drawn_input, real_rows
from conftest import mechanism

from seqgen import config
from seqgen.attention import (
    Attention,
    Auxiliary,
    SequenceMask,
    added,
    check_heads,
    merge_heads,
    split_heads,
)
from seqgen.errors import SettingError, check_probability

LENGTHS = torch.tensor([5, 1, 3])


def test_mask_of_all_rows_and_of_the_newest() -> None:
    every, newest = SequenceMask(LENGTHS, 5), SequenceMask(LENGTHS, 5, last=True)
    assert every.query_valid.tolist() == [[t < n for t in range(5)] for n in (5, 1, 3)]
    assert newest.query_valid.all()
    assert every.allowed[:, 0].tolist() == [[[j <= i for j in range(5)] for i in range(5)]]
    assert newest.allowed[:, 0].tolist() == [[[j < n for j in range(5)]] for n in (5, 1, 3)]
    x = torch.randn(3, 5, 2)
    assert torch.equal(newest.query_rows(x), torch.stack([x[0, 4:5], x[1, 0:1], x[2, 2:3]]))
    assert every.query_rows(x) is x


def test_heads_are_neighbouring_slices_of_the_width() -> None:
    x = torch.randn(2, 3, 6)
    assert torch.equal(split_heads(x, 2)[:, 1], x[..., 3:])
    assert torch.equal(merge_heads(split_heads(x, 3)), x)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    check_heads(4, 12)
    with pytest.raises(SettingError) as refused:
        check_heads(5, 12)
    assert str(refused.value) == ("num_heads=5 does not divide hidden_dim=12; use one of 1, 2, 3, 4, 6, 12.")
    for num_heads in (0, -2, 24):
        with pytest.raises(SettingError, match=f"num_heads={num_heads} "):
            check_heads(num_heads, 12)


def test_probabilities_lie_in_0_to_1() -> None:
    check_probability(x=0.0)
    for value in (-0.1, 1.0, float("nan")):
        with pytest.raises(SettingError, match=r"^dropout="):
            check_probability(dropout=value)


MECHANISMS = sorted({path.stem for path in Path(config.CONFIG_DIR, "attention").glob("*.yaml")} - {"none"})


def configured(name: str) -> Attention:
    """The layer of the last branch that `attention=name` builds, with no parameter near its starting value."""
    torch.manual_seed(0)
    made = mechanism(name, num_heads=HEADS, dropout=0.3)
    make = made if callable(made) else made[-1][1]
    layer: Attention = make(hidden_dim=WIDTH, max_len=MAX_LEN)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer.double().eval()


CASES = [(name, 0) for name in MECHANISMS] + [(name, 1) for name in MECHANISMS if configured(name).draws]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("name", "samples"), CASES)
def test_the_map_that_is_shown_is_the_one_that_mixes(name: str, samples: int, last: bool) -> None:
    layer = configured(name)
    if samples:
        layer.sample(samples, 1.0, torch.Generator())
        layer.double()
    query, context, mask = drawn_input(last=last)
    query = mask.query_rows(layer.source(context, mask)) if not last else query
    hidden, _ = layer(query, context, mask)
    shown = layer.weights(query, context, mask)
    assert shown.shape == (len(query), HEADS, query.shape[1], context.shape[1])
    assert not shown[~mask.allowed.expand_as(shown)].any()  # nothing newer than the row
    # Row by row, with what has been shown and nothing of padding or of later items.
    for b, row, position, _ in real_rows(mask):
        one = slice(b, b + 1), slice(row, row + 1)
        mixed = layer.mix(shown[b : b + 1, :, row : row + 1, : position + 1], context[b : b + 1, : position + 1])
        torch.testing.assert_close(hidden[one], layer.finish(mixed, query[one]))


@pytest.mark.parametrize("name", MECHANISMS)
def test_a_layer_keeps_what_its_base_promises(name: str) -> None:
    layer = configured(name)
    _, context, mask = drawn_input(last=False)
    assert layer.source(context, mask).shape == context.shape
    assert layer.draws == (layer.noise_shape is not None)
    assert isinstance(layer.one_target, bool)
    before = {name: value.clone() for name, value in layer.named_parameters()}
    layer.reset_parameters(0.5)
    changed = [name for name, value in layer.named_parameters() if not torch.equal(value, before[name])]
    dense = [f"{name}.weight" for name, module in layer.named_modules() if isinstance(module, torch.nn.Linear)]
    assert not changed or set(dense) <= set(changed)


def test_a_mixture_is_by_default_of_the_values_of_each_head() -> None:
    layer = configured("linear")
    context, weights = torch.randn(1, 3, WIDTH, dtype=torch.float64), torch.rand(1, HEADS, 1, 3, dtype=torch.float64)
    value, width = layer.value(context), WIDTH // HEADS
    plain = [weights[0, h, 0] @ value[0, :, h * width : (h + 1) * width] for h in range(HEADS)]
    torch.testing.assert_close(layer.mix(weights, context)[0, 0], torch.cat(plain))


def test_auxiliary_losses_are_added_by_name() -> None:
    one, two = ({"kl": Auxiliary(torch.tensor(value), 0.5, 7)} for value in (1.0, 3.0))
    assert added({}, one) == one
    assert added(one, two | {"other": Auxiliary(torch.tensor(2.0), 1.0)}, share=0.5) == {
        "kl": Auxiliary(torch.tensor(2.5), 0.5, 7),
        "other": Auxiliary(torch.tensor(1.0), 1.0),
    }
    assert one["kl"].value == 1.0
