"""Sums of exponentials over products that are too large to hold, and what keeps such numbers exact.

N rows, I columns (items, or rows again), D width
"""

import contextlib
import functools
import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor

from seqgen import collectives

# Logits held at once: on a CPU what its caches hold, on a GPU enough to keep it busy.
CHUNK_CPU, CHUNK_GPU = 2**20, 2**26
PROBE = 256  # rows and columns of the products that are tried out
WIDTHS = 128  # of similarities that vary in number: multiples of it
LEAST_ROWS = 64  # fewer rows at once make thin, slow matrix products


@contextlib.contextmanager
def fast_products() -> Iterator[None]:
    """Have products of 32 bits made by oneDNN on a CPU, where it makes them as exactly.

    That takes little more than half the time on AMD's processors, on which MKL holds back. torch goes there only when
    products in bfloat16 are allowed; with matrix units for them (Intel's AMX) oneDNN would take those, so it is tried
    out first. For products whose shapes recur: oneDNN keeps the code that it makes for each shape, about a MB.
    """
    own: Any = getattr(torch.backends.mkldnn, "matmul", None)  # since torch 2.9
    before = getattr(own, "fp32_precision", None)
    if before is None or not torch.backends.mkldnn.is_available():
        yield
        return
    try:
        own.fp32_precision = "bf16"
        if not _products_are_exact():
            own.fp32_precision = before
        yield
    finally:
        own.fp32_precision = before


@functools.cache
def _products_are_exact() -> bool:
    """Whether those of oneDNN are; to be asked first while they are allowed."""
    a, b = torch.linspace(-1.0, 1.0, 2 * PROBE**2).sin().view(2, PROBE, PROBE)
    exact = a.double() @ b.double()
    return bool((a @ b - exact).norm() < 1e-6 * exact.norm())


def full_precision(x: Tensor) -> Tensor:
    """At least 32 bits: exponentials, logarithms and long sums are not left to 16."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def rows_of(table: Tensor, ids: Tensor) -> Tensor:
    """`table[ids]`, (..., D), whose gradient does not depend on the number of threads.

    That of `table[ids]` is added up by several threads at once, in an order that differs from run to run. The rows of a
    `DTensor` come from the processes that keep them (`seqgen.sharding`).
    """
    if isinstance(table, DTensor):
        table, ids = collectives.looked_up(table, ids)
    return F.embedding(ids, table)


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, 1)) of each element, in nats."""
    return 0.5 * (mean**2 + log_variance.exp() - 1.0 - log_variance)


