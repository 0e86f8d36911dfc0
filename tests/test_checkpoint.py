"""A checkpoint alone gives its model again, and builds nothing that it should not."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import QUIET, TINY
from test_diagnose import settings
from torch import Tensor

import seqgen
from seqgen import config
from seqgen.checkpoint import FORM, MAY_LACK, read_checkpoint
from seqgen.data.catalog import Catalog
from seqgen.data.sequences import SequenceBatch
from seqgen.diagnose import diagnose
from seqgen.errors import UserError
from seqgen.model.base import SequentialRecommender

SMALL = ("model.hidden_dim=16", "trainer.max_epochs=1")


def start(folder: Path, *overrides: str) -> Path:
    seqgen.run(seqgen.compose([*TINY, *QUIET, *overrides], output_dir=folder))
    return folder / "checkpoints/last.ckpt"


@pytest.mark.parametrize(
    "overrides",
    [
        ("model=popularity",),
        ("model=transition",),
        ("model=mqsa_ted", *SMALL),  # whose teacher is made from the training sequences
        ("model=genatt", "attention=diffusion", "data.source.num_items=30", *SMALL),
        ("model=cddrec", "diffusion.steps=6", *SMALL),
    ],
    ids=lambda overrides: overrides[0],
)
def test_a_loaded_model_scores_as_the_run_did(
    overrides: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = start(tmp_path, *overrides)
    cfg = seqgen.compose([*TINY, *QUIET, *overrides], output_dir=tmp_path)
    data = config.build(cfg, "data")
    built = config.build(cfg, "model", catalog=data.catalog)
    built.load_state_dict(read_checkpoint(str(path))["state_dict"])
    batch = next(iter(data.test_dataloader()))
    # Neither the data nor its cache is read.
    monkeypatch.setattr("seqgen.data.datamodule.prepare", None)
    model = seqgen.load(path)
    assert not model.training
    with torch.no_grad():
        assert model.ranking_scores(batch).equal(built.eval().ranking_scores(batch))
    assert model.catalog_state["item_ids"] == data.catalog.item_ids


class Neighbours(SequentialRecommender):
    """Somebody's model that cannot be built without the training sequences."""

    trainable = False

    def __init__(self, *, catalog: Catalog, metrics_k: list[int]) -> None:
        super().__init__(catalog=catalog, metrics_k=metrics_k)
        self.popular = catalog.training_part().values.bincount(minlength=catalog.num_items + 1).double()

    def scores(self, batch: SequenceBatch) -> Tensor:
        return self.popular.repeat(len(batch), 1)


class Constant(SequentialRecommender):
    """Somebody's model that can."""

    trainable = False

    def scores(self, batch: SequenceBatch) -> Tensor:
        return torch.zeros(len(batch), self.num_items + 1)


def test_a_model_that_needs_its_data_is_refused(tmp_path: Path) -> None:
    path = start(tmp_path, "model=oracle")
    with pytest.raises(UserError, match="model=oracle needs generated data"):
        seqgen.load(path)
    path = start(tmp_path / "other", "model=popularity", f"model._target_={__name__}.Neighbours")
    with pytest.raises(UserError, match="needs the training sequences when it is built, which a checkpoint does not"):
        seqgen.load(path, trust=[__name__])


