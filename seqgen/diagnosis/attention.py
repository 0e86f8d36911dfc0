"""Where the attention of a trained model looks: the maps of one user, and statistics of maps over many.

    b rows, l columns, H heads, n the window (data.max_len), Z the latent dimensions of attention=vae

Maps are those of `weights`, recomputed from what each attention was given. All statistics are over the shares of a row:
its weights, or, where they may be negative and need not sum to 1 (`hstu`), their magnitudes divided by their sum.

- entropy: of a row's shares, in nats, and as a share of its largest value, the logarithm of the number of columns the
  row may see; mean over real rows that see more than one.
- effective rank: exp of the entropy of the singular values divided by their sum (Roy and Vetterli, EUSIPCO 2007), of
  the log-weights, each row less its mean, which takes out what the softmax does not see. The mask would make any map
  triangular and of full rank; so it is taken of the largest square part of a map that the mask leaves whole: the newer
  half of the rows over the older half of the columns, so half the length is the most it can be. 0 where no row varies;
  left out for sequences under 4 items and for `hstu`, whose weights have no logarithm.
- distance: of the newest row's shares from the newest item, mean of sum_j w_ij (i - j), and the mass at each distance.
- spread: standard deviation of a weight over 16 draws, mean over the cells of real rows; only where attention draws.
- kl, active_units: the posterior's divergence from the prior in nats, mean over real rows, and how many of the Z latent
  means vary over them (variance above 0.01); only of `vae`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from seqgen.attention import Attention, SequenceMask
from seqgen.attention.vae import ACTIVE_VARIANCE, VAEAttention
from seqgen.data.sequences import SequenceBatch, evaluation_batch
from seqgen.diagnosis import TrainedRun
from seqgen.errors import UserError
from seqgen.layers import Block
from seqgen.model.encoded import EncodedRecommender
from seqgen.numerics import kl_to_standard_normal

DRAWS = 16  # of the noise, for the spread
CASES_AT_ONCE = 16  # times DRAWS are the maps held in memory
LEAST_LENGTH = 4  # of a sequence whose effective rank is taken
ROUNDING = 1e-4  # log-weights that vary by no more do not vary
SUM_ROUNDING = 1e-3  # a row that sums to 1 up to this holds probabilities, which have a logarithm
DETERMINISTIC = {"samples": 0, "temperature": 1.0}


@dataclass(frozen=True)
class Layer:
    """One attention of the encoder, and what it was given.

    Attributes:
        name: Depth, and branch where there are several.
        attention: The mechanism.
        query: (b, l, D).
        context: (b, l, D).
        mask: Of the map.
    """

    name: str
    attention: Attention
    query: Tensor
    context: Tensor
    mask: SequenceMask

    def weights(self) -> Tensor:
        """The map, (b, H, l, l)."""
        with torch.no_grad():
            return self.attention.weights(self.query, self.context, self.mask).detach()


def encoded(trained: TrainedRun, **inference: Any) -> EncodedRecommender:
    """The trained model, which has an encoder, under these settings of inference."""
    model = trained.model(**inference)
    assert isinstance(model, EncodedRecommender)
    return model


def draws(trained: TrainedRun) -> bool:
    """Whether the attention draws noise."""
    return encoded(trained).encoder.draws


def observe(model: EncodedRecommender, batch: SequenceBatch) -> list[list[Layer]]:
    """The attentions of each group of a batch, with what they were given."""
    seen: list[Layer] = []
    hooks = []
    stacks = model.encoder.stacks
    for branch, stack in enumerate(stacks, start=1):
        assert isinstance(stack, nn.ModuleList)
        for depth, block in enumerate(stack, start=1):
            name = f"layer {depth}" if len(stacks) == 1 else f"branch {branch}, layer {depth}"

            def keep(attention: nn.Module, given: tuple[Any, ...], name: str = name) -> None:
                assert isinstance(attention, Attention)
                seen.append(Layer(name, attention, *given))

            assert isinstance(block, Block)
            hooks.append(block.attention.register_forward_pre_hook(keep))
    groups = []
    try:
        with torch.no_grad():
            for group in batch.groups:
                model.encode(group.items, group.lengths)
                groups.append(seen.copy())
                seen.clear()
    finally:
        for hook in hooks:
            hook.remove()
    return groups


def cases_of_user(trained: TrainedRun, user: Any) -> Tensor:
    """Index of the newest test case of a user, (1,).

    Args:
        trained: The run.
        user: Original id; None takes the first user that is tested.

    Raises:
        UserError: There is no such user, or none of its interactions is tested.
    """
    cases, ids = trained.data.split.test, trained.data.catalog.user_ids
    if user is None:
        return torch.zeros(1, dtype=torch.long)
    tested = cases.users.unique().tolist()
    known = ", ".join(str(ids[number]) for number in tested[:3])
    found = [number for number, known_id in enumerate(ids) if str(known_id) == str(user)]
    if not found:
        raise UserError(f"user={user} is none of the {len(ids)} users of this data; take an id such as {known}.")
    index = (cases.users == found[0]).nonzero()[:, 0]
    if not len(index):
        raise UserError(f"user={user} has no test case in this split; take another, such as {known}.")
    return index[cases.stop[index].argmax()][None]


def batch_of(trained: TrainedRun, index: Tensor) -> SequenceBatch:
    """The test cases of these indices."""
    data = trained.data
    return evaluation_batch(data.sequences, data.split.test, index, max_len=data.max_len, mask_seen=False)


def maps_of_user(trained: TrainedRun, user: Any) -> dict[str, Any]:
    """The user's id, the items of its test history by name, and the map of each layer, (H, l, l) in lists."""
    catalog = trained.data.catalog
    batch = batch_of(trained, cases_of_user(trained, user))
    model = encoded(trained, **DETERMINISTIC if draws(trained) else {})
    names = [catalog.name(item) for item in batch.groups[0].items[0].tolist()]
    maps = {layer.name: layer.weights()[0].tolist() for layer in observe(model, batch)[0]}
    return {"user": catalog.user_ids[int(batch.users[0])], "items": names, "maps": maps}


