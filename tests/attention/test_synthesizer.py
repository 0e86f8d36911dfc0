"""Synthesizer attention: logits decoded from the row alone; the VAE without a latent."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attention_cases import CONTEXTS, drawn_input, make_layer, plain_context, plain_logits, plain_output, real_rows

from seqgen.errors import SettingError


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("settings", [{}, {"content": False}, {"columns": "absolute", "rank": 2}], ids=str)
@pytest.mark.parametrize("context_kind", CONTEXTS, ids=lambda kind: kind["context"])
def test_rows_are_decoded_from_their_context(
    context_kind: dict[str, Any], settings: dict[str, Any], last: bool
) -> None:
    layer = make_layer("synthesizer", latent_dim=3, decoder_dim=5, **context_kind, **settings)
    query, context, mask = drawn_input(last=last)
    hidden, aux = layer(query, context, mask)
    assert aux == {}
    narrow, first, _, second, _ = layer.shared_decoder
    assert (narrow.out_features, first.out_features, second.out_features) == (3, 5, 5)
    for b, row, position, length in real_rows(mask):
        given = plain_context(layer.context, query[b, row], context[b, :length], position)
        decoded = F.gelu(second(F.gelu(first(narrow(given)))))
        logits = plain_logits(layer.logits, decoded, context[b, :length], position)
        torch.testing.assert_close(hidden[b, row], plain_output(layer, logits, context[b, :length]))


@pytest.mark.parametrize("columns", ["relative", "absolute"])
@pytest.mark.parametrize("context_kind", CONTEXTS, ids=lambda kind: kind["context"])
def test_with_the_vaes_weights_it_is_the_vae_at_its_mean(context_kind: dict[str, Any], columns: str) -> None:
    latent = make_layer("vae", columns=columns, **context_kind).eval()
    layer = make_layer("synthesizer", columns=columns, **context_kind)
    decoder = {f"shared_decoder.{at}": f"shared_decoder.{at - 1}" for at in (1, 3)} | {"shared_decoder.0": "mean"}
    given = latent.state_dict()
    copied = {}
    for name in layer.state_dict():
        module, _, kind = name.rpartition(".")
        copied[name] = given[f"{decoder.get(module, module)}.{kind}"] if module else given[name]
    layer.load_state_dict(copied)
    assert given.keys() - {"log_variance.weight", "log_variance.bias"} == {
        f"{decoder.get(name.rpartition('.')[0], name.rpartition('.')[0])}.{name.rpartition('.')[2]}" for name in copied
    }
    for last in (False, True):
        query, context, mask = drawn_input(last=last)
        torch.testing.assert_close(layer(query, context, mask), latent(query, context, mask))


@pytest.mark.parametrize("name", ["latent_dim", "decoder_dim"])
def test_sizes_below_1_are_refused(name: str) -> None:
    with pytest.raises(SettingError, match=rf"^{name}=0 must be at least 1\."):
        make_layer("synthesizer", **{name: 0})
