"""MQSA-TED: the sparse teacher and its distillation against dense ones made of loops, and what the model is made of."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import mechanism
from model_cases import (
    HISTORIES,
    MAX_LEN,
    NUM_ITEMS,
    catalog_of,
    evaluation,
    gradients,
    in_one_group,
    mqsa_ted,
    sasrec,
    training,
)
from torch import Tensor

from seqgen.errors import SettingError
from seqgen.model.mqsa_ted import teacher

CATALOG = catalog_of(HISTORIES)


def dense_teacher(*, temperature: float, time_span: int, last: int) -> Tensor:
    """Row i - 1 is item i's, (I, I) float64."""
    counts = torch.zeros(NUM_ITEMS, NUM_ITEMS, dtype=torch.float64)
    for history in HISTORIES:
        kept = history[-last:]
        for place, head in enumerate(kept):
            for tail in kept[place + 1 : place + 1 + time_span]:
                counts[head - 1, tail - 1] += 1
    for row in counts:
        if row.any():
            row /= row.max()
    return torch.softmax(counts / temperature, dim=1)


def dense_distillation(model: Any, target: Tensor) -> Tensor:
    """Mean over all input tokens, with repetitions, of the cross-entropy between dense distributions."""
    table = model.item_vectors[1:].double()
    student = F.log_softmax(8**0.5 * table @ table.T / model.temperature, dim=1)
    tokens = [item - 1 for history in HISTORIES for item in history[-MAX_LEN - 1 : -1]]
    return sum(-(target[token] * student[token]).sum() for token in tokens) / len(tokens)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("time_span", [1, 2, 20])
@pytest.mark.parametrize("last", [3, 20])
def test_teacher_is_the_softmax_of_counts_over_their_row_maximum(temperature: float, time_span: int, last: int) -> None:
    settings: dict[str, Any] = {"temperature": temperature, "time_span": time_span, "last": last}
    sparse = teacher(CATALOG, **settings)
    dense = sparse["floor"][1:, None].repeat(1, NUM_ITEMS).double()
    for item in range(1, NUM_ITEMS + 1):
        part = slice(*sparse["offsets"][item : item + 2].tolist())
        dense[item - 1, sparse["items"][part] - 1] += sparse["excess"][part]
    torch.testing.assert_close(dense, dense_teacher(**settings), rtol=1e-5, atol=1e-7)
    assert torch.equal(dense[NUM_ITEMS - 1], torch.full((NUM_ITEMS,), dense[-1, 0]))  # item 9 never occurs
    assert len(sparse["items"]) < 20 or time_span > 1  # sparse, indeed


@pytest.mark.parametrize("temperature", [0.5, 2.0])
@pytest.mark.parametrize("time_span", [1, 2])
def test_distillation_is_the_dense_cross_entropy(temperature: float, time_span: int) -> None:
    model = mqsa_ted(CATALOG, temperature=temperature, time_span=time_span)
    batch = training(HISTORIES)
    assert len(batch.inputs()) > len(batch.inputs().unique())
    target = dense_teacher(temperature=temperature, time_span=time_span, last=MAX_LEN)
    value, expected = model.distillation(batch), dense_distillation(model, target)
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0)
    found, wanted = gradients(value, model), gradients(expected, model)
    assert list(found) == ["embedding.item.weight"]
    torch.testing.assert_close(found["embedding.item.weight"], wanted["embedding.item.weight"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.distillation(in_one_group(batch)), value)


def test_student_has_its_own_dropout_in_training_only() -> None:
    model, batch = mqsa_ted(CATALOG, dropout=0.5), training(HISTORIES)
    expected = dense_distillation(model, dense_teacher(temperature=0.5, time_span=1, last=MAX_LEN))
    torch.manual_seed(0)
    assert not torch.isclose(model.distillation(batch).double(), expected, rtol=1e-2)
    torch.testing.assert_close(model.eval().distillation(batch).double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("attention", [mechanism("multi_query"), mechanism("vae", kl_weight=0.7)])
def test_total_is_the_weighted_sum_of_its_parts(attention: Any) -> None:
    model = mqsa_ted(CATALOG, attention=attention, distill_weight=0.25)
    parts = model.loss(training(HISTORIES))
    weights = {"recommendation": 1.0, "distillation": 0.25} | ({"kl": 0.7} if "kl" in parts else {})
    weights |= {"active_units": 0.0} if "kl" in parts else {}
    assert set(parts) == {"total", *weights}
    torch.testing.assert_close(parts["total"], sum(weight * parts[name] for name, weight in weights.items()))


def test_alpha_1_is_sasrec_and_distillation() -> None:
    short = mqsa_ted(CATALOG, attention=mechanism("multi_query", alpha=1.0))
    plain = mqsa_ted(CATALOG, attention=mechanism("softmax"), seed=1)
    plain.load_state_dict(short.state_dict())
    network = sasrec(CATALOG, seed=2)
    network.load_state_dict(short.state_dict())
    batch = training(HISTORIES)
    assert short.loss(batch) == plain.loss(batch)
    assert network.loss(batch)["total"] == short.loss(batch)["recommendation"]
    asked = evaluation(HISTORIES)
    assert torch.equal(short.scores(asked), network.scores(asked))


def test_blend_of_the_branches() -> None:
    """The score is linear in the branches: alpha x short + (1 - alpha) x long."""
    asked = evaluation(HISTORIES)
    blended = mqsa_ted(CATALOG, attention=mechanism("multi_query", alpha=0.3))
    scores = []
    for branch, alpha in ((0, 1.0), (1, 0.0)):
        one = mqsa_ted(CATALOG, attention=mechanism("multi_query", alpha=alpha))
        one.embedding.load_state_dict(blended.embedding.state_dict())
        one.encoder.stacks[0].load_state_dict(blended.encoder.stacks[branch].state_dict())
        one.encoder.norms[0].load_state_dict(blended.encoder.norms[branch].state_dict())
        scores.append(one.scores(asked))
    torch.testing.assert_close(blended.scores(asked), 0.3 * scores[0] + 0.7 * scores[1])


def test_size_of_the_network_of_the_paper() -> None:
    model = mqsa_ted(catalog_of(HISTORIES, 12_101), hidden_dim=64, ffn_dim=64, max_len=50)
    padding_row = 64
    assert sum(parameter.numel() for parameter in model.parameters()) == 820_032 + padding_row


def test_without_weight_there_is_no_distillation_and_no_teacher() -> None:
    model = mqsa_ted(CATALOG, distill_weight=0.0)
    assert set(model.loss(training(HISTORIES))) == {"total", "recommendation"}
    assert not [name for name, _ in model.named_buffers() if "teacher" in name]
    assert model.state_dict().keys() == mqsa_ted(CATALOG).state_dict().keys()  # nor is the teacher in a checkpoint


@pytest.mark.parametrize(
    "setting", [{"temperature": 0.0}, {"temperature": math.nan}, {"time_span": 0}, {"distill_weight": -0.1}]
)
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    [(name, value)] = setting.items()
    with pytest.raises(SettingError, match=rf"^{name}={value} must"):
        mqsa_ted(CATALOG, **setting)
