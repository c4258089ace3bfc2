"""The second stage through the bundle: candidates, ranked by the logit, filtered, for anybody who may ask."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from recsys.bundle.format import read_manifest, seal
from recsys.bundle.reader import Bundle
from recsys.data.candidates import Candidates
from recsys.data.ranking_state import CandidatePlan
from recsys.errors import BundleError
from recsys.export.package import write_reader_package


@pytest.fixture(scope="module")
def ranked(trained: Any) -> Bundle:
    """The bundle of the main job; the ranker's candidates are all 80 items."""
    return Bundle.load(trained.bundle)


@pytest.fixture(scope="module")
def _scarce(trained: Any) -> Bundle:
    return Bundle.load(trained.bundle)


@pytest.fixture
def scarce(_scarce: Bundle) -> Iterator[Bundle]:
    """The same with at most 7 candidates, of the history and what is popular."""
    assert _scarce.ranking is not None
    state = _scarce.ranking.state
    few = CandidatePlan(7, {**dict.fromkeys(state.candidate_plan.sizes, 1), "history": 4, "popular": 5})
    _scarce.ranking.state = replace(state, candidate_plan=few)
    yield _scarce
    _scarce.ranking.state = state


def ids(answer: pl.DataFrame) -> list[Any]:
    return answer["item_id"].to_list()


def by_hand(bundle: Bundle, user: str | None, **more: Any) -> pl.DataFrame:
    """All candidates of a user, best logit first."""
    assert bundle.ranking is not None
    requests = bundle.requests([user], **more)
    pairs = bundle.ranking.candidates(requests)
    logit, probability = bundle.ranking.score(requests, pairs).unbind(1)
    frame = pl.DataFrame({"row": pairs.item.numpy(), "logit": logit.numpy(), "score": probability.numpy()})
    frame = frame.with_columns(bundle.item_ids.gather(pairs.item.numpy()))
    return frame.sort("logit", "row", descending=[True, False])


def close(one: pl.DataFrame, other: pl.DataFrame) -> None:
    """Equal but for what another order of additions does to scores, and to items whose scores are as good as equal."""
    assert one["user_id"].to_list() == other["user_id"].to_list()
    assert one["score"].to_list() == pytest.approx(other["score"].to_list(), rel=1e-4)
    different = [pair for pair in zip(ids(one), ids(other), strict=True) if pair[0] != pair[1]]
    assert len(different) <= len(one) // 10


@pytest.mark.parametrize("user", ["u0", "u17", "nobody", None])
def test_recommend_ranks_the_candidates_by_logit(ranked: Bundle, user: str | None) -> None:
    expected = by_hand(ranked, user)
    answer = ranked.recommend([user], k=10)
    assert ids(answer) == ids(expected.head(10))
    assert answer["score"].to_list() == expected["score"].head(10).to_list()
    assert answer["rank"].to_list() == list(range(1, 11))
    assert answer["user_id"].to_list() == [user] * 10
    assert answer["score"].is_between(0, 1).all()


def test_rank_answers_with_all_candidates_and_nothing_else(ranked: Bundle, scarce: Bundle) -> None:
    for bundle in (ranked, scarce):
        answer = bundle.rank(["u3", None])
        for user in ("u3", None):
            expected = by_hand(bundle, user)
            assert ids(answer.filter(pl.col("user_id").eq_missing(user))) == ids(expected)
    assert len(scarce.rank(["u3"])) <= 7
    assert ranked.rank([]).schema == ranked.recommend(["u3"], 1).schema
    told = ranked.rank(["u3"], histories=[["i70", "i71"]])
    assert ids(told) == ids(by_hand(ranked, "u3", histories=[["i70", "i71"]]))


