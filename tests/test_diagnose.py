"""The diagnosis of a trained model: numbers that agree with the run, pictures, W&B, and what is refused."""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import command, command_here, start
from conftest import QUIET, ROOT, TINY
from omegaconf import OmegaConf

from seqgen import config
from seqgen.checkpoint import read_checkpoint
from seqgen.diagnose import diagnose
from seqgen.errors import UserError
from seqgen.model.base import SequentialRecommender

SMALL = ("model.hidden_dim=16", "trainer.max_epochs=1", *TINY, *QUIET)
GENERATED = ("model=genatt", "attention=vae", "attention.num_heads=2", "attention.latent_dim=4", *SMALL)
ATTENTION_PICTURES = ("attention", "attention_statistics")


def settings(folder: Path, checkpoint: Path | str, **given: Any) -> object:
    paths = {"output_dir": str(folder), "cache_dir": str(folder / "cache"), "data_dir": "unused"}
    node = {"ckpt_path": str(checkpoint), "paths": paths, "logger": None, "seed": 1, "trust": []}
    return OmegaConf.create(node | {"user": None, "cases": 20, "batches": None} | given)


def trained(folder: Path) -> Any:
    """A run opened again, with its data."""
    from seqgen.diagnosis import TrainedRun

    checkpoint = read_checkpoint(str(folder / "checkpoints/last.ckpt"))
    run = OmegaConf.create(checkpoint["seqgen"]["config"])
    return TrainedRun(config=run, data=config.build(run, "data"), checkpoint=checkpoint)


