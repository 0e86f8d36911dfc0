"""Embedding, block and encoder: the parts that all attention-based models share.

    b rows, l columns, r query rows (l, or 1 when only the newest is asked for), D width

A block owns its normalisations, whatever the attention inside. With S(x) the attention's query source (mostly x
itself):

    query  q = LN(S(x));  y = LN(q + Attention(q, x));   out = y + FFN(y)      SASRec and MQSA-TED: the residual is the
                                                                               normalised query; key and value are raw
    post   s = S(x);      y = LN(s + Attention(s, x));   out = LN(y + FFN(y))  Transformer, CDDRec, GenAtt
    pre    n = LN(x);     y = x + Attention(LN(S(x)), n); out = y + FFN(LN(y))

After the last block `query` and `pre` normalise once more.
"""

from collections.abc import Callable
from typing import Literal, TypedDict, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqgen.attention import Aux, Branches, SequenceMask, check_probability, glorot_linear
from seqgen.errors import UserError

Norm = Literal["query", "post", "pre"]
Activation = Literal["relu", "gelu", "silu"]
NORM_EPS = 1e-12


class Inference(TypedDict):
    """How generated attention predicts, once fitted.

    samples: Draws of its noise, over which scores are averaged; 0 is the deterministic map (z = mu, A_T = 0).
    temperature: Factor of the noise.
    """

    samples: int
    temperature: float


class SequenceEmbedding(nn.Module):
    """Item embedding plus learned position embedding, with dropout.

    Positions count from the newest item (0), so padding never changes them. Items are multiplied by `scale`, positions
    are not: sqrt(D) unless given (SASRec's and MQSA-TED's code). Row 0 of the item table is padding: zero, and never
    trained.
    """

    def __init__(
        self,
        *,
        num_items: int,
        hidden_dim: int,
        max_len: int,
        dropout: float,
        init_std: float = 0.01,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        check_probability("model.dropout", dropout)
        self.item = nn.Embedding(num_items + 1, hidden_dim, padding_idx=0)
        self.position = nn.Embedding(max_len, hidden_dim)
        nn.init.normal_(self.item.weight[1:], std=init_std)
        nn.init.normal_(self.position.weight, std=init_std)
        self.dropout = nn.Dropout(dropout)
        self.scale = hidden_dim**0.5 if scale is None else scale

    def forward(self, items: Tensor, newest: Tensor) -> Tensor:
        """Items (b, l), column of the newest item (b,), from which positions count back -> (b, l, D)."""
        column = torch.arange(items.shape[1], device=items.device)
        position = (newest[:, None] - column).clamp(min=0)
        return self.dropout(self.scale * self.item(items) + self.position(position))


class Block(nn.Module):
    """Attention and a feed-forward network with their residuals and normalisations."""

    def __init__(
        self,
        attention: nn.Module,
        *,
        hidden_dim: int,
        ffn_dim: int,
        activation: Activation,
        norm: Norm,
        dropout: float,
    ) -> None:
        super().__init__()
        self.attention, self.norm = attention, norm
        self.norm_attention, self.norm_ffn = (nn.LayerNorm(hidden_dim, eps=NORM_EPS) for _ in range(2))
        self.inner, self.outer = glorot_linear(hidden_dim, ffn_dim), glorot_linear(ffn_dim, hidden_dim)
        self.activation: Callable[[Tensor], Tensor] = getattr(F, activation)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: SequenceMask, progress: float) -> tuple[Tensor, Aux]:
        """(b, l, D) -> (b, r, D) and the attention's auxiliary losses."""
        make_source: Callable[..., Tensor] | None = getattr(self.attention, "source", None)
        source = mask.query_rows(make_source(x, mask) if make_source else x)
        if self.norm == "query":
            query = self.norm_attention(source)
            attended, aux = self.attention(query, x, mask, progress)
            y = self.norm_ffn(query + attended)
            return y + self._feed_forward(y), aux
        if self.norm == "post":
            attended, aux = self.attention(source, x, mask, progress)
            y = self.norm_attention(source + self.dropout(attended))
            return self.norm_ffn(y + self._feed_forward(y)), aux
        attended, aux = self.attention(self.norm_attention(source), self.norm_attention(x), mask, progress)
        y = mask.query_rows(x) + self.dropout(attended)
        return y + self._feed_forward(self.norm_ffn(y)), aux

    def _feed_forward(self, y: Tensor) -> Tensor:
        return self.dropout(self.outer(self.dropout(self.activation(self.inner(y)))))


