"""What must hold for every model with every attention that `conf/` offers; a new YAML is covered as it stands.

Pairs are found by reading the YAML files, since composing all of them takes long: a model that overrides the attention
with `none` goes with none, any other with all but none. `seqgen.check` is held to the same.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import accumulate, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import QUIET, TINY
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from waiting import no_waiting

from seqgen import config
from seqgen.check import check
from seqgen.data.sequences import Group, SequenceBatch, evaluation_batch
from seqgen.data.split import leave_one_out
from seqgen.errors import UserError
from seqgen.finite import StopAtNonFinite
from seqgen.model.base import SequentialRecommender

# Histories of many lengths: three groups in a batch. Wider than one head, deeper than one layer, with all dropouts.
DATA = ("data.source.min_length=5", "data.source.max_length=16", "data.max_len=10", "data.batch_size=48")
WANTED = {"model": {"hidden_dim": 16, "num_layers": 2, "dropout": 0.3}, "attention": {"num_heads": 2, "dropout": 0.2}}

CHAIN = ("model.decoder.condition_on_x_t=true", "model.noisy_targets=false")
VIEWS = ("model.views.crop=0.6", "model.views.mask=0.3", "model.views.reorder=0.6")
# Settings of one model that change its network or its prediction: held to the same properties.
VARIANTS = [
    *(("cddrec", "softmax", f"diffusion={name}") for name in ("scaled_linear", "cosine", "sqrt", "sigmoid")),
    ("cddrec", "softmax", "model.inference.steps=5", "model.steps_per_batch=null"),
    ("cddrec", "softmax", "model.inference.noise=true", "model.inference.samples=3", "model.inference.steps=2"),
    ("cddrec", "softmax", *VIEWS, "model.augmented_weight=1.0"),
    ("cddrec", "softmax", *CHAIN, "model.inference.steps=3", *VIEWS),
    ("cddrec", "softmax", *CHAIN, "model.decoder.time_in=both", "model.steps_per_batch=4"),
    ("cddrec", "softmax", "model.decoder.time_in=memory", "model.inference.steps=3"),
    ("cddrec", "softmax", *CHAIN, "model.inference.noise=true", "model.inference.samples=2", "diffusion=cosine"),
    ("cddrec", "vae", *CHAIN, "model.inference.noise=true", "model.inference.samples=2"),
    ("cddrec", "diffusion", "model.inference.samples=2", "diffusion@attention.schedule=linear"),
    (
        "cddrec",
        "softmax",
        "model.cross_divergence=kl",
        "model.contrast.fourier_features=256",
        "model.contrast.temperature=0.5",
    ),
    ("sasrec", "vae", "attention.columns=absolute", "attention.rank=3", "model.inference.samples=3"),
    ("genatt", "vae", "attention.content=false", "attention.free_bits=0.1", "model.inference.samples=2"),
    ("genatt", "vae", "attention.context=last", "attention.columns=absolute"),
    ("mqsa_ted", "vae", "attention.context=last"),
    ("sasrec", "softmax", "loss=bce"),
    ("sasrec", "diffusion", "attention.rank=3", "attention.clean_map=teacher", "attention.reverse_steps=3"),
    ("sasrec", "diffusion", "attention.context=last", "attention.content=false"),
    (
        *("genatt", "diffusion", "attention.columns=absolute", "attention.clean_map=uniform"),
        *("model.inference.samples=3", "model.inference.temperature=2.0"),
    ),
]
# Objectives, of the models that take one.
LOSSES = [
    ("sasrec", "softmax", "loss=bce"),
    ("sasrec", "softmax", "loss=sampled_softmax", "loss.num_negatives=20"),
    ("mqsa_ted", "multi_query", "loss=sampled_softmax", "loss.sampler=popularity", "loss.shared=false"),
    ("mqsa_ted", "softmax", "loss=gbce", "loss.num_negatives=20"),
    ("genatt", "vae", "loss=in_batch"),
    ("sasrec", "linear", "loss=in_batch"),
]
Pair = tuple[str, ...]


def options(group: str) -> list[str]:
    return sorted(path.stem for path in Path(config.CONFIG_DIR, group).glob("*.yaml"))


def composed(pair: Pair, folder: Path | str) -> DictConfig:
    model, attention, *more = pair
    overrides = [f"model={model}", f"attention={attention}", *TINY, *DATA, *QUIET, *more]
    cfg = config.compose(overrides, output_dir=folder)
    for group, wanted in WANTED.items():
        for key, value in wanted.items():
            if cfg[group] is not None and key in cfg[group]:
                cfg[group][key] = value
    return cfg


@cache
def class_of(model: str) -> type[SequentialRecommender]:
    found: type[SequentialRecommender] = get_class(
        OmegaConf.load(Path(config.CONFIG_DIR, f"model/{model}.yaml"))._target_
    )
    return found


@cache
def attentions(model: str) -> list[str]:
    defaults = OmegaConf.load(Path(config.CONFIG_DIR, f"model/{model}.yaml")).get("defaults", [])
    without = {"override /attention@_global_.attention": "none"} in defaults
    return [name for name in options("attention") if (name == "none") == without]


POSSIBLE = [(model, attention) for model in options("model") for attention in attentions(model)]
IMPOSSIBLE = sorted({*product(options("model"), options("attention"))} - {*POSSIBLE})


def of(wanted: Callable[[type[SequentialRecommender]], bool], *more: Pair) -> list[Any]:
    return [
        pytest.param(pair, id="-".join(pair)) for pair in [*POSSIBLE, *VARIANTS, *more] if wanted(class_of(pair[0]))
    ]


ALL = of(lambda kind: True)
WITH_STATES = of(lambda kind: kind.encode is not SequentialRecommender.encode)
CAUSAL = [param for param in WITH_STATES if "attention.context=last" not in param.values[0]]
TRAINED = of(lambda kind: kind.trainable)
WITH_LOSSES = of(lambda kind: kind.trainable, *LOSSES)


class Case:
    """One pair: its configuration and data; models of it, built anew."""

    def __init__(self, pair: Pair, folder: Path) -> None:
        self.cfg = composed(pair, folder)
        check(self.cfg)
        self.cfg.paths.cache_dir = str(folder / "cache")
        self.data = config.build(self.cfg, "data")
        self.train = next(iter(self.data.train_dataloader()))
        self.test = next(iter(self.data.test_dataloader()))

    def build(self, seed: int = 0) -> SequentialRecommender:
        torch.manual_seed(seed)
        model: SequentialRecommender = config.build(self.cfg, "model", catalog=self.data.catalog)
        return model.double()  # so that equal means equal

    def stirred(self, seed: int = 0) -> SequentialRecommender:
        """With parameters away from their starting values, near which a mistake may not show; in evaluation mode."""
        model, generator = self.build(seed), torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for module in model.modules():
                for parameter in module.parameters(recurse=False):
                    parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
                if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
                    module.weight[module.padding_idx] = 0.0
        return model.eval()


@pytest.fixture(scope="module")
def case_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Pair], Case]:
    folder = tmp_path_factory.mktemp("properties")
    return cache(lambda pair: Case(pair, folder))


@pytest.fixture
def case(pair: Pair, case_of: Callable[[Pair], Case]) -> Case:
    return case_of(pair)


def padded(group: Group, columns: int) -> Group:
    old = group.items.shape[1]
    items = torch.nn.functional.pad(group.items, (0, columns - old))
    return replace(group, items=items, flat_index=group.flat_index // old * columns + group.flat_index % old)


def in_one_group(batch: SequenceBatch) -> SequenceBatch:
    columns = max(group.items.shape[1] for group in batch.groups)
    parts = [padded(group, columns) for group in batch.groups]
    items, lengths, rows = (torch.cat([getattr(p, name) for p in parts]) for name in ("items", "lengths", "rows"))
    starts = accumulate((p.items.numel() for p in parts), initial=0)
    flat_index = torch.cat([part.flat_index + start for part, start in zip(parts, starts, strict=False)])
    return replace(batch, groups=(Group(items=items, lengths=lengths, rows=rows, flat_index=flat_index),))


class RowNoise:
    """Takes the place of torch's draws: a row of a batch draws the same in whatever group it stands.

    A number is a function of the call within the group, of the row of the batch and of the other indices.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.first = self.calls = 0
        monkeypatch.setattr(torch, "rand", self.uniform)
        monkeypatch.setattr(torch, "randn", self.normal)
        monkeypatch.setattr(torch, "randint", self.whole)

    def uniform(self, *shape: Any, **_: Any) -> Tensor:
        self.calls += 1
        sizes = shape[0] if shape and not isinstance(shape[0], int) else shape
        phase = torch.full(tuple(sizes), 1.7 * self.calls, dtype=torch.float64)
        for axis, size in enumerate(sizes):
            index = torch.arange(size) + (self.first if axis == 0 else 0)
            phase += (index * (2 + axis) ** 0.5).reshape(-1, *[1] * (len(sizes) - axis - 1))
        return (43758.5453 * torch.sin(12.9898 * phase)).frac().abs().clamp(1e-6, 1 - 1e-6)

    def normal(self, *shape: Any, **_: Any) -> Tensor:
        return 2**0.5 * torch.erfinv(2 * self.uniform(*shape) - 1)

    def whole(self, *given: Any, **_: Any) -> Tensor:
        low, high, shape = given if len(given) == 3 else (0, *given)
        return (low + (high - low) * self.uniform(shape)).long()

    def loss(self, model: SequentialRecommender, batch: SequenceBatch) -> dict[str, Tensor]:
        noise, self.first, self.calls = self, 0, 0

        class Groups(tuple[Group, ...]):
            """Says which row of the batch comes next, and after the last that what is drawn is of the whole batch."""

            def __iter__(self) -> Iterator[Group]:
                before = noise.calls
                for group in super().__iter__():
                    noise.calls = before
                    yield group
                    noise.first += len(group.lengths)
                noise.first = 0

        return model.loss(replace(batch, groups=Groups(batch.groups)))


