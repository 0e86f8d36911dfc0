"""Every option composes and fits what it builds; what is wrong is refused in one sentence."""

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
from bad_settings import AT_ONCE, BAD_SETTINGS, WRONG_VALUES, places
from conftest import QUIET, ROOT, TINY
from omegaconf import DictConfig, OmegaConf, open_dict

from seqgen import cli, config
from seqgen.check import check
from seqgen.errors import SettingError, UserError
from seqgen.metric_table import row_of

CONF = ROOT / "conf"
OPTIONS = sorted((path.parent.name, path.stem) for path in CONF.glob("*/*.yaml") if path.parent.name != "local")
# What is left chooses nothing to build, or runs in sweeps only.
HOSTS = dict.fromkeys(("attention", "loss", "optimizer", "scheduler", "model"), "sasrec") | {"diffusion": "cddrec"}
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
    if group == "logger" and option in ("wandb", "many"):
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


@pytest.mark.slow
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


@pytest.mark.parametrize(("overrides", "words"), BAD_SETTINGS, ids=[" ".join(case[0]) for case in BAD_SETTINGS])
def test_a_bad_setting_is_refused_in_one_sentence(
    overrides: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seqgen.run import run

    monkeypatch.chdir(ROOT)
    if len(AT_ONCE) > BAD_SETTINGS.index((overrides, words)):
        monkeypatch.setattr(config, "build", lambda *_, **__: pytest.fail("something was built"))
    tiny = [] if "data=ml1m" in overrides else TINY
    with pytest.raises(Exception) as caught:  # noqa: PT011  (Hydra's and Lightning's own classes are among them)
        run(compose(tmp_path, *tiny, *overrides))
    text = cli.sentence(caught.value, overrides)
    assert text is not None
    assert words in text
    assert "\n" not in text


@pytest.mark.parametrize(("group", "option"), [case for case in BUILDING if case[0] in HOSTS])
def test_no_value_of_a_key_ends_in_a_trace(group: str, option: str, tmp_path: Path) -> None:
    given = compose(tmp_path, *TINY, f"model={HOSTS[group]}", f"{group}={option}")
    catalog = config.build(given, "data").catalog
    traces = {}
    for key in places(OmegaConf.to_container(given[group], resolve=False), group):
        for value in WRONG_VALUES:
            cfg = given.copy()
            parent, _, name = key.rpartition(".")
            with open_dict(cfg):
                (OmegaConf.select(cfg, parent) if parent else cfg)[name] = value
            try:
                check(cfg)
                model = config.build_model(cfg, catalog=catalog)
                if model.trainable:
                    model.configure_optimizers()
            except Exception as error:
                if cli.sentence(error, []) is None:
                    traces[key, str(value)[:20]] = repr(error)
    assert traces == {}


@pytest.mark.slow
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
