"""Configs: every option composes, and every mistake is named before any work."""

import functools
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from lightning.pytorch.strategies import StrategyRegistry
from omegaconf import DictConfig, OmegaConf
from program import REPOSITORY

from cnnlab.config import CONFIG_DIR, build, build_entries, check, compose, quote_path, trusted_prefixes
from cnnlab.config.checking import problems_of
from cnnlab.config.overrides import split, value_of
from cnnlab.errors import InputError

LISTS = ("augmentation", "regularization", "logger")
NEEDED = {
    "model=torchvision": ["model.name=efficientnet_b0"],
    "model=timm": ["model.name=resnet10t"],
    **{f"data={name}": ["data.file=words.tsv"] for name in ("table", "text_table")},
    **{f"data={name}": ["data.root=photos"] for name in ("image_folder", "coco_folder", "voc_folder", "yolo_folder")},
    **{f"model={name}": ["data=text_lines"] for name in ("crnn", "conv_transformer")},
    **{
        f"model={name}": ["data=shapes"] for name in ("faster_rcnn", "fcos", "mask_rcnn", "retinanet", "ssd", "ssdlite")
    },
    "task=detection": ["data=shapes", "model=ssdlite"],
    "task=recognition": ["data=text_lines", "model=crnn"],
    "task=moves": ["data=go"],
    "task=regression": ["data=four_points"],
}
WHOLE = ("experiment", "debug", "hparams_search")
"""Groups of which an option's file is a part of the whole config."""
ALONE = ("experiment", "debug", "data", "task")
"""Groups whose options choose those of other groups."""
FILES = sorted(path for path in CONFIG_DIR.glob("*/*.yaml") if path.parent.name != "local")
GROUPS = {
    group: [path for path in FILES if path.parent.name == group]
    for group in sorted({path.parent.name for path in FILES} - {*ALONE, "hparams_search"})
}
EXPERIMENTS = [path for path in FILES if path.parent.name == "experiment"]


def composed(*overrides: str, config_dir: Path | None = None) -> dict:
    """The checked config, resolved where it can be."""
    cfg = compose(overrides, str(config_dir) if config_dir else None)
    check(cfg)
    return OmegaConf.to_container(cfg, resolve=True)


def problems(*overrides: str, config_dir: Path | None = None) -> list[str]:
    """What composing and checking complain about, a line each; fails if there is nothing."""
    with pytest.raises(InputError) as error:
        composed(*overrides, config_dir=config_dir)
    heading, *lines = str(error.value).splitlines()
    assert heading.endswith(":")
    assert all(line.startswith("  - ") for line in lines)
    return [line.removeprefix("  - ") for line in lines]


@functools.cache
def unchanged(*choices: str) -> DictConfig:
    """The composed config; not to be changed."""
    return compose(choices)


def wrong_values(*overrides: str, choices: Sequence[str] = ()) -> list[str]:
    """What checking complains about once values of the config that `choices` compose are replaced by these.

    Composing takes ten times as long as checking.
    """
    cfg = unchanged(*choices).copy()
    for override in map(split, overrides):
        OmegaConf.update(cfg, override.key, value_of(override.text), force_add=override.text.startswith("+"))
    with pytest.raises(InputError) as error:
        check(cfg)
    return error.value.problems


def assert_contains(node: object, written: object) -> None:
    """Every value that is written in a file is in the composed node, but for what refers to others."""
    if isinstance(written, dict):
        for key, value in written.items():
            assert_contains(node[key], value)
    elif not (isinstance(written, str) and ("${" in written or written == "???")):
        assert node == written


def test_configs_lie_where_the_train_config_lies():
    assert (CONFIG_DIR / "train.yaml").is_file()
    assert CONFIG_DIR.resolve() == REPOSITORY / "configs"
    assert len(FILES) > 50


def assert_composed(cfg: dict, path: Path) -> None:
    """The composed config holds what the option's file says, and of a list its entries alone."""
    group = path.parent.name
    written = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    presets = [entry for entry in written.pop("defaults", []) if isinstance(entry, str) and entry != "_self_"]
    assert_contains(cfg if group in WHOLE else cfg[group], written)
    if group in LISTS:
        assert list(cfg[group]) == (presets or list(written))


def choice(path: Path) -> str:
    group, option = path.parent.name, path.stem
    return f"{group}=[{option}]" if group in LISTS else f"{group}={option}"