def close(found: Any, wanted: Any) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_every_attention_is_in_a_pair() -> None:
    assert sorted({attention for _, attention in POSSIBLE}) == options("attention")


def test_every_loss_is_with_a_model() -> None:
    """Every model has `loss=ce` or its own."""
    assert sorted({"ce", "none", *(loss.removeprefix("loss=") for _, _, loss, *_ in LOSSES)}) == options("loss")


@pytest.mark.slow
@pytest.mark.parametrize("pair", IMPOSSIBLE, ids="-".join)
def test_an_impossible_pair_is_refused_in_a_sentence_that_helps(pair: Pair) -> None:
    with pytest.raises(UserError, match="choose"):
        check(composed(pair, "unused"))


@pytest.mark.parametrize("pair", CAUSAL)
@pytest.mark.parametrize("training", [False, True])
def test_a_later_item_changes_no_earlier_state(case: Case, training: bool) -> None:
    model, num_items = case.stirred().train(training), case.data.catalog.num_items
    group = max(case.train.groups, key=lambda g: g.items.shape[1])
    assert group.items.shape[1] == case.data.max_len

    def states(items: Tensor) -> Tensor:
        torch.manual_seed(3)
        hidden, _ = model.encode(items, group.lengths)
        return hidden

    before = states(group.items)
    for column in range(1, case.data.max_len):
        items = group.items.clone()
        items[:, column:] = items[:, column:] % num_items + 1
        after = states(items)
        assert torch.equal(after[:, :column], before[:, :column])
        assert not torch.isclose(after[:, column], before[:, column]).all(dim=1).any()


