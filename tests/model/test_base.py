"""What all models share: groups, ranking, refusals, checkpoints, precision."""

import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import QUIET, TINY, mechanism
from model_cases import (
    HISTORIES,
    NUM_ITEMS,
    catalog_of,
    evaluation,
    gradients,
    in_one_group,
    mqsa_ted,
    sasrec,
    training,
)

from seqgen import config, numerics, ranking, run
from seqgen.attention import Auxiliary
from seqgen.data.sequences import SequenceBatch, one_target
from seqgen.diffusion.schedules import cosine
from seqgen.errors import UserError
from seqgen.model import base
from seqgen.model.popularity import Popularity
from seqgen.model.transition import Transition

CATALOG = catalog_of(HISTORIES)


@pytest.mark.parametrize("attention", [mechanism("softmax", num_heads=2), mechanism("vae", kl_weight=0.5)])
def test_grouping_changes_neither_the_loss_nor_its_gradients(attention: Any) -> None:
    batch = training(HISTORIES)
    assert len(batch.groups) == 2
    whole = in_one_group(batch)
    model = sasrec(CATALOG, attention=attention)
    if model.encoder.draws:  # the divergence is there in training only, and draws nothing
        grouped, single = (model.recommendation(b)["kl"].value for b in (batch, whole))
        torch.testing.assert_close(grouped, single)
        model.eval()
    grouped, single = (model.recommendation(b)["recommendation"][0] for b in (batch, whole))
    torch.testing.assert_close(grouped, single)
    found, wanted = gradients(grouped, model), gradients(single, model)
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-4, atol=1e-5)


def test_every_target_meets_the_state_of_its_own_position() -> None:
    seen = []
    model = sasrec(CATALOG, loss=lambda *given: seen.append(given) or torch.zeros(()))
    batch = training(HISTORIES)
    model.recommendation(batch)
    [(states, table, targets, given)] = seen
    assert (table is model.item_vectors, given is batch) == (True, True)
    place = 0
    for row in torch.cat([group.rows for group in batch.groups]).tolist():
        inputs, outputs = HISTORIES[row][-7:-1], HISTORIES[row][-6:]
        outputs = outputs[-len(inputs) :]
        hidden, _ = model.encode(torch.tensor([inputs]), torch.tensor([len(inputs)]))
        torch.testing.assert_close(states[place : place + len(inputs)], hidden[0])
        assert targets[place : place + len(inputs)].tolist() == outputs
        place += len(inputs)
    assert place == len(targets)


CONTEXTS = {"prefix": {}, "global": {"context": "global", "allow_leak": True}, "last": {"context": "last"}}


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_step_is_on_one_target_a_sequence_where_the_attention_asks_for_it(context: str) -> None:
    seen = []
    model = sasrec(CATALOG, attention=mechanism("vae", **CONTEXTS[context]))
    model.log = model.log_dict = lambda *given, **how: None  # there is no trainer
    model.loss = lambda batch: seen.append(batch) or {"total": torch.zeros(())}
    batch = training(HISTORIES)
    model.training_step(batch, 0)
    [given] = seen
    if context != "last":
        assert given is batch
        return
    assert (len(given.targets), given.normalizer) == (len(HISTORIES), len(HISTORIES))
    assert sum(int(group.lengths.sum()) for group in given.groups) < len(batch.targets)