@pytest.mark.parametrize("path", [path for path in FILES if path.parent.name in ALONE], ids=choice)
def test_every_option_composes_to_what_its_file_says(path):
    assert_composed(composed(choice(path), *NEEDED.get(choice(path), [])), path)


ROUNDS = list(itertools.zip_longest(*GROUPS.values()))


@pytest.mark.parametrize("paths", ROUNDS, ids=range(len(ROUNDS)))
def test_options_that_touch_no_other_group_compose_together(paths):
    """One option of each group at a time: composing takes longer than looking at what was composed."""
    paths = [path for path in paths if path]
    cfg = composed(*map(choice, paths), *(extra for path in paths for extra in NEEDED.get(choice(path), [])))
    for path in paths:
        assert_composed(cfg, path)


def test_search_composes_to_what_its_file_says():
    cfg = OmegaConf.to_container(compose(["hparams_search=optuna"], with_hydra=True))
    assert_composed(cfg, CONFIG_DIR / "hparams_search" / "optuna.yaml")


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiment_leaves_no_half_entry_behind(path):
    """One that gives entries of a list values of its own would, where the user chooses other entries."""
    if {"augmentation", "regularization"} & set(yaml.safe_load(path.read_text(encoding="utf-8"))):
        cfg = composed(f"experiment={path.stem}", "augmentation=none", "regularization=none")
        assert cfg["augmentation"] == cfg["regularization"] == {}


def test_order_of_a_list_is_the_order_of_its_entries():
    cfg = composed("augmentation=[noise,flip,rotate]", "augmentation.flip.p=0.1")
    assert list(cfg["augmentation"]) == ["noise", "flip", "rotate"]
    assert cfg["augmentation"]["flip"]["p"] == 0.1


def test_zero_is_a_seed():
    assert [composed(f"seed={seed}")["seed"] for seed in (0, -1)] == [0, -1]


def test_null_switches_a_named_entry_off():
    cfg = composed("augmentation=[flip,rotate]", "augmentation.flip=null")
    assert cfg["augmentation"]["flip"] is None
    assert list(build_entries(cfg["augmentation"])) == ["rotate"]


