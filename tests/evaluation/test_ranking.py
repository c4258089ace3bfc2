"""Metrics of the second stage against hand-made tables and scikit-learn."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score
from torch import Tensor
from torchmetrics import Metric

from recsys.errors import RecsysError
from recsys.evaluation.ranking import AUC, GAUC, Calibration, LogLoss, score_codes, user_auc

SEGMENTS = ("new", "repeat", "nobody")


def rows(seed: int, n: int = 400) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Probabilities that differ, labels that follow them, users and segments."""
    rng = np.random.default_rng(seed)
    p = rng.permutation(np.geomspace(0.001, 0.9, n))
    labels = rng.random(n) < p
    users = np.sort(rng.integers(0, 12, n))
    return tuple(map(torch.from_numpy, (p.astype(np.float32), labels, users, rng.integers(0, 2, n))))  # type: ignore


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["few", "logits", "probabilities"]))
def test_auc_agrees_with_an_independent_oracle(seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    draw: dict[str, Callable[[], np.ndarray]] = {
        "few": lambda: rng.integers(-3, 4, 300).astype(float),  # ties, and both zeros
        "logits": lambda: rng.normal(size=300) * 5,
        "probabilities": lambda: rng.random(300) ** 6,
    }
    scores, labels = draw[kind](), rng.random(300) < 0.3
    labels[:2] = True, False
    metric = AUC()
    metric.update(torch.from_numpy(scores).float(), torch.from_numpy(labels))
    wanted = roc_auc_score(labels, scores)
    assert metric.compute().item() == pytest.approx(wanted, abs=1e-12 if kind == "few" else 2e-3)


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=2, max_size=30))
def test_codes_have_the_order_of_the_scores(scores: list[float]) -> None:
    codes = score_codes(torch.tensor(sorted(scores)))
    assert (codes.diff() >= 0).all()
    assert codes.min() >= 0
    assert codes.max() < 2**20
    assert score_codes(torch.tensor([-0.0])) == score_codes(torch.tensor([0.0]))
    assert score_codes(torch.tensor([0.3])) < score_codes(torch.tensor([0.3002]))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_gauc_is_the_weighted_mean_of_the_users_areas(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, 80) / 4
    labels, users = rng.random(80) < 0.2, rng.integers(3, 15, 80)
    wanted = {
        user: (roc_auc_score(labels[users == user], scores[users == user]), (users == user).sum())
        for user in np.unique(users)
        if 0 < labels[users == user].sum() < (users == user).sum()
    }
    areas, counts = user_auc(torch.from_numpy(scores), torch.from_numpy(labels), torch.from_numpy(users))
    assert areas.tolist() == pytest.approx([area for area, _ in wanted.values()])
    assert counts.tolist() == [count for _, count in wanted.values()]
    metric = GAUC()
    for half in (users < 8, users >= 8):
        metric.update(*(torch.from_numpy(part[half]) for part in (scores, labels, users)))
    computed = metric.compute()
    assert computed["gauc_users"] == len(wanted)
    if wanted:
        areas_, weights = zip(*wanted.values(), strict=True)
        assert computed["gauc"].item() == pytest.approx(np.average(areas_, weights=weights))


def test_gauc_by_hand() -> None:
    # user 7: pairs won 1, tied 1 of 2, so 0.75, in 3 rows; user 2: lost, 0, in 2 rows; user 5 has no positive
    scores = torch.tensor([0.5, 0.5, 0.1, 0.9, 0.2, 0.3])
    labels = torch.tensor([1, 0, 0, 0, 1, 0])
    users = torch.tensor([7, 7, 7, 2, 2, 5])
    metric = GAUC()
    metric.update(scores, labels, users)
    assert metric.compute()["gauc"].item() == pytest.approx((0.75 * 3 + 0 * 2) / 5)
    assert metric.compute()["gauc_users"] == 2


def test_log_loss_and_normalized_entropy() -> None:
    p, labels, *_ = rows(1)
    metric = LogLoss()
    for part in (slice(0, 150), slice(150, None)):
        metric.update(p[part], labels[part])
    out = {key: value.item() for key, value in metric.compute().items()}
    rate = labels.double().mean().item()
    loss = log_loss(labels.numpy(), p.double().numpy())
    entropy = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
    assert out == {
        "log_loss": pytest.approx(loss),
        "normalized_entropy": pytest.approx(loss / entropy),
        "base_rate": pytest.approx(rate),
        "mean_probability": pytest.approx(p.double().mean().item()),
    }


def test_the_base_rate_has_normalized_entropy_1_and_no_calibration_error() -> None:
    labels = torch.tensor([1, 0, 0, 0])
    metric, calibration = LogLoss(), Calibration(bins=4)
    for each in (metric, calibration):
        each.update(torch.full((4,), 0.25), labels)
    assert metric.compute()["normalized_entropy"].item() == pytest.approx(1)
    assert calibration.compute()["ece"].item() == pytest.approx(0)
    assert calibration.curves()["all"].count.tolist() == [4]  # equal probabilities are never torn apart


