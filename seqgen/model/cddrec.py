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
- Its contrast covers padding, and the self term; ours covers real positions only, those of all processes.
- Where it shuffles a sequence, positions inside the span may have seen their own target; ours learn nothing there.
- Its second cross-divergence, of the augmented view, weighs positions by item id; ours (`augmented_weight`) does not.
- It adds noise at test time and ranks seen items at score 0; ours is deterministic unless `inference.noise` is on, and
  seen items are out. Padding and the mask token are neither candidates nor negatives here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqgen import collectives
from seqgen.attention import Aux, Auxiliary, SequenceMask
from seqgen.data.augment import Views
from seqgen.data.sequences import Group, SequenceBatch
from seqgen.diffusion.process import Diffusion
from seqgen.errors import SettingError, argument, check_weights
from seqgen.layers import Inference, StepDecoder, reset_dense
from seqgen.losses import Contrast, sample_negatives
from seqgen.model.base import of_groups
from seqgen.model.encoded import EncodedRecommender
from seqgen.noise import draw
from seqgen.numerics import full_precision, rows_of

INIT_STD = 0.02  # of every embedding and dense layer, as in the reference code


@dataclass(frozen=True, kw_only=True)
class StepInference(Inference):
    """How a fitted model predicts; samples and temperature are also those of an attention that draws.

    Args:
        steps: The first so many steps, averaged with the weights 1/t they have in training; 1 is the paper's. With
            `condition_on_x_t` so many reverse steps from T to 0.
        noise: Add the noise of each step: one vector, the same for all users and runs, so that nobody's recommendations
            depend on the batch. It shifts the scores of an item alike for all. With `condition_on_x_t` it is x_T.
    """

    steps: int
    noise: bool

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        super().__post_init__()
        if self.noise and not self.samples:
            raise SettingError("noise=true needs samples of at least 1.")


class _Decoded(NamedTuple):
    mean: Tensor  # mu at the real positions of a group, (K, n, D)
    augmented: Tensor | None  # mu at the positions of its augmented view that have seen nothing newer, (K, m, D)
    partner: Tensor | None  # the target of the batch that each position of the view stands for, (m,)
    noise: Tensor | None  # of the draw at these positions, (K, m, D)


