"""New products join a bundle: they are found, and everything else is answered as before."""

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from recsys.bundle.format import Manifest, read_manifest
from recsys.bundle.reader import Bundle
from recsys.data.imputation import fit_imputer, impute
from recsys.errors import BundleError, DataError
from recsys.export.add_items import CERTIFICATE, _states, add_items
from recsys.export.bundle import export_bundle
from recsys.export.kin import inherited
from recsys.files import hashes

NEW = pl.DataFrame(
    {
        "item_id": [2003, 2001, 2002],
        "category": ["c2", "c1", "never seen"],
        "tags": ["t1 t2", None, "t4"],
        "price": [3.5, None, 9.0],
    }
)


@pytest.fixture(scope="module")
def grown(exported: tuple[Path, Manifest], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The shop's bundle with three more products."""
    target = tmp_path_factory.mktemp("grown") / "bundle"
    added = add_items(exported[0], NEW, target)
    assert (added.items, added.missing) == (3, [])
    return Bundle.load(target)


def test_the_old_bundle_is_untouched_and_the_new_one_whole(
    exported: tuple[Path, Manifest], grown: Bundle, tmp_path: Path
) -> None:
    before = hashes(exported[0])
    add_items(exported[0], NEW, tmp_path / "again")
    assert hashes(exported[0]) == before
    assert [path.name for path in tmp_path.iterdir()] == ["again"]
    old, new = exported[1], grown.manifest
    assert (new.n_items, new.index["items"]) == (old.n_items + 3, old.index["items"] + 3)
    assert new.fingerprint != old.fingerprint
    for name in ("user_tower.pt", "item_tower.pt", "users.parquet", "user_embeddings.parquet", "histories.parquet"):
        assert new.parts[name] == old.parts[name]
    assert grown.check_sample() == len(json.loads((grown.folder / "sample.json").read_text())["requests"]) + 16
    assert "153 items" in (grown.folder / "model_card.md").read_text()
    proven = json.loads((grown.folder / "parity.json").read_text())[CERTIFICATE]
    assert "added" in {case["case"] for case in proven["cases"]}


def test_gaps_are_filled_as_those_of_the_catalogue_were(shop: Any, tmp_path: Path) -> None:
    """Else a new product would get ids and flags that training never saw."""
    seen = shop.items["item_id"]
    imputer = fit_imputer(shop.items.select("item_id", "category", "price"), seen, "none", {"price": "median"}, [])
    flag = next(filler.flag for filler in imputer.fillers)
    items = impute(imputer, shop.items)
    assert items["price"].null_count() == 0 < shop.items["price"].null_count()
    export_bundle(tmp_path / "old", **shop.arguments(items=items, imputer=imputer))
    add_items(tmp_path / "old", NEW, tmp_path / "new")
    catalogue = Bundle.load(tmp_path / "new").items
    assert catalogue.tail(3)["price"].to_list() == [pytest.approx(shop.items["price"].median()), 9.0, 3.5]
    assert catalogue.tail(3)[flag].to_list() == [1, 0, 0]
    assert (tmp_path / "new" / "imputation" / "imputer.json").is_file()


def test_rows_follow_at_the_end_with_vectors_of_their_attributes(bundle: Bundle, grown: Bundle) -> None:
    assert grown.item_ids.to_list() == [*bundle.item_ids.to_list(), 2001, 2002, 2003]
    assert torch.equal(grown.item_vectors[:150], bundle.item_vectors)
    tower = torch.jit.load(str(grown.folder / "item_tower.pt"))
    category = pl.read_parquet(grown.folder / "vocabularies" / "category.parquet")["value"].to_list()
    tags = pl.read_parquet(grown.folder / "vocabularies" / "tags.parquet")["value"].to_list()
    by_hand = {
        "item_id": torch.tensor([1, 1, 1]),  # unseen
        "category": torch.tensor([category.index("c1") + 2, 1, category.index("c2") + 2]),
        "tags": torch.tensor([[0, 0], [tags.index("t4") + 2, 0], [tags.index("t1") + 2, tags.index("t2") + 2]]),
        "price": torch.tensor([float("nan"), 9.0, 3.5]),
        "popularity": torch.zeros(3),
        "age": torch.zeros(3),
    }
    with torch.inference_mode():
        expected = tower(by_hand)
    of_all = {
        name: torch.cat([column, by_hand[name]])
        for name, column in (bundle._towers.item_features | _states(bundle.items)).items()
    }
    expected = expected + inherited(tower, of_all, bundle.item_vectors, bundle.user_vectors)
    torch.testing.assert_close(grown.item_vectors[150:], expected)
    torch.testing.assert_close(grown.embed_items([2001, 2002, 2003]), expected)


def test_everything_else_is_answered_as_before(bundle: Bundle, grown: Bundle) -> None:
    past = [[bundle.item_ids[0], 999_999]] * 40
    for given in ({}, {"histories": past}, {"histories": past, "exclude_seen": True}):
        old = bundle.recommend(k=10, **given)
        new = grown.recommend(k=10, allow=bundle.item_ids, **given)
        assert new.drop("score").equals(old.drop("score"))
        np.testing.assert_allclose(new["score"], old["score"], rtol=1e-5)
    assert torch.equal(grown.embed_users(grown.user_ids, past), bundle.embed_users(bundle.user_ids, past))


def test_new_products_are_found_where_their_vectors_are_best(bundle: Bundle, grown: Bundle) -> None:
    exact = grown.scores(torch.arange(40)).masked_fill(~grown.eligible, -torch.inf)
    answer = grown.recommend(k=5)
    assert answer["item_id"].to_list() == grown.item_ids.gather(exact.topk(5).indices.flatten().numpy()).to_list()
    assert answer["item_id"].is_in([2001, 2002, 2003]).any()
    only = grown.recommend(k=3, allow=[2001, 2002, 2003])
    assert only.group_by("user_id").len()["len"].to_list() == [3] * 40


def test_a_new_product_stays_new_in_an_old_bundle(grown: Bundle) -> None:
    """Nobody has had it a year after the cut either, and by then everything else has been sold for long."""
    later = datetime.fromisoformat(grown.manifest.cut) + timedelta(days=365)
    answer = grown.recommend(k=10, as_of=later, explore=0.3)
    assert answer.equals(grown.recommend(k=10, as_of=later, explore=0.3, explore_among=[2001, 2002, 2003]))
    assert answer.filter(pl.col("item_id") > 2000).group_by("user_id").len()["len"].to_list() == [3] * 40


def test_a_new_product_in_a_history_is_no_longer_an_unknown_one(bundle: Bundle, grown: Bundle) -> None:
    past = [[2003]]
    assert not torch.equal(grown.embed_users([None], past), bundle.embed_users([None], past))
    assert 2003 not in grown.recommend([None], 200, past, exclude_seen=True)["item_id"]


def test_it_can_be_done_again(grown: Bundle, tmp_path: Path) -> None:
    added = add_items(grown.folder, pl.DataFrame({"item_id": [7], "price": [1]}), tmp_path / "bundle")
    assert (added.items, added.missing) == (1, ["category", "tags"])
    again = Bundle.load(tmp_path / "bundle")
    assert again.item_ids.to_list()[150:] == [2001, 2002, 2003, 7]
    assert torch.equal(again.item_vectors[:153], grown.item_vectors)
    assert again.items["category"].to_list()[-1] is None


@pytest.mark.parametrize(
    ("rows", "messages"),
    [
        (NEW.drop("item_id"), ["no column 'item_id'; columns: category, tags, price."]),
        (NEW.clear(), ["no rows."]),
        (
            NEW.rename({"price": "prise"}).with_columns(stock=pl.lit(1)),
            ["column 'prise' is none of the bundle's catalogue, whose columns are: item_id, category, tags, price. "
             "Did you mean 'price'?", "column 'stock' is none"],
        ),
        (
            pl.DataFrame({"item_id": [1, 1, 2, None, 1000, 1001, 1001]}),
            ["column 'item_id' is missing in 1 of 7 rows", "2 rows repeat an 'item_id', such as 1.",
             "2 products are in the bundle already, such as 1000,"],
        ),
        (
            NEW.with_columns(item_id=pl.Series(["x", "2", "y"]), category=3, price=pl.Series(["1", "a", "b"])),
            ["column 'item_id': 2 of 3 values are no Int64, which it is in the bundle, such as 'x'.",
             "column 'category' is Int64 in 3 rows; in the bundle it is text.",
             "column 'price': 2 of 3 values are no Float64, which it is in the bundle, such as 'a'."],
        ),
        (NEW.with_columns(item_id=pl.col("item_id") + 0.5), ["3 of 3 values are no Int64"]),
    ],
)  # fmt: skip
def test_what_is_refused(
    rows: pl.DataFrame, messages: list[str], exported: tuple[Path, Manifest], tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        add_items(exported[0], rows, tmp_path / "bundle", "new.csv")
    assert len(str(caught.value).splitlines()) == len(messages)
    for line, message in zip(str(caught.value).splitlines(), messages, strict=True):
        assert line.startswith("new.csv: ")
        assert message in line
    assert list(tmp_path.iterdir()) == []


def test_text_is_read_as_numbers(exported: tuple[Path, Manifest], grown: Bundle, tmp_path: Path) -> None:
    add_items(exported[0], NEW.cast({"item_id": pl.String, "price": pl.String}), tmp_path / "bundle")
    assert Bundle.load(tmp_path / "bundle").items.equals(grown.items)


def test_nothing_is_written_over(exported: tuple[Path, Manifest], tmp_path: Path) -> None:
    for taken in (tmp_path, exported[0]):
        with pytest.raises(BundleError, match="is there already"):
            add_items(exported[0], NEW, taken)


def test_a_vector_longer_than_all_others_makes_the_index_anew() -> None:
    from recsys.export.index import build_index, extend_index

    chance = np.random.default_rng(0)
    vectors = chance.normal(size=(300, 8)).astype(np.float32)
    queries = chance.normal(size=(50, 8)).astype(np.float32)
    rows = np.arange(300, dtype=np.int64)
    for kind in ("ivf", "hnsw", "flat"):
        for longer in (0.01, 100.0):
            every = np.concatenate([vectors, longer * vectors[:20] + 1e-3])
            index, facts = build_index(vectors, rows, queries, kind, 0.99)
            grown, told = extend_index(index, facts, every, np.arange(320, dtype=np.int64), 20, queries)
            assert (len(grown), told["items"], told["kind"]) == (320, 320, kind)
            exact = np.argsort(-(queries @ every.T), axis=1)[:, :20]
            found = grown.search(queries, 24)
            share = np.mean([np.isin(best, row).mean() for best, row in zip(exact, found, strict=True)])
            assert share > 0.97
            assert told["recall"] >= 0.99


def test_the_second_stage_knows_them(trained: Any, tmp_path: Path) -> None:
    old = Bundle.load(trained.bundle)
    rows = pl.DataFrame({"item_id": ["new-1", "new-2"], "category": ["c3", "c9"], "price": [4.5, None]})
    add_items(trained.bundle, rows, tmp_path / "bundle")
    new = Bundle.load(tmp_path / "bundle")
    assert new.check_sample() > 0
    assert new.manifest.metrics == read_manifest(trained.bundle).metrics
    assert old.ranking is not None
    assert new.ranking is not None
    before, after = old.ranking.state, new.ranking.state
    n = len(old.item_ids)
    assert after.items.table[:n].drop("code_0").equals(before.items.table.drop("code_0"))
    code = dict(zip(new.items["category"], after.items.table["code_0"], strict=True))
    assert len(set(code.values())) == len(code) == 8
    assert after.items.table["item_events_all"].to_list()[n:] == [None, None]
    assert torch.equal(after.tables.events, torch.cat([before.tables.events, torch.zeros(2, dtype=torch.int64)]))
    assert torch.equal(after.tables.popular, before.tables.popular)
    assert torch.equal(after.vectors[:n], before.vectors)
    everything = new.rank(new.user_ids)
    assert set(everything["item_id"]) >= {"new-1", "new-2"}  # the small shop's candidates are all there is
    old_ones = old.rank(old.user_ids)
    both = old_ones.join(everything, on=["user_id", "item_id"], how="left")
    assert both["score_right"].null_count() == 0