def test_several_mistakes_are_named_at_once():
    found = problems(
        "optimzer.lr=1",
        "optimizer=adm",
        "regularization=[dropot]",
        "seed=abc",
        "+optimizer.weight_decai=0.9",
        "+callbacks.mine.level=1",
        "data=image_folder",
        "trainer.max_epochs=x",
    )
    assert found == [
        "optimizer=adm: unknown option adm of optimizer. Did you mean adam or adamw?",
        "regularization=[dropot]: unknown option dropot of regularization. Did you mean dropout?",
        "optimzer.lr=1: unknown key optimzer.lr. Did you mean optimizer.lr?",
        "data.root=... is required.",
        "seed='abc' is not int.",
        "optimizer.weight_decai is not an argument of torch.optim.AdamW. Did you mean weight_decay?",
        "trainer.max_epochs='x' is not Optional[int].",
        "callbacks.mine needs a _target_ that says what it builds; it is {'level': 1}.",
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lr=abc", "optimizer.lr='abc' is not float"),
        ("optimizer.lr=null", "optimizer.lr=None is not float"),
        ("data.batch_size=1.5", "data.batch_size=1.5 is not int"),
        ("data.batch_size=true", "data.batch_size=True is not int"),
        ("trainer.max_epochs=1.5", "trainer.max_epochs=1.5 is not Optional[int]"),
        ("speed.channels_last=1", "speed.channels_last=1 is not bool | str"),
        ("model.weights=3", "model.weights=3 is not str | None"),
        ("trusted_packages=mine", "trusted_packages='mine' is not list[str]"),
        ("trusted_packages=3", "trusted_packages=3 is not list[str]"),
        ("callbacks.filters.every_n_epochs=x", "callbacks.filters.every_n_epochs='x' is not int"),
    ],
)
def test_value_of_the_wrong_type_is_named(override, message):
    (found,) = wrong_values(override)
    assert found.startswith(message)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model=vgg17", "model=vgg17: unknown option vgg17 of model. Did you mean vgg16"),
        ("model=null", "model=null: unknown option null of model. Available: alexnet,"),
        ("optimizer=3", "optimizer=3: unknown option 3 of optimizer"),
        ("lr=1", "lr=1: unknown key lr. Did you mean optimizer.lr"),
        ("+sede=1", "Unknown key sede. Did you mean seed"),
        ("+data.batchsize=1", "Unknown key data.batchsize. Did you mean batch_size"),
        (
            "+loss.label_smothing=0.1",
            "loss.label_smothing is not an argument of torch.nn.CrossEntropyLoss. Did you mean label_sm",
        ),
        ("+model.network.widht_mult=1", "model.network.widht_mult is not an argument of torchvision.models.mobilenet"),
        ("~augmentation", "augmentation is missing"),
        ("~optimizer.lr", "optimizer.lr is missing"),
        ("resume_schedule=sideways", "resume_schedule='sideways' is not one of extend, restart, constant"),
        ("~trainer.max_epochs", "trainer.max_epochs is missing"),
        ("~paths", "The config does not resolve: Interpolation key 'paths"),
        ("~optimizer._target_", "optimizer needs a _target_"),
        ("optimizer._target_=3", "optimizer._target_: 3 does not name a class or function"),
        ("optimizer._target_=torch.nn", "optimizer._target_: torch.nn is a module, not a class or function"),
        ("optimizer._target_=torch.optim.Adm", "optimizer._target_: torch.optim.Adm cannot be imported"),
        ("model=torchvision", "model.name=... is required"),
        ("seed", "seed: it cannot be parsed"),
        ("=3", "=3: it cannot be parsed"),
        ("augmentation=[flip", "augmentation=[flip: it cannot be parsed"),
        ("optimizer.lr='0.1", "optimizer.lr='0.1: it cannot be parsed"),
        ('data.root="a', 'data.root="a: it cannot be parsed'),
        ("data.root=a (1)", "data.root=a (1): it cannot be parsed"),
        ("+trainer.x={a: 1", "+trainer.x={a: 1: it cannot be parsed"),
        ("freeze.phases=[{epoch: 0, train: all]", "freeze.phases=[{epoch: 0, train: all]: it cannot be parsed"),
    ],
)
def test_mistake_is_named(override, message):
    found = problems(override)
    assert len(found) == 1
    assert found[0].startswith(message)


def test_strategies_whose_processes_are_copies_are_refused():
    """Of all that Lightning registers, and of a strategy that is built by its class."""
    methods = {name: StrategyRegistry[name]["init_params"].get("start_method") for name in StrategyRegistry}
    assert {"spawn", "fork", "popen", None} == set(methods.values())
    start = "{_target_: lightning.pytorch.strategies.DDPStrategy, start_method: %s}"
    methods |= {start % method: method for method in ("spawn", "forkserver", "popen")}
    for name, method in methods.items():
        cfg = unchanged().copy()
        cfg.trainer.strategy = value_of(f"trainer.strategy={name}")
        found = problems_of(cfg)
        copies = method not in ("popen", None)
        assert len(found) == copies, name
        assert not copies or (found[0].startswith("trainer.strategy=") and "Use ddp, which starts" in found[0])


CHOICES = (
    ["init=random", "preprocessing=zca", "regularization=[l1]", "augmentation=[random_crop,affine]"],
    ["init=zero", "preprocessing=pca", "model=torchvision", "model.name=vgg11"],
    ["init=kaiming_normal", "preprocessing=standardize"],
    ["init=lsuv"],
    ["init=orthogonal"],
)


