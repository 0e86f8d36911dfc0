"""Embedding, block and encoder against the formulas of their docstrings."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import mechanism
from torch import Tensor, nn

from seqgen import config
from seqgen.attention import Attention, Aux, Auxiliary, SequenceMask
from seqgen.diffusion import schedules
from seqgen.errors import SettingError
from seqgen.layers import Block, Encoder, Inference, SequenceEmbedding

LENGTHS = torch.tensor([4, 1, 3])
NORMS = ("query", "post", "pre")
SIZES = {"hidden_dim": 4, "ffn_dim": 6, "activation": "gelu", "norm": "query", "dropout": 0.0}


def stirred(module: nn.Module, seed: int = 0) -> nn.Module:
    """With no parameter at zero or one, so that none can be left out unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        nn.init.normal_(parameter, generator=generator)
    return module.double()


class Stub(Attention):
    """A mechanism that anyone can compute by hand, with an auxiliary loss."""

    def __init__(self, *, hidden_dim: int, max_len: int, scale: float = 3.0) -> None:
        super().__init__(hidden_dim=hidden_dim, num_heads=1, dropout=0.0)
        self.scale = nn.Parameter(torch.tensor(scale))

    def source(self, x: Tensor, mask: SequenceMask) -> Tensor:
        return x.flip(-1)

    def forward(self, query: Tensor, context: Tensor, mask: SequenceMask) -> tuple[Tensor, Aux]:
        mixed = self.scale * query + mask.query_rows(context.cumsum(dim=1))
        return mixed, {"stub": Auxiliary(0.5 * self.scale, 0.25, 7)}


def test_embedding_counts_positions_from_the_newest() -> None:
    embedding = SequenceEmbedding(num_items=9, hidden_dim=4, max_len=5, dropout=0.0)
    items = torch.tensor([[3, 9, 3, 1], [7, 0, 0, 0], [2, 4, 6, 0]])
    hidden = embedding(items, LENGTHS - 1)
    for b, length in enumerate(LENGTHS.tolist()):
        for t in range(length):
            item, position = embedding.item.weight[items[b, t]], embedding.position.weight[length - 1 - t]
            torch.testing.assert_close(hidden[b, t], 2.0 * item + position)  # 2 = sqrt(4)


def test_embedding_row_0_stays_zero() -> None:
    torch.manual_seed(0)
    embedding = SequenceEmbedding(num_items=200, hidden_dim=16, max_len=50, dropout=0.0)
    embedding(torch.tensor([[3, 0]]), torch.tensor([0])).square().sum().backward()
    gradient = embedding.item.weight.grad
    assert gradient is not None
    assert gradient.abs().sum(dim=1).nonzero().flatten().tolist() == [3]
    assert not embedding.item.weight[0].any()
    assert embedding.item.weight[1:].std().item() == pytest.approx(0.01, rel=0.1)
    assert embedding.position.weight.std().item() == pytest.approx(0.01, rel=0.1)


def test_embedding_dropout_is_over_the_sum() -> None:
    torch.manual_seed(0)
    embedding = SequenceEmbedding(num_items=3, hidden_dim=64, max_len=4, dropout=0.5)
    items = torch.tensor([[1, 2, 3, 1]])
    kept, whole = embedding(items, torch.tensor([3])), embedding.eval()(items, torch.tensor([3]))
    assert 0.3 < (kept == 0).double().mean() < 0.7
    assert torch.equal(kept[kept != 0], 2.0 * whole[kept != 0])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_block_is_the_formula_of_its_norm(norm: str, last: bool, activation: str) -> None:
    attention = Stub(hidden_dim=4, max_len=4)
    block = stirred(Block(attention, **SIZES | {"norm": norm, "activation": activation}))
    mask = SequenceMask(LENGTHS, 4, last=last)
    x = torch.randn(3, 4, 4, dtype=torch.float64)
    hidden, aux = block(x, mask)

    def normalised(which: nn.LayerNorm, y: Tensor) -> Tensor:
        return F.layer_norm(y, (4,), which.weight, which.bias, 1e-12)

    def ffn(y: Tensor) -> Tensor:
        inner = getattr(F, activation)(y @ block.inner.weight.T + block.inner.bias)
        return inner @ block.outer.weight.T + block.outer.bias

    def attend(query: Tensor, context: Tensor) -> Tensor:  # every row; the newest is taken at the end
        return attention.scale * query + context.cumsum(dim=1)

    first, second, source = block.norm_attention, block.norm_ffn, x.flip(-1)
    if norm == "query":
        query = normalised(first, source)
        y = normalised(second, query + attend(query, x))
        expected = y + ffn(y)
    elif norm == "post":
        y = normalised(first, source + attend(source, x))
        expected = normalised(second, y + ffn(y))
    else:
        y = x + attend(normalised(first, source), normalised(first, x))
        expected = y + ffn(normalised(second, y))
    torch.testing.assert_close(hidden, mask.query_rows(expected))
    assert aux["stub"] == (attention.scale * 0.5, 0.25, 7)