def weighted_logsumexp(hidden: Tensor, table: Tensor, weights: Tensor, *, first: int = 0) -> Tensor:
    """Sum over n of weights[n] * logsumexp over i >= first of hidden[n] . table[i].

    Cross-entropy against any target distribution p is this minus sum_i p_i hidden . table[i], which is cheap where p
    is sparse or constant over most items. Never holds more than a chunk of the (N, I) logits: the gradients are made
    chunk by chunk in the forward pass, with three matrix products and no recomputation. It does the work of torch
    2.13's `F.linear_cross_entropy` with weights per row, on every torch, and on a CPU it takes no more time
    (`benchmarks/cross_entropy.py`).

    Args:
        hidden: (N, D).
        table: (I, D); of a `DTensor` each process scores the rows of all processes against those that it keeps
            (`seqgen.sharding`).
        weights: (N,), constants.
        first: The first row of the table that counts.
    """
    if not isinstance(table, DTensor):
        total: Tensor = _WeightedLogSumExp.apply(hidden, table[first:] if first else table, weights, None, 0)
        return total
    everyone, own = collectives.gathered(hidden[None])
    weights = collectives.gathered(weights[None, :, None])[0].flatten()
    kept, start = collectives.kept_rows(table)
    most = -(-len(table) // table.device_mesh.size())
    own_part: Tensor = _WeightedLogSumExp.apply(everyone[0], kept[max(first - start, 0) :], weights, own, most)
    return own_part


class _WeightedLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, table: Tensor, weights: Tensor, own: slice | None, most: int) -> Tensor:
        """Where `own` are this process's rows of all, `table` is its part of one, of at most `most` rows.

        What comes back in the backward pass is then the same number in all processes, as of their objectives.
        """
        rows = max(LEAST_ROWS, budget(hidden.device) // (most or len(table)))
        processes = 1 if own is None else distributed.get_world_size()
        log_sum = torch.empty_like(weights)
        grad_hidden, grad_table = torch.empty_like(hidden), torch.zeros_like(table)
        weighted = hidden * weights[:, None]
        buffer = hidden.new_empty(min(rows, len(hidden)), len(table))

        def add(chunk: slice) -> None:
            states = hidden[chunk]
            logits = torch.mm(states, table.T, out=buffer[: len(states)])
            largest = logits.amax(dim=1)
            probability = torch.softmax(logits, dim=1, out=logits)
            # The largest logit's own probability is at least 1 / I, so its logarithm is safe.
            log_sum[chunk] = largest - probability.amax(dim=1).log()
            torch.mm(probability, table, out=grad_hidden[chunk])
            if own is not None:
                whole = collectives.of_each(log_sum[chunk]).logsumexp(dim=0)
                share = (log_sum[chunk] - whole).exp()[:, None]  # of the probability
                log_sum[chunk] = whole
                grad_hidden[chunk] *= share
                weighted[chunk] *= share / processes
            grad_table.addmm_(probability.T, weighted[chunk])

        with torch.autocast(hidden.device.type, enabled=False):
            *whole, last = (slice(start, start + rows) for start in range(0, max(len(hidden), 1), rows))
            with fast_products():
                for chunk in whole:
                    add(chunk)
            add(last)
        ctx.save_for_backward(grad_hidden * weights[:, None], grad_table)
        return (weights * log_sum)[own or slice(None)].sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_table = ctx.saved_tensors
        return grad * grad_hidden, grad * grad_table, None, None, None


def sampled_cross_entropy(
    hidden: Tensor, positive: Tensor, table: Tensor, shift: Tensor, hits: tuple[Tensor, Tensor], weights: Tensor
) -> Tensor:
    """Softmax cross-entropy of each row's own logit against columns that all rows share.

    sum over n of weights[n] [ log( exp(positive[n]) + sum_k exp(hidden[n] . table[k] + shift[k]) ) - positive[n] ]

    Never holds more than a chunk of the (N, K) logits: the gradients are made chunk by chunk in the forward pass.

    Args:
        hidden: (N, D).
        positive: (N,).
        table: What the rows share, (K, D).
        shift: Constants that are added to the logits of a column, (K,).
        hits: Ids of the rows (N,) and of the columns (K,); a column with a row's id is left out of its sum.
        weights: (N,), constants.
    """
    total: Tensor = _SampledCrossEntropy.apply(hidden, positive, table, shift, *hits, weights)
    return total


class _SampledCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        positive: Tensor,
        table: Tensor,
        shift: Tensor,
        row_ids: Tensor,
        column_ids: Tensor,
        weights: Tensor,
    ) -> Tensor:
        # Rows and columns that count for nothing make few shapes of many.
        (count, columns), width = (len(hidden), len(table)), _multiple(max(len(table), 1), WIDTHS)
        size = _rows_at_once(count, width, hidden.device)
        rows, more = _multiple(max(count, 1), size) - count, width - columns
        hidden, table = F.pad(hidden, (0, 0, 0, rows)), F.pad(table, (0, 0, 0, more))
        positive, weights, row_ids = (F.pad(x, (0, rows)) for x in (positive, weights, row_ids))
        shift, column_ids = F.pad(shift, (0, more), value=float("-inf")), F.pad(column_ids, (0, more))
        weighted, losses = hidden * weights[:, None], torch.empty_like(positive)
        grad_hidden, grad_positive, grad_table = (torch.zeros_like(x) for x in (hidden, positive, table))
        buffer = hidden.new_empty(size, width)
        with torch.autocast(hidden.device.type, enabled=False), fast_products():
            for chunk in (slice(start, start + size) for start in range(0, len(hidden), size)):
                own = positive[chunk]
                logits = torch.mm(hidden[chunk], table.T, out=buffer).add_(shift)
                logits.masked_fill_(row_ids[chunk, None] == column_ids, float("-inf"))
                largest = torch.maximum(logits.amax(dim=1), own)
                probability = logits.sub_(largest[:, None]).exp_()
                whole = probability.sum(dim=1) + (own - largest).exp()
                probability.div_(whole[:, None])
                losses[chunk] = largest - own + whole.log()
                torch.mm(probability, table, out=grad_hidden[chunk])
                torch.sum(probability, dim=1, out=grad_positive[chunk])
                grad_table.addmm_(probability.T, weighted[chunk])
        kept = grad_hidden * weights[:, None], -grad_positive * weights
        ctx.save_for_backward(*(x[:count] for x in kept), grad_table[:columns])
        return (weights * losses).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *(grad * kept for kept in ctx.saved_tensors), None, None, None, None