@pytest.mark.parametrize("context", ["attention.context=global", "attention.context=last"])
@pytest.mark.parametrize("attention", ["vae", "diffusion", "synthesizer"])
def test_one_vector_for_all_rows_leaks(attention: str, context: str, tmp_path: Path) -> None:
    """A little, which a test with a tolerance would miss; `last` is trained so that no target is read."""
    allowed = [f"attention.allow_leak={str(context.endswith('global')).lower()}"]
    case = Case(("genatt", attention, context, *allowed), tmp_path)
    model, group = case.build().eval(), max(case.train.groups, key=lambda g: g.items.shape[1])
    items = group.items.clone()
    items[:, -1] = items[:, -1] % case.data.catalog.num_items + 1
    with torch.no_grad():
        (before, _), (after, _) = (model.encode(x, group.lengths) for x in (group.items, items))
    real = group.items[:, -1] > 0
    moved = (after - before)[real, :-1].abs()
    assert real.any()
    assert moved[:, 1:].amax(dim=(1, 2)).min() > 0
    assert moved.max() < 0.05 * before.std()


@pytest.mark.parametrize("pair", WITH_STATES)
def test_padding_changes_no_state(case: Case) -> None:
    model = case.stirred()
    groups = [group for group in case.train.groups if group.items.shape[1] < case.data.max_len]
    assert len(groups) == 2
    for group in groups:
        more = padded(group, case.data.max_len)
        states = [model.encode(g.items, g.lengths)[0].flatten(0, 1)[g.flat_index] for g in (group, more)]
        close(*states)
        close(*(model.encode(g.items, g.lengths, last_only=True)[0] for g in (group, more)))