def is_picture(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_model_that_diffuses_agrees_with_the_run_and_is_logged(tmp_path: Path) -> None:
    results = start(tmp_path / "run", "model=cddrec", "diffusion.steps=6", *SMALL)
    checkpoint = tmp_path / "run/checkpoints/last.ckpt"
    shown = command(
        *("seqgen.diagnose", f"ckpt_path={checkpoint}", "logger=wandb", f"hydra.run.dir={tmp_path}/out", "batches=2"),
        cwd=ROOT,
        WANDB_MODE="offline",
    )
    assert shown.returncode == 0, shown.stderr
    assert "Left out: diversity.png and the spread over draws" in shown.stdout
    told = json.loads((tmp_path / "out/diagnose.json").read_text())
    by_setting = {(row["steps"], row["noise"], row["samples"]): row for row in told["inference"]}
    assert set(by_setting) == {(n, False, 0) for n in (1, 2, 4, 6)} | {(1, True, 1), (1, True, 10)}
    for name, value in results["history"][-1].items():
        if name.startswith("val/"):
            assert by_setting[1, False, 0][name] == value
    assert len(told["schedule"]["signal"]) == len(told["loss"]["in_view"]) == 6
    assert told["schedule"]["signal_to_noise"] == sorted(told["schedule"]["signal_to_noise"], reverse=True)
    assert [layer["name"] for layer in told["attention"]] == ["layer 1"]
    for name in ("schedule", "loss", "inference", *ATTENTION_PICTURES):
        assert is_picture(tmp_path / f"out/{name}.png")
    assert len(list((tmp_path / "out/wandb").glob("offline-run-*/files/media/images/diagnose/*.png"))) == 5
    assert (tmp_path / "out/csv/metrics.csv").is_file()


def test_a_chain_is_diagnosed_by_its_number_of_reverse_steps(tmp_path: Path) -> None:
    chain = ("model.decoder.condition_on_x_t=true", "model.noisy_targets=false", "model.inference.steps=4")
    results = start(tmp_path / "run", "model=cddrec", "diffusion.steps=6", *SMALL, *chain)
    told = diagnose(settings(tmp_path, tmp_path / "run/checkpoints/last.ckpt"))
    by_setting = {(row["steps"], row["noise"], row["samples"]): row for row in told["inference"]}
    for name, value in results["history"][-1].items():
        if name.startswith("val/"):
            assert by_setting[4, False, 0][name] == value
    assert len({row["val/mrr"] for row in told["inference"]}) > 1
    assert len(told["loss"]["cross_divergence"]) == 6


def leaves(value: object, path: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(part, f"{path}/{key}")
    elif isinstance(value, int | float):
        yield path, value


@pytest.mark.slow
def test_generated_attention_agrees_with_the_run_and_is_logged(tmp_path: Path) -> None:
    results = start(tmp_path / "run", *GENERATED)
    checkpoint = tmp_path / "run/checkpoints/last.ckpt"
    shown = command_here(
        *("seqgen.diagnose", f"ckpt_path={checkpoint}", "logger=wandb", f"hydra.run.dir={tmp_path}/out", "user=7"),
        cwd=ROOT,
        WANDB_MODE="offline",
    )
    assert shown.returncode == 0, shown.stderr
    assert getattr(sys.modules.get("wandb"), "run", None) is None
    told = json.loads((tmp_path / "out/diagnose.json").read_text())
    assert told["cases"] == 60
    assert told["user"]["user"] == 7
    (layer,) = told["attention"]
    assert 0 <= layer["active_units"] <= layer["latent_dim"] == 4
    assert layer["kl"] > 0
    for head in layer["heads"]:
        assert 0 < head["entropy_share"] <= 1
        assert head["spread"] > 0
        assert sum(head["mass_by_distance"]) == pytest.approx(1)
        expected = sum(distance * mass for distance, mass in enumerate(head["mass_by_distance"]))
        assert head["distance"] == pytest.approx(expected)
    first, *drawn = told["diversity"]
    assert (first["samples"], first["temperature"]) == (0, 1.0)
    assert {(row["samples"], row["temperature"]) for row in drawn} == {
        (s, t) for s in (1, 4, 16) for t in (0.5, 1, 2, 4)
    }
    for name, value in results["history"][-1].items():
        if name.startswith("val/"):
            assert first[name] == value
    assert len({row["val/mrr"] for row in told["diversity"]}) > 6
    for name in ("diversity", *ATTENTION_PICTURES):
        assert is_picture(tmp_path / f"out/{name}.png")
    assert len(list((tmp_path / "out/wandb").glob("offline-run-*/files/media/images/diagnose/*.png"))) == 3
    logged = (tmp_path / "out/csv/metrics.csv").read_text().splitlines()[0]
    assert "layer 1, head 2/entropy" in logged
    again = diagnose(settings(tmp_path / "out", checkpoint, user="7", cases=256))
    numbers, wanted = (dict(leaves(value)) for value in (json.loads(json.dumps(again)), told))
    assert numbers == wanted


def test_the_maps_of_a_user_are_those_its_history_is_read_with(tmp_path: Path) -> None:
    start(tmp_path, "model=sasrec", "attention.num_heads=2", *SMALL)
    told = diagnose(settings(tmp_path, tmp_path / "checkpoints/last.ckpt"))
    run = trained(tmp_path)
    data, model = run.data, run.model()
    user = int(data.split.test.users[0])
    history = data.sequences.values[data.split.test.start[0] : data.split.test.stop[0]][-8:].long()
    assert told["user"]["user"] == data.catalog.user_ids[user]
    assert told["user"]["items"] == [data.catalog.titles[item - 1] for item in history]
    x = model.embedding(history[None], torch.tensor([len(history) - 1]))
    block = model.encoder.stacks[0][0]
    with torch.no_grad():
        query, key = block.attention.query(block.norm_attention(x)), block.attention.key(x)
    for head, drawn in enumerate(told["user"]["maps"]["layer 1"]):
        part = slice(8 * head, 8 * head + 8)
        logits = query[0, :, part] @ key[0, :, part].T / math.sqrt(8)
        future = torch.ones(len(history), len(history)).triu(1).bool()
        expected = logits.masked_fill(future, float("-inf")).softmax(-1)
        torch.testing.assert_close(torch.tensor(drawn), expected)


def test_branches_and_layers_have_names(tmp_path: Path) -> None:
    start(tmp_path, "model=mqsa_ted", "model.num_layers=2", *SMALL)
    told = diagnose(settings(tmp_path, tmp_path / "checkpoints/last.ckpt", cases=3))
    assert told["cases"] == 3
    names = [f"branch {branch}, layer {depth}" for branch in (1, 2) for depth in (1, 2)]
    assert [layer["name"] for layer in told["attention"]] == list(told["user"]["maps"]) == names


def test_uniform_attention_has_the_entropy_of_its_rows(tmp_path: Path) -> None:
    start(tmp_path, "model=genatt", "attention=uniform", *SMALL)
    told = diagnose(settings(tmp_path, tmp_path / "checkpoints/last.ckpt", cases=1000))
    (head,) = told["attention"][0]["heads"]
    cases = trained(tmp_path).data.split.test
    lengths = (cases.stop - cases.start).clamp(max=8).tolist()
    rows = [math.log(i + 1) for length in lengths for i in range(1, length)]
    assert head["entropy"] == pytest.approx(sum(rows) / len(rows))
    assert head["entropy_share"] == pytest.approx(1)
    assert head["effective_rank"] == 0
    assert head["distance"] == pytest.approx(sum((length - 1) / 2 for length in lengths) / len(lengths))


def test_weights_without_a_logarithm_have_no_rank(tmp_path: Path) -> None:
    start(tmp_path, "model=sasrec", "attention=hstu", *SMALL)
    told = diagnose(settings(tmp_path, tmp_path / "checkpoints/last.ckpt"))
    (head,) = told["attention"][0]["heads"]
    assert set(head) == {"entropy", "entropy_share", "distance", "mass_by_distance"}
    assert 0 < head["entropy_share"] <= 1


def test_effective_rank_of_known_matrices() -> None:
    from seqgen.diagnosis.attention import effective_rank

    torch.manual_seed(0)
    assert effective_rank(torch.outer(torch.rand(5), torch.rand(4))).item() == pytest.approx(1, abs=1e-4)
    assert effective_rank(torch.eye(6)).item() == pytest.approx(5)  # rows less their mean lose one direction
    assert effective_rank(torch.full((3, 4), 2.0)).item() == 0
    # A softmax shifts rows of logits, and shifts are not seen.
    logits = torch.outer(torch.rand(5), torch.rand(4))
    assert effective_rank(logits.log_softmax(-1)).item() == pytest.approx(1, abs=1e-4)
    half = torch.tensor([[1.0, -1, 0, 0], [0, 0, 1, -1]])
    assert effective_rank(half * torch.tensor([[3.0], [1.0]])).item() == pytest.approx(4 / 3**0.75)


def test_distance_of_a_map_made_by_hand() -> None:
    from seqgen.attention import SequenceMask
    from seqgen.diagnosis.attention import distances, entropies, ranks, shares

    mask = SequenceMask(torch.tensor([3, 2]), 3)
    full = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0], [0.5, 0.2, 0.3]])
    padded = torch.tensor([[1.0, 0, 0], [0.25, 0.75, 0], [0.4, 0.3, 0.3]])  # its last row is padding
    weights = torch.stack([full, padded])[:, None]
    told = distances(shares(weights), mask, known=5)
    torch.testing.assert_close(told["distance"], torch.tensor([[0.2 + 2 * 0.5], [0.25]]))
    mass = torch.tensor([[[0.3, 0.2, 0.5, 0, 0]], [[0.75, 0.25, 0, 0, 0]]])
    torch.testing.assert_close(told["mass_by_distance"], mass)
    of_rows = [-sum(p * math.log(p) for p in row) for row in ((0.5, 0.5), (0.5, 0.2, 0.3), (0.25, 0.75))]
    entropy = entropies(shares(weights), mask)
    torch.testing.assert_close(entropy["entropy"], torch.tensor(of_rows)[:, None])
    shared = torch.tensor([of_rows[0] / math.log(2), of_rows[1] / math.log(3), of_rows[2] / math.log(2)])
    torch.testing.assert_close(entropy["entropy_share"].float(), shared[:, None])
    assert ranks(weights, mask).shape == (0, 1)  # too short
    # Weights of either sign count by their magnitude.
    torch.testing.assert_close(shares(torch.tensor([-1.0, 3.0])), torch.tensor([0.25, 0.75]))