class Encoder(nn.Module):
    """One stack of blocks per branch of the attention, all on the same input; the outputs are added with their weights.

    A branch of weight 0 is not built. With `inference.samples`, outside training, each row goes through once a draw,
    and the mean is returned: a score is linear in it, so this is the mean score.

    Raises:
        UserError: A setting is out of its range.
    """

    def __init__(
        self,
        attention: Branches,
        *,
        hidden_dim: int,
        num_layers: int,
        ffn_dim: int,
        activation: Activation,
        norm: Norm,
        dropout: float,
        max_len: int,
        inference: Inference,
    ) -> None:
        super().__init__()
        check_probability("model.dropout", dropout)
        for name, value in {"hidden_dim": hidden_dim, "num_layers": num_layers, "ffn_dim": ffn_dim}.items():
            if value < 1:
                raise UserError(f"model.{name}={value} must be at least 1.")
        for name, choice, choices in (("norm", norm, Norm), ("activation", activation, Activation)):
            if choice not in get_args(choices):
                raise UserError(f"model.{name}={choice} is not one of {', '.join(get_args(choices))}.")

        def stack(make_layer: Callable[..., nn.Module]) -> nn.ModuleList:
            layers = [make_layer(hidden_dim=hidden_dim, max_len=max_len) for _ in range(num_layers)]
            sizes = {"hidden_dim": hidden_dim, "ffn_dim": ffn_dim}
            return nn.ModuleList(
                Block(layer, **sizes, activation=activation, norm=norm, dropout=dropout) for layer in layers
            )

        built = [(weight, make_layer) for weight, make_layer in attention if weight != 0]
        self.weights = [weight for weight, _ in built]
        self.stacks = nn.ModuleList(stack(make_layer) for _, make_layer in built)
        normed = norm in ("query", "pre")
        self.norms = nn.ModuleList(nn.LayerNorm(hidden_dim, eps=NORM_EPS) if normed else nn.Identity() for _ in built)
        self.one_target = any(getattr(module, "one_target", False) for module in self.modules())
        self._drawing = [module for module in self.modules() if getattr(module, "noise_shape", None) is not None]
        self.sample(inference)

    @property
    def draws(self) -> bool:
        """Whether the attention has noise to draw."""
        return bool(self._drawing)

    def sample(self, inference: Inference) -> None:
        """Set how often, and how far, the attention is drawn outside training.

        Raises:
            UserError: There is nothing to draw, or a value is out of range.
        """
        samples, temperature = inference["samples"], inference["temperature"]
        if samples < 0 or not temperature > 0:  # nor NaN
            raise UserError(
                f"model.inference={inference}: samples must not be negative, temperature must be above 0; samples=0 is "
                "without noise."
            )
        if samples and not self.draws:
            raise UserError(
                f"model.inference.samples={samples} has no effect: this attention= draws nothing; set it to 0, or, in "
                "model=cddrec, set model.inference.noise=true."
            )
        if temperature != 1 and not samples:
            raise UserError(
                f"model.inference.temperature={temperature} has no effect with model.inference.samples=0; set samples."
            )
        generator = torch.Generator().manual_seed(0)
        for module in self._drawing:
            module.sample(samples, temperature, generator)  # type: ignore[operator]
        self.samples = samples

    def forward(
        self, x: Tensor, lengths: Tensor, *, last_only: bool = False, progress: float = 1.0, each: bool = False
    ) -> tuple[Tensor, Aux]:
        """(b, l, D), lengths (b,) -> (b, l, D), or (b, D) of the newest position; auxiliary losses over layers.

        Args:
            x: Embedded items.
            lengths: Number of real columns of each row.
            last_only: Only the newest position.
            progress: Share of training done.
            each: Return the rows of each draw instead of their mean, one draw below the other.
        """
        draws = 0 if self.training else self.samples
        if draws:
            x, lengths = x.repeat(draws, 1, 1), lengths.repeat(draws)
        every, newest = SequenceMask(lengths, x.shape[1]), SequenceMask(lengths, x.shape[1], last=True)
        outputs, auxes = [], []
        for weight, stack, norm in zip(self.weights, self.stacks, self.norms, strict=True):
            hidden = x
            assert isinstance(stack, nn.ModuleList)
            for depth, block in enumerate(stack):
                only_newest = last_only and depth == len(stack) - 1
                hidden, aux = block(hidden, newest if only_newest else every, progress)
                auxes.append(aux)
            outputs.append(weight * norm(hidden))
        blended = torch.stack(outputs).sum(dim=0) if len(outputs) > 1 else outputs[0]
        hidden = blended[:, 0] if last_only else blended
        return hidden.unflatten(0, (draws, -1)).mean(0) if draws and not each else hidden, _summed(auxes)


def _summed(auxes: list[Aux]) -> Aux:
    total: Aux = {}
    for aux in auxes:
        for name, (value, weight) in aux.items():
            total[name] = (total[name][0] + value if name in total else value, weight)
    return total