@pytest.mark.parametrize(
    ("choices", "override", "message"),
    [
        (0, "init.std=abc", "init.std='abc' is not float."),
        (0, "init.mean=true", "init.mean=True is not float."),
        (2, "init.mode=3", "init.mode=3 is not str."),
        (3, "init.max_iterations=2.5", "init.max_iterations=2.5 is not int."),
        (1, "init.bias=x", "init.bias='x' is not float."),
        (1, "init.modules=features", "init.modules='features' is not list[str] | None."),
        (
            4,
            "+init.gian=2",
            "init.gian is not an argument of cnnlab.models.initialization.initialize. Did you mean gain",
        ),
        (0, "preprocessing.epsilon=abc", "preprocessing.epsilon='abc' is not float."),
        (0, "preprocessing.patch=1.5", "preprocessing.patch=1.5 is not int | None."),
        (1, "preprocessing.components=many", "preprocessing.components='many' is not float | None."),
        (2, "preprocessing.per=3", "preprocessing.per=3 is not str."),
        (0, "+preprocessing.epsilom=1", "preprocessing.epsilom is not an argument of cnnlab.models.preprocessing.fit"),
        (1, "+model.network.dropout=x", "model.network.dropout='x' is not float."),
        (0, "+model.network.width_mult=wide", "model.network.width_mult='wide' is not float."),
        (0, "regularization.l1.lambd=big", "regularization.l1.lambd='big' is not float."),
        (0, "regularization.l1.mode=3", "regularization.l1.mode=3 is not str."),
        (0, "augmentation.random_crop.size=x", "augmentation.random_crop.size='x' is not "),
        (0, "augmentation.affine.border=1", "augmentation.affine.border=1 is not str."),
    ],
)
def test_option_of_the_wrong_type_is_named(choices, override, message):
    """Also of targets that take any keyword."""
    (found,) = wrong_values(override, choices=CHOICES[choices])
    assert found.startswith(message)


def test_mistakes_that_do_not_parse_are_named_beside_the_others():
    assert [
        line.split(":")[0] for line in problems("optimizer.lr='0.1", "optimzer=adam", "seed=x", "model=torchvision")
    ] == [
        "optimizer.lr='0.1",
        "optimzer=adam",
        "model.name=... is required.",
        "seed='x' is not int.",
    ]


@pytest.mark.parametrize("path", ["2024", "a\\'b", "my photos, (1)", "1e5", "true", "a=b", "ü:{x}", "a\\"])
def test_path_stays_what_was_typed(path):
    cfg = composed(quote_path(f"data.root={path}"), quote_path(f"paths.output_dir={path}"))
    assert (cfg["data"]["root"], cfg["paths"]["output_dir"]) == (path, path)


@pytest.fixture
def config_dir(tmp_path, request) -> Path:
    """A folder for groups of the user's own, with a name that Hydra's grammar would stumble over."""
    folder = tmp_path / getattr(request, "param", "my groups, (1) = ü's")
    (folder / "experiment").mkdir(parents=True)
    return folder


def write_experiment(config_dir: Path, text: str) -> None:
    (config_dir / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text}\n", encoding="utf-8")


@pytest.mark.parametrize("config_dir", ["groups", "my groups, (1) = ü's", "2024", "a\\'b"], indirect=True)
def test_own_experiment_is_taken(config_dir):
    write_experiment(config_dir, "defaults:\n  - override /model: lenet5\noptimizer:\n  lr: 0.25")
    cfg = composed("experiment=mine", config_dir=config_dir)
    assert (cfg["model"]["name"], cfg["optimizer"]["lr"]) == ("lenet5", 0.25)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "optimizer: {lrr: 1}\ntrainr: {max_epochs: 3}\nseed: x",
            [
                "Unknown key trainr. Did you mean trainer?",
                "seed='x' is not int.",
                "optimizer.lrr is not an argument of torch.optim.AdamW. Did you mean lr?",
            ],
        ),
        ("defaults:\n  - override /model: vgg17", ["experiment=mine: In 'train': Could not find 'model/vgg17'"]),
        ("optimizer: [1", ["experiment=mine: while parsing a flow sequence"]),
    ],
)
def test_mistake_in_an_own_experiment_is_named(config_dir, text, expected):
    write_experiment(config_dir, text)
    found = problems("experiment=mine", config_dir=config_dir)
    assert len(found) == len(expected)
    assert all(line.startswith(start) for line, start in zip(found, expected, strict=True))


def test_own_experiments_are_among_those_that_exist(config_dir):
    write_experiment(config_dir, "seed: 1")
    (found,) = problems("experiment=min", config_dir=config_dir)
    assert found == "experiment=min: unknown option min of experiment. Did you mean mine?"


def test_own_options_are_among_those_that_exist(config_dir):
    """In a group of ours, and in groups of one's own."""
    for group, option in (("model", "my_network"), ("lists", "short")):
        (config_dir / group).mkdir()
        (config_dir / group / f"{option}.yaml").write_text("{}\n", encoding="utf-8")
    assert problems("model=my_netwrk", "lists=shrt", "list=short", config_dir=config_dir) == [
        "model=my_netwrk: unknown option my_netwrk of model. Did you mean my_network?",
        "lists=shrt: unknown option shrt of lists. Did you mean short?",
        "list=short: unknown key list. Did you mean lists?",
    ]


