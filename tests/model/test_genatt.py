"""GenAtt: the host network written out with nothing of the package; with every attention; it learns."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import QUIET, TINY, mechanism
from model_cases import HISTORIES, catalog_of, evaluation, make, training
from torch import Tensor, nn

from seqgen import config
from seqgen.diffusion.schedules import cosine
from seqgen.layers import Inference
from seqgen.model.genatt import GenAtt
from seqgen.run import run

SIZES: dict[str, Any] = {"hidden_dim": 8, "num_layers": 1, "ffn_dim": 12, "activation": "gelu", "norm": "post"}
MECHANISMS = {
    "diffusion": mechanism("diffusion", schedule=cosine(steps=4), num_heads=2),
    "hstu": mechanism("hstu", num_heads=2),
    "linear": mechanism("linear", num_heads=2),
    "multi_query": mechanism("multi_query", num_heads=2),
    "softmax": mechanism("softmax", num_heads=2),
    "synthesizer": mechanism("synthesizer", num_heads=2),
    "uniform": mechanism("uniform", num_heads=2),
    "vae": mechanism("vae", num_heads=2),
}


def genatt(**settings: Any) -> GenAtt:
    model: GenAtt = make(GenAtt, catalog_of(HISTORIES), **SIZES | {"attention": mechanism("softmax")} | settings)
    return model


@pytest.mark.parametrize("num_heads", [1, 2])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_the_host_network_is_the_formula_of_its_docstring(num_layers: int, num_heads: int) -> None:
    """LayerNorm(item + position); blocks of attention, feed-forward network and a norm after each residual."""
    attention = mechanism("softmax", num_heads=num_heads)
    model = genatt(attention=attention, num_layers=num_layers).double().eval()
    p, width = model.state_dict(), 8 // num_heads

    def dense(x: Tensor, name: str) -> Tensor:
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean()
        return centred / (centred**2).mean().sqrt() * p[f"{name}.weight"] + p[f"{name}.bias"]

    def hidden(items: list[int]) -> Tensor:
        """Newest hidden state of a sequence."""
        x = [p["embedding.item.weight"][item] for item in items]  # without a factor sqrt(D)
        x = [row + p["embedding.position.weight"][len(items) - 1 - t] for t, row in enumerate(x)]
        x = [norm(row, "norm_input") for row in x]
        for layer in range(num_layers):
            of = f"encoder.stacks.0.{layer}"
            q, k, v = ([dense(row, f"{of}.attention.{name}") for row in x] for name in ("query", "key", "value"))
            rows = []
            for t, row in enumerate(x):
                heads = []
                for head in range(num_heads):
                    part = slice(head * width, (head + 1) * width)
                    logits = torch.stack([q[t][part] @ k[s][part] / width**0.5 for s in range(t + 1)])
                    heads.append(sum(w * v[s][part] for s, w in enumerate(logits.softmax(0))))
                y = norm(row + torch.cat(heads), f"{of}.norm_attention")
                rows.append(norm(y + dense(F.gelu(dense(y, f"{of}.inner")), f"{of}.outer"), f"{of}.norm_ffn"))
            x = rows
        return x[-1]

    scores = model.scores(evaluation(HISTORIES))
    for row, history in enumerate(HISTORIES):
        torch.testing.assert_close(scores[row], p["embedding.item.weight"] @ hidden(history[:-1][-6:]))
    batch = training([[3, 5, 1]])  # positions count from the newest of the window
    states, _ = model.encode(batch.groups[0].items, batch.groups[0].lengths)
    torch.testing.assert_close(states[0, 1], hidden([3, 5]))


def test_dropout_follows_the_norm_of_the_input() -> None:
    torch.manual_seed(0)
    model, seen = genatt(dropout=0.5, hidden_dim=64), []
    model.encoder.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    items, lengths = torch.tensor([[3, 5, 1]]), torch.tensor([3])
    model.train().encode(items, lengths)
    model.eval().encode(items, lengths)
    dropped, whole = seen
    assert 0.3 < (dropped == 0).double().mean() < 0.7
    torch.testing.assert_close(dropped[dropped != 0], 2 * whole[dropped != 0])
    torch.testing.assert_close(whole, model.norm_input(model.embedding(items, lengths - 1)))


@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("name", MECHANISMS)
def test_any_attention_stands_in_the_block(name: str, num_layers: int) -> None:
    model = genatt(attention=MECHANISMS[name], num_layers=num_layers)
    parts = model.train().loss(training(HISTORIES))
    parts["total"].backward()
    assert parts["total"].isfinite()
    blocks = [block for stack in model.encoder.stacks for block in stack]
    assert len(blocks) == num_layers * (2 if name == "multi_query" else 1)
    for block in blocks:
        assert all(p.grad is not None and p.grad.any() for p in block.attention.value.parameters())
    assert model.eval().ranking_scores(evaluation(HISTORIES)).shape == (len(HISTORIES), 10)


def test_auxiliary_losses_are_weighted_sums_over_layers() -> None:
    torch.manual_seed(0)
    one = genatt(attention=mechanism("vae", kl_weight=0.5, kl_warmup=0), num_layers=3)
    found: list[Tensor] = []
    for block in one.encoder.stacks[0]:
        block.attention.register_forward_hook(lambda module, given, made: found.append(made[1]["kl"][0]))
    batch = training([[3, 5, 1, 2]])
    parts = one.train().loss(batch)
    assert len(found) == 3
    torch.testing.assert_close(parts["kl"], torch.stack(found).sum())
    torch.testing.assert_close(parts["total"], parts["recommendation"] + 0.5 * parts["kl"])


def test_embeddings_start_small_and_padding_at_0() -> None:
    torch.manual_seed(0)
    catalog = catalog_of(HISTORIES, 2000)
    given = {"catalog": catalog, "max_len": 50, "attention": mechanism("vae"), "dropout": 0.1, "loss": lambda *_: None}
    given |= {"optimizer": torch.optim.Adam, "scheduler": None, "metrics_k": [1]}
    model = GenAtt(**given, **SIZES, inference=Inference(samples=0, temperature=1.0))
    assert not model.item_vectors[0].any()
    assert model.item_vectors[1:].std().item() == pytest.approx(0.02, rel=0.05)
    assert model.embedding.position.weight.std().item() == pytest.approx(0.02, rel=0.15)
    assert model.item_vectors is model.embedding.item.weight
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    assert [norm.eps for norm in norms] == [1e-12] * 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ("attention=vae",),
        ("attention=vae", "attention.context=last", "attention.columns=absolute"),
        ("attention=diffusion",),
        ("attention=diffusion", "attention.clean_map=teacher", "model.inference.samples=2"),
    ],
    ids="-".join,
)
def test_training_lowers_the_loss_and_ranks_above_chance(overrides: tuple[str, ...], tmp_path: Path) -> None:
    quick = ("trainer.max_epochs=12", "optimizer.lr=0.005", "model.dropout=0.1", "callbacks=none", "logger=none")
    run(config.compose(["model=genatt", *overrides, *TINY, *QUIET, *quick], output_dir=tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())
    losses = [epoch["train/recommendation"] for epoch in results["history"]]
    assert losses[-1] < 0.9 * losses[0]
    assert results["metrics"]["test/hr@10"] > 1.3 * 10 / 40
    message = {"train/kl", "train/active_units"} if overrides[0] == "attention=vae" else {"train/diffusion"}
    assert message <= set(results["history"][0])


def test_scores_are_averaged_over_draws() -> None:
    """The score is linear in the state, so the mean state gives the mean score."""
    three = genatt(attention=mechanism("vae"), inference=Inference(samples=3, temperature=1.0)).eval()
    still = genatt(attention=mechanism("vae")).eval()
    batch = evaluation(HISTORIES)
    noise = three.encoder.stacks[0][0].attention.noise.clone()
    assert not torch.allclose(three.scores(batch), still.scores(batch))
    one = genatt(attention=mechanism("vae"), inference=Inference(samples=1, temperature=1.0)).eval()
    singles = []
    for draw in range(3):
        one.encoder.stacks[0][0].attention.noise.copy_(noise[draw : draw + 1])
        singles.append(one.scores(batch))
    torch.testing.assert_close(three.scores(batch), torch.stack(singles).mean(0), rtol=1e-4, atol=1e-5)
