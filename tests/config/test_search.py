"""A search space is held to the schema before anything runs: keys, kinds, ends, choices, the first trial."""

import pytest
import yaml
from omegaconf.errors import ValidationError

from recsys.config.check import config_problems
from recsys.config.compose import compose
from recsys.config.schema import Config
from recsys.config.search import kind_at, search_problems, value_at, with_values
from recsys.config.tune import Distribution
from recsys.errors import ConfigError


@pytest.fixture(scope="module")
def cfg() -> Config:
    cfg = compose("train")
    assert isinstance(cfg, Config)
    return cfg


def problems(cfg: Config, text: str) -> str:
    search = {key: Distribution(**spread) for key, spread in yaml.safe_load(f"{{{text}}}").items()}
    return "\n".join(search_problems(cfg, search, config_problems))


def test_keys_lead_to_values_and_kinds(cfg: Config) -> None:
    assert value_at(cfg, "ranker.candidates.sizes.history") == 310
    with pytest.raises(KeyError, match="wdth"):
        value_at(cfg, "model.wdth")
    kinds = {"model.width": int, "model.dropout": float, "model.use_ids": bool, "ranker.norm": str}
    kinds |= {"ranker.hidden": list, "ranker.training.stride_days": float, "trainer.precision": str}
    kinds |= {"ranker.candidates.sizes.history": int}
    assert {key: kind_at(cfg, key) for key in kinds} == kinds


def test_other_values_leave_the_configuration_as_it_was(cfg: Config) -> None:
    values = {"model.width": 32, "ranker.hidden": [16], "ranker.candidates.sizes.history": 7, "trainer.precision": "x"}
    changed = with_values(cfg, values)
    assert {key: value_at(changed, key) for key in values} == values
    assert (cfg.model.width, cfg.ranker.hidden, cfg.ranker.candidates.sizes["history"]) == (64, [256, 128], 310)
    assert type(with_values(cfg, {"model.dropout": 0}).model.dropout) is float
    with pytest.raises(ValidationError):
        with_values(cfg, {"model.width": 1.5})


@pytest.mark.parametrize(
    ("spread", "expected"),
    [
        ("model.wdth: {low: 1, high: 2}", "search.model.wdth: no such key. Did you mean 'model.width'?"),
        ("data.split.val: {low: 0.1, high: 0.2}", "search.data.split.val: cannot be searched"),
        ("model: {choices: [1, 2]}", "search.model: cannot be searched"),
        ("model.width: {low: 32.5, high: 128}", "is a whole number"),
        ("model.width: {low: 128, high: 32}", "low below high"),
        ("model.width: {low: 32}", "low=32 and high=None must be two numbers"),
        ("model.width: {low: 32, high: 128, step: 50}", "step=50: must be above 0 and lead from low"),
        ("model.dropout: {low: 0.0, high: 0.5, log: true}", "log=true: needs low=0.0 above 0"),
        ("model.dropout: {low: 0.0, high: 1.5}", "search.model.dropout.high: model.dropout=1.5: must be a share"),
        ("model.use_ids: {low: 0, high: 1}", "is no number but bool; give choices"),
        ("model.use_ids: {choices: [true, often]}", "search.model.use_ids.choices: 'often' is not of the key's type"),
        ("ranker.norm: {choices: [layer, lyer]}", "'lyer' is not one of layer, batch, none. Did you mean 'layer'?"),
        ("ranker.norm: {choices: [layer, layer]}", "must be one or more different values"),
        ("model.width: {low: 32, high: 128, choices: [64]}", "choices stand alone"),
        ("model.width: {low: 96, high: 128}", "the configured value 64 is that of the first trial"),
        ("model.width: {low: 30, high: 130, step: 20}", "the configured value 64 is that of the first trial"),
    ],
)
def test_what_a_space_may_not_say(spread: str, expected: str, cfg: Config) -> None:
    assert expected in problems(cfg, spread)


def test_what_it_may_say(cfg: Config) -> None:
    whole = "model.width: {low: 32, high: 128, step: 32}, training.learning_rate: {low: 1e-4, high: 0.1, log: true}"
    lists = "ranker.hidden: {choices: [[256, 128], [64]]}, ranker.training.stride_days: {choices: [null, 7.0]}"
    assert problems(cfg, f"{whole.replace('1e-4', '0.0001')}, {lists}, trainer.precision: {{choices: [32-true]}}") == ""


def test_an_empty_space(cfg: Config) -> None:
    assert "search has no key; take search=two_tower" in problems(cfg, "")


def test_rules_that_are_broken_anyway_are_said_once(cfg: Config) -> None:
    assert problems(with_values(cfg, {"model.dropout": 2.0}), "model.width: {low: 32, high: 128}") == ""


def test_a_distribution_is_closed() -> None:
    with pytest.raises(ConfigError, match=r"Did you mean 'search.model.width.low'\?"):
        compose("tune", ["+search={model.width: {lo: 30, high: 130}}"])