def test_missing_values_are_named_with_all_that_is_wrong_in_an_own_experiment(config_dir):
    write_experiment(
        config_dir,
        "defaults:\n  - override /model: torchvision\n  - override /data: image_folder\n"
        "trainer:\n  max_epochs: x\ndata:\n  batchsize: 3",
    )
    assert problems("experiment=mine", "seed=1.5", config_dir=config_dir) == [
        "model.name=... is required.",
        "data.root=... is required.",
        "seed=1.5 is not int.",
        "Unknown key data.batchsize. Did you mean batch_size?",
        "trainer.max_epochs='x' is not Optional[int].",
    ]


def test_broken_local_defaults_are_named(config_dir):
    (config_dir / "local").mkdir()
    (config_dir / "local" / "default.yaml").write_text("defaults:\n  - absent: option\n", encoding="utf-8")
    (found,) = problems(config_dir=config_dir)
    assert "absent/option" in found


def test_folder_of_groups_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(InputError, match=f"folder {tmp_path / 'absent'} not found"):
        compose([], str(tmp_path / "absent"))


# --- The metric of a run ---


def test_metric_is_the_tasks_unless_it_is_chosen():
    assert (composed()["metric"], composed()["metric_mode"]) == ("acc", "max")
    cfg = composed("metric=loss", "regularization=[early_stopping]")
    early = cfg["regularization"]["early_stopping"]
    best = cfg["checkpoint"]["best"]
    assert (cfg["metric_mode"], best["monitor"], best["mode"]) == ("min", "val/loss", "min")
    assert (early["monitor"], early["mode"]) == ("val/loss", "min")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["metric=balanced"], "Unknown metric balanced of the task classification. Did you mean balanced_acc?"),
        (["metric=top"], "Unknown metric top of the task classification. Available: acc, acc_top5, f1,"),
        (["data=four_points", "metric=acc"], "Unknown metric acc of the task regression. "),
        (["metric=balanced", "seed=x"], "Unknown metric balanced"),
    ],
)
def test_metric_that_the_task_does_not_have_is_named(overrides, message):
    found = problems(*overrides)
    assert found[0].startswith(message)
    assert len(found) == len(overrides) - (overrides[0] == "data=four_points")


@pytest.mark.parametrize(
    ("override", "entry"),
    [
        ("checkpoint.best.monitor=val/f1", "checkpoint.best.monitor=val/f1"),
        ("checkpoint.best.mode=min", "checkpoint.best.mode=min"),
    ],
)
def test_entry_that_watches_another_metric_is_refused(override, entry):
    (found,) = wrong_values(override)
    assert found.startswith(f"{entry} is not the metric of the run (val/acc, max).")
    assert "metric=NAME" in found


@pytest.mark.parametrize(
    "override",
    [
        "checkpoint.best.filename=top",
        "checkpoint.best.save_top_k=2",
        "checkpoint.last.save_top_k=0",
        "checkpoint.last.filename=best",
    ],
)
def test_best_and_last_checkpoint_are_what_the_program_reads(override):
    (found,) = wrong_values(override)
    assert found.startswith(f"{override} cannot be set: the run is ")
    assert "+checkpoint.NAME=" in found


def test_best_checkpoint_is_of_the_best_of_all_epochs():
    (found,) = problems("+checkpoint.best.every_n_epochs=2")
    assert found.startswith("checkpoint.best.every_n_epochs=2 cannot be set: ")
    composed("+checkpoint.last.every_n_epochs=2")


def test_early_stopping_on_another_metric_is_refused():
    (found,) = problems("regularization=[early_stopping]", "regularization.early_stopping.monitor=val/loss")
    assert found.startswith("regularization.early_stopping.monitor=val/loss is not the metric of the run")


