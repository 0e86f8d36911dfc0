"""CDDRec: conditional denoising diffusion for sequential recommendation.

Wang, Liu, Yang, Yu, "Conditional Denoising Diffusion for Sequential Recommendation", PAKDD 2024, arXiv 2304.11433.

- Sequence encoder: items (b, l) -> context c (b, l, D), causal, with any attention.
- Cross-attentive denoising decoder (equation 9): mu_t = f(c, t), one vector per position and step t = 1..T. It is
  conditioned on the sequence and on the step, not on x_t: the steps are heads of one context, not a chain.
- Step-wise diffuser: prediction xhat_t = mu_t + sigma_t noise with the posterior's variance (equation 10); noisy target
  x_t ~ q(x_t | E[next item]) (equation 11).
- Objective (equation 16): sum over t of 1/t [L_cd + lambda (L_in + L_cross)]: cross-divergence against the noisy target
  and a negative item (13), in-view contrast of xhat_t with x_t (14), cross-view contrast of xhat_t with the prediction
  from an augmented view of the sequence (15).
- Inference: the direct prediction at t = 1, by cosine with the items.
- Not in the paper: `condition_on_x_t` feeds x_t to the decoder, whose steps then are a chain that inference runs.

Where we leave the reference code (github.com/YuWang-1024/CDDRec):

- Its decoder runs self-attention across the users of a batch, so a recommendation depends on who else is in the batch;
  ours attends to the user's own past, with the step in the query, as the paper has it.
- All T steps share one context and are decoded in one call; `steps_per_batch` draws some of them, unbiased.
- Its contrast covers padding and leaves the self term in the denominator; ours covers real positions only (with several
  processes, those of the process's own rows).
- Where it shuffles a sequence, positions inside the span may have seen their own target; ours learn nothing there.
- Its second cross-divergence, of the augmented view, weighs positions by item id; ours (`augmented_weight`) does not.
- It adds noise at test time and ranks seen items at score 0; ours is deterministic unless `inference.noise` is on, and
  seen items are out. Padding and the mask token are neither candidates nor negatives here.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqgen.attention import Aux, Branches, SequenceMask, check_heads, check_probability, merge_heads, split_heads
from seqgen.attention.generation import GeneratedAttention
from seqgen.data.augment import Kind, mixed
from seqgen.data.catalog import Catalog
from seqgen.data.sequences import Group, SequenceBatch
from seqgen.diffusion.process import Diffusion
from seqgen.errors import UserError
from seqgen.layers import Activation, Encoder, Inference, Norm, SequenceEmbedding
from seqgen.losses import sample_negatives
from seqgen.model.base import MakeOptimizer, MakeScheduler, SequentialRecommender
from seqgen.numerics import fourier_info_nce, full_precision, info_nce

Divergence = Literal["bce", "kl"]
Contrast = Literal["exact", "fourier"]
TimeIn = Literal["query", "memory", "both"]
INIT_STD = 0.02  # of every embedding and dense layer, as in the reference code
RATIOS = {"crop": 0.6, "mask": 0.3, "reorder": 0.6}  # of a row
FOURIER_FEATURES, LEAST_TEMPERATURE = 256, 0.3  # of the random-feature contrast


class StepInference(Inference):
    """How a fitted model predicts; samples and temperature are also those of an attention that draws.

    steps: The first so many steps, averaged with the weights 1/t they have in training; 1 is the paper's. With
        `condition_on_x_t` so many reverse steps from T to 0.
    noise: Add the noise of each step: one vector, the same for all users and runs, so that nobody's recommendations
        depend on the batch. It shifts the scores of an item alike for all. With `condition_on_x_t` it is x_T.
    """

    steps: int
    noise: bool


class _Decoded(NamedTuple):
    """Predictions for a group.

    Attributes:
        mean: mu at its real positions, (K, n, D).
        augmented: mu at the positions of its augmented view that have seen nothing newer, (K, m, D).
        partner: The target of the batch that each position of the view stands for, (m,).
    """

    mean: Tensor
    augmented: Tensor | None
    partner: Tensor | None


class StepDecoder(nn.Module):
    """Cross-attention of each position and step to the user's own past, and a feed-forward network (post-norm).

    Args:
        steps: T.
        hidden_dim: Width D.
        num_heads: Heads of the attention.
        ffn_dim: Inner width of the feed-forward network.
        dropout: Of the attention weights, of both residuals and inside the feed-forward network.
        time_in: Where the step's embedding is added.
        x_t: There is a noisy target to read. It enters the stream of its own position only, never keys and values.
    """

    def __init__(
        self, *, steps: int, hidden_dim: int, num_heads: int, ffn_dim: int, dropout: float, time_in: TimeIn, x_t: bool
    ) -> None:
        super().__init__()
        check_heads(num_heads, hidden_dim, key="model.decoder_heads")
        check_probability("model.decoder_dropout", dropout)
        self.num_heads, self.time_in = num_heads, time_in
        self.step = nn.Embedding(steps, hidden_dim)  # row t - 1 is step t
        self.query, self.key, self.value, self.merge = (nn.Linear(hidden_dim, hidden_dim) for _ in range(4))
        self.inner, self.outer = nn.Linear(hidden_dim, ffn_dim), nn.Linear(ffn_dim, hidden_dim)
        self.norm_attention, self.norm_ffn = nn.LayerNorm(hidden_dim), nn.LayerNorm(hidden_dim)
        self.dropout = nn.Dropout(dropout)
        self.noisy = nn.Linear(hidden_dim, hidden_dim) if x_t else None

    def forward(self, context: Tensor, past: SequenceMask, steps: Tensor, x_t: Tensor | None = None) -> Tensor:
        """Context (b, l, D), steps (K,) of 1..T, x_t (K, b, r, D) -> (K, b, r, D), for the query rows of the mask."""
        rows, step = past.query_rows(context), self.step(steps - 1)[:, None, None]
        stream, query = rows[None], self.query(rows)[None]  # (K, b, r, D), or 1 for all K where no step is in it
        for part in [step] * (self.time_in != "memory") + ([self.noisy(x_t)] if self.noisy is not None else []):
            # The query is linear: rows and steps are projected once each, not once a pair.
            stream, query = stream + part, query + F.linear(part, self.query.weight)
        count, batch, length, _ = query.shape  # steps then lie beside rows
        query = split_heads(query.transpose(0, 1).reshape(batch, count * length, -1), self.num_heads)
        key, value = split_heads(self.key(context), self.num_heads), split_heads(self.value(context), self.num_heads)
        allowed = past.allowed.repeat(1, 1, count, 1)
        dropout = self.dropout.p if self.training else 0.0
        attended = merge_heads(F.scaled_dot_product_attention(query, key, value, allowed, dropout))
        attended = attended.unflatten(1, (count, length)).transpose(0, 1)
        if self.time_in != "query":
            # In keys it raises all scores of a query alike; weights sum to 1, so of the values the step's own is left.
            attended = attended + F.linear(step, self.value.weight)
        y = self.norm_attention(stream + self.dropout(self.merge(attended)))
        return self.norm_ffn(y + self.dropout(self.outer(self.dropout(F.gelu(self.inner(y))))))


class CDDRec(SequentialRecommender):
    """Conditional denoising diffusion over the next item's embedding.

    Args:
        catalog: The items.
        max_len: Number of newest items read.
        attention: The encoder's mechanism, as branches.
        diffusion: The process of the targets; its number of steps is the decoder's.
        hidden_dim: Width D.
        num_layers: Blocks of the encoder.
        ffn_dim: Inner width of the encoder's feed-forward network.
        activation: relu, gelu or silu, in the encoder.
        norm: Placement of the encoder's normalisations; `post` is the paper's.
        dropout: Of the embedding and the encoder's residuals.
        decoder_heads: Heads of the decoder.
        decoder_ffn_dim: Inner width of the decoder's feed-forward network.
        decoder_dropout: Dropout of the decoder.
        time_in: Where the step enters the decoder: `query`, as the paper has it, `memory` (keys and values; the
            reference code, whose memory is nothing else), or `both`.
        steps_per_batch: Steps drawn for a batch with the probability of their weights; None takes all T.
        noisy_targets: The positive of a step is the target noised as far; off, it is the clean one.
        condition_on_x_t: Ours: the decoder gets the noisy target and predicts the clean one; inference starts from
            x_T = 0, or from noise, and runs the reverse chain (DDIM).
        cross_divergence: `bce` on dot products, as the reference code, or `kl` between the two Gaussians, as the paper.
        contrast: Denominator of the contrastive losses: `exact`, or `fourier` (random features, as the reference code).
        contrast_weight: lambda.
        temperature: tau of the contrast.
        fourier_features: Number of random directions of `fourier`; None takes 256.
        augmentations: Of the augmented view, one drawn for each row: crop, mask, reorder; none leaves the view out.
        crop_ratio: Share of a row that is kept; None takes 0.6.
        mask_ratio: Share of a row that is masked; None takes 0.3.
        reorder_ratio: Share of a row that is shuffled; None takes 0.6.
        augmented_weight: Weight of the cross-divergence of the augmented view, which only the reference code has.
        exclude_seen: No item of the user's training sequence is a negative.
        inference: How a fitted model predicts.
        optimizer: Makes the optimiser.
        scheduler: Makes the learning-rate schedule.
        metrics_k: List lengths of the metrics.

    Raises:
        UserError: A setting is out of its range.
    """

    noise: Tensor

    def __init__(
        self,
        *,
        catalog: Catalog,
        max_len: int,
        attention: Branches,
        diffusion: Diffusion,
        hidden_dim: int,
        num_layers: int,
        ffn_dim: int,
        activation: Activation,
        norm: Norm,
        dropout: float,
        decoder_heads: int,
        decoder_ffn_dim: int,
        decoder_dropout: float,
        time_in: TimeIn,
        steps_per_batch: int | None,
        noisy_targets: bool,
        condition_on_x_t: bool,
        cross_divergence: Divergence,
        contrast: Contrast,
        contrast_weight: float,
        temperature: float,
        fourier_features: int | None,
        augmentations: list[Kind],
        crop_ratio: float | None,
        mask_ratio: float | None,
        reorder_ratio: float | None,
        augmented_weight: float,
        exclude_seen: bool,
        inference: StepInference,
        optimizer: MakeOptimizer,
        scheduler: MakeScheduler | None,
        metrics_k: Sequence[int],
    ) -> None:
        super().__init__(catalog=catalog, metrics_k=metrics_k, optimizer=optimizer, scheduler=scheduler)
        _check(locals())
        self.encoder = Encoder(
            attention,
            hidden_dim=hidden_dim,
            num_layers=num_layers,
            ffn_dim=ffn_dim,
            activation=activation,
            norm=norm,
            dropout=dropout,
            max_len=max_len,
            inference={"samples": 0, "temperature": 1.0},
        )
        draws: Inference = {"samples": inference["samples"], "temperature": inference["temperature"]}
        if self.encoder.draws or not inference["noise"]:  # where only the steps draw, the encoder has nothing to repeat
            self.encoder.sample(draws)
        if self.encoder.one_target and (augmentations or condition_on_x_t):
            raise UserError(
                "attention.context=last has one target a sequence, but an augmented view and x_t need one at each "
                "position: set model.augmentations=[] and model.condition_on_x_t=false."
            )
        self.mask_token = catalog.num_items + 1  # its row is there only where something is masked
        self.embedding = SequenceEmbedding(
            num_items=catalog.num_items + ("mask" in augmentations),
            hidden_dim=hidden_dim,
            max_len=max_len,
            dropout=dropout,
            init_std=INIT_STD,
            scale=1.0,
        )
        self.norm_input = nn.LayerNorm(hidden_dim)
        self.decoder = StepDecoder(
            steps=diffusion.num_steps,
            hidden_dim=hidden_dim,
            num_heads=decoder_heads,
            ffn_dim=decoder_ffn_dim,
            dropout=decoder_dropout,
            time_in=time_in,
            x_t=condition_on_x_t,
        )
        generated = {m for layer in self.modules() if isinstance(layer, GeneratedAttention) for m in layer.modules()}
        for module in self.modules():
            if isinstance(module, nn.Linear) and module not in generated:  # which has starting values of its own
                nn.init.normal_(module.weight, std=INIT_STD)
                nn.init.zeros_(module.bias)
        self.diffusion, self.steps_per_batch, self.noisy_targets = diffusion, steps_per_batch, noisy_targets
        self.condition_on_x_t = condition_on_x_t
        self.cross_divergence, self.augmented_weight = cross_divergence, augmented_weight
        self.contrast, self.contrast_weight = contrast, contrast_weight
        self.temperature, self.fourier_features = temperature, fourier_features
        given = {"crop": crop_ratio, "mask": mask_ratio, "reorder": reorder_ratio}
        self.ratios = {kind: given[kind] or RATIOS[kind] for kind in augmentations}
        self.exclude_seen = exclude_seen
        self.inference = inference
        # The same in every run and no part of a checkpoint, which can so be tested with and without it.
        shape = (max(draws["samples"], 1), inference["steps"], hidden_dim)
        scale = draws["temperature"] * inference["noise"]
        noise = scale * torch.randn(shape, generator=torch.Generator().manual_seed(0))
        self.register_buffer("noise", noise[:, 0] if condition_on_x_t else noise.mean(0), persistent=False)

    # From a sequence to predictions.

    def encode(self, items: Tensor, lengths: Tensor, *, last_only: bool = False) -> tuple[Tensor, Aux]:
        """Items (b, l), lengths (b,) -> the prediction xhat, (b, l, D) or (b, D), as `inference` has it."""
        context, aux = self._context(items, lengths, lengths - 1, each=True)
        draws = len(context) // len(items)  # of the attention
        past = SequenceMask(lengths.repeat(draws), items.shape[1], last=last_only)
        prediction = self._reverse(context, past) if self.condition_on_x_t else self._direct(context, past)
        prediction = prediction.unflatten(0, (draws, -1)).mean(0) if draws > 1 else prediction
        return prediction[:, 0] if last_only else prediction, aux

    def _direct(self, context: Tensor, past: SequenceMask) -> Tensor:
        """The mean over the first steps, (b, r, D)."""
        steps = torch.arange(1, self.inference["steps"] + 1, device=context.device)
        weights = (1 / steps)[:, None, None, None]
        drawn = self.decoder(context, past, steps) + (self.deviation(steps)[:, None] * self.noise)[:, None, None]
        return (weights / weights.sum() * drawn).sum(0)

    def _reverse(self, context: Tensor, past: SequenceMask) -> Tensor:
        """The clean item predicted at the end of the reverse chain, (b, r, D), mean over the draws of x_T."""
        rows, times = past.query_rows(context), self.diffusion.grid(self.inference["steps"])
        noise = self.noise[:, None, None].to(rows.dtype)
        if self.encoder.samples:  # the rows are draws of the attention already: each goes with its own x_T
            noise = noise.repeat_interleave(len(rows) // len(noise), 0).transpose(0, 1)
        noise = noise.expand(-1, *rows.shape[:2], -1)
        x_t = self.diffusion.q_sample(torch.zeros_like(noise), times[0], noise)
        # The objective fixes the direction of a prediction only; in x_t it has the length that items have.
        length = self.embedding.item.weight[1 : self.mask_token].norm(dim=1).mean()
        for now, then in pairwise(times):
            clean = self.decoder(context, past, torch.full((len(noise),), now, device=rows.device), x_t)
            if then:
                x_t = self.diffusion.ddim_step(length * F.normalize(clean, dim=-1), x_t, now, then)
        return clean.mean(0)

    def _context(self, items: Tensor, lengths: Tensor, newest: Tensor, *, each: bool = False) -> tuple[Tensor, Aux]:
        embedded = self.norm_input(self.embedding(items, newest))
        return self.encoder(embedded, lengths, progress=self.progress, each=each)

    @property
    def item_vectors(self) -> Tensor:
        """Item embeddings of length 1, (I + 1, D): the ranking is by cosine; the mask token is no candidate."""
        return F.normalize(full_precision(self.embedding.item.weight[: self.mask_token]), dim=-1)

    def deviation(self, steps: Tensor) -> Tensor:
        """sigma_t of the posterior, (K,); step 1, whose posterior has none, takes that of step 2, as the code does."""
        steps = steps.clamp(min=min(2, self.diffusion.num_steps))
        return self.diffusion.posterior_variance(steps, steps - 1).sqrt().float()

    # The objective.

    def draw_steps(self) -> tuple[Tensor, Tensor]:
        """Steps of a batch and their weights, both (K,): the weighted sum over them is sum_t 1/t L_t in expectation."""
        steps = torch.arange(1, self.diffusion.num_steps + 1, device=self.device)
        weights = 1 / steps.double()
        if self.steps_per_batch is None:
            return steps, weights.float()
        # Evenly spaced points with one random shift: each step comes as often as its weight says, and they spread out.
        points = torch.arange(self.steps_per_batch, device=self.device) + torch.rand((), device=self.device).double()
        drawn = torch.searchsorted(weights.cumsum(0) / weights.sum(), points / self.steps_per_batch)
        each = weights.sum().float() / self.steps_per_batch
        return drawn.clamp(max=len(steps) - 1) + 1, each.expand(self.steps_per_batch)

    def loss(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Cross-divergence, in-view and cross-view contrast, and the auxiliary losses of the attention."""
        steps, weights = self.draw_steps()
        losses, parts = self.step_losses(batch, steps)
        scale = weights * len(batch.targets) / batch.normalizer
        lambdas = {"cross_divergence": 1.0, "augmented": self.augmented_weight}
        for name, values in losses.items():
            parts[name] = ((scale * values).sum(), lambdas.get(name, self.contrast_weight))
        return self.weighted(parts)

    def step_losses(self, batch: SequenceBatch, steps: Tensor) -> tuple[dict[str, Tensor], Aux]:
        """Each part of the objective at each of the steps, (K,), mean over the targets; the attention's own losses."""
        table, x_t = self.embedding.item.weight, None
        if self.condition_on_x_t:
            # No gradient: items would grow until no noise could hide them.
            given = table[batch.targets].detach().expand(len(steps), -1, -1)
            x_t = self.diffusion.q_sample(given, steps, torch.randn_like(given))
        decoded: list[_Decoded] = []
        parts: Aux = {}
        start = 0
        for group in batch.groups:
            one, aux = self._decode(group, steps, start, x_t)
            decoded.append(one)
            start += len(group.flat_index)
            share = len(group.flat_index) / batch.normalizer
            for name, (value, weight) in aux.items():
                parts[name] = (share * value + (parts[name][0] if name in parts else 0.0), weight)
        negatives = sample_negatives(batch, self.num_items, num_negatives=1, exclude_seen=self.exclude_seen)[:, 0]
        clean = torch.stack([table[batch.targets], table[negatives]])  # (2, N, D)
        mean = torch.cat([one.mean for one in decoded], dim=1)
        prediction = self._draw(mean, steps)
        positive = clean[0].expand_as(mean)
        if self.noisy_targets:
            positive = self.diffusion.q_sample(positive, steps, torch.randn_like(mean))

        losses = {"cross_divergence": self._divergence(prediction, mean, positive, clean, steps)}
        if self.contrast_weight:
            losses["in_view"] = self._contrast(prediction, positive)
        if self.ratios:
            augmented = torch.cat([one.augmented for one in decoded if one.augmented is not None], dim=1)
            partner = torch.cat([one.partner for one in decoded if one.partner is not None])
            other = self._draw(augmented, steps)
            if self.contrast_weight:
                losses["cross_view"] = self._contrast(prediction[:, partner], other)
            if self.augmented_weight:
                losses["augmented"] = self._divergence(other, augmented, positive[:, partner], clean[:, partner], steps)
        return losses, parts

    def _decode(self, group: Group, steps: Tensor, start: int, x_t: Tensor | None = None) -> tuple[_Decoded, Aux]:
        """Predictions at the real positions of a group, whose first target is the batch's number `start`."""
        # Targets lie row by row: that of a column is its row's first plus the column of the sequence it stands for.
        before = start + group.lengths.cumsum(0) - group.lengths

        def of_targets(columns: Tensor) -> Tensor | None:  # on padding anything: nobody else sees it
            return None if x_t is None else x_t[:, (before[:, None] + columns).clamp(max=x_t.shape[1] - 1)]

        past = SequenceMask(group.lengths, group.items.shape[1])
        context, aux = self._context(group.items, group.lengths, group.lengths - 1)
        mean = self.decoder(context, past, steps, of_targets(past.columns)).flatten(1, 2)[:, group.flat_index]
        if not self.ratios:
            return _Decoded(mean, None, None), aux
        view = mixed(group.items, group.lengths, self.ratios, self.mask_token)
        past = SequenceMask(view.lengths, past.num_columns)
        # A cropped view keeps the positions its items have in the main one. The attention's own losses count once.
        context, _ = self._context(view.items, view.lengths, group.lengths - 1 - view.columns[:, 0])
        row, column = view.causal.nonzero(as_tuple=True)
        augmented = self.decoder(context, past, steps, of_targets(view.columns))[:, row, column]
        return _Decoded(mean, augmented, before[row] + view.columns[row, column]), aux

    def _draw(self, mean: Tensor, steps: Tensor) -> Tensor:
        return mean + self.deviation(steps)[:, None, None].to(mean.dtype) * torch.randn_like(mean)

    def _divergence(self, prediction: Tensor, mean: Tensor, positive: Tensor, clean: Tensor, steps: Tensor) -> Tensor:
        """Of each step, (K,); predictions, means and positives (K, N, D), clean targets and negatives (2, N, D)."""
        if self.cross_divergence == "bce":
            good = (full_precision(prediction) * positive).sum(-1)
            bad = (full_precision(prediction) * clean[1]).sum(-1)
        else:
            deviation = self.deviation(steps)
            good, bad = (-self.diffusion.divergence(full_precision(mean), deviation, x_0, steps) for x_0 in clean)
        return (F.softplus(-good) + F.softplus(bad)).mean(1)

    def _contrast(self, first: Tensor, second: Tensor) -> Tensor:
        if self.contrast == "exact":
            return info_nce(first, second, self.temperature)
        return fourier_info_nce(first, second, self.temperature, self.fourier_features or FOURIER_FEATURES)


