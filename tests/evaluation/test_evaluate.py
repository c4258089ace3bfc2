"""Evaluation of the whole catalogue against a slow oracle written from the definitions, one user at a time."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics import Metric

from recsys.data.log import InteractionLog
from recsys.errors import DataError, RecsysError
from recsys.evaluation.evaluate import ModelResult, evaluate, fit_and_evaluate
from recsys.evaluation.progress import progress_bar
from recsys.evaluation.recommender import Past
from recsys.evaluation.slices import Targets, make_targets, popularity_bins, with_groups

USERS, ITEMS, CUT, KS = 14, 30, 50, (3, 5)
MakeLog = Callable[..., InteractionLog]


class Fixed:
    """A recommender whose scores are given; with few distinct values, so that ties abound."""

    name = "fixed"

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def fit(self, past: Past) -> None:
        self.past = past

    def scores(self, users: Tensor) -> Tensor:
        assert len(users), "towers cannot embed nobody"
        return self.table[users]


def world(seed: int) -> tuple[list[tuple[int, ...]], Tensor, Tensor]:
    """Rows with cold users, cold items and irrelevant events; scores with ties; eligibility."""
    rng = np.random.default_rng(seed)
    rows = [
        (user, int(ITEMS * rng.random() ** 2), int(day), int(rng.random() < 0.8))
        for user in range(USERS)
        for day in rng.integers(CUT if user < 3 else 0, 100, size=12)
    ]
    rows = [row for row in rows if row[2] >= CUT or row[1] < ITEMS - 6]
    scores = torch.from_numpy(rng.integers(0, 6, (USERS, ITEMS))).float()
    return rows, scores, torch.from_numpy(rng.random(ITEMS) < 0.9)


def questions(make_log: MakeLog, seed: int = 0) -> tuple[Targets, Fixed]:
    rows, scores, eligible = world(seed)
    log = make_log(rows, USERS, ITEMS)
    cut = CUT * 86_400_000_000
    return make_targets(log.between(None, cut), log.between(cut, None), eligible), Fixed(scores)


def test_an_objective_needs_its_slice(make_log: MakeLog) -> None:
    targets, _ = questions(make_log)
    targets.require("val/ndcg_at_20")
    targets.require("val/cold/ndcg_at_20")
    del targets.truth_slices["cold"]
    with pytest.raises(DataError, match=r"val/cold/ndcg_at_20: nothing .* belongs to 'cold'; slices with something"):
        targets.require("val/cold/ndcg_at_20")


def oracle(seed: int) -> dict[str, dict[int, dict[str, float]]]:
    """Slice to user to metrics."""
    rows, scores, eligible = world(seed)
    rows = [row for row in rows if row[3]]
    past, future = [r for r in rows if r[2] < CUT], [r for r in rows if r[2] >= CUT]
    counts = Counter(item for _, item, *_ in past)
    bins, before = {}, 0
    for item in sorted(counts, key=lambda i: (-counts[i], i)):
        share = before / len(past)
        bins[item] = "head" if share < 0.5 else "torso" if share < 0.8 else "tail"
        before += counts[item]
    out: dict[str, dict[int, dict[str, float]]] = {}
    for user in range(USERS):
        seen = {item for u, item, *_ in past if u == user}
        truth = {item for u, item, *_ in future if u == user}
        full = [i for i in sorted(range(ITEMS), key=lambda i: (-scores[user, i].item(), i)) if eligible[i]]
        cold = {i for i in range(ITEMS) if i not in counts}
        answers = {
            "all": (truth, full),
            "warm": (truth if seen else set(), full),
            "cold": (set() if seen else truth, full),
            "repeat": (truth & seen, [i for i in full if i in seen]),
            "new": (truth - seen if seen else set(), [i for i in full if i not in seen]),
            "cold_items": (truth & cold, [i for i in full if i in cold]),
            "cold_items_full": (truth & cold, full),
        } | {name: ({i for i in truth if bins.get(i) == name}, full) for name in ("head", "torso", "tail")}
        for name, (wanted, ranked) in answers.items():
            if not wanted:
                continue
            values = {}
            for k in KS:
                hits = [item in wanted for item in ranked[:k]]
                ideal = sum(1 / math.log2(r + 2) for r in range(min(k, len(wanted))))
                values[f"ndcg_at_{k}"] = sum(h / math.log2(r + 2) for r, h in enumerate(hits)) / ideal
                values[f"recall_at_{k}"] = sum(hits) / len(wanted)
                values[f"hit_rate_at_{k}"] = float(any(hits))
                values[f"mrr_at_{k}"] = max((h / (r + 1) for r, h in enumerate(hits)), default=0.0)
            out.setdefault(name, {})[user] = values
    return out


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("chunk", [3, 100])
def test_every_slice_agrees_with_the_oracle(make_log: MakeLog, seed: int, chunk: int) -> None:
    targets, model = questions(make_log, seed)
    result = evaluate(model, targets, KS, chunk_users=chunk)
    wanted = oracle(seed)
    assert set(result.metrics) == set(wanted)
    for name, users in wanted.items():
        assert result.metrics[name]["users"] == len(users)
        for key in users[next(iter(users))]:
            mean = sum(values[key] for values in users.values()) / len(users)
            assert result.metrics[name][key] == pytest.approx(mean), (name, key)
        for key, kept in result.per_user[name].items():
            assert kept.tolist() == pytest.approx([users[user][key] for user in sorted(users)])


def test_groups_of_users_are_slices_of_their_own(make_log: MakeLog) -> None:
    targets, model = questions(make_log)
    few, nobody = torch.zeros(USERS, dtype=torch.bool), torch.zeros(USERS, dtype=torch.bool)
    few[[4, 7, 9]] = True
    result = evaluate(model, with_groups(targets, {"few": few, "rest": ~few, "nobody": nobody}), KS)
    of_all = oracle(0)["all"]
    for name, users in (("few", [4, 7, 9]), ("rest", sorted(set(of_all) - {4, 7, 9}))):
        values = [of_all[user]["ndcg_at_5"] for user in users]
        assert result.per_user[name]["ndcg_at_5"].tolist() == pytest.approx(values)
        assert result.metrics[name]["ndcg_at_5"] == pytest.approx(sum(values) / len(values))
    assert "nobody" not in result.metrics
    alone = evaluate(model, targets, KS)
    assert {name: result.metrics[name] for name in alone.metrics} == alone.metrics


def test_targets_are_users_with_a_relevant_event_and_seen_is_their_past(make_log: MakeLog) -> None:
    rows = [(0, 1, 10), (0, 2, 60), (1, 3, 60), (2, 1, 60, 0), (3, 4, 10, 0), (3, 4, 60)]
    log = make_log(rows, 5, 6)
    cut = CUT * 86_400_000_000
    targets = make_targets(log.between(None, cut), log.between(cut, None), torch.ones(6, dtype=torch.bool))
    assert targets.users.tolist() == [0, 1, 3]  # user 2 only looked, user 4 has nothing
    assert targets.n_relevant("warm").tolist() == [1, 0, 0]  # a look before the cut does not make user 3 warm
    assert [part.tolist() for part in targets.seen(targets.users)] == [[0], [0], [1]]  # row, column, item
    assert targets.cold_items.tolist() == [0, 2, 3, 4, 5]


def test_popularity_bins_by_hand() -> None:
    # 10 events; before each item in order 5, 3, 1, 1: shares 0, 0.5, 0.8, 0.9
    assert popularity_bins(torch.tensor([1, 5, 0, 3, 1])).tolist() == [2, 0, 3, 1, 2]


def test_questions_of_some_users_are_answered_as_among_all(make_log: MakeLog) -> None:
    rows, scores, eligible = world(0)
    history = make_log([r for r in rows if r[2] < CUT], USERS, ITEMS)
    targets = make_targets(history, make_log([r for r in rows if r[2] >= CUT], USERS, ITEMS), eligible)
    whole = evaluate(Fixed(scores), targets, KS)
    asked = torch.tensor([1, 4, 9])
    some = targets.only(asked)
    assert some.users.tolist() == [1, 4, 9]
    assert set((some.truth_keys // ITEMS).tolist()) == {1, 4, 9}
    found = evaluate(Fixed(scores), some, KS)
    place = torch.searchsorted(targets.users, asked)
    for key, values in found.per_user["all"].items():
        assert torch.equal(values, whole.per_user["all"][key][place])
    assert found.metrics["all"]["users"] == 3
    assert all(len(part) == len(some.truth_keys) and part.any() for part in some.truth_slices.values())


def test_slices_without_a_user_left_are_gone(make_log: MakeLog) -> None:
    history = make_log([(0, 0, 1), (0, 1, 2)], 3, 4)
    truth = make_log([(0, 0, 60), (0, 2, 60), (1, 3, 60), (2, 1, 60)], 3, 4)
    targets = make_targets(history, truth, torch.ones(4, dtype=torch.bool))
    assert {"warm", "cold", "repeat", "new"} <= set(targets.truth_slices)
    cold = targets.only(torch.tensor([1, 2]))
    assert not {"warm", "repeat", "new"} & set(cold.truth_slices)
    assert cold.truth_keys.tolist() == [7, 9]
    assert targets.only(torch.tensor([0])).truth_slices["repeat"].tolist() == [True, False]
    assert targets.only(torch.tensor([5])).users.tolist() == []  # who has no question gets none


def test_flat_keys() -> None:
    result = ModelResult("m", {"all": {"ndcg_at_3": 0.5, "users": 4.0}, "new": {"ndcg_at_3": 0.25}}, {})
    assert result.flat("val") == {"val/ndcg_at_3": 0.5, "val/users": 4.0, "val/new/ndcg_at_3": 0.25}


def test_window_without_relevant_events_is_refused(make_log: MakeLog) -> None:
    log = make_log([(0, 1, 10), (1, 2, 60, 0)], 2, 3)
    cut = CUT * 86_400_000_000
    with pytest.raises(DataError, match="no relevant event"):
        make_targets(log.between(None, cut), log.between(cut, None), torch.ones(3, dtype=torch.bool))


def test_scores_of_a_wrong_shape_are_refused(make_log: MakeLog) -> None:
    targets, _ = questions(make_log)
    with pytest.raises(RecsysError, match="'fixed': scores have shape"):
        evaluate(Fixed(torch.zeros(USERS, ITEMS - 1)), targets, KS)


def test_the_model_keeps_its_scores(make_log: MakeLog) -> None:
    targets, model = questions(make_log)
    before = model.table.clone()
    model.scores = lambda users: model.table[: len(users)]  # type: ignore[method-assign]  # a view, not a copy
    evaluate(model, targets, KS)
    assert torch.equal(model.table, before)


def test_one_slice_alone_gives_the_same_numbers_and_reports_progress(make_log: MakeLog) -> None:
    targets, model = questions(make_log)
    told: list[tuple[str, int, int]] = []
    fast = evaluate(model, targets, KS, ("all",), chunk_users=4, progress=lambda *state: told.append(state))
    whole = evaluate(model, targets, KS)
    assert list(fast.metrics) == ["all"]
    assert fast.metrics["all"] == pytest.approx(whole.metrics["all"])
    total = len(targets.users)
    assert told == [("fixed", min(done, total), total) for done in range(4, total + 4, 4)]


def test_progress_bar_names_the_model_and_reaches_the_end(
    make_log: MakeLog, capsys: pytest.CaptureFixture[str]
) -> None:
    targets, model = questions(make_log)
    with progress_bar() as progress:
        evaluate(model, targets, KS, progress=progress)
    shown = capsys.readouterr().out
    assert "fixed" in shown
    assert f"{len(targets.users)}/{len(targets.users)}" in shown


@given(st.integers(1, 30), st.integers(0, 5))
def test_some_users_are_drawn_alike_and_asked_what_they_would_be(make_log: MakeLog, n: int, seed: int) -> None:
    targets, model = questions(make_log)
    some = targets.at_most(n, seed)
    assert len(some.users) == min(n, len(targets.users))
    assert torch.equal(some.users, targets.at_most(n, seed).users)
    whole, part = (evaluate(model, asked, KS).per_user["all"]["ndcg_at_3"] for asked in (targets, some))
    assert torch.equal(part, whole[torch.isin(targets.users, some.users)])
    assert targets.at_most(None, seed) is targets


def test_models_are_fitted_before_they_answer(make_log: MakeLog) -> None:
    targets, model = questions(make_log)
    log = make_log([(0, 1, 10)], USERS, ITEMS)
    past = Past(log, 7, {}, targets.eligible)
    (result,) = fit_and_evaluate([model], past, targets, KS)
    assert model.past is past
    assert result.metrics == evaluate(model, targets, KS).metrics


def _share(rank: int, folder: str, targets: Targets, model: Fixed) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    result = evaluate(model, targets, KS, distributed=True)
    of_one = evaluate(model, targets.only(targets.users[:1]), KS, distributed=True)
    assert bool(of_one.per_user) == (rank == 0)
    torch.save((result.metrics, result.per_user["all"]["ndcg_at_3"], of_one.metrics), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.timeout(120)
def test_two_processes_measure_what_one_does(make_log: MakeLog, tmp_path: Path) -> None:
    targets, model = questions(make_log)
    mp.spawn(_share, (str(tmp_path), targets, model), nprocs=2)
    whole: ModelResult = evaluate(model, targets, KS)
    of_one = evaluate(model, targets.only(targets.users[:1]), KS)
    for rank in range(2):
        metrics, own, fewer = torch.load(tmp_path / f"{rank}.pt")
        for name, values in whole.metrics.items():
            assert metrics[name] == pytest.approx(values)
        for name, values in of_one.metrics.items():
            assert fewer[name] == pytest.approx(values)
        assert torch.equal(own, whole.per_user["all"]["ndcg_at_3"][rank::2])


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Open a group of this process alone."""

    def start(backend: str, **settings: Any) -> None:
        dist.init_process_group(backend, init_method=f"file://{tmp_path}/store", rank=0, world_size=1, **settings)

    yield start
    dist.destroy_process_group()


def test_metrics_are_gathered_on_the_device_of_the_group(
    make_log: MakeLog, alone: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group that knows CUDA alone, as that of a fit there does, refuses tensors of the CPU."""
    targets, model = questions(make_log)
    moved: list[torch.device] = []

    def to(metric: Metric, device: torch.device) -> None:
        moved.append(device)
        metric.distributed_available_fn = lambda: False  # this machine may have no CUDA device to gather on

    alone("cuda:gloo")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(Metric, "to", to)
    assert evaluate(model, targets, KS, distributed=True).metrics == evaluate(model, targets, KS).metrics
    assert moved == [torch.device("cuda", 1)] * (len(targets.truth_slices) + 1)


@pytest.mark.gpu
def test_a_group_of_cuda_measures_what_one_process_does(make_log: MakeLog, alone: Callable[..., None]) -> None:
    targets, model = questions(make_log)
    alone("nccl", device_id=torch.device("cuda", 0))
    whole = evaluate(model, targets, KS)
    for name, values in evaluate(model, targets, KS, distributed=True).metrics.items():
        assert values == pytest.approx(whole.metrics[name])