class CDDRec(EncodedRecommender):
    """Conditional denoising diffusion over the next item's embedding.

    Args:
        diffusion: The process of the targets; its number of steps is the decoder's.
        decoder: Makes the denoising decoder from `steps` and `hidden_dim`. With `time_in=query` the step enters as the
            paper has it, with `memory` as in the reference code, whose memory is nothing else.
        contrast: In-view and cross-view contrast; its weight is lambda.
        views: The augmented view of the cross-view contrast.
        augmented_weight: Weight of the cross-divergence of the augmented view, which only the reference code has.
        steps_per_batch: Steps drawn for a batch with the probability of their weights; None takes all T.
        noisy_targets: The positive of a step is the target noised as far; off, it is the clean one.
        cross_divergence: `bce` on dot products, as the reference code, or `kl` between the two Gaussians, as the paper.
        exclude_seen: No item of the user's training sequence is a negative.
        inference: How a fitted model predicts.
        settings: Of `EncodedRecommender`; `norm=post` is the paper's.

    Raises:
        SettingError: A setting is out of its range, or without effect.
    """

    init_std, embedding_scale = INIT_STD, 1.0
    inference: StepInference
    noise: Tensor

    def __init__(
        self,
        *,
        diffusion: Diffusion,
        decoder: Callable[..., StepDecoder],
        contrast: Contrast,
        views: Views,
        augmented_weight: float,
        steps_per_batch: int | None,
        noisy_targets: bool,
        cross_divergence: Literal["bce", "kl"],
        exclude_seen: bool,
        inference: StepInference,
        **settings: Any,
    ) -> None:
        super().__init__(int(views.mask > 0), inference=inference, **settings)
        self.norm_input = nn.LayerNorm(self.hidden_dim)
        with argument("decoder"):
            self.decoder = decoder(steps=diffusion.num_steps, hidden_dim=self.hidden_dim)
        self.diffusion, self.contrast, self.views, self.augmented_weight = diffusion, contrast, views, augmented_weight
        self.steps_per_batch, self.noisy_targets = steps_per_batch, noisy_targets
        self.cross_divergence, self.exclude_seen = cross_divergence, exclude_seen
        self.chain = self.decoder.noisy is not None  # x_t is read, so inference runs the reverse chain
        self.mask_token = self.num_items + 1  # its row is there only where something is masked
        self._check()
        reset_dense(self, INIT_STD)
        # The same in every run and no part of a checkpoint, which can so be tested with and without it.
        shape = (max(inference.samples, 1), inference.steps, self.hidden_dim)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        noise *= inference.temperature * inference.noise
        self.register_buffer("noise", noise[:, 0] if self.chain else noise.mean(0), persistent=False)

    def _check(self) -> None:
        last, kl, chain = self.diffusion.num_steps, self.cross_divergence == "kl", self.chain
        drawn, steps, weight = self.steps_per_batch, self.inference.steps, self.augmented_weight
        learned = self.contrast.weight or weight
        check_weights(augmented_weight=weight)
        rules = (
            (drawn is None or 1 <= drawn <= last, f"steps_per_batch={drawn} must lie in 1 to diffusion.steps={last}."),
            (1 <= steps <= last, f"inference.steps={steps} must lie in 1 to diffusion.steps={last}."),
            (self.views or not weight, "augmented_weight has no effect without views; set it to 0."),
            (learned or not self.views, "views has no effect with contrast.weight=0 and augmented_weight=0."),
            (last > 1 or not kl, "cross_divergence=kl needs diffusion.steps of at least 2: one step has no posterior."),
            (last > 1 or chain or not self.inference.noise, "inference.noise has no effect with diffusion.steps=1."),
            (
                not chain or not (self.noisy_targets or kl),
                "decoder.condition_on_x_t=true reads the noisy target: set noisy_targets=false cross_divergence=bce.",
            ),
            (
                not self.encoder.one_target or not (self.views or chain),
                "attention.context=last has one target a sequence: set views to 0 and decoder.condition_on_x_t=false.",
            ),
        )
        for kept, sentence in rules:
            if not kept:
                raise SettingError(sentence)

    @property
    def draws(self) -> bool:
        """Whether there is noise to draw at inference: of the attention, or of the steps."""
        return self.encoder.draws or self.inference.noise

    # From a sequence to predictions.

    def encode(self, items: Tensor, lengths: Tensor, *, last_only: bool = False) -> tuple[Tensor, Aux]:
        """Items (b, l), lengths (b,) -> the prediction xhat, (b, l, D) or (b, D), as `inference` has it."""
        context, aux = self.encoder(self.embed(items, lengths - 1), lengths, each=True)
        draws = len(context) // len(items)  # of the attention
        past = SequenceMask(lengths.repeat(draws), items.shape[1], last=last_only)
        prediction = self._reverse(context, past) if self.chain else self._direct(context, past)
        prediction = prediction.unflatten(0, (draws, -1)).mean(0) if draws > 1 else prediction
        return prediction[:, 0] if last_only else prediction, aux

    def _direct(self, context: Tensor, past: SequenceMask) -> Tensor:
        """The mean over the first steps, (b, r, D)."""
        steps = torch.arange(1, self.inference.steps + 1, device=context.device)
        weights = (1 / steps)[:, None, None, None]
        drawn = self.decoder(context, past, steps) + (self.deviation(steps)[:, None] * self.noise)[:, None, None]
        return (weights / weights.sum() * drawn).sum(0)

    def _reverse(self, context: Tensor, past: SequenceMask) -> Tensor:
        """The clean item predicted at the end of the reverse chain, (b, r, D), mean over the draws of x_T."""
        rows, times = past.query_rows(context), self.diffusion.grid(self.inference.steps)
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

    def embed(self, items: Tensor, newest: Tensor) -> Tensor:
        """Items (b, l), column of the newest item (b,) -> input of the encoder, (b, l, D)."""
        embedded: Tensor = self.norm_input(self.embedding(items, newest))
        return embedded

    @property
    def item_vectors(self) -> Tensor:
        """Item embeddings of length 1, (I + 1, D): the ranking is by cosine."""
        return F.normalize(full_precision(super().item_vectors), dim=-1)

    def deviation(self, steps: Tensor) -> Tensor:
        """sigma_t of the posterior, (K,); step 1, whose posterior has none, takes that of step 2, as the code does."""
        steps = steps.clamp(min=min(2, self.diffusion.num_steps))
        return self.diffusion.posterior_variance(steps, steps - 1).sqrt().float()

    # The objective.

    def draw_steps(self, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Steps of a batch and their weights, both (K,): the weighted sum over them is sum_t 1/t L_t in expectation.

        Args:
            generator: Of the draw, which all processes have to share; None takes torch's own.
        """
        steps = torch.arange(1, self.diffusion.num_steps + 1, device=self.device)
        weights = 1 / steps.double()
        if self.steps_per_batch is None:
            return steps, weights.float()
        # Evenly spaced points with one random shift: each step comes as often as its weight says, and they spread out.
        shift = torch.rand((), device=self.device, generator=generator).double()
        points = torch.arange(self.steps_per_batch, device=self.device) + shift
        drawn = torch.searchsorted(weights.cumsum(0) / weights.sum(), points / self.steps_per_batch)
        each = weights.sum().float() / self.steps_per_batch
        return drawn.clamp(max=len(steps) - 1) + 1, each.expand(self.steps_per_batch)

    def loss(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Cross-divergence, in-view and cross-view contrast, and the auxiliary losses of the attention."""
        steps, weights = self.draw_steps(batch.generator)
        losses, parts = self.step_losses(batch, steps)
        lambdas = {"cross_divergence": 1.0, "augmented": self.augmented_weight}
        for name, values in losses.items():
            parts[name] = Auxiliary((weights * values).sum(), lambdas.get(name, self.contrast.weight))
        return self.weighted(parts)

    def step_losses(self, batch: SequenceBatch, steps: Tensor) -> tuple[dict[str, Tensor], Aux]:
        """Each part of the objective at each of the steps, (K,), and the attention's own losses.

        A part is the mean over the targets; of a slice of a batch its sum, divided as `SequenceBatch.normalizer` says.
        """
        table, x_t = self.embedding.item.weight, None
        if self.chain:
            # No gradient: items would grow until no noise could hide them.
            given = table[batch.targets].detach().expand(len(steps), -1, -1)
            x_t = self.diffusion.q_sample(given, steps, _noise(batch, given))
        hosts = (batch.host if self.views else batch).groups
        decoded, parts = of_groups(
            batch, lambda number, group, start: self._decode(group, hosts[number].lengths, start, steps, x_t)
        )
        negatives = sample_negatives(batch, self.num_items, num_negatives=1, exclude_seen=self.exclude_seen)[:, 0]
        clean = torch.stack([rows_of(table, batch.targets), rows_of(table, negatives)])  # (2, N, D)
        mean = torch.cat([one.mean for one in decoded], dim=1)
        prediction = self._draw(mean, steps, _noise(batch, mean))
        positive = clean[0].expand_as(mean)
        if self.noisy_targets:
            positive = self.diffusion.q_sample(positive, steps, _noise(batch, mean))

        share = mean.shape[1] / batch.normalizer
        losses = {"cross_divergence": share * self._divergence(prediction, mean, positive, clean, steps)}
        if self.contrast.weight:
            losses["in_view"] = self.contrast(prediction, positive, batch, batch.normalizer)
        if self.views:
            augmented = torch.cat([one.augmented for one in decoded if one.augmented is not None], dim=1)
            partner = torch.cat([one.partner for one in decoded if one.partner is not None])
            noise = torch.cat([one.noise for one in decoded if one.noise is not None], dim=1)
            other = self._draw(augmented, steps, noise)
            count = float(len(partner))  # the mean is over the partners that all processes have
            if batch.whole is not None:
                count = sum(collectives.counts(len(partner))) / batch.whole.processes
            if self.contrast.weight:
                losses["cross_view"] = self.contrast(prediction[:, partner], other, batch, count)
            if self.augmented_weight:
                own = self._divergence(other, augmented, positive[:, partner], clean[:, partner], steps)
                losses["augmented"] = len(partner) / count * own
        return losses, parts

    def _decode(
        self, group: Group, on_host: Tensor, start: int, steps: Tensor, x_t: Tensor | None
    ) -> tuple[_Decoded, Aux]:
        """Predictions at the real positions of a group, whose first target is the batch's number `start`.

        A view has to know the lengths on the host, (b,).
        """
        # Targets lie row by row: that of a column is its row's first plus the column of the sequence it stands for.
        before = start + group.lengths.cumsum(0) - group.lengths

        def of_targets(columns: Tensor) -> Tensor | None:  # on padding anything: nobody else sees it
            return None if x_t is None else x_t[:, (before[:, None] + columns).clamp(max=x_t.shape[1] - 1)]

        past = SequenceMask(group.lengths, group.items.shape[1])
        context, aux = self.encoder(self.embed(group.items, group.lengths - 1), group.lengths)
        mean = self.decoder(context, past, steps, of_targets(past.columns)).flatten(1, 2)[:, group.flat_index]
        if not self.views:
            return _Decoded(mean, None, None, None), aux
        view, learned = self.views(group.items, group.lengths, self.mask_token, on_host)
        past = SequenceMask(view.lengths, past.num_columns)
        # A cropped view keeps the positions its items have in the main one. The attention's own losses count once.
        context, _ = self.encoder(self.embed(view.items, group.lengths - 1 - view.columns[:, 0]), view.lengths)
        row, column = learned // past.num_columns, learned % past.num_columns
        augmented = self.decoder(context, past, steps, of_targets(view.columns))[:, row, column]
        shape = (*view.items.shape, *augmented.shape[::2])
        noise = draw(torch.randn, shape, columns=(1,), dtype=augmented.dtype, device=augmented.device)
        partner = before[row] + view.columns[row, column]
        return _Decoded(mean, augmented, partner, noise[row, column].transpose(0, 1)), aux

    def _draw(self, mean: Tensor, steps: Tensor, noise: Tensor) -> Tensor:
        return mean + self.deviation(steps)[:, None, None].to(mean.dtype) * noise

    def _divergence(self, prediction: Tensor, mean: Tensor, positive: Tensor, clean: Tensor, steps: Tensor) -> Tensor:
        """Of each step, (K,); predictions, means and positives (K, N, D), clean targets and negatives (2, N, D)."""
        if self.cross_divergence == "bce":
            good = (full_precision(prediction) * positive).sum(-1)
            bad = (full_precision(prediction) * clean[1]).sum(-1)
        else:
            deviation = self.deviation(steps)
            good, bad = (-self.diffusion.divergence(full_precision(mean), deviation, x_0, steps) for x_0 in clean)
        return (F.softplus(-good) + F.softplus(bad)).mean(1)


def _noise(batch: SequenceBatch, like: Tensor) -> Tensor:
    """Standard normal noise of the targets, (K, N, D)."""
    return batch.draw(torch.randn, like.shape, dim=1, dtype=like.dtype)