def measure(trained: TrainedRun, *, cases: int) -> list[dict[str, Any]]:
    """Statistics of each layer over test cases spread evenly over the split.

    Args:
        trained: The run.
        cases: Their number at most.

    Returns:
        For each layer `name`, `heads` (one dictionary each), and what is of the layer as a whole.
    """
    total = len(trained.data.split.test)
    index = torch.linspace(0, total - 1, min(cases, total), dtype=torch.float64).round().long()
    drawing = draws(trained)
    model = encoded(trained, **DETERMINISTIC if drawing else {})
    sampled = encoded(trained, samples=DRAWS, temperature=1.0) if drawing else None
    layers: dict[str, _Sums] = {}
    for part in index.split(CASES_AT_ONCE):
        batch = batch_of(trained, part)
        for group in observe(model, batch):
            for layer in group:
                layers.setdefault(layer.name, _Sums()).add(layer, known=trained.data.max_len)
        for group in observe(sampled, batch) if sampled is not None else []:
            for layer in group:
                layers[layer.name].add_draws(layer)
    return [{"name": name, **sums.summary()} for name, sums in layers.items()]


class _Sums:
    """What is gathered of a layer: per head rows of values, of which the means are reported."""

    def __init__(self) -> None:
        self.values: dict[str, list[Tensor]] = {}  # each (some rows, H), or (some rows, H, n)
        self.latent: list[tuple[Tensor, Tensor]] = []  # mean and log variance, each (some rows, Z)

    def add(self, layer: Layer, *, known: int) -> None:
        """A group of cases."""
        weights, mask = layer.weights(), layer.mask
        share = shares(weights)
        self._keep(**entropies(share, mask), **distances(share, mask, known=known))
        if torch.allclose(weights.sum(-1), torch.ones(()), atol=SUM_ROUNDING):
            self._keep(effective_rank=ranks(weights, mask))
        if isinstance(layer.attention, VAEAttention):
            self._keep_latent(layer)

    def add_draws(self, layer: Layer) -> None:
        """A group of cases, as often as there are draws."""
        drawn = shares(layer.weights()).unflatten(0, (DRAWS, -1)).std(0)  # (b, H, l, l)
        cells = (layer.mask.allowed & layer.mask.query_valid[:, None, :, None])[: len(drawn), 0]
        self._keep(spread=drawn.transpose(1, 3).transpose(1, 2)[cells])

    def _keep(self, **values: Tensor) -> None:
        for name, value in values.items():
            self.values.setdefault(name, []).append(value.double())

    def _keep_latent(self, layer: Layer) -> None:
        attention, mask = layer.attention, layer.mask
        assert isinstance(attention, VAEAttention)
        with torch.no_grad():
            mean, log_variance = attention.posterior(attention.context(layer.query, layer.context, mask))
        real = mask.query_valid if mean.shape[1] == mask.query_valid.shape[1] else mean.new_ones(mean.shape[:2]).bool()
        self.latent.append((mean[real].double(), log_variance[real].double()))

    def summary(self) -> dict[str, Any]:
        """`heads`, and for a VAE `kl`, `active_units` and `latent_dim`."""
        gathered = {name: torch.cat(values) for name, values in self.values.items()}
        means = {name: rows.mean(0).tolist() for name, rows in gathered.items() if len(rows)}
        found: dict[str, Any] = {
            "heads": [dict(zip(means, head, strict=True)) for head in zip(*means.values(), strict=True)]
        }
        if self.latent:
            mean, log_variance = (torch.cat(parts) for parts in zip(*self.latent, strict=True))
            found["kl"] = float(kl_to_standard_normal(mean, log_variance).sum(-1).mean())
            found["active_units"] = int((mean.var(0, correction=0) > ACTIVE_VARIANCE).sum())
            found["latent_dim"] = mean.shape[1]
        return found