def _check(given: dict[str, Any]) -> None:
    """Refuse settings out of their range, and those without effect; `seqgen.check` has seen to their types.

    Raises:
        UserError: Names the key.
    """
    views, weight, augmented = (given[name] for name in ("augmentations", "contrast_weight", "augmented_weight"))
    tau, fourier, kl = given["temperature"], given["contrast"] == "fourier", given["cross_divergence"] == "kl"
    last, chain, features = given["diffusion"].num_steps, given["condition_on_x_t"], given["fourier_features"]
    steps, samples, noise = (given["inference"][name] for name in ("steps", "samples", "noise"))
    refused: dict[str, bool] = {}
    for name in RATIOS:
        if (ratio := given[f"{name}_ratio"]) is not None:
            key = f"model.{name}_ratio"
            refused[f"{key} has no effect without {name} in model.augmentations; leave it null."] = name not in views
            refused[f"{key}={ratio} must lie in (0, 1]."] = not 0 < ratio <= 1
    for name in ("contrast_weight", "augmented_weight"):
        refused[f"model.{name}={given[name]} must not be negative."] = given[name] < 0
    for name in ("temperature", "fourier_features", "decoder_ffn_dim"):
        refused[f"model.{name}={given[name]} must be above 0."] = given[name] is not None and given[name] <= 0
    for name, count in {"steps_per_batch": given["steps_per_batch"], "inference.steps": steps}.items():
        outside = count is not None and not 1 <= count <= last
        refused[f"model.{name}={count} must lie in 1 to diffusion.steps={last}."] = outside
    refused |= {
        f"model.augmentations={views} must name each view once.": len(set(views)) < len(views),
        "model.augmentations has no effect with model.contrast_weight=0 and model.augmented_weight=0; set it to "
        "[].": bool(views) and not (weight or augmented),
        "model.augmented_weight has no effect without model.augmentations; set it to 0.": augmented > 0 and not views,
        "model.contrast=fourier has no effect with model.contrast_weight=0; leave it exact.": fourier and not weight,
        "model.fourier_features has no effect with model.contrast=exact; leave it null.": not fourier
        and bool(features),
        f"model.temperature={tau} is too low for model.contrast=fourier, whose estimate is noise below "
        f"{LEAST_TEMPERATURE}; raise it, or set model.contrast=exact.": fourier and tau < LEAST_TEMPERATURE,
        "model.cross_divergence=kl needs diffusion.steps of at least 2: one step has no posterior.": kl and last == 1,
        "model.condition_on_x_t=true predicts the clean target, since the noisy one is its own input: set "
        "model.noisy_targets=false and model.cross_divergence=bce.": chain and (given["noisy_targets"] or kl),
        f"model.inference.samples={samples} must be at least 1 where model.inference.noise is true.": noise
        and samples < 1,
        "model.inference.noise has no effect with diffusion.steps=1: one step has no posterior; set it to false.": noise
        and last == 1
        and not chain,
    }
    for sentence, wrong in refused.items():
        if wrong:
            raise UserError(sentence)
