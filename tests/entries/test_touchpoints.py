"""``recsys touchpoints``: the bundle beside baselines on the same questions, under the same filters."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from recsys.bundle.filters import Filters
from recsys.bundle.profiles import Profile
from recsys.bundle.reader import Bundle
from recsys.config.compose import compose
from recsys.config.schema import TouchpointsEvaluationConfig
from recsys.config.touchpoints import TouchpointConfig, TouchpointsConfig
from recsys.data.dataset import microseconds
from recsys.entries.ranker import SecondStage, fit
from recsys.entries.serving import served
from recsys.entries.snapshots import snapshot
from recsys.entries.touchpoints import Rivals, measure_all, questions_for, run
from recsys.entries.train import export
from recsys.errors import BundleError, ConfigError, DataError
from recsys.evaluation.questions import Questions
from recsys.evaluation.touchpoints import measure, metric_dict, save
from recsys.export.touchpoints import fit_touchpoints
from recsys.tracking.run import Run
from recsys.tracking.server import quiet
from tests.bundle.shop import write_touchpoints


@pytest.fixture(scope="module")
def bundle(first_stage: Any, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle as of the test window, of a shop with baskets of two, kinds of items, and prices that were paid."""
    cfg, prepared, log, data, towers = first_stage.parts
    folder = tmp_path_factory.mktemp("touchpoints")
    taken = snapshot(cfg, prepared, log, data, towers, first_stage.plan, data.cut, microseconds(prepared.windows.end))
    fitted = fit(cfg, data, [taken], Run(), folder / "ranker", epochs=1)
    stage = SecondStage(first_stage.plan, (taken,), fitted, None)
    second = served(cfg, prepared, log, data, towers, stage, fitted.model)
    touchpoints = fit_touchpoints(cfg.touchpoints, prepared, has_ranker=True)
    place = folder / "bundle"
    return Bundle.load(export(cfg, prepared, None, data, towers, second, place, "train_val", {}, touchpoints))


def config(**changes: Any) -> TouchpointsEvaluationConfig:
    cfg = compose("touchpoints", ["bundle_uri=b", "evaluation=quick", "questions=30", "days=5"])
    return replace(cfg, **changes)


def test_the_data_say_what_filters_read(bundle: Bundle, first_stage: Any) -> None:
    assert bundle.touchpoints.profiles["upsell"].filters.same == "kind"
    past = first_stage.prepared.events.filter(pl.col("timestamp") < first_stage.prepared.windows.test_start)
    lines = (
        past.filter(pl.col("event_type") == "buy")
        .group_by("user_id", "basket_id", "item_id")
        .agg(pl.col("value", "quantity").sum())
    )
    paid = lines.group_by("item_id").agg((pl.col("value") / pl.col("quantity")).median().alias("paid"))
    found = bundle.items.select("item_id").with_columns(price=pl.Series(bundle.touchpoints.facts.prices.numpy()))
    both = found.join(paid, on="item_id", how="left")
    assert both["price"].fill_nan(None).to_list() == pytest.approx(both["paid"].to_list())


def test_together_is_what_baskets_say(bundle: Bundle, first_stage: Any) -> None:
    """The cosine of the baskets that hold two items, counted once more by hand."""
    past = first_stage.prepared.events.filter(pl.col("timestamp") < first_stage.prepared.windows.test_start)
    held, both = Counter[int](), Counter[tuple[int, int]]()
    for items in past.group_by("user_id", "basket_id").agg(pl.col("item_id").unique())["item_id"].to_list():
        held.update(items)
        both.update(pair for a, b in combinations(items, 2) for pair in ((a, b), (b, a)))
    bundle = Bundle.load(bundle.folder)
    bundle.touchpoints.profiles = {"cart": Profile("cart", ("together",), ("together",))}
    cart = [int(item) for item in bundle.item_ids[:20]]
    weight = Counter[int]()
    for (a, b), n in both.items():
        if a in cart and b not in cart:
            weight[b] += n / (held[a] * held[b]) ** 0.5  # type: ignore[assignment]
    found = bundle.recommend([None], 5, touchpoint="cart", items=[cart])
    best = sorted(weight.values(), reverse=True)[:5]
    assert len(best) > 1
    assert len(found) == 5  # what no basket says is filled up
    assert found["score"].to_list()[: len(best)] == pytest.approx(best, rel=1e-5)
    assert [weight[item] for item in found["item_id"]][: len(best)] == pytest.approx(best, rel=1e-5)