@pytest.mark.parametrize("columns", ["relative", "absolute"])
@pytest.mark.parametrize(
    "mechanism", [partial(mechanism, "vae"), partial(mechanism, "diffusion", schedule=cosine(steps=4))]
)
def test_of_a_cut_batch_only_the_prefix_counts(mechanism: Any, columns: str) -> None:
    """What lies behind the cut, the target first of all, cannot be read."""
    seen: list[Any] = []
    attention = mechanism(context="last", columns=columns)
    model = sasrec(
        CATALOG, attention=attention, num_layers=2, loss=lambda *given: seen.append(given) or torch.zeros(())
    )
    torch.manual_seed(0)
    batch = training(HISTORIES)
    cut = one_target(batch)
    model.eval().recommendation(cut)
    [(states, _, targets, _)] = seen
    lengths = torch.cat([group.lengths for group in cut.groups]).tolist()
    assert lengths != [min(len(history) - 1, 6) for history in HISTORIES]
    for state, target, row, length in zip(states, targets, cut.target_rows.tolist(), lengths, strict=True):
        window = HISTORIES[row][-7:]
        assert target == window[length]
        alone, _ = model.encode(torch.tensor([window[:length]]), torch.tensor([length]), last_only=True)
        torch.testing.assert_close(state, alone[0])


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
@pytest.mark.parametrize("kind", ["dot product", "mqsa_ted", "counts", "popularity", "own ranking"])
def test_ranking_in_pieces_gives_the_same_ranks_and_lists(
    kind: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = {
        "dot product": lambda: sasrec(CATALOG),
        "mqsa_ted": lambda: mqsa_ted(CATALOG),
        "counts": lambda: Transition(catalog=CATALOG, max_len=6, metrics_k=[1, 3]),
        "popularity": lambda: Popularity(catalog=CATALOG, metrics_k=[1, 3]),
        "own ranking": lambda: Backwards(catalog=CATALOG, metrics_k=[1, 3]),
    }[kind]().eval()
    batch = evaluation(HISTORIES)
    whole = model.test_step(batch, 0)
    metrics = model.evaluation("test")
    largest: list[int] = []
    name = "rank_in_blocks" if kind in ("dot product", "mqsa_ted") else "target_ranks"
    ranked = getattr(base, name)
    monkeypatch.setattr(base, name, lambda first, *more: largest.append(len(first)) or ranked(first, *more))
    monkeypatch.setattr(base, "RANKED", rows * (NUM_ITEMS + 1) + 1)
    monkeypatch.setattr(ranking, "USERS", rows)
    monkeypatch.setattr(numerics, "CHUNK_CPU", 4 * rows)
    model.test_metrics.reset()
    pieces = model.test_step(batch, 0)
    if name == "target_ranks":
        assert max(largest) == rows
    assert sum(largest) == (len(batch) if name == "target_ranks" or rows < len(batch) else 0)
    assert pieces.keys() == whole.keys()
    for name, value in whole.items():
        assert torch.equal(pieces[name], value)
    assert model.evaluation("test") == metrics


class Backwards(Popularity):
    """Overrides what is ranked instead of the scores."""

    def ranking_scores(self, batch: SequenceBatch) -> torch.Tensor:
        scores = super().ranking_scores(batch)
        return torch.where(scores.isfinite(), -scores, scores)


def test_total_is_the_weighted_sum_and_parts_are_raw() -> None:
    parts = {"a": Auxiliary(torch.tensor(2.0), 1.0), "b": Auxiliary(torch.tensor(5.0), 0.1, warmup=40)}
    found = sasrec(CATALOG).weighted(parts)  # outside a fit a warm-up is over
    assert {name: value.item() for name, value in found.items()} == {"total": 2.5, "a": 2.0, "b": 5.0}


@pytest.mark.parametrize(("step", "share"), [(0, 0.0), (10, 0.25), (40, 1.0), (90, 1.0)])
def test_a_weight_warms_up_over_training_steps(step: int, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model = sasrec(CATALOG)
    model._trainer = object()
    monkeypatch.setattr(type(model), "global_step", step)
    found = model.weighted({"a": Auxiliary(torch.tensor(2.0), 1.0), "b": Auxiliary(torch.tensor(5.0), 0.1, warmup=40)})
    assert (found["total"].item(), found["b"].item()) == (pytest.approx(2.0 + share * 0.5), 5.0)


def test_scores_are_the_newest_state_times_the_items() -> None:
    model, batch = sasrec(CATALOG).eval(), evaluation(HISTORIES)
    scores = model.ranking_scores(batch)
    for row, history in enumerate(HISTORIES):
        inputs = history[:-1][-6:]
        hidden, _ = model.encode(torch.tensor([inputs]), torch.tensor([len(inputs)]))
        expected = model.item_vectors @ hidden[0, -1]
        expected[[0, *history[:-1]]] = -torch.inf  # the whole history, not only the window
        torch.testing.assert_close(scores[row], expected)
    assert model.ranking_scores(evaluation(HISTORIES, mask_seen=False))[:, 1:].isfinite().all()


def test_seen_target_is_a_miss_that_is_counted() -> None:
    model = Popularity(catalog=CATALOG, metrics_k=[1, 3])
    ranked = model.test_step(evaluation([[1, 2, 9], [1, 2, 1]]), 0)
    assert ranked["rank"].tolist()[1] == CATALOG.num_items + 1
    assert model.test_metrics.compute()["unhittable"] == 0.5
    assert not set(ranked["top"].flatten().tolist()) & {0, 1, 2}


def test_vectors_are_refused_where_the_score_is_no_dot_product() -> None:
    model = Popularity(catalog=CATALOG, metrics_k=[1])
    for ask in (lambda: model.item_vectors, lambda: model.user_state(evaluation(HISTORIES))):
        with pytest.raises(TypeError, match=r"score of Popularity is no dot product"):
            ask()
    with pytest.raises(TypeError, match=r"Popularity has no hidden states"):
        model.encode(torch.ones(1, 1, dtype=torch.long), torch.ones(1, dtype=torch.long))
    with pytest.raises(UserError, match=r"^compile=true has no effect: Popularity has no network"):
        model.compile_network()


def checkpoint_of(model: Any) -> dict[str, Any]:
    """Written and read as Lightning does, with what `weights_only` lets through."""
    checkpoint = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(checkpoint)
    file = io.BytesIO()
    torch.save(checkpoint, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def with_config(model: Any, **settings: Any) -> Any:
    model.config = {"seed": 1, "model": {**settings, "attention": {"window": 3}}, "attention": {"window": 3}}
    return model


def test_checkpoint_of_the_same_network_is_taken() -> None:
    checkpoint = checkpoint_of(with_config(sasrec(CATALOG, seed=1), hidden_dim=8))
    model = sasrec(CATALOG, seed=2)
    model.on_load_checkpoint(checkpoint)
    model.load_state_dict(checkpoint["state_dict"])
    batch = evaluation(HISTORIES)
    assert torch.equal(model.eval().scores(batch), sasrec(CATALOG, seed=1).eval().scores(batch))
    kept = checkpoint["seqgen"]
    assert (kept["catalog"]["item_ids"], kept["config"]["seed"]) == (CATALOG.item_ids, 1)
    assert "train" not in kept["catalog"]


def test_checkpoint_of_something_else_is_refused() -> None:
    checkpoint = checkpoint_of(with_config(sasrec(CATALOG), hidden_dim=8, num_layers=1))
    with pytest.raises(UserError, match=r"that seqgen did not write"):
        sasrec(CATALOG).on_load_checkpoint({"state_dict": checkpoint["state_dict"]})
    with pytest.raises(
        UserError, match=r"holds a seqgen\.model\.sasrec\.SASRec, but .* seqgen\.model\.mqsa_ted\.MQSATED"
    ):
        mqsa_ted(CATALOG).on_load_checkpoint(checkpoint)
    other = catalog_of(HISTORIES, fingerprint="4567")
    with pytest.raises(UserError, match=r"9 items \(fingerprint 0123\), but .* 9 \(fingerprint 4567\)"):
        sasrec(other).on_load_checkpoint(checkpoint)


@pytest.mark.parametrize(("name", "value"), [("hidden_dim", 4), ("num_layers", 2)])
def test_checkpoint_of_another_shape_is_refused_by_the_key_that_differs(name: str, value: int) -> None:
    settings = {"hidden_dim": 8, "num_layers": 1}
    checkpoint = checkpoint_of(with_config(sasrec(CATALOG), **settings))
    with pytest.raises(UserError) as refused:
        with_config(sasrec(CATALOG, **{name: value}), **settings | {name: value}).on_load_checkpoint(checkpoint)
    assert str(refused.value) == (
        "ckpt_path holds a network of another shape, trained with "
        f"model.{name}={settings[name]}; build the same network."
    )


def test_checkpoint_with_another_attention_is_refused_by_its_key() -> None:
    checkpoint = checkpoint_of(with_config(mqsa_ted(CATALOG), hidden_dim=8))
    model = with_config(mqsa_ted(CATALOG, attention=mechanism("softmax")), hidden_dim=8)
    for node in (model.config["attention"], model.config["model"]["attention"]):
        node["window"] = 1
    with pytest.raises(UserError, match=r"trained with attention\.window=3; build"):
        model.on_load_checkpoint(checkpoint)


def test_ranking_under_mixed_precision_is_not_rounded_to_ties() -> None:
    torch.manual_seed(0)
    model, batch = sasrec(catalog_of(HISTORIES, 3000)).eval(), evaluation(HISTORIES)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        scores, state = model.scores(batch), model.user_state(batch)
    torch.testing.assert_close(scores, state.float() @ model.item_vectors.T)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
@pytest.mark.parametrize(
    "choice",
    [
        ("model=sasrec", "attention=vae"),
        ("model=genatt", "attention=diffusion", "model.inference.samples=2"),
        ("model=genatt", "attention=hstu"),
        ("model=genatt", "attention=linear"),
        ("model=mqsa_ted",),
    ],
)
def test_every_precision_runs(precision: str, choice: tuple[str, ...], tmp_path: Path) -> None:
    quick = ("trainer.max_epochs=1", "trainer.limit_train_batches=1", "callbacks=none", "logger=none")
    overrides = [*choice, *TINY, *QUIET, *quick, "trainer.accelerator=cpu", f"trainer.precision={precision}"]
    run.run(config.compose(overrides, output_dir=tmp_path))
    assert json.loads((tmp_path / "results.json").read_text())["status"] == "finished"