@pytest.mark.parametrize(("norm", "dropped"), [("query", False), ("post", True), ("pre", True)])
def test_block_drops_the_attention_output_except_with_norm_query(norm: str, dropped: bool) -> None:
    block = Block(Stub(hidden_dim=64, max_len=4), **SIZES | {"hidden_dim": 64, "norm": norm, "dropout": 0.5})
    nn.init.zeros_(block.outer.weight)  # silences the feed-forward network
    x, mask = torch.randn(3, 4, 64), SequenceMask(LENGTHS, 4)
    assert torch.equal(block(x, mask)[0], block.eval()(x, mask)[0]) is not dropped


def test_block_drops_twice_in_the_feed_forward_network() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_dim": 400, "ffn_dim": 400, "activation": "relu", "norm": "query", "dropout": 0.5}
    block = Block(Stub(hidden_dim=400, max_len=1), **sizes)
    for dense in (block.inner, block.outer):
        nn.init.zeros_(dense.weight)
    nn.init.ones_(block.inner.bias)
    block.outer.weight.data.fill_diagonal_(1.0)  # so that ffn(y) is the product of the two masks, 4 in a quarter
    nn.init.zeros_(block.norm_ffn.weight)
    hidden, _ = block(torch.randn(1, 1, 400), SequenceMask(torch.tensor([1]), 1))
    assert set(hidden.unique().tolist()) == {0.0, 4.0}
    assert (hidden == 4).double().mean().item() == pytest.approx(0.25, abs=0.07)


def make_encoder(branches: Any, **settings: Any) -> Encoder:
    return stirred(Encoder(branches, **SIZES | {"num_layers": 1, "max_len": 4} | settings))


@pytest.mark.parametrize("norm", NORMS)
def test_encoder_adds_its_branches_with_their_weights(norm: str) -> None:
    short, long = (partial(Stub, scale=scale) for scale in (3.0, 5.0))
    settings = {"num_layers": 2, "norm": norm}
    both = make_encoder([(0.3, short), (0.7, long)], **settings)
    x = torch.randn(3, 4, 4, dtype=torch.float64)
    hidden, aux = both(x, LENGTHS)
    expected = torch.zeros_like(x)
    for branch, weight in enumerate([0.3, 0.7]):
        y = x
        for block in both.stacks[branch]:
            y, _ = block(y, SequenceMask(LENGTHS, 4))
        if norm != "post":  # whose blocks end with a normalisation of their own
            y = F.layer_norm(y, (4,), both.norms[branch].weight, both.norms[branch].bias, 1e-12)
        expected = expected + weight * y
    torch.testing.assert_close(hidden, expected)
    scales = [block.attention.scale for stack in both.stacks for block in stack]
    value, weight, warmup = aux["stub"]
    torch.testing.assert_close(value, 0.5 * torch.stack(scales).sum())
    assert (len(scales), weight, warmup) == (4, 0.25, 7)


def test_encoder_does_not_build_a_branch_of_weight_0() -> None:
    def refuse(**_: Any) -> nn.Module:
        raise AssertionError("built")

    alone, beside = make_encoder([(1.0, Stub)]), make_encoder([(0.0, refuse), (1.0, Stub)])
    beside.load_state_dict(alone.state_dict())
    x = torch.randn(3, 4, 4, dtype=torch.float64)
    assert torch.equal(alone(x, LENGTHS)[0], beside(x, LENGTHS)[0])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("attention", [mechanism("softmax"), mechanism("multi_query"), mechanism("vae"), Stub])
def test_last_only_is_the_newest_row_of_all(norm: str, num_layers: int, attention: Any) -> None:
    encoder = make_encoder(attention, norm=norm, num_layers=num_layers).eval()
    x = torch.randn(3, 4, 4, dtype=torch.float64)
    every, _ = encoder(x, LENGTHS)
    newest, _ = encoder(x, LENGTHS, last_only=True)
    torch.testing.assert_close(newest, torch.stack([every[b, n - 1] for b, n in enumerate(LENGTHS.tolist())]))


@pytest.mark.parametrize(
    "setting",
    [
        {"hidden_dim": 0},
        {"num_layers": 0},
        {"ffn_dim": -1},
        {"dropout": 1.5},
        {"dropout": -0.1},
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, Any]) -> None:
    [(name, value)] = setting.items()
    with pytest.raises(SettingError, match=rf"^{name}={value} "):
        make_encoder(mechanism("softmax"), **setting)


