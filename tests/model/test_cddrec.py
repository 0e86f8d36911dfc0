"""CDDRec against its equations, written out plainly; what the settings change and what they must not."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from cddrec_case import STILL, built, first_batch, silent, unit
from test_properties import CHAIN, in_one_group
from torch.distributions import Normal, kl_divergence

from seqgen.attention import SequenceMask
from seqgen.errors import UserError


@pytest.fixture
def make(tmp_path):
    return partial(built, tmp_path)


@pytest.mark.parametrize("time_in", ["query", "memory", "both"])
@pytest.mark.parametrize("more", [(), CHAIN])
def test_the_decoder_against_a_loop_over_positions_and_steps(make, more, time_in):
    model, data = make(*STILL, f"model.decoder.time_in={time_in}", *more)
    decoder, group = model.decoder, max(first_batch(data).groups, key=lambda g: g.items.shape[1])
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.normal_(std=0.3)
    context = torch.randn(*group.items.shape, 16)
    steps = torch.tensor([1, 4, 6])
    mask, last = (SequenceMask(group.lengths, group.items.shape[1], last=newest) for newest in (False, True))
    x_t = torch.randn(3, *context.shape) if more else None
    found = decoder(context, mask, steps, x_t)
    newest = decoder(context, last, steps, torch.stack([last.newest(x) for x in x_t]) if more else None)
    heads = range(4)
    for row in (0, 3):
        for k, step in enumerate(steps.tolist()):
            for i in range(int(group.lengths[row])):
                embedded = decoder.step.weight[step - 1]
                stream = context[row, i] + (0.0 if time_in == "memory" else embedded)
                if more:
                    stream = stream + decoder.noisy(x_t[k, row, i])
                query, past = decoder.query(stream), context[row, : i + 1]
                if time_in != "query":
                    past = past + embedded
                key, value = decoder.key(past), decoder.value(past)
                parts = []
                for head in heads:
                    own = slice(4 * head, 4 * head + 4)
                    weights = torch.softmax(key[:, own] @ query[own] / math.sqrt(4), dim=0)
                    parts.append(weights @ value[:, own])
                y = decoder.norm_attention(stream + decoder.merge(torch.cat(parts)))
                expected = decoder.norm_ffn(y + decoder.outer(F.gelu(decoder.inner(y))))
                torch.testing.assert_close(found[k, row, i], expected, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(newest[k, row, 0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("divergence", "more"), [("bce", ()), ("kl", ()), ("bce", CHAIN)])
def test_the_objective_against_its_equations(make, monkeypatch, divergence, more):
    unit(monkeypatch)
    settings = ["model.steps_per_batch=null", f"model.cross_divergence={divergence}", "model.contrast.weight=0.7"]
    model, data = make(*STILL, *settings, "model.contrast.temperature=0.3", *more)
    model.train()
    batch = first_batch(data)
    negatives = torch.arange(len(batch.targets)) % data.catalog.num_items + 1
    monkeypatch.setattr("seqgen.model.cddrec.sample_negatives", lambda *_, **__: negatives[:, None])
    batch.normalizer = 1.6 * len(batch.targets)  # as where other processes have targets too
    found = model.loss(batch)
    table, process = model.embedding.item.weight, model.diffusion
    total = 0.0
    for t in range(1, 7):
        signal = process.alpha_bar[t].item()
        positive, negative = table[batch.targets], table[negatives]
        x_t = math.sqrt(signal) * positive + math.sqrt(1 - signal)
        noisy, means, start = positive if more else x_t, [], 0
        for g in batch.groups:
            context, mask = (
                model.encoder(model.embed(g.items, g.lengths - 1), g.lengths)[0],
                SequenceMask(g.lengths, g.items.shape[1]),
            )
            fed, n = torch.zeros(context.flatten(0, 1).shape), len(g.flat_index)
            fed[g.flat_index] = x_t[start : start + n].detach()
            start += n
            given = [fed.unflatten(0, g.items.shape)[None]] if more else []
            means.append(model.decoder(context, mask, torch.tensor([t]), *given)[0].flatten(0, 1)[g.flat_index])
        mean = torch.cat(means)
        s = max(t, 2)
        deviation = math.sqrt(process.posterior_variance(s, s - 1))
        prediction = mean + deviation
        if divergence == "bce":
            good, bad = (prediction * noisy).sum(1), (prediction * negative).sum(1)
        else:
            ours = Normal(mean, deviation)
            good, bad = (
                -(1 - signal) * kl_divergence(ours, Normal(math.sqrt(signal) * e, math.sqrt(1 - signal))).mean(1)
                for e in (positive, negative)
            )
        cross = -(F.logsigmoid(good) + F.logsigmoid(-bad)).mean()
        z = F.normalize(torch.cat([prediction, noisy]), dim=1)
        n, similar = len(mean), z @ z.T / 0.3
        contrast = torch.stack(
            [similar[i][torch.arange(2 * n) != i].logsumexp(0) - similar[i, (i + n) % (2 * n)] for i in range(2 * n)]
        ).mean()
        total = total + (cross + 0.7 * contrast) / t
    torch.testing.assert_close(found["total"], total / 1.6, rtol=1e-4, atol=1e-4)


def test_sampled_steps_have_the_expectation_of_all_of_them(make):
    every, _ = make("model.steps_per_batch=null")
    steps, weights = every.draw_steps()
    assert steps.tolist() == [1, 2, 3, 4, 5, 6]
    torch.testing.assert_close(weights, torch.tensor([1 / t for t in range(1, 7)]))
    some, _ = make("model.steps_per_batch=2")
    mass = torch.zeros(7)
    draws = 20_000
    for _ in range(draws):
        drawn, weight = some.draw_steps()
        assert len(drawn) == 2
        mass.index_add_(0, drawn, weight)
    for t in range(1, 7):
        assert mass[t].item() / draws == pytest.approx(1 / t, rel=0.06)


def test_the_mask_token_and_padding_are_no_candidates(make):
    model, data = make()
    assert model.item_vectors.shape[0] == data.catalog.num_items + 1
    assert model.embedding.item.weight.shape[0] == data.catalog.num_items + 1
    masking, _ = make("model.views.mask=0.3")
    assert masking.embedding.item.weight.shape[0] == data.catalog.num_items + 2
    assert masking.item_vectors.shape[0] == data.catalog.num_items + 1
    torch.testing.assert_close(model.item_vectors[1:].norm(dim=1), torch.ones(data.catalog.num_items))


def test_no_gradient_reaches_the_items_through_x_t(make, monkeypatch):
    model, data = make(*CHAIN)
    given = []
    monkeypatch.setattr(model.decoder.noisy, "forward", lambda x: (given.append(x), x)[1])
    model.loss(first_batch(data))
    assert given
    assert not any(x.requires_grad for x in given)


@pytest.mark.parametrize("count", [1, 4, 6])
@pytest.mark.parametrize("samples", [0, 3])
def test_the_reverse_chain_against_a_loop(make, count, samples):
    how = ["model.inference.noise=true", f"model.inference.samples={samples}"] if samples else []
    model, data = make(*CHAIN, f"model.inference.steps={count}", *how)
    group = first_batch(data).groups[-1]
    with torch.no_grad():
        model.embedding.item.weight.mul_(30.0)
    found, _ = model.eval().encode(group.items, group.lengths)
    context, _ = model.encoder(model.embed(group.items, group.lengths - 1), group.lengths)
    signal, ends = [1.0, *model.diffusion.alpha_bar[1:].tolist()], {1: [6, 0], 4: [6, 4, 3, 2, 0], 6: range(6, -1, -1)}
    length = sum(row.norm() for row in model.embedding.item.weight[1:]) / data.catalog.num_items
    past, total = SequenceMask(group.lengths, group.items.shape[1]), 0.0
    for draw in range(max(samples, 1)):
        start = math.sqrt(1 - signal[6]) * model.noise[draw] if samples else torch.zeros(16)
        x = start.expand_as(context)
        for now, then in zip(ends[count][:-1], ends[count][1:], strict=True):
            clean = model.decoder(context, past, torch.tensor([now]), x[None])[0]
            estimate = clean / clean.norm(dim=-1, keepdim=True) * length
            noise = (x - math.sqrt(signal[now]) * estimate) / math.sqrt(1 - signal[now])
            x = math.sqrt(signal[then]) * estimate + math.sqrt(1 - signal[then]) * noise
        total = total + clean / max(samples, 1)
    torch.testing.assert_close(found, total, rtol=1e-3, atol=1e-4)
    assert model.noise.shape == (max(samples, 1), 16)
    assert bool(model.noise.any()) == bool(samples)


def test_inference_averages_steps_by_their_weights(make):
    one, data = make("model.inference.steps=1")
    three, _ = make("model.inference.steps=3")
    one.eval(), three.eval()
    three.load_state_dict(one.state_dict())
    group = first_batch(data).groups[-1]
    context, _ = one.encoder(one.embed(group.items, group.lengths - 1), group.lengths)
    mask = SequenceMask(group.lengths, group.items.shape[1])
    heads = one.decoder(context, mask, torch.tensor([1, 2, 3]))
    torch.testing.assert_close(one.encode(group.items, group.lengths)[0], heads[0])
    expected = (heads[0] + heads[1] / 2 + heads[2] / 3) / (1 + 1 / 2 + 1 / 3)
    torch.testing.assert_close(three.encode(group.items, group.lengths)[0], expected)


def test_generated_attention_keeps_its_own_starting_values(make):
    model, _ = make("attention=diffusion")
    layer = model.encoder.stacks[0][0].attention
    assert not layer.map_in.weight.any()
    assert model.decoder.query.weight.std().item() == pytest.approx(0.02, rel=0.2)


def test_each_draw_of_the_attention_goes_with_its_own_start_of_the_chain(make, monkeypatch):
    model, data = make("attention=vae", *CHAIN, "model.inference.samples=3", "model.inference.noise=true")
    rows = []
    plain = model.decoder.forward
    monkeypatch.setattr(model.decoder, "forward", lambda c, p, t, x: rows.append(x.shape[:2]) or plain(c, p, t, x))
    group = first_batch(data).groups[-1]
    model.eval().encode(group.items, group.lengths)
    assert set(rows) == {(1, 3 * len(group.lengths))}


def test_noise_at_inference_is_the_same_for_all_and_shrinks_with_samples(make):
    still, data = make()
    noisy, _ = make("model.inference.noise=true", "model.inference.samples=1")
    many, _ = make("model.inference.noise=true", "model.inference.samples=400")
    group = first_batch(data).groups[-1]
    states = []
    for model in (still, noisy, many):
        model.load_state_dict(still.state_dict())
        states.append(model.eval().encode(group.items, group.lengths, last_only=True)[0])
    shift, small = states[1] - states[0], states[2] - states[0]
    torch.testing.assert_close(shift, shift[:1].expand_as(shift), rtol=1e-3, atol=1e-5)
    assert shift.abs().max() > 10 * small.abs().max() > 0
    assert states[1].equal(noisy.encode(group.items, group.lengths, last_only=True)[0])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["attention=vae", "attention.context=last", *CHAIN], "attention.context=last has one target a sequence"),
        (
            ["attention=vae", "attention.context=last", "model.views.crop=0.6"],
            "set views to 0 and decoder.condition_on_",
        ),
        (["model.steps_per_batch=7"], "model.steps_per_batch=7 must lie in 1 to diffusion.steps=6"),
        (["model.inference.steps=9"], "model.inference.steps=9 must lie in 1 to diffusion.steps=6"),
        (["model.inference.samples=3"], "model.inference.samples=3 has no effect: nothing is drawn here"),
        (["model.inference.noise=true"], "model.inference.noise=true needs samples of at least 1"),
        (
            ["+model.inference.stepz=3"],
            "model.inference.stepz is not a key of seqgen.model.cddrec.StepInference",
        ),
        (["model.inference.steps=null"], "model.inference.steps=None must be an integer"),
        (["model.inference.noise=2"], "model.inference.noise=2 must be true or false"),
        (
            ["model.inference.noise=true", "model.inference.samples=1", "diffusion.steps=1", "model.steps_per_batch=1"],
            "model.inference.noise has no effect with diffusion.steps=1",
        ),
        (["model.decoder.condition_on_x_t=true"], "reads the noisy target: set noisy_targets=false"),
        ([*CHAIN, "model.cross_divergence=kl"], "cross_divergence=bce"),
        (["model.views.mask=1.5"], "model.views.mask=1.5 must lie in [0, 1]; 0 leaves this kind of view out"),
        (["model.views.crop=-0.1"], "model.views.crop=-0.1 must lie in [0, 1]"),
        (["model.contrast.fourier_features=64"], "model.contrast.temperature=0.1 is too low for fourier_features"),
        (["model.contrast.fourier_features=-1"], "model.contrast.fourier_features=-1 must not be negative; 0 is exact"),
        (
            ["model.contrast.fourier_features=64", "model.contrast.weight=0"],
            "model.contrast.fourier_features=64 has no effect with weight=0",
        ),
        (["model.cross_divergence=kl", "diffusion.steps=1", "model.steps_per_batch=1"], "needs diffusion.steps of at"),
        (["diffusion=sigmoid", "diffusion.temperature=0"], "diffusion.temperature=0 must be a number above 0"),
        (
            ["diffusion=scaled_linear", "diffusion.beta_start=-0.1"],
            "diffusion.beta_start=-0.1 must be a number",
        ),
        (["model.views.crop=0.6", "model.contrast.weight=0"], "model.views has no effect with contrast.weight=0"),
        (["model.augmented_weight=1"], "model.augmented_weight has no effect without views"),
        (["model.augmented_weight=-1"], "model.augmented_weight=-1 must be a number of at least 0"),
        (["model.cross_divergence=js"], "model.cross_divergence=js must be bce or kl"),
        (["model.decoder.time_in=key"], "model.decoder.time_in=key must be query or memory or both"),
        (["model.contrast.temperature=0"], "model.contrast.temperature=0 must be a number above 0"),
        (["model.contrast.weight=-1"], "model.contrast.weight=-1 must be a number of at least 0"),
        (["model.decoder.num_heads=3"], "model.decoder.num_heads=3 does not divide hidden_dim=16"),
        (["model.decoder.dropout=1.5"], "model.decoder.dropout=1.5 must lie in [0, 1)"),
        (["model.decoder.ffn_dim=0"], "model.decoder.ffn_dim=0 must be at least 1"),
        (["attention=vae", "attention.rank=50"], "attention.rank=50 saves nothing with max_len=10"),
        (["diffusion.beta_end=2"], "must each add noise of a variance in (0, 1)"),
    ],
)
def test_refused(make, overrides, message):
    with pytest.raises(UserError) as error:
        make(*overrides)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("views", [[], ["model.views.crop=1.0", "model.augmented_weight=0.5"]])
def test_grouping_changes_no_loss(make, monkeypatch, views):
    silent(monkeypatch)
    model, data = make(*STILL, "model.steps_per_batch=null", "data.source.min_length=5", *views)
    batch = first_batch(data)
    negatives = torch.arange(len(batch.targets)) % data.catalog.num_items + 1
    monkeypatch.setattr("seqgen.model.cddrec.sample_negatives", lambda *_, **__: negatives[:, None])
    assert len(batch.groups) > 1
    model.eval()
    found, wanted = model.loss(in_one_group(batch)), model.loss(batch)
    assert found.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-4, atol=1e-5)