def test_several_signals_are_fused_by_their_ranks(bundle: Bundle) -> None:
    bundle = Bundle.load(bundle.folder)
    user, cart = [bundle.user_ids[3]], [[int(bundle.item_ids[0])]]
    n = len(bundle.items) - 1
    lists = {}
    for name in ("personal", "similar"):
        bundle.touchpoints.profiles = {"page": Profile("cart", ("personal", "similar"), (name,))}
        lists[name] = bundle.recommend(user, n, touchpoint="page", items=cart)["item_id"].to_list()
    bundle.touchpoints.profiles = {"page": Profile("cart", ("personal", "similar"), ("personal", "similar"))}
    both = bundle.recommend(user, n, touchpoint="page", items=cart)
    fused = {item: sum(1 / (61 + order.index(item)) for order in lists.values()) for item in lists["personal"]}
    assert both["score"].to_list() == pytest.approx(sorted(fused.values(), reverse=True), rel=1e-5)
    assert [fused[item] for item in both["item_id"]] == pytest.approx(both["score"].to_list(), rel=1e-5)


def test_every_touchpoint_is_measured_on_questions_of_its_kind(
    bundle: Bundle, first_stage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    windows = first_stage.prepared.windows
    measured = list(measure_all(config(), bundle, first_stage.log, (windows.test_start, windows.end)))
    # all items cost the same, so that nothing is dearer than another
    assert [one.name for one in measured] == [name for name in bundle.touchpoints.profiles if name != "upsell"]
    assert "touchpoint 'upsell' is left out: nobody in the window can be asked for it" in caplog.text
    for one in measured:
        assert list(one.values) == ["bundle", "item_knn", "popular", "personal_frequency"]
        assert 1 < one.questions <= 30
        assert all(0 <= family["recall"].mean <= 1 for family in one.means.values())
    keys = metric_dict(measured)
    assert keys["test/cart/recall_at_20"] == pytest.approx(measured[2].values["bundle"]["recall"].mean().item())
    assert "test/cart/baseline/item_knn/mrr_at_20" in keys
    again = list(measure_all(config(), bundle, first_stage.log, (windows.test_start, windows.end)))
    assert metric_dict(again) == keys


def test_few_questions_have_no_bounds(tmp_path: Path) -> None:
    users = torch.arange(3)
    questions = Questions(users, [torch.tensor([9])] * 3, [torch.tensor([user]) for user in users])
    answers = {"bundle": torch.tensor([[0, 1], [1, 2], [2, 3]]), "popular": torch.tensor([[0, 1]] * 3)}
    paths = {path.suffix: path for path in save([measure("item", "a question", questions, answers)], tmp_path)}
    (saved,) = json.loads(paths[".json"].read_text(), parse_constant=pytest.fail)  # strict JSON knows no Infinity
    less = saved["bundle_less"]["popular"]["recall_at_2"]
    assert less == {"mean": pytest.approx(1 / 3), "low": None, "high": None}
    assert pl.read_csv(paths[".csv"])["Recall@2 less"].to_list() == [None, "+0.3333 (under 10 users)"]


def test_baselines_answer_under_the_same_filters(bundle: Bundle, first_stage: Any) -> None:
    cut = microseconds(first_stage.prepared.windows.test_start)
    history, truth = first_stage.log.between(None, cut), first_stage.log.between(cut, None)
    rivals, cfg = Rivals(bundle, history, cut), config()
    filters = Filters(without_bought=True, caps={"kind": 2}, price=(2.4, 2.6))
    profile = Profile("cart", filters=filters)
    _, questions = questions_for(cfg, bundle, profile, history, truth)
    prices, kinds = bundle.touchpoints.facts.prices, bundle.touchpoints.facts.codes("kind")
    relevant = history.only_relevant()
    for name in rivals.names:
        for row, answer in enumerate(rivals.answers(name, profile, questions, 20)):
            items = answer[answer >= 0]
            had = relevant.item[relevant.user == questions.users[row]]
            assert not torch.isin(items, had).any()
            assert not torch.isin(items, questions.items[row]).any()
            assert ((prices[items] >= 2.4) & (prices[items] <= 2.6)).all()
            left = torch.ones(len(prices), dtype=torch.bool)
            left[had] = left[questions.items[row]] = False
            left &= (prices >= 2.4) & (prices <= 2.6)
            assert len(items) == min(20, int(torch.bincount(kinds[left]).clamp(max=2).sum()))


def test_item_neighbours_are_those_of_the_request(bundle: Bundle, first_stage: Any) -> None:
    from recsys.evaluation.collaborative import ItemKNN
    from recsys.evaluation.recommender import Past

    cut = microseconds(first_stage.prepared.windows.test_start)
    history = first_stage.log.between(None, cut)
    model = ItemKNN()
    model.fit(Past(history, cut, {}, bundle.eligible))
    empty, single, pair = model.near_items(
        [torch.tensor([], dtype=torch.int64), torch.tensor([3]), torch.tensor([3, 5])]
    )
    other = model.near_items([torch.tensor([5])])[0]
    assert (empty < 0).all()  # popularity alone
    known = (single > 0) & (other > 0)
    assert known.any()
    torch.testing.assert_close(pair[known], single[known] + other[known])


def settings(**profile: Any) -> TouchpointsConfig:
    return TouchpointsConfig(profiles={"mine": TouchpointConfig(**profile)})


def test_what_the_data_lack_is_an_error_unless_the_profile_adapts(first_stage: Any) -> None:
    prepared = first_stage.prepared
    wanted: dict[str, Any] = {
        "request": "cart",
        "sources": ["together"],
        "order": ["together", "due"],
        "band": [1.0, 2.0],
    }
    with pytest.raises(ConfigError) as found:
        fit_touchpoints(settings(**wanted), prepared, has_ranker=False)
    told = str(found.value).splitlines()
    assert len(told) == 4
    assert any("profiles.mine.sources: together: needs a ranker; leave it out, or set" in line for line in told)
    assert any("profiles.mine.band: no item has a price" in line for line in told)
    fitted = fit_touchpoints(settings(**wanted, adapts=True), prepared, has_ranker=False).profiles["mine"]
    assert (fitted.sources, fitted.order, fitted.filters.band) == (("similar",), ("similar",), None)
    assert len(fitted.left_out) == 4
    assert fit_touchpoints(settings(**wanted), prepared, has_ranker=True).profiles["mine"].left_out == ()


def test_an_attribute_that_is_named_must_be_there(first_stage: Any) -> None:
    prepared = first_stage.prepared
    with pytest.raises(
        ConfigError, match=r"profiles.mine.caps: kinds: the items have no such .* Did you mean 'kind'\?"
    ):
        fit_touchpoints(settings(caps={"kinds": 2}, adapts=True), prepared, has_ranker=True)
    with pytest.raises(ConfigError, match=r"touchpoints\.price=kind: is String; the price must be a number"):
        fit_touchpoints(replace(settings(), price="kind"), prepared, has_ranker=True)
    with pytest.raises(ConfigError, match=r"touchpoints\.category=colour: the items have no such attribute"):
        fit_touchpoints(replace(settings(), category="colour"), prepared, has_ranker=True)
    assert fit_touchpoints(settings(caps={"kind": 2}), prepared, has_ranker=True).profiles["mine"].filters.caps == {
        "kind": 2
    }


@pytest.fixture
def verb(trained: Any, tmp_path: Path) -> Callable[..., TouchpointsEvaluationConfig]:
    """Compose the verb for the bundle of the trained shop."""

    def make(*overrides: str, bundle: str | Path = trained.bundle) -> TouchpointsEvaluationConfig:
        store = f"tracking.uri=sqlite:///{trained.folder}/mlflow.db"
        places = (f"data.cache_dir={trained.folder}/prepared", f"run_dir={tmp_path}/run", f"bundle_uri={bundle}")
        return compose("touchpoints", [*trained.data, "debug=does_it_run", store, *places, *overrides])

    return make


@pytest.mark.usefixtures("outside")
def test_the_verb_prints_saves_and_logs(
    verb: Callable[..., TouchpointsEvaluationConfig], trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    measured = run(verb("questions=20", "days=0.2"))
    shown = capsys.readouterr().out
    assert "touchpoints, test window" in shown
    assert "post_purchase" in shown
    folder = tmp_path / "run" / "evaluation"
    assert {path.name for path in folder.iterdir()} == {f"touchpoints.{kind}" for kind in ("csv", "json", "png", "svg")}
    saved = json.loads((folder / "touchpoints.json").read_text())
    names = [one["touchpoint"] for one in saved]
    assert names == [one.name for one in measured]
    assert {"home", "post_purchase", "email"} <= set(names)  # this shop has baskets of one item: no cart to ask about
    rows = pl.read_csv(folder / "touchpoints.csv")
    assert rows["model"].to_list()[:4] == ["bundle", "item_knn", "popular", "personal_frequency"]
    with quiet():
        client = MlflowClient(f"sqlite:///{trained.folder}/mlflow.db")
        experiment = client.get_experiment_by_name("debug")
        assert experiment is not None
        logged = client.search_runs([experiment.experiment_id], order_by=["start_time DESC"])[0]
    assert logged.data.metrics["test/home/recall_at_20"] == pytest.approx(
        metric_dict(measured)["test/home/recall_at_20"]
    )


@pytest.mark.usefixtures("outside")
def test_other_touchpoints_than_the_bundles(verb: Callable[..., TouchpointsEvaluationConfig]) -> None:
    own = run(verb("logger=none", "questions=10", "from_bundle=false", "touchpoints.profiles.email.caps={category: 1}"))
    assert "at most 1 of a category" in next(one.filters for one in own if one.name == "email")
    with pytest.raises(ConfigError, match=r"caps: colour: the items have no"):
        run(verb("logger=none", "from_bundle=false", "touchpoints.profiles.email.caps={colour: 1}"))


@pytest.mark.usefixtures("outside")
def test_a_window_without_a_question_is_an_error(
    verb: Callable[..., TouchpointsEvaluationConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recsys.entries.touchpoints.measure_all", lambda *_: iter(()))
    with pytest.raises(DataError, match="nobody in the test window can be asked for one of home"):
        run(verb("logger=none"))


@pytest.mark.usefixtures("outside")
def test_a_bundle_without_touchpoints_says_what_to_do(
    verb: Callable[..., TouchpointsEvaluationConfig], exported_without: Path
) -> None:
    with pytest.raises(BundleError, match="it has no touchpoints; with from_bundle=false"):
        run(verb("logger=none", bundle=exported_without))


@pytest.fixture
def exported_without(trained: Any, tmp_path: Path) -> Path:
    """The trained bundle with no touchpoints at all."""
    import shutil

    shutil.copytree(trained.bundle, tmp_path / "old")
    write_touchpoints(tmp_path / "old", {}, None)
    return tmp_path / "old"