def test_classes_of_other_packages_are_built_where_they_are_trusted(tmp_path: Path) -> None:
    path = start(tmp_path, "model=popularity", f"model._target_={__name__}.Constant")
    text = rf"^model\._target_={__name__}\.Constant is none of the parts .*, add trust=\[{__name__}\]\.$"
    for trust in ((), ("torch",), ("test",)):
        with pytest.raises(UserError, match=text):
            seqgen.load(path, trust=trust)
    assert type(seqgen.load(path, trust=[__name__])) is Constant


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.ckpt is not a file; name a checkpoint such as"):
        seqgen.load(tmp_path / "none.ckpt")
    (tmp_path / "text.ckpt").write_text("text")
    with pytest.raises(UserError, match=r"text\.ckpt cannot be read as a checkpoint"):
        seqgen.load(tmp_path / "text.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "theirs.ckpt")
    with pytest.raises(UserError, match=r"theirs\.ckpt is a checkpoint that seqgen did not write"):
        seqgen.load(tmp_path / "theirs.ckpt")
    torch.save({"seqgen": {"config": {}}, "state_dict": {}}, tmp_path / "bare.ckpt")
    with pytest.raises(UserError, match=r"bare\.ckpt is no whole checkpoint: its part seqgen\.model is missing"):
        seqgen.load(tmp_path / "bare.ckpt")
    torch.save({"seqgen": {"config": {"model": {}}, "catalog": {"size": 3}}}, tmp_path / "old.ckpt")
    with pytest.raises(UserError, match=r"old\.ckpt is no whole checkpoint: its part seqgen\.model is missing"):
        seqgen.load(tmp_path / "old.ckpt")


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(str(start(tmp_path, "model=transition")))
    checkpoint["state_dict"]["tie_break"] = torch.zeros(3)
    torch.save(checkpoint, tmp_path / "cut.ckpt")
    with pytest.raises(UserError, match="holds a network of another shape"):
        seqgen.load(tmp_path / "cut.ckpt")


@pytest.fixture(scope="module")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a checkpoint whose configuration was changed by somebody."""
    folder = tmp_path_factory.mktemp("honest")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEQGEN_CACHE", str(folder / "cache"))
        honest = start(folder, "model=sasrec", *SMALL)

    def write(folder: Path, key: str, value: Any) -> Path:
        checkpoint = read_checkpoint(str(honest))
        node = checkpoint["seqgen"]["config"]
        *parents, last = key.split(".")
        for name in parents:
            node = node[name]
        node[last] = value
        torch.save(checkpoint, folder / "forged.ckpt")
        return folder / "forged.ckpt"

    return write


def attacks(mark: Path) -> dict[str, Any]:
    """Nodes that would leave a mark, were they built."""
    node = {"_target_": "os.system", "command": f"touch {mark}"}
    partial = {"_target_": "pathlib.Path.touch", "_partial_": False, "_args_": [str(mark)]}
    indirect = {"_target_": "seqgen.config.build", "cfg": {"x": {"_target_": "seqgen.config.os.system"}}, "key": "x"}
    return {
        "run": {"_target_": "torch.utils.collect_env.run", "command": f"touch {mark}"},
        "system": node,
        "through seqgen": node | {"_target_": "seqgen.config.os.system"},
        "an argument": {"_target_": "seqgen.losses.cross_entropy", "_partial_": True, "table": node},
        "in a list": {"_target_": "seqgen.losses.cross_entropy", "_partial_": True, "table": [0, [{"x": node}]]},
        "without recursion": {"_target_": "seqgen.model.sasrec.SASRec", "_recursive_": False, "loss": partial},
        "seqgen's own builder": indirect,
        "not a name": {"_target_": ["os.system"]},
    }


@pytest.mark.parametrize("kind", attacks(Path()))
def test_a_forged_file_executes_nothing(
    kind: str, tmp_path: Path, forge: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "executed"
    node = attacks(mark)[kind]
    for key in ("model", "model.loss", "model.attention", "model.inference"):
        with pytest.raises(UserError, match=r"^model\S*\._target_=.* is none of the parts that seqgen builds from a"):
            seqgen.load(forge(tmp_path, key, node))
        with pytest.raises(UserError, match=r"^model\S*\._target_=.* is none of the parts that seqgen builds from a"):
            diagnose(settings(tmp_path, forge(tmp_path, key, node)))
    for key in ("data", "data.source", "data.max_len"):
        with pytest.raises(UserError, match=r"^data\S*\._target_=.* is none of the parts that seqgen builds from a"):
            diagnose(settings(tmp_path, forge(tmp_path, key, node)))
    assert not mark.exists()


def test_a_trusted_package_lends_its_name_to_no_other(tmp_path: Path, forge: Callable[..., Path]) -> None:
    path = forge(tmp_path, "model.loss", {"_target_": f"{__name__}.os.system", "command": f"touch {tmp_path}/executed"})
    with pytest.raises(
        UserError, match=rf"os\.system is defined in {os.system.__module__}, not in the trusted {__name__}"
    ):
        seqgen.load(path, trust=[__name__])
    path = forge(tmp_path, "model.loss", {"_target_": "no_such_package.X"})
    with pytest.raises(UserError, match=r"no_such_package\.X cannot be imported; is no_such_package installed"):
        seqgen.load(path, trust=["no_such_package"])
    assert not (tmp_path / "executed").exists()


def test_a_file_reads_no_environment(tmp_path: Path, forge: Callable[..., Path]) -> None:
    path = forge(tmp_path, "data.source.seed", "${oc.env:HOME}")
    with pytest.raises(UserError, match=r"^data\.source\.seed=\$\{oc\.env:HOME\} refers to another value"):
        diagnose(settings(tmp_path, path))
    path = forge(tmp_path, "model", "${data}")
    with pytest.raises(UserError, match="holds no configuration"):
        seqgen.load(path)
    path = forge(tmp_path, "model.loss", "${data.source}")
    with pytest.raises(UserError, match=r"^model\.loss=\$\{data\.source\} refers to another value"):
        seqgen.load(path)


@pytest.mark.parametrize("overrides", [(), ("train=false",)])
def test_a_run_builds_nothing_out_of_the_checkpoint_it_is_given(
    overrides: tuple[str, ...], tmp_path: Path, forge: Callable[..., Path]
) -> None:
    node = {"_target_": "os.system", "command": f"touch {tmp_path}/executed"}
    path = forge(tmp_path, "logger", node)
    with pytest.raises(UserError, match=r"^logger\._target_=os\.system is none of the parts that seqgen builds"):
        start(tmp_path, "model=sasrec", "model.hidden_dim=16", "trainer.max_epochs=2", f"ckpt_path={path}", *overrides)
    assert not (tmp_path / "executed").exists()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return start(tmp_path_factory.mktemp("written"), "model=sasrec", *SMALL)


@pytest.mark.parametrize("missing", [True, False])
@pytest.mark.parametrize("part", FORM)
def test_a_file_of_another_form_is_one_sentence(part: str, missing: bool, written: Path, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(str(written))
    node, names = checkpoint, part.split(".")
    for name in names[:-1]:
        node = node[name]
    if missing:
        del node[names[-1]]
    else:
        node[names[-1]] = None
    torch.save(checkpoint, tmp_path / "other.ckpt")
    if missing and part in MAY_LACK:
        read_checkpoint(tmp_path / "other.ckpt")
        return
    with pytest.raises(UserError, match=rf"other\.ckpt is no whole checkpoint: its part {re.escape(part)} is missing"):
        read_checkpoint(tmp_path / "other.ckpt")
