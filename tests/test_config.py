"""Every option composes and fits what it builds; what is wrong is refused in one sentence."""

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import QUIET, ROOT, TINY
from omegaconf import DictConfig, OmegaConf

from seqgen import config
from seqgen.check import check
from seqgen.errors import SettingError, UserError
from seqgen.metric_table import row_of

CONF = ROOT / "conf"
OPTIONS = sorted((path.parent.name, path.stem) for path in CONF.glob("*/*.yaml") if path.parent.name != "local")
# What is left chooses nothing to build, or runs in sweeps only.
BUILDING = [(g, o) for g, o in OPTIONS if g not in ("paths", "hydra", "hparams_search") and o != "none"]


def compose(tmp_path: Path, *overrides: str) -> DictConfig:
    return config.compose([*overrides, *QUIET], output_dir=tmp_path)


@pytest.fixture(autouse=True)
def _no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def refusal(tmp_path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        check(compose(tmp_path, *overrides))
    return str(caught.value)


@pytest.mark.parametrize(("group", "option"), sorted({*OPTIONS} - {*BUILDING}))
def test_an_option_that_builds_nothing_composes_and_resolves(group: str, option: str, tmp_path: Path) -> None:
    override = [] if group in ("hydra", "paths") else [f"{group}={option}"]
    assert config.plain(compose(tmp_path, *override))["seed"] == 1


@pytest.mark.parametrize(("group", "option"), BUILDING)
def test_every_option_resolves_and_its_keys_fit_the_signature_they_feed(
    group: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (group, option) == ("logger", "wandb"):
        monkeypatch.setenv("WANDB_MODE", "offline")
    needs = {"diffusion": "cddrec", "attention": "sasrec", "loss": "sasrec", "optimizer": "sasrec"}
    pairing = [f"model={needs[group]}"] if group in needs else []
    cfg = compose(tmp_path, f"{group}={option}", *pairing)
    assert config.plain(cfg)["seed"] == 1
    if option in ("custom", "amazon_2018", "amazon_2023"):  # data.path and data.source.category are the user's
        monkeypatch.setattr(config.OmegaConf, "missing_keys", lambda _: set())
    check(cfg)


def test_every_required_argument_of_a_model_is_in_its_yaml(tmp_path: Path) -> None:
    from hydra.utils import get_object

    for path in sorted((CONF / "model").glob("*.yaml")):
        node = compose(tmp_path, f"model={path.stem}").model
        parameters = inspect.signature(get_object(node["_target_"])).parameters
        required = {n for n, p in parameters.items() if p.default is p.empty and p.kind is not p.VAR_KEYWORD}
        assert required - {"catalog"} <= set(node), path


@pytest.mark.parametrize("path", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_trains_on_generated_data(path: Path, tmp_path: Path) -> None:
    from seqgen.run import run

    overrides = [f"experiment={path.stem}", "data=synthetic", *TINY, "trainer.max_epochs=1"]
    assert run(compose(tmp_path, *overrides)).objective > 0


def test_an_experiment_extends_another(tmp_path: Path) -> None:
    base, more = (compose(tmp_path, f"experiment=cddrec_office{name}") for name in ("", "_authors"))
    assert {key for key in base if base[key] != more[key]} == {"model"}
    assert (more.diffusion.beta_end, more.data.max_len, more.model.contrast.weight) == (0.04, 20, 0.3)


def test_precedence_is_command_line_then_experiment_then_model_then_root(tmp_path: Path) -> None:
    assert compose(tmp_path, "model=sasrec").attention._target_ == "seqgen.attention.softmax.SoftmaxAttention"
    assert (
        compose(tmp_path, "model=mqsa_ted", "attention=vae").attention._target_ == "seqgen.attention.vae.VAEAttention"
    )
    assert compose(tmp_path, "model=sasrec").optimizer.weight_decay == 0.0
    assert compose(tmp_path, "model=mqsa_ted").optimizer.weight_decay == 1e-4  # the L2 term of the paper
    assert compose(tmp_path, "model=mqsa_ted", "optimizer=adam").optimizer.weight_decay == 0.0
    assert compose(tmp_path, "experiment=mqsa_ted_beauty").optimizer.weight_decay == 1e-4
    assert compose(tmp_path, "experiment=mqsa_ted_beauty", "optimizer.weight_decay=0.5").optimizer.weight_decay == 0.5


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ["model=popularity", "attention=vae"],
            "attention=vae has no effect on model=popularity; choose attention=none",
        ),
        (["model=transition", "loss=bce"], "loss=bce has no effect on model=transition"),
        (["model=oracle", "scheduler=cosine"], "scheduler=cosine has no effect on model=oracle"),
        (
            ["model=sasrec", "attention=none"],
            "model=sasrec needs attention=; choose one of diffusion, hstu, linear, multi_query,",
        ),
        (["model=mqsa_ted", "loss=none"], "model=mqsa_ted needs loss=; choose one of bce, ce"),
        (["model.hidden_dim=abc"], "model.hidden_dim=abc must be an integer"),
        (["model.dropout=true"], "model.dropout=True must be a number"),
        (["optimizer.lr=fast"], "optimizer.lr=fast must be a number"),
        (["model.norm=first"], "model.norm=first must be query or post or pre"),
        (["trainer.max_epochs=many"], "trainer.max_epochs=many must be an integer or null"),
        (["trainer.max_epochs=0"], "trainer.max_epochs=0 must be at least 1"),
        (["+model.hiden_dim=3"], "model.hiden_dim is not a key of seqgen.model.mqsa_ted.MQSATED; did you mean"),
        (["+trainer.max_epoch=3"], "trainer.max_epoch is not a key of pytorch_lightning.Trainer; did you mean"),
        (["+foo=1"], "foo is a key that nothing reads"),
        (["+metrics.kk=1"], "metrics.kk is a key that nothing reads"),
        (["seed=one"], "seed=one must be an integer"),
        (["seed=-1"], "seed=-1 must lie between 0 and"),
        (["tags=first"], "tags=first must be a list of str"),
        (["compile=maybe"], "compile=maybe must be true or false"),
        (["model=genatt", "model.inference.samples=2.5"], "model.inference.samples=2.5 must be an integer"),
        (["model=genatt", "model.inference.samples=true"], "model.inference.samples=True must be an integer"),
        (["model=genatt", "model.inference.temperature=hot"], "model.inference.temperature=hot must be a number"),
        (["model=genatt", "+model.inference.draws=2"], "model.inference.draws is not a key of seqgen.layers.Inference"),
        (["model=sasrec", "~model.inference.samples"], "model.inference.samples is"),
        (["model=sasrec", "model.inference=null"], "model.inference=None must be"),
        (["model=sasrec", "+model.extra_tokens=2"], "model.extra_tokens is not a key of seqgen.model.sasrec.SASRec"),
        (["model=sasrec", "model.norm=both"], "model.norm=both must be query or post or pre"),
        (
            ["model=sasrec", "attention=vae", "attention.columns=slots"],
            "attention.columns=slots must be rel",
        ),
        (
            ["attention=diffusion", "attention.clean_map=zero"],
            "attention.clean_map=zero must be",
        ),
        (["metrics.k=10"], "metrics.k=10 must be a list of int"),
        (["metrics.k=[]"], "metrics.k=[] must hold at least one list length"),
        (["metrics.k=[0,5]"], "metrics.k=[0, 5] must hold at least one list length, each at least 1"),
        (["monitor=val/ndgc@10"], "no validation metric with K in metrics.k=[1, 5, 10, 20]; did you mean val/ndcg@10"),
        (["monitor=val/ndcg@7"], "monitor=val/ndcg@7 is no validation metric"),
        (["monitor=val/ild@1"], "monitor=val/ild@1 is no validation metric"),
        (["monitor=val/gini@10"], "monitor=val/gini@10 is better when small, but the largest counts as best"),
        (["monitor=val/popularity@5"], "monitor=val/popularity@5 is better when small, but the largest counts as"),
        (["monitor=val/unhittable"], "monitor=val/unhittable is no validation metric"),
        (
            ["callbacks.early_stopping.mode=min"],
            "callbacks.early_stopping.monitor=val/ndcg@10 is better when large, but the smallest counts as best",
        ),
        (
            ["callbacks.early_stopping.monitor=val/gini@10"],
            "callbacks.early_stopping.monitor=val/gini@10 is better when small, but the largest counts as best",
        ),
        (["ckpt_path=/no/such.ckpt"], "ckpt_path=/no/such.ckpt is not a file"),
        (["train=false", "test=false"], "leaves nothing to do"),
        (["+paths.foo=1"], "paths.foo is a key that nothing reads; choose one of paths.data_dir"),
        (["+callbacks.foo=3"], "callbacks.foo builds nothing: it has no _target_"),
        (
            ["callbacks.early_stopping.monitor=val/foo"],
            "callbacks.early_stopping.monitor=val/foo is no validation metric",
        ),
        (["trainer.limit_val_batches=0"], "trainer.limit_val_batches=0 leaves callbacks without the metric"),
        (["trainer.limit_test_batches=0"], "trainer.limit_test_batches=0 leaves nothing to test; set test=false"),
        (["trainer.min_epochs=5", "trainer.max_epochs=1"], "trainer.min_epochs=5 is above trainer.max_epochs=1"),
        (["optimizer.betas=[0.9]"], "optimizer.betas=[0.9] must be a list of 2"),
        (["logger=wandb"], "logger=wandb needs an account: run `wandb login`, or set WANDB_API_KEY"),
        (["hparams_search=mqsa_ted"], "hparams_search= has no effect on a single run; add --multirun"),
        (["model._target_=seqgen.model.nowhere.Model"], "model._target_=seqgen.model.nowhere.Model cannot be imported"),
    ],
)
def test_refused_before_anything_is_built(overrides: list[str], told: str, tmp_path: Path) -> None:
    text = refusal(tmp_path, *overrides)
    assert told in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["model=sasrec", "attention.num_heads=3"], "attention.num_heads=3 does not divide hidden_dim=64"),
        (["attention.window=0"], "attention.window=0 must be at least 1"),
        (["attention.alpha=1.5"], "attention.alpha=1.5 must lie in [0, 1]"),
        (["model.dropout=1.0"], "model.dropout=1.0 must lie in [0, 1)"),
        (["model.num_layers=0"], "model.num_layers=0 must be at least 1"),
        (["model.temperature=0"], "model.temperature=0 must be a number above 0"),
        (["model.time_span=0"], "model.time_span=0 must be at least 1"),
        (["attention=vae", "attention.kl_weight=-1"], "attention.kl_weight=-1 must be a number of at least 0"),
        (["metrics.k=[10,1000]"], "metrics.k=[10, 1000] must be list lengths between 1 and"),
        (["data.batch_size=0"], "data.batch_size=0 must be at least 1"),
        (["data.min_user_interactions=2"], "data.min_user_interactions=2 must be at least 3"),
        (["data.stride=9", "data.windows=all"], "data.stride=9 must lie in 1 to max_len=8"),
        (["data.source.num_categories=0"], "data.source.num_categories=0 must lie in 1 to num_items=40"),
        (["model=cddrec", "diffusion.steps=0"], "diffusion.steps must be at least 1"),
        (["attention=diffusion", "attention.schedule.steps=0"], "attention.schedule.steps must be at least 1"),
        (
            ["attention=diffusion", "diffusion@attention.schedule=sigmoid", "attention.schedule.temperature=0"],
            "attention.schedule.temperature=0 must be a number above 0",
        ),
        (["data.min_item_interactions=999"], "no interaction is left after filtering"),
        (["data=ml1m", "data.source.url=null", "paths.data_dir=/nowhere"], "needs the file /nowhere/ml-1m/ratings.dat"),
        (["optimizer.lr=-1"], "optimizer or scheduler: Invalid learning rate"),
        (["trainer.accelerator=abacus"], "trainer: "),
        (
            ["trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=ddp_spawn"],
            "trainer.strategy=ddp_spawn leaves the results in the processes it spawns; use trainer.strategy=ddp",
        ),
        (["+trainer.plugins=[]"], "trainer.plugins is set by the run itself; remove it"),
        (["ckpt_path=README.md"], "README.md cannot be read as a checkpoint"),
        (["train=false", "ckpt_path=README.md"], "README.md cannot be read as a checkpoint"),
        (["train=false"], "train=false needs ckpt_path="),
        (["model=popularity", "compile=true"], "compile=true has no effect"),
        (["model=popularity", "ckpt_path=pyproject.toml"], "ckpt_path has no effect with model=popularity"),
    ],
)
def test_refused_by_what_is_built(
    overrides: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seqgen.run import run

    monkeypatch.chdir(ROOT)
    tiny = [] if overrides[0] == "data=ml1m" else TINY
    with pytest.raises(Exception) as caught:  # noqa: PT011  (Lightning's own classes are among them)
        run(compose(tmp_path, *tiny, *overrides))
    text = config.sentence(caught.value, [])
    assert text is not None
    assert told in text
    assert "\n" not in text


@pytest.mark.parametrize("key", ["monitor", "callbacks.early_stopping.monitor"])
@pytest.mark.parametrize("metric", ["category_coverage", "ild", "f"])
def test_a_metric_that_the_data_cannot_have_is_not_watched(key: str, metric: str, tmp_path: Path) -> None:
    from seqgen.run import run

    rows = [f"{user},{(user + 3 * t) % 11},{t}" for user in range(20) for t in range(8)]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,time", *rows]))
    columns = ("user=user", "item=item", "timestamp=time")
    data = ["data=custom", f"data.path={tmp_path}/log.csv", *(f"data.columns.{column}" for column in columns)]
    sentence = f"{key}=val/{metric}@5 needs categories, which no item of data=custom has; choose another metric"
    with pytest.raises(UserError, match=re.escape(sentence)):
        run(compose(tmp_path, *data, "model=sasrec", "metrics.k=[5,10]", f"{key}=val/{metric}@5"))
    assert not (tmp_path / "checkpoints").exists()  # nothing was trained
    run(compose(tmp_path, *data, "model=popularity", "metrics.k=[5,10]", "monitor=val/hr@5"))
    names = set(json.loads((tmp_path / "results.json").read_text())["metrics"])
    assert {"test/gini@5", "val/gini@5"} <= names
    assert not any(metric in re.split("[/@]", name) for name in names)


def test_all_that_is_measured_can_be_watched(tmp_path: Path) -> None:
    from seqgen.run import run

    run(compose(tmp_path, *TINY, "model=popularity", "metrics.k=[1,5]", "monitor=val/mrr"))
    names = json.loads((tmp_path / "results.json").read_text())["metrics"]
    watched = {name for name in names if name.startswith("val/")} - {"val/unhittable"}
    assert {"val/ild@5", "val/f@1"} < watched
    cfg = compose(tmp_path, "metrics.k=[1,5]", "monitor=val/mrr")
    for name in watched:
        row = row_of(name)
        assert row is not None
        cfg.callbacks.early_stopping.monitor = name
        cfg.callbacks.early_stopping.mode = "min" if row.smaller_is_better else "max"
        check(cfg)


class Part:
    def __init__(self, *, size: int, **parts: Any) -> None:
        if size < 1:
            raise SettingError(f"size={size} must be at least 1.")


@pytest.mark.parametrize(
    ("path", "named"),
    [
        (("part",), "part.size"),
        (("whole", "part"), "whole.part.size"),
        (("whole", "part", "part"), "whole.part.part.size"),
        (("copy", "part"), "whole.part.size"),  # what a user sets, not the copy
        (("host", "inner", "part"), "whole.part.size"),
    ],
)
def test_a_refused_setting_is_named_by_the_path_that_a_user_sets(
    path: tuple[str, ...], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seqgen.config.Part", Part, raising=False)  # a name that Hydra can import
    node: Any = {"_target_": "seqgen.config.Part", "size": 0}
    for name in reversed(named.split(".")[1:-1]):
        node = {"_target_": "seqgen.config.Part", "size": 1, name: node}
    key = named.split(".")[0]
    copies = {"copy": "${whole}", "host": {"_target_": "seqgen.config.Part", "size": 1, "inner": "${whole}"}}
    cfg = OmegaConf.create({key: node, **(copies if key == "whole" else {})})
    with pytest.raises(UserError, match=rf"^{re.escape(named)}=0 must be at least 1\.$"):
        config.build(cfg, path[0])


def test_the_sentence_for_an_error_of_ours_is_none() -> None:
    assert config.sentence(KeyError("a bug"), []) is None
    assert config.sentence(ValueError("a bug"), []) is None


def test_group_checks_look_at_what_refers_to_a_group(tmp_path: Path) -> None:
    raw = OmegaConf.to_container(compose(tmp_path, "model=sasrec"), resolve=False)
    assert isinstance(raw, dict)
    model: dict[str, Any] = raw["model"]
    assert {key for key, value in model.items() if re.fullmatch(r"\$\{\w+\}", str(value))} == {
        "attention",
        "loss",
        "optimizer",
        "scheduler",
    }