def test_the_rank_of_a_map_is_not_that_of_its_mask() -> None:
    from seqgen.attention import SequenceMask
    from seqgen.diagnosis.attention import ranks

    torch.manual_seed(0)
    logits = torch.outer(torch.rand(8), torch.rand(8))[None, None]
    mask = SequenceMask(torch.tensor([8]), 8)
    weights = logits.masked_fill(~mask.allowed, float("-inf")).softmax(-1)
    torch.testing.assert_close(ranks(weights, mask), torch.ones(1, 1).double(), atol=1e-3, rtol=0)


@pytest.mark.slow
def test_kl_and_spread_equal_those_of_the_network(tmp_path: Path) -> None:
    from seqgen.diagnosis.attention import DRAWS, batch_of, observe

    start(tmp_path, *GENERATED)
    told = diagnose(settings(tmp_path, tmp_path / "checkpoints/last.ckpt", cases=1))
    run = trained(tmp_path)
    batch = batch_of(run, torch.tensor([0]))
    (layer,) = observe(run.model(), batch)[0]
    with torch.no_grad():
        mean, log_variance = layer.attention.posterior(layer.attention.context(layer.query, layer.context, layer.mask))
    prior = torch.distributions.Normal(0.0, 1.0)
    kl = torch.distributions.kl_divergence(torch.distributions.Normal(mean, (0.5 * log_variance).exp()), prior)
    assert told["attention"][0]["kl"] == pytest.approx(float(kl.sum(-1).mean()), rel=1e-5)
    (drawn,) = observe(run.model(samples=DRAWS, temperature=1.0), batch)[0]
    spread = drawn.weights().std(0)  # one case: the draws are the rows
    cells = torch.ones(spread.shape[-2:]).tril().bool()
    for head, values in zip(told["attention"][0]["heads"], spread, strict=True):
        assert head["spread"] == pytest.approx(float(values[cells].mean()), rel=1e-5)