def test_the_time_of_a_request_does_not_depend_on_the_chunk(ranked: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = datetime.fromisoformat(ranked.manifest.cut)
    histories = [[("i70", cut + timedelta(days=1))], [("i71", cut + timedelta(days=30))]]
    whole = ranked.rank(["u3", "u4"], histories)
    assert whole.equals(ranked.rank(["u3", "u4"], histories, as_of=cut + timedelta(days=30)))
    monkeypatch.setattr("recsys.bundle.reader.CHUNK", 1)
    parts = ranked.rank(["u3", "u4"], histories)
    assert parts.drop("score").equals(whole.drop("score"))
    assert parts["score"].to_list() == pytest.approx(whole["score"].to_list(), abs=1e-5)


def test_what_is_excluded_does_not_come(ranked: Bundle) -> None:
    whole = ids(ranked.recommend(["u0"], k=80))
    assert len(set(whole)) == 80
    without = ranked.recommend(["u0"], k=10, exclude=[*whole[:5], "i9999"])
    assert ids(without) == whole[5:15]
    assert ranked.recommend(["u0"], k=10, exclude=whole).is_empty()


def test_exclude_seen(ranked: Bundle, shop_tables: Path) -> None:
    whole = ids(ranked.recommend(["u0"], k=80))
    events = pl.read_parquet(shop_tables / "events.parquet").filter(user_id="u0")
    stored = pl.read_parquet(ranked.folder / "histories.parquet").filter(pl.col("user_row") == 0)
    had = set(ranked.item_ids.gather(stored["item_row"]))
    assert had <= set(events["item_id"])
    assert ids(ranked.recommend(["u0"], k=80, exclude_seen=True)) == [item for item in whole if item not in had]
    fresh = [item for item in whole if item not in had][:2]
    told = ranked.recommend(["u0"], k=80, exclude_seen=True, histories=[fresh])
    assert set(ids(told)) == set(whole) - had - set(fresh)


def test_retrieval_fills_up_what_candidates_leave_free(scarce: Bundle) -> None:
    """What retrieval adds is scored by the ranker, too."""
    assert scarce.ranking is not None
    first = by_hand(scarce, "u5")
    assert len(first) < 20
    answer = scarce.recommend(["u5"], k=20)
    assert len(set(ids(answer))) == 20
    row = scarce.user_ids.to_list().index("u5")
    found, _ = scarce.retrieve(scarce.user_vectors[[row]], 20, [first["row"].to_list()])
    items = torch.cat([torch.tensor(first["row"].to_list()), torch.from_numpy(found[0])])
    sources = scarce.ranking.state.candidate_plan.sizes
    nowhere = {name: torch.zeros(20, dtype=torch.int32) for name in sources}
    extra = Candidates(torch.zeros(20, dtype=torch.int64), torch.from_numpy(found[0]), nowhere)
    scores = scarce.ranking.score(scarce.requests(["u5"]), extra)
    logits = torch.cat([torch.tensor(first["logit"].to_list()), scores[:, 0]])
    order = sorted(range(len(items)), key=lambda place: (-float(logits[place]), int(items[place])))[:20]
    assert ids(answer) == scarce.item_ids.gather(items[order].numpy()).to_list()
    assert len(scarce.recommend(["u5"], k=500)) == 80
    assert scarce.recommend(["u5"], k=4)["item_id"].to_list() == ids(first.head(4))


def test_filters_that_leave_no_candidate(scarce: Bundle) -> None:
    gone = ids(by_hand(scarce, "u5"))
    answer = scarce.recommend(["u5"], k=10, exclude=gone)
    assert len(set(ids(answer))) == 10
    assert not set(ids(answer)) & set(gone)


def test_a_request_is_answered_the_same_alone_and_among_others(ranked: Bundle, scarce: Bundle) -> None:
    users = ["u0", "nobody", None, "u3", "u0"]
    histories = [None, ["i5"], ["i1", "i2"], [], ["i70"]]
    for bundle in (ranked, scarce):
        for told in (None, histories):
            ks = [6, 40, 12, 3, 25]
            together = bundle.recommend(users, ks, histories=told)
            alone = [
                bundle.recommend([user], k, histories=told and [history])
                for user, k, history in zip(users, ks, histories, strict=True)
            ]
            close(together, pl.concat(alone))


def test_strangers_and_what_they_did(ranked: Bundle) -> None:
    plain = ranked.recommend([None, "nobody"], k=80)
    told = ranked.recommend([None], k=80, histories=[["i60", "i61", "i60"]])
    one, other = plain.partition_by("user_id")
    assert ids(one) == ids(other)
    assert sorted(ids(told)) == sorted(ids(one))
    assert told["score"].to_list() != one["score"].to_list()
    requests = ranked.requests([None], histories=[["i60", "i61", "i60"]])
    assert ranked.ranking is not None
    features = ranked.ranking.inputs(requests, (pairs := ranked.ranking.candidates(requests)), torch.arange(len(pairs)))
    row = pairs.item.tolist().index(ranked.item_ids.to_list().index("i61"))
    assert features["pair_count"][row] == 1
    assert features["rank_history"][row] > 0
    assert features["user_items"].unique().tolist() == [2]
    nowhere = ranked.recommend([None], k=80, histories=[["from elsewhere"]])  # an item that nobody knows
    assert len(nowhere) == 80


def test_time_passes_for_known_users(ranked: Bundle) -> None:
    assert ranked.ranking is not None
    later = ranked.requests(["u0"], as_of=datetime.fromisoformat(ranked.manifest.cut) + timedelta(days=9))
    now = ranked.requests(["u0"])
    days = [
        ranked.ranking.inputs(asked, ranked.ranking.candidates(asked), torch.tensor([0]))["user_days_since"].item()
        for asked in (now, later)
    ]
    assert days[1] - days[0] == pytest.approx(9, abs=1e-4)


@pytest.fixture
def features(ranked: Bundle) -> dict[str, torch.Tensor]:
    requests = ranked.requests(["u0"])
    assert ranked.ranking is not None
    return ranked.ranking.inputs(requests, ranked.ranking.candidates(requests), torch.arange(3))


def test_a_feature_that_is_missing_or_of_another_type(ranked: Bundle, features: dict[str, torch.Tensor]) -> None:
    ranking = ranked.ranking
    assert ranking is not None
    assert ranking.run(features).shape == (3, 2)
    for name in features:
        rest = {key: value for key, value in features.items() if key != name}
        with pytest.raises(BundleError, match=f"ranker: feature '{name}' is missing, needed is (float32|int64)"):
            ranking.run(rest)
    misspelt = {**features, "pair_cuont": features["pair_count"]}
    del misspelt["pair_count"]
    with pytest.raises(BundleError, match="Did you mean 'pair_cuont'"):
        ranking.run(misspelt)
    with pytest.raises(BundleError, match="feature 'pair_count' is float64, needed is float32"):
        ranking.run(features | {"pair_count": features["pair_count"].double()})
    with pytest.raises(BundleError, match="feature 'category' is float32, needed is int64"):
        ranking.run(features | {"category": features["category"].float()})


def test_the_signature_is_what_the_ranker_reads(ranked: Bundle, features: dict[str, torch.Tensor]) -> None:
    signature = ranked.manifest.signatures["ranker"]
    assert set(signature) == set(features)
    assert {name: legal["dtype"] for name, legal in signature.items()} == {
        name: str(values.dtype).removeprefix("torch.") for name, values in features.items()
    }
    assert set(ranked.manifest.ranker) == {"temperature"}


def test_a_bundle_of_retrieval_alone_has_no_ranker(bundle: Bundle) -> None:
    assert bundle.ranking is None
    assert not (bundle.folder / "ranker.pt").exists()
    for call in (bundle.rank, bundle.requests):
        with pytest.raises(BundleError, match="it has no ranker; train with ranker=wide_deep"):
            call([100])


@pytest.mark.parametrize("name", ["ranker.pt", "ranking/state.json", "ranking/links.parquet"])
def test_half_a_second_stage_is_refused(trained: Any, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(trained.bundle, tmp_path / "bundle"))
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"part '{name}' is missing"):
        Bundle.load(folder)
    if name in ("ranker.pt", "ranking/state.json"):  # also where the manifest has forgotten it
        seal(folder, **read_manifest(folder).content)
        with pytest.raises(BundleError, match=f"part '{name}' is missing"):
            Bundle.load(folder)