@pytest.mark.parametrize("pair", WITH_STATES)
def test_the_newest_state_alone_is_that_among_all(case: Case) -> None:
    model = case.stirred()
    for group in case.test.groups:
        every, _ = model.encode(group.items, group.lengths)
        newest, _ = model.encode(group.items, group.lengths, last_only=True)
        close(newest, every[torch.arange(len(every)), group.lengths - 1])


@pytest.mark.parametrize("pair", ALL)
def test_scores_of_a_user_do_not_depend_on_the_batch(case: Case) -> None:
    model = case.stirred()
    together = model.ranking_scores(case.test)
    cases = leave_one_out(case.data.sequences, held_out=1)
    how = {"max_len": case.data.max_len, "mask_seen": True}
    for row in range(0, len(case.test), 5):
        alone = model.ranking_scores(evaluation_batch(case.data.sequences, cases, torch.tensor([row]), **how))
        close(alone[0], together[row])


@pytest.mark.parametrize("pair", ALL)
def test_grouping_changes_no_score(case: Case) -> None:
    assert len(case.test.groups) == 3
    model = case.stirred()
    close(model.ranking_scores(in_one_group(case.test)), model.ranking_scores(case.test))


@pytest.mark.parametrize("pair", WITH_LOSSES)
def test_grouping_changes_no_loss(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """In training: with noise and auxiliary losses. Free bits and active units are those of a group, by definition."""
    model = case.stirred().train()
    for module in model.modules():
        for name in {"p", "dropout", "free_bits"} & vars(module).keys():
            setattr(module, name, 0.0)
    batch, noise = model.trained_on(case.train), RowNoise(monkeypatch)
    assert len(batch.groups) == 3
    grouped, whole = (noise.loss(model, given) for given in (batch, in_one_group(batch)))
    close(*({name: value for name, value in parts.items() if name != "active_units"} for parts in (grouped, whole)))


@pytest.mark.parametrize("pair", of(lambda kind: True, *LOSSES))
def test_a_seed_decides_the_parameters_and_a_step(case: Case) -> None:
    def after_a_step(seed: int) -> dict[str, Tensor]:
        model = case.build(seed)
        if model.trainable:
            made = model.configure_optimizers()
            optimizer = made["optimizer"] if isinstance(made, dict) else made
            model.train().loss(case.train)["total"].backward()
            optimizer.step()
        return model.state_dict()

    first, second = after_a_step(4), after_a_step(4)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    if case.build().trainable:
        other = after_a_step(5)
        assert not any(torch.equal(first[name], other[name]) for name in first if first[name].ndim > 1)


@pytest.mark.parametrize("pair", ALL)
def test_a_saved_state_gives_the_same_scores(case: Case) -> None:
    saved, other, file = case.stirred(1), case.stirred(2), io.BytesIO()
    torch.save(saved.state_dict(), file)
    file.seek(0)
    wanted = saved.ranking_scores(case.test)
    if list(saved.parameters()):
        assert not torch.allclose(other.ranking_scores(case.test), wanted)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other.ranking_scores(case.test), wanted)


@pytest.mark.parametrize("pair", TRAINED)
def test_gradients_reach_every_parameter(case: Case) -> None:
    """And a step changes no buffer: several processes do not tell each other of theirs."""
    model = case.stirred().train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.loss(case.train)["total"].backward()
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad, name
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
            used = module.weight.grad.abs().sum(dim=1) > 0
            assert used.tolist() == [row != module.padding_idx for row in range(len(used))]


@pytest.mark.parametrize("pair", WITH_LOSSES)
def test_no_step_of_training_waits_for_a_device(case: Case) -> None:
    model, trainer = case.build().train().to("meta"), SimpleNamespace(world_size=1)
    assert model.make_optimizer is not None
    with no_waiting():
        outputs = model.training_step(case.train.to("meta"), 0)
        outputs["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for how in ({"fused": True}, {"fused": False, "foreach": True}):
            model.make_optimizer(model.parameters(), **how).step()
        StopAtNonFinite().on_train_batch_end(trainer, model, outputs, case.train, 0)
    assert all(parameter.grad is not None and parameter.grad.is_meta for parameter in model.parameters())