def picked_products(hidden: Tensor, table: Tensor, ids: Tensor) -> Tensor:
    """hidden[n] . table[ids[n, k]] for each n and k, (N, K).

    The picked rows, (N, K, D), are never held as a whole, neither here nor in the gradients, which are sums over bags:
    that of a row of the table over the rows of `hidden` that picked it.

    Args:
        hidden: (N, D).
        table: (I, D), or as of `rows_of`.
        ids: Rows of the table, (N, K).
    """
    if isinstance(table, DTensor):
        table, ids = collectives.looked_up(table, ids)
    products: Tensor = _PickedProducts.apply(hidden, table, ids)
    return products


class _PickedProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, table: Tensor, ids: Tensor) -> Tensor:
        ctx.save_for_backward(hidden, table, ids)
        rows = max(1, budget(hidden.device) // max(1, ids.shape[1] * hidden.shape[1]))
        products = hidden.new_empty(ids.shape)
        with torch.autocast(hidden.device.type, enabled=False):
            for chunk in (slice(start, start + rows) for start in range(0, len(hidden), rows)):
                products[chunk] = torch.einsum("nkd,nd->nk", F.embedding(ids[chunk], table), hidden[chunk])
        return products

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden, table, ids = ctx.saved_tensors
        grad_hidden = F.embedding_bag(ids, table, mode="sum", per_sample_weights=grad.contiguous())
        ordered, order = ids.flatten().sort(stable=True)
        first = torch.searchsorted(ordered, torch.arange(len(table), device=ids.device))
        weights = grad.flatten()[order]
        grad_table = F.embedding_bag(order // ids.shape[1], hidden, first, mode="sum", per_sample_weights=weights)
        return grad_hidden, grad_table, None


def info_nce(first: Tensor, second: Tensor, temperature: float, *, gather: bool = False) -> Tensor:
    """InfoNCE (NT-Xent) of paired rows: each of the 2N rows against all others, its partner being the right one.

    loss = mean over i of [ log sum_{j != i} exp(z_i . z_j / tau) - z_i . z_pair(i) / tau ],  z = rows of length 1

    (Chen et al., SimCLR, ICML 2020, equation 1.) The 2N x 2N similarities are never held as a whole: gradients are made
    chunk by chunk in the forward pass.

    Args:
        first: K independent sets of N rows, (K, N, D).
        second: Their partners, (K, N, D).
        temperature: tau.
        gather: The others are those of all processes; the mean is over the rows of this one.

    Returns:
        (K,)
    """
    count = first.shape[1]
    rows = F.normalize(full_precision(torch.cat([first, second], dim=1)), dim=-1) / temperature**0.5
    own = [slice(0, 2 * count)]
    if gather:
        whole, mine = collectives.gathered(torch.cat(rows.split(count, dim=1)))
        total = whole.shape[1]
        rows = torch.cat(whole.chunk(2), dim=1)  # first of all processes, then second of all
        own = [mine, slice(total + mine.start, total + mine.stop)]
    loss: Tensor = _InfoNCE.apply(rows, own)
    return loss


def fourier_info_nce(
    first: Tensor,
    second: Tensor,
    temperature: float,
    features: int,
    *,
    gather: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """`info_nce` with its denominator estimated from random Fourier features: time and memory grow with N, not N^2.

    exp(u . v / tau) = exp(1 / tau) E[cos(w . (u - v))] for rows of length 1 and w ~ N(0, 1 / tau) (Rahimi and Recht,
    NeurIPS 2007), so the sum over all v is one product with the sum of their features. The self term is known, and
    taken out. The estimate is unbiased for the sum, not for its logarithm, and its spread grows as tau falls: at 0.5 a
    few hundred directions do, at 0.1 no number does.

    Args:
        first: K independent sets of N rows, (K, N, D).
        second: Their partners, (K, N, D).
        temperature: tau.
        features: Random directions, drawn anew at each call.
        gather: The others are those of all processes; the mean is over the rows of this one.
        generator: Of the directions, which must be the same in all processes; None takes torch's own.

    Returns:
        (K,)
    """
    with torch.autocast(first.device.type, enabled=False):
        first, second = (F.normalize(full_precision(x), dim=-1) for x in (first, second))
        rows = torch.cat([first, second], dim=1)
        how: Any = {"device": rows.device, "dtype": rows.dtype, "generator": generator}
        angle = rows @ (torch.randn(rows.shape[-1], features, **how) / temperature**0.5)
        waves = torch.cat([angle.cos(), angle.sin()], dim=-1)  # (K, 2N, 2 features)
        everyone, count = waves.sum(1, keepdim=True), rows.shape[1]
        if gather:
            everyone = collectives.summed(everyone)
            count = sum(collectives.counts(count))
        others = (waves * everyone).sum(-1) / features - 1.0
        # Below what the least similar rows could sum up to, the estimate is noise.
        least = (count - 1) * math.exp(-2.0 / temperature)
        partners = (first * second).sum(-1).mean(1) / temperature
        return (others.clamp(min=least).log() + 1.0 / temperature).mean(1) - partners


class _InfoNCE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, own: list[slice]) -> Tensor:
        """The mean over the rows of `own`, which holds of each pair both or none."""
        count, half = rows.shape[1], rows.shape[1] // 2
        mine = sum(part.stop - part.start for part in own)
        # Rows of zeros, which count for nothing, make few shapes of many.
        width = _multiple(count, WIDTHS)
        sizes = [_rows_at_once(part.stop - part.start, width, rows.device) for part in own]
        partner, filled = rows.roll(half, 1), F.pad(rows, (0, 0, 0, width + max(sizes) - count))
        losses, grads = [], torch.zeros_like(filled)
        with torch.autocast(rows.device.type, enabled=False), fast_products():
            for z, pair, grad in zip(filled, partner, grads, strict=True):
                everyone, total = z[:width], torch.zeros((), dtype=z.dtype, device=z.device)
                for part, size in zip(own, sizes, strict=True):
                    grad[part].add_(pair[part], alpha=-2.0)  # to what the part before has left there
                    total -= (z[part] * pair[part]).sum()
                    for start in range(part.start, part.stop, size):
                        chunk, real = slice(start, start + size), min(size, part.stop - start)
                        logits = z[chunk] @ everyone.T
                        logits[:, count:] = float("-inf")
                        logits.diagonal(start).fill_(float("-inf"))
                        largest = logits.amax(dim=1)
                        probability = torch.softmax(logits, dim=1, out=logits)
                        total += (largest - probability.amax(dim=1).log())[:real].sum()
                        probability[real:] = 0.0
                        grad[chunk].addmm_(probability, everyone)
                        grad[:width].addmm_(probability.T, z[chunk])
                losses.append(total / mine)
        ctx.save_for_backward(grads[:, :count] / mine)
        return torch.stack(losses)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (grads,) = ctx.saved_tensors
        return grad[:, None, None] * grads, None


def _rows_at_once(count: int, width: int, device: torch.device) -> int:
    """Into how large chunks to cut rows of so many columns: of few different sizes, though the rows vary in number."""
    count = _multiple(max(count, 1), WIDTHS)
    chunks = -(-count * width // budget(device))
    return _multiple(-(-count // chunks), LEAST_ROWS)


def budget(device: torch.device) -> int:
    """How many logits are held at once."""
    return CHUNK_CPU if device.type == "cpu" else CHUNK_GPU


def _multiple(number: int, of: int) -> int:
    """The next multiple of a number that is not below another."""
    return -(-number // of) * of