def test_embedding_refuses_a_dropout_out_of_range() -> None:
    with pytest.raises(SettingError, match=r"^dropout=1\.0 "):
        SequenceEmbedding(num_items=3, hidden_dim=4, max_len=5, dropout=1.0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"temperature": 0.5}, r"temperature=0\.5 has no effect with samples=0; set samples"),
        ({"samples": -1}, r"samples=-1 must not be negative"),
        ({"samples": 2, "temperature": -1.0}, r"temperature=-1\.0 must be a number above 0"),
        ({"samples": 2, "temperature": float("nan")}, r"temperature=nan must be a number above 0"),
        ({"samples": 2, "temperature": 0.0}, r"temperature=0\.0 must be a number above 0"),
    ],
)
def test_inference_without_effect_or_out_of_range_is_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=f"^{message}"):
        Inference(**{"samples": 0, "temperature": 1.0} | setting)


@pytest.mark.parametrize("name", ["hidden_dim", "max_len"])
def test_a_size_that_the_model_gives_is_refused_in_the_attention(name: str) -> None:
    with pytest.raises(SettingError, match=rf"^attention\.{name} is set by the model; remove it"):
        make_encoder(partial(mechanism("softmax"), **{name: 8}))


@pytest.mark.parametrize(
    "attention",
    [mechanism("vae"), mechanism("diffusion", schedule=schedules.cosine(steps=4))],
    ids=["vae", "diffusion"],
)
def test_draws_are_taken_outside_training_only(attention: Any) -> None:
    encoder = make_encoder(attention)
    encoder.sample(Inference(samples=3, temperature=1.0))
    encoder.double()
    rows = []
    encoder.stacks[0][0].register_forward_pre_hook(lambda module, given: rows.append(len(given[0])))
    x = torch.randn(3, 4, 4, dtype=torch.float64)
    shapes = [encoder.train(training)(x, LENGTHS)[0].shape for training in (True, False)]
    assert (rows, shapes) == ([3, 9], [x.shape, x.shape])
    assert encoder(x, LENGTHS, last_only=True, each=True)[0].shape == (9, 4)


def test_a_branch_that_draws_beside_one_that_does_not() -> None:
    mixed = [(0.4, mechanism("softmax")), (0.6, mechanism("vae"))]
    three, still = make_encoder(mixed), make_encoder(mixed).eval()
    three.sample(Inference(samples=3, temperature=1.0))
    three.double().eval()
    x = torch.randn(3, 4, 4, dtype=torch.float64)
    drawn, _ = three(x, LENGTHS)
    assert not torch.isclose(drawn, still(x, LENGTHS)[0])[:, 1:].all()
    three.stacks[1][0].attention.noise.zero_()
    torch.testing.assert_close(three(x, LENGTHS)[0], still(x, LENGTHS)[0])


MECHANISMS = sorted(path.stem for path in Path(config.CONFIG_DIR, "attention").glob("*.yaml") if path.stem != "none")


@pytest.mark.slow
@pytest.mark.parametrize("name", MECHANISMS)
def test_an_encoder_is_traced_whole(name: str) -> None:
    """Without a break of the graph, which is what makes compile=true worth its time; and to the same numbers."""
    encoder = make_encoder(mechanism(name, num_heads=2)).eval()
    x = torch.randn(3, 4, 4, dtype=torch.float64)
    torch.compiler.reset()  # the limit of traces is one for all encoders
    traced = torch.compile(encoder, backend="eager", fullgraph=True)
    for last_only in (False, True):
        found, _ = traced(x, LENGTHS, last_only=last_only)
        torch.testing.assert_close(found, encoder(x, LENGTHS, last_only=last_only)[0])


@pytest.mark.slow
def test_groups_of_all_sizes_share_the_graphs_of_an_encoder() -> None:
    """In training, compiled as with compile=true: padding groups to fewer lengths would save nothing."""
    graphs: list[int] = []
    encoder = make_encoder(mechanism("softmax", num_heads=2)).train()
    torch.compiler.reset()
    encoder.compile(dynamic=True, backend=lambda graph, _: graphs.append(1) or graph.forward)
    for rows, columns in ((9, 3), (3, 2), (17, 4), (1, 4), (2, 4), (30, 2), (1, 3), (5, 3), (31, 4)):
        lengths = torch.randint(1, columns + 1, (rows,))
        encoder(torch.randn(rows, columns, 4, dtype=torch.float64), lengths)[0].sum().backward()
    assert len(graphs) <= 2  # one row is a case of its own