def test_refused(tmp_path: Path) -> None:
    start(tmp_path / "run", "model=sasrec", "trainer.max_epochs=1")
    checkpoint = tmp_path / "run/checkpoints/last.ckpt"
    with pytest.raises(
        UserError, match=r"user=nobody is none of the 60 users of this data; take an id such as 0, 1, 2"
    ):
        diagnose(settings(tmp_path, checkpoint, user="nobody"))
    with pytest.raises(UserError, match="batches=2 has no effect: SASRec does not diffuse"):
        diagnose(settings(tmp_path, checkpoint, batches=2))
    with pytest.raises(UserError, match="cases=0 must be an integer of at least 1"):
        diagnose(settings(tmp_path, checkpoint, cases=0))
    with pytest.raises(UserError, match="trust=theirs must be a list of str"):
        diagnose(settings(tmp_path, checkpoint, trust="theirs"))
    with pytest.raises(UserError, match=r"ckpt_path=/nowhere\.ckpt is not a file: name a checkpoint"):
        diagnose(settings(tmp_path, "/nowhere.ckpt"))
    (tmp_path / "broken.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        diagnose(settings(tmp_path, tmp_path / "broken.ckpt"))


class WithoutAttention(SequentialRecommender):
    pass


def test_a_model_without_attention_is_refused(tmp_path: Path) -> None:
    start(tmp_path, "model=sasrec", *SMALL)
    checkpoint = read_checkpoint(str(tmp_path / "checkpoints/last.ckpt"))
    name = f"{__name__}.WithoutAttention"
    checkpoint["seqgen"]["model"], checkpoint["state_dict"] = name, {}
    checkpoint["seqgen"]["config"]["model"] = {"_target_": name, "metrics_k": [1]}
    torch.save(checkpoint, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="a WithoutAttention, which has no encoder of attention blocks: nothing to"):
        diagnose(settings(tmp_path, tmp_path / "other.ckpt", trust=[__name__]))


def test_a_user_who_is_not_tested_is_refused(tmp_path: Path) -> None:
    start(tmp_path, "model=sasrec", "data.split=global_time", *SMALL)
    run = trained(tmp_path)
    untested = set(range(run.data.catalog.num_users)) - set(run.data.split.test.users.tolist())
    name = run.data.catalog.user_ids[min(untested)]
    with pytest.raises(UserError, match=f"user={name} has no test case in this split; take another, such as "):
        diagnose(settings(tmp_path, tmp_path / "checkpoints/last.ckpt", user=name))


@pytest.mark.slow
def test_a_missing_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    shown = command("seqgen.diagnose", f"hydra.run.dir={tmp_path}", cwd=ROOT)
    assert shown.returncode == 1
    assert shown.stderr == "seqgen: ckpt_path: name a checkpoint such as outputs/.../checkpoints/last.ckpt.\n"


def test_without_a_folder_it_writes_below_its_own_name(tmp_path: Path) -> None:
    start(tmp_path / "run", "model=sasrec", *SMALL)
    shown = command_here("seqgen.diagnose", f"ckpt_path={tmp_path}/run/checkpoints/last.ckpt", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    [folder] = (tmp_path / "outputs/diagnose").iterdir()
    assert (folder / "attention.png").is_file()


@pytest.mark.parametrize("heads", [1, 4])
def test_the_title_of_the_maps_fits_the_picture(heads: int) -> None:
    from seqgen.diagnosis.attention_pictures import draw_maps

    figure = draw_maps({"user": 1, "items": ["a"] * 40, "maps": {"layer 1": [np.eye(40)] * heads}})
    figure.canvas.draw()
    box = figure.get_suptitle() and figure._suptitle.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width