def test_a_sure_and_wrong_answer_costs_a_finite_loss() -> None:
    metric = LogLoss()
    metric.update(torch.tensor([0.0, 1.0]), torch.tensor([1, 1]))
    assert metric.compute()["log_loss"].item() == pytest.approx(-math.log(1e-7) / 2, rel=1e-6)
    assert metric.compute()["normalized_entropy"].isnan()  # one label only


def ece(p: np.ndarray, labels: np.ndarray, bins: int) -> float:
    """Expected calibration error of distinct probabilities, whose number is a multiple of ``bins``."""
    parts = np.array_split(np.argsort(p), bins)
    return float(sum(len(part) * abs(p[part].mean() - labels[part].mean()) for part in parts) / len(p))


@pytest.mark.parametrize("seed", range(3))
def test_calibration_error_agrees_with_the_definition(seed: int) -> None:
    p, labels, *_ = rows(seed)
    metric = Calibration(bins=10)
    for part in torch.randperm(len(p), generator=torch.Generator().manual_seed(seed)).split(90):
        metric.update(p[part], labels[part])
    assert metric.compute()["ece"].item() == pytest.approx(ece(p.double().numpy(), labels.numpy(), 10))
    curve = metric.curves()["all"]
    assert curve.count.tolist() == [40] * 10
    assert (curve.probability.diff() > 0).all()
    assert (curve.rate * curve.count).sum().item() == pytest.approx(labels.sum().item())


def test_calibration_by_hand_and_by_segment() -> None:
    p = torch.tensor([0.1, 0.2, 0.6, 0.8, 0.5, 0.5])
    labels = torch.tensor([0, 0, 1, 1, 1, 1])
    metric = Calibration(SEGMENTS, bins=2)
    metric.update(p, labels, torch.tensor([0, 0, 0, 0, 1, 1]))
    out = {key: value.item() for key, value in metric.compute().items()}
    assert out["new/ece"] == pytest.approx((2 * 0.15 + 2 * 0.3) / 4)
    assert out["repeat/ece"] == pytest.approx(0.5)
    assert math.isnan(out["nobody/ece"])
    # sorted .1 .2 | .5 .5 | .6 .8: the two equal ones are one, with their middle in the middle: the upper bin
    assert out["ece"] == pytest.approx((2 * 0.15 + 4 * (1 - 0.6)) / 6)
    curves = metric.curves()
    assert list(curves) == ["all", *SEGMENTS]
    assert curves["new"].probability.tolist() == pytest.approx([0.15, 0.7])
    assert curves["nobody"].count.tolist() == []


def test_tiny_probabilities_share_the_first_bin() -> None:
    metric = Calibration()
    metric.update(torch.tensor([0.0, 1e-30, 1e-9, 1.0]), torch.tensor([0, 0, 0, 1]))
    assert metric.curves()["all"].count.tolist() == [3, 1]


def metrics() -> tuple[AUC, GAUC, LogLoss, Calibration]:
    return AUC(), GAUC(), LogLoss(), Calibration(SEGMENTS)


def fill(parts: tuple[Metric, ...], keep: Tensor) -> None:
    p, labels, users, segments = (part[keep] for part in rows(5))
    for metric, extra in zip(parts, ((), (users,), (), (segments,)), strict=True):
        metric.update(p, labels, *extra)


def results(parts: tuple[Metric, ...]) -> list[float]:
    out: list[float] = []
    for metric in parts:
        value = metric.compute()
        out += [each.item() for each in (value.values() if isinstance(value, dict) else [value])]
    calibration = parts[-1]
    assert isinstance(calibration, Calibration)
    return out + calibration.curves()["all"].rate.tolist()


def test_no_rows_give_nan() -> None:
    empty = metrics()
    fill(empty, torch.zeros(400, dtype=torch.bool))
    assert sum(map(math.isnan, results(empty))) == 1 + 1 + 4 + 4


def _share(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    parts = metrics()
    fill(parts, rows(5)[2] % 2 == rank)  # a user is with one process
    torch.save(results(parts), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.timeout(120)
def test_two_processes_measure_what_one_does(tmp_path: Path) -> None:
    mp.spawn(_share, (str(tmp_path),), nprocs=2)
    whole = metrics()
    fill(whole, torch.ones(400, dtype=torch.bool))
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt") == pytest.approx(results(whole), nan_ok=True)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([0.1, math.nan], [0, 1], "a score is NaN"),
        ([0.1, 1.5], [0, 1], "probabilities from 0.1 to 1.5, legal is 0 to 1"),
        ([0.1, 0.5], [0, 2], "a label is neither 0 nor 1"),
        ([0.1], [0, 1], "all of a length"),
    ],
)
def test_bad_rows_are_refused(scores: list[float], labels: list[int], message: str) -> None:
    for metric in (LogLoss(), Calibration()):
        with pytest.raises(RecsysError, match=message):
            metric.update(torch.tensor(scores), torch.tensor(labels))


@pytest.mark.parametrize("segment", [None, torch.tensor([0, 3]), torch.tensor([-1, 0])])
def test_segments_are_given_and_known(segment: Tensor | None) -> None:
    with pytest.raises(RecsysError, match="segment"):
        Calibration(SEGMENTS).update(torch.tensor([0.1, 0.2]), torch.tensor([0, 1]), segment)