def shares(weights: Tensor) -> Tensor:
    """Rows of a map as shares of their magnitude, which leaves rows of a softmax as they are: (b, H, r, l)."""
    magnitude = weights.abs()
    return magnitude / magnitude.sum(-1, keepdim=True).clamp(min=torch.finfo(magnitude.dtype).tiny)


def entropies(share: Tensor, mask: SequenceMask) -> dict[str, Tensor]:
    """Of the real rows that see more than one column: `entropy` and `entropy_share`, each (rows, H)."""
    entropy = -torch.xlogy(share, share).sum(-1).transpose(1, 2)  # (b, r, H)
    rows = mask.query_valid & (mask.query_columns > 0)
    largest = (mask.query_columns + 1).double().log().expand(rows.shape)
    return {"entropy": entropy[rows], "entropy_share": entropy[rows] / largest[rows][:, None]}


def distances(share: Tensor, mask: SequenceMask, *, known: int) -> dict[str, Tensor]:
    """Of the newest row: `distance` (b, H) and `mass_by_distance` (b, H, n), the newest item first."""
    newest = mask.lengths - 1
    last = share[torch.arange(len(share)), :, newest]  # (b, H, l)
    distance = (newest[:, None] - mask.columns).clamp(min=0)[:, None].expand_as(last)
    mass = last.new_zeros(*last.shape[:2], known).scatter_add(-1, distance, last)
    return {"distance": (last * distance).sum(-1), "mass_by_distance": mass}


def ranks(weights: Tensor, mask: SequenceMask) -> Tensor:
    """Effective rank of the part of each map that the mask leaves whole, (cases of 4 items or more, H)."""
    found = [weights.new_zeros(0, weights.shape[1], dtype=torch.float64)]
    for row, length in zip(weights, mask.lengths.tolist(), strict=True):
        if length >= LEAST_LENGTH:
            whole = row[:, length // 2 : length, : length // 2 + 1]
            logarithm = whole.clamp(min=torch.finfo(whole.dtype).tiny).log()
            found.append(effective_rank(logarithm)[None])
    return torch.cat(found)


def effective_rank(logits: Tensor) -> Tensor:
    """Exponential of the entropy of the singular values' shares, each row less its mean: (..., r, c) -> (...).

    0 where no row varies.
    """
    centred = logits.double() - logits.double().mean(-1, keepdim=True)
    values = torch.linalg.svdvals(centred)
    share = values / values.sum(-1, keepdim=True).clamp(min=torch.finfo(values.dtype).tiny)
    rank = (-torch.xlogy(share, share).sum(-1)).exp()
    return rank.masked_fill(centred.abs().amax((-2, -1)) < ROUNDING, 0.0)


def logged(layers: list[dict[str, Any]]) -> dict[str, float]:
    """The numbers of each layer and head, for the loggers."""
    found: dict[str, float] = {}
    for layer in layers:
        found |= {f"{layer['name']}/{name}": layer[name] for name in ("kl", "active_units") if name in layer}
        for number, head in enumerate(layer["heads"], start=1):
            single = {name: value for name, value in head.items() if not isinstance(value, list)}
            found |= {f"{layer['name']}, head {number}/{name}": value for name, value in single.items()}
    return found