def test_the_ranker_is_proven_in_every_form(trained: Any) -> None:
    cases = [case for case in json.loads((trained.bundle / "parity.json").read_text())["cases"]
             if case["tower"] == "ranker"]  # fmt: skip
    wanted = {"one", "two", "odd", "large", "without a past", "missing", "unseen ids"}
    assert {(case["form"], case["case"]) for case in cases} == {
        (form, case) for form in ("torchscript", "torch.export") for case in wanted
    }
    assert all(case["passed"] and case["rows"] > 0 for case in cases)
    assert (trained.bundle / "ranker.pt2").is_file()


def test_the_exported_program_scores_as_the_ranker(ranked: Bundle, features: dict[str, torch.Tensor]) -> None:
    assert ranked.ranking is not None
    program = torch.export.load(ranked.folder / "ranker.pt2").module()
    torch.testing.assert_close(program(features), ranked.ranking.run(features))


def test_the_carried_code_ranks_alone(trained: Any, ranked: Bundle, tmp_path: Path) -> None:
    """None of the libraries of training, and neither SciPy nor scikit-learn."""
    write_reader_package(tmp_path)
    script = f"""
import sys
for name in ("pytorch_lightning", "hydra", "omegaconf", "optuna", "mlflow", "scipy", "sklearn", "lightgbm",
             "torchmetrics", "rich"):
    sys.modules[name] = None
sys.path.insert(0, {str(tmp_path)!r})
from recsys.bundle.reader import Bundle
bundle = Bundle.load({str(trained.bundle)!r})
assert bundle.check_sample() > 0
print(*bundle.recommend(["u0"], 5, histories=[["i3"]], exclude_seen=True)["item_id"])
"""
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ids(ranked.recommend(["u0"], 5, histories=[["i3"]], exclude_seen=True))
