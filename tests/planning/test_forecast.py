"""Arithmetic of forecasts, by hand."""

import polars as pl
import pytest

from recsys.config.compose import compose
from recsys.planning.forecast import (
    Fit,
    Sizes,
    expected_distinct,
    fits_seconds,
    host_stages,
    limited,
    processes,
    ranker_fits,
    retriever_fits,
    steps_of,
    trial_fits,
)


def test_distinct_values_of_a_whole_are_counted() -> None:
    assert expected_distinct(pl.Series([1, 1, 5]), share=1.0) == 3


def test_distinct_values_of_a_sample_by_chao() -> None:
    """3 found, 2 of them once and 1 twice: 2 * 2 / (2 * 1) = 2 have not been seen."""
    assert expected_distinct(pl.Series([1, 1, 2]), share=0.1) == 5
    assert expected_distinct(pl.Series([9, 8, 7]), share=0.1) == 3  # all are seen again and again
    assert expected_distinct(pl.Series([1, 1, 2]), share=0.8) == 5  # no more than 4 / 0.8 rows have
    assert expected_distinct(pl.Series([1, 1, 2]), share=0.1, most=4) == 4


@pytest.mark.parametrize(
    ("trainer", "expected"),
    [
        ({}, 100),
        ({"limit_train_batches": 4}, 4),
        ({"limit_train_batches": 0.25}, 25),
        ({"limit_train_batches": 1.0}, 100),
        ({"overfit_batches": 7, "limit_train_batches": 50}, 7),
        ({"overfit_batches": 0.0, "limit_train_batches": None}, 100),
    ],
)
def test_steps_that_the_trainer_leaves(trainer: dict[str, object], expected: int) -> None:
    assert limited(100, trainer) == expected


@pytest.mark.parametrize(
    ("trainer", "expected"),
    [
        ({"devices": 1}, 1),
        ({"devices": -1}, 4),
        ({"devices": [0, 2], "num_nodes": 3}, 6),
        ({"devices": "auto"}, 4),
        ({"devices": "0,1"}, 2),
        ({"devices": "2"}, 2),
    ],
)
def test_processes(trainer: dict[str, object], expected: int) -> None:
    assert processes(trainer, devices_there=4) == expected


FIT = Fit({"all": 1000}, table_share=1.0, held=500, seconds=(0.5, 1.0), steps=10, exported=0, raw=100.0, encoded=200.0)


@pytest.mark.parametrize(
    ("overrides", "train", "trial"),
    [
        ([], (3, 4), (2, 1)),
        (["ranker=none"], (2, 4), (1, 0)),
        (["bundle.refit_on=all"], (4, 5), (2, 1)),
        (["validation=expanding", "folds=3"], (12, 7), (10, 3)),
    ],
)
def test_fits_are_counted(overrides: list[str], train: tuple[int, int], trial: tuple[int, int]) -> None:
    cfg = compose("train", overrides)
    assert (retriever_fits(cfg), ranker_fits(cfg)) == train
    assert trial_fits(cfg) == trial


def test_time_is_from_the_fastest_step_of_one_epoch_to_the_slowest_of_all() -> None:
    assert fits_seconds(FIT, 3, 2) == (3 * 10 * 0.5, 3 * 10 * 1.0 * 2)
    cfg = compose("train", ["training.batch_moments=100"])
    assert steps_of(200_500.0, cfg, world=2) == 1002
    assert steps_of(10_500.0, cfg, world=2) == 100  # training.epoch_batches=100, and 52 moments in each
    assert steps_of(1050.0, cfg, world=2) == 21  # of 25 moments, a quarter
    assert steps_of(3.0, cfg, world=1) == 1


def test_more_partitions_more_users_and_more_candidates_move_their_stages() -> None:
    sizes = Sizes(10**8, 10**8, 7 * 10**7, 10**6, 10**5, False, False, 60.0)

    def stages(*overrides: str) -> dict[str, float]:
        return host_stages(compose("train", list(overrides)), sizes, FIT, FIT, evaluates=True)

    usual = stages()
    assert stages("data.partitions=16")["prepare"] < usual["prepare"] / 10
    assert stages("ranker.training.max_users=50000")["ranker"] > usual["ranker"]
    assert stages("evaluation=quick")["evaluation"] < usual["evaluation"]  # without EASE
    everybody = stages("evaluation.max_users=null")["evaluation"]  # 980,000 more users, 500 candidates each
    assert everybody - usual["evaluation"] == pytest.approx(980_000 * 500 * 72)
    assert set(host_stages(compose("train"), sizes, FIT, None, evaluates=False)) == {"prepare", "two-tower"}