DANGEROUS = {
    "os.system": {"command": "touch MARKER"},
    "posix.system": {"command": "touch MARKER"},
    "subprocess.Popen": {"args": ["touch", "MARKER"]},
    "builtins.eval": {"_args_": ["open('MARKER', 'w')"]},
    "torch.os.system": {"command": "touch MARKER"},
    "cnnlab.system.files.os.system": {"command": "touch MARKER"},
    "torch.load": {"f": "x.pth", "weights_only": False},
    "torch.hub.load": {"repo_or_dir": "x", "model": "x", "source": "local"},
    "torch.nn.modules.module.torch.os.system": {"command": "touch MARKER"},
    "torch.utils.cpp_extension.load": {"name": "x", "sources": ["x.cpp"]},
    "torch.save": {"obj": [], "f": "MARKER"},
    "torchvision.datasets.utils.extract_archive": {"from_path": "x.zip", "remove_finished": True},
    "torchvision.io.write_file": {"filename": "MARKER", "data": []},
    "timm.utils.get_outdir": {"path": "MARKER"},
    "lightning.pytorch.cli.LightningCLI": {},
    "cnnlab.system.files.write_text": {"path": "MARKER", "text": ""},
    "cnnlab.data.images.Path.touch": {"self": "MARKER"},
    "cnnlab.config.build_entries": {
        "entries": {"x": {"_target_": "os.system", "command": "touch MARKER"}},
        "trusted": ["os."],
    },
}


@pytest.mark.parametrize("target", DANGEROUS)
def test_target_that_may_do_anything_is_refused(tmp_path, monkeypatch, target):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"{target} is (not in|defined in)"):
        build({"_target_": target, **DANGEROUS[target]})
    with pytest.raises(InputError, match=f"{target} is (not in|defined in)"):
        build({"_target_": "torch.nn.Sequential", "x": {"_target_": target, **DANGEROUS[target]}})
    (found,) = wrong_values(f"optimizer._target_={target}")
    assert found.startswith(f"optimizer._target_: {target} is ")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def own_package(tmp_path, monkeypatch) -> str:
    """The name of an importable package of the user's own, which leaves a file when it is imported."""
    (tmp_path / "my_package.py").write_text(
        "import pathlib\n"
        f"pathlib.Path({str(tmp_path / 'was_imported')!r}).touch()\n"
        "class Mine:\n"
        "    def __init__(self, level: int, name: str = 'x') -> None:\n"
        "        self.level = level\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "my_package"
    sys.modules.pop("my_package", None)


def test_package_that_is_not_trusted_is_not_even_imported(tmp_path, own_package):
    entry = "+callbacks.mine={_target_: my_package.Mine, level: 3}"
    for packages in ("[]", "[my_pack]", "[my_package.Min]"):
        (found,) = problems(entry, f"trusted_packages={packages}")
        assert found.startswith("callbacks.mine._target_: my_package.Mine is not in cnnlab, torch,")
        assert "trusted_packages=[my_package]" in found
    with pytest.raises(InputError, match="not in"):
        build({"_target_": "my_package.Mine", "level": 3})
    assert "my_package" not in sys.modules
    assert not (tmp_path / "was_imported").exists()


def test_trusted_package_is_checked_and_built_like_our_own(own_package):
    trust = "trusted_packages=[my_package]"
    cfg = composed("+callbacks.mine={_target_: my_package.Mine, level: 3}", trust)
    mine = build(cfg["callbacks"]["mine"], trusted_prefixes(cfg))
    assert (type(mine).__module__, type(mine).__qualname__, mine.level) == ("my_package", "Mine", 3)
    assert problems("+callbacks.mine={_target_: my_package.Mine, level: x, nam: y}", trust) == [
        "callbacks.mine.level='x' is not int.",
        "callbacks.mine.nam is not an argument of my_package.Mine. Did you mean name?",
    ]
    assert problems("+callbacks.mine={_target_: my_package.Mine}", trust) == [
        "callbacks.mine.level is required by my_package.Mine."
    ]


def test_what_the_target_refuses_is_named():
    with pytest.raises(InputError, match=r"torch\.nn\.Dropout cannot be built from \{'p': 7\}: .*between 0 and 1"):
        build({"_target_": "torch.nn.Dropout", "p": 7})


def test_partial_and_nested_targets_are_built():
    nodes = {"_target_": "torch.nn.ModuleList", "modules": [], "_partial_": True}
    assert build(nodes)().__class__.__name__ == "ModuleList"
    wrapped = build(
        {
            "_target_": "torch.nn.TransformerEncoderLayer",
            "d_model": 4,
            "nhead": 2,
            "activation": {"_target_": "torch.nn.Tanh"},
        }
    )
    assert type(wrapped.activation).__name__ == "Tanh"
