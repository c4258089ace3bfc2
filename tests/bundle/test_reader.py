"""What the serving team may ask of a bundle, and what it is told when it asks wrongly."""

import ast
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from recsys.bundle.reader import Bundle
from recsys.data.log import InteractionLog
from recsys.data.tables import FeatureTables, requests_as_of
from recsys.errors import BundleError
from recsys.export.bundle import export_bundle
from recsys.export.package import MODULES, write_reader_package
from recsys.export.parity_cases import known_users

CUT = datetime(2024, 3, 1, tzinfo=UTC)


def ids(frame: pl.DataFrame) -> list[int]:
    return frame["item_id"].to_list()


def exact_ids(bundle: Bundle, vector: torch.Tensor, k: int, without: set[int] = frozenset()) -> list[int]:
    """The best items by a full sort, in plain Python."""
    scores = (bundle.item_vectors.double() @ vector.double()).tolist()
    may = [i for i, item in enumerate(bundle.item_ids) if bundle.eligible[i] and item not in without]
    return [bundle.item_ids[i] for i in sorted(may, key=lambda i: -scores[i])[:k]]


def test_golden_sample(bundle: Bundle) -> None:
    assert bundle.check_sample() == 11 + 16


def test_top_k_is_exact_on_this_catalogue(bundle: Bundle) -> None:
    answer = bundle.recommend(k=10)
    assert answer.schema == {"user_id": pl.Int64, "item_id": pl.Int64, "rank": pl.Int64, "score": pl.Float32}
    assert answer["user_id"].unique(maintain_order=True).to_list() == bundle.user_ids.to_list()
    for row, user in enumerate(bundle.user_ids.to_list()):
        mine = answer.filter(pl.col("user_id") == user)
        assert mine["rank"].to_list() == list(range(1, 11))
        assert ids(mine) == exact_ids(bundle, bundle.user_vectors[row], 10)


def test_scores_are_the_inner_products(bundle: Bundle) -> None:
    scores = bundle.scores(torch.tensor([3, 0]))
    expected = bundle.user_vectors[[3, 0]].numpy() @ bundle.item_vectors.numpy().T
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_an_ineligible_item_is_never_answered(bundle: Bundle) -> None:
    assert not bundle.eligible[5]
    assert bundle.item_ids[5] not in set(ids(bundle.recommend(k=len(bundle.item_ids))))


def test_more_than_there_is(bundle: Bundle) -> None:
    answer = bundle.recommend([100, 101], k=10_000)
    assert len(answer) == 2 * (len(bundle.item_ids) - 1)
    rows, scores = bundle.retrieve(bundle.user_vectors[:2], 10**12)  # no memory has so many places
    assert rows.shape == scores.shape == (2, len(bundle.item_ids))
    assert bundle.recommend([100, 101], k=[10**12, 2])["user_id"].to_list() == [100] * 149 + [101] * 2


def test_own_k_for_each_user(bundle: Bundle) -> None:
    answer = bundle.recommend([101, 100], k=[2, 3])
    assert answer["user_id"].to_list() == [101, 101, 100, 100, 100]
    assert answer["rank"].to_list() == [1, 2, 1, 2, 3]
    for same in (np.array([2, 3]), pl.Series([2, 3])):
        assert bundle.recommend([101, 100], k=same).equals(answer)
    for one in (np.int64(3), np.array(3)):
        assert bundle.recommend([101, 100], k=one).equals(bundle.recommend([101, 100], k=3))


def test_fresh_history_moves_the_answer_as_if_it_had_been_in_the_log(shop, bundle: Bundle, tmp_path: Path) -> None:
    """A bundle cut later, and this one told of the later events: the user tower gives the same vectors."""
    later_cut = CUT + timedelta(days=60)
    export_bundle(tmp_path / "later", **shop.arguments(cut=later_cut))
    later = Bundle.load(tmp_path / "later")
    fresh = shop.events.filter((pl.col("timestamp") >= CUT) & (pl.col("timestamp") < later_cut))
    users = fresh["user_id"].unique(maintain_order=True).to_list()
    histories = [list(fresh.filter(pl.col("user_id") == u).select("item_id", "timestamp").iter_rows()) for u in users]
    assert max(len(history) for history in histories) > 1
    told = bundle.embed_users(users, histories, as_of=later_cut)
    torch.testing.assert_close(told, later.embed_users(users), rtol=0, atol=1e-6)
    assert not torch.allclose(told, bundle.embed_users(users, as_of=later_cut), atol=1e-3)


def test_exclude_seen_covers_the_whole_past_and_what_is_fresh(shop, bundle: Bundle) -> None:
    user = shop.events.filter(pl.col("timestamp") < CUT)["user_id"].mode()[0]
    mine = set(shop.events.filter((pl.col("user_id") == user) & (pl.col("timestamp") < CUT))["item_id"])
    assert len(mine) > bundle.manifest.history_length
    free = bundle.recommend([user], k=150)
    fresh = ids(free.filter(~pl.col("item_id").is_in(mine)))[:2]
    answer = bundle.recommend([user], k=150, histories=[fresh], exclude_seen=True)
    assert set(ids(answer)) == set(ids(free)) - mine - set(fresh)


def test_exclusion_never_eats_the_answer(bundle: Bundle) -> None:
    """With all but twelve items left out, ten are asked for and ten come, in exact order."""
    keep = set(bundle.item_ids.to_list()[20:32])
    without = [item for item in bundle.item_ids.to_list() if item not in keep]
    answer = bundle.recommend([100, 107], k=10, exclude=without)
    for row, user in ((0, 100), (7, 107)):
        got = ids(answer.filter(pl.col("user_id") == user))
        assert got == exact_ids(bundle, bundle.user_vectors[row], 10, set(without))
    assert bundle.recommend([100, 107], k=10, allow=[*keep, -5]).equals(answer)
    assert bundle.recommend([100], k=10, allow=pl.Series(list(keep)), exclude=list(keep)[:9]).height == 3
    assert bundle.recommend([100], k=10, allow=[]).is_empty()


def test_an_event_without_a_time_happens_just_before_the_request(bundle: Bundle) -> None:
    later = (1003, CUT + timedelta(hours=5))
    told = bundle.embed_users([100], [[1001, 1002, later]])
    for same in ([(1001, None), (1002, None), later], [np.int64(1001), np.int64(1002), later]):
        torch.testing.assert_close(bundle.embed_users([100], [same]), told)
    plain = bundle.embed_users([100], [[1001, 1002]])
    torch.testing.assert_close(bundle.embed_users([100], [np.array([1001, 1002])]), plain)


def test_strangers(bundle: Bundle) -> None:
    """An unknown user and a visitor without id get an answer; with a history, one of their own."""
    plain = bundle.embed_users([None, 99_999])
    told = bundle.embed_users([None, 99_999], [[1000, 1001], [1000, 1001]])
    assert torch.isfinite(plain).all()
    assert not torch.allclose(plain, told, atol=1e-3)
    answer = bundle.recommend([99_999, None], k=2)
    assert answer["user_id"].to_list() == [99_999, 99_999, None, None]


def test_an_item_from_nowhere_in_a_history_counts_as_unseen(bundle: Bundle) -> None:
    with_it = bundle.embed_users([100], [[424_242]])
    assert torch.isfinite(with_it).all()
    assert not torch.allclose(with_it, bundle.embed_users([100]), atol=1e-4)


def test_context(bundle: Bundle) -> None:
    plain = bundle.embed_users([100, 101])
    at = pl.Series([None, None], dtype=pl.Datetime("us", "UTC"))
    on_d1 = bundle.embed_users([100, 101], context=pl.DataFrame({"device": ["d1", None], "timestamp": at}))
    assert not torch.allclose(plain[0], on_d1[0], atol=1e-3)
    torch.testing.assert_close(plain[1], on_d1[1])
    now = bundle.embed_users([100, 101], context=pl.DataFrame({"device": [None, None]}))
    later = CUT + timedelta(hours=5)
    assert not torch.allclose(now, plain, atol=1e-3)
    in_words = pl.DataFrame({"device": [None, None], "timestamp": [CUT, CUT]})
    torch.testing.assert_close(now, bundle.embed_users([100, 101], context=in_words))
    with_clock = bundle.embed_users([100], as_of=later, context=pl.DataFrame({"device": [None]}))
    assert not torch.allclose(with_clock, bundle.embed_users([100], as_of=later), atol=1e-3)


def test_the_towers_read_what_they_read_in_training(shop, bundle: Bundle) -> None:
    """The reader's input for every user equals, bit for bit, what evaluation makes from the log."""
    users = {u: row for row, u in enumerate(shop.users["user_id"])}
    items = {i: row for row, i in enumerate(shop.items["item_id"])}
    past = shop.events.filter(pl.col("timestamp") < CUT)
    time = torch.from_numpy(past["timestamp"].dt.epoch("us").to_numpy().copy())
    log = InteractionLog(
        torch.tensor([users[u] for u in past["user_id"]]),
        torch.tensor([items[i] for i in past["item_id"]]),
        time,
        torch.arange(len(past)),
        torch.ones(len(past), dtype=torch.bool),
        len(users),
        len(items),
    )
    tables = FeatureTables(
        shop.encoder.encode(shop.items, "item"),
        shop.encoder.encode(shop.users, "user"),
        shop.encoder.encode(past, "context"),
    )
    now = round(CUT.timestamp() * 1e6)
    rows = torch.arange(len(users))
    expected = requests_as_of(log, tables, rows, now, bundle.manifest.history_length)
    got = known_users(bundle._towers.inputs, rows, now)
    assert got.keys() == expected.keys()
    for name, column in expected.items():
        torch.testing.assert_close(got[name], column, rtol=0, atol=0, equal_nan=True, msg=name)


def test_time_passes(bundle: Bundle) -> None:
    assert not torch.allclose(bundle.embed_users([100]), bundle.embed_users([100], as_of=CUT + timedelta(days=90)))


def test_nothing_asked(bundle: Bundle) -> None:
    answer = bundle.recommend([])
    assert answer.is_empty()
    assert answer.schema == bundle.recommend([100], k=1).schema
    assert bundle.embed_users([]).shape == (0, 16)
    assert bundle.embed_items([]).shape == (0, 16)


def test_string_ids(shop_maker, tmp_path: Path) -> None:
    export_bundle(tmp_path / "bundle", **shop_maker(2, str).arguments(index="flat"))
    bundle = Bundle.load(tmp_path / "bundle")
    bundle.check_sample()
    answer = bundle.recommend(["100", "nobody"], 2, histories=[["1003"], []])
    assert answer["user_id"].to_list() == ["100", "100", "nobody", "nobody"]
    assert answer.schema["item_id"] == pl.String
    with pytest.raises(BundleError, match="user_id: 100 is a int; this bundle's ids are str"):
        bundle.recommend([100])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"users": ["100"]}, "user_id: '100' is a str; this bundle's ids are int"),
        ({"users": [1.5]}, r"user_id: 1\.5 is a float"),
        ({"users": [True]}, "user_id: True is a bool"),
        ({"users": [100], "k": 0}, "k: 0 is not a whole number of at least 1"),
        ({"users": [100], "k": 3.0}, r"k: 3\.0 is not a whole number"),
        ({"users": [100], "k": True}, "k: True is not a whole number"),
        ({"users": [100], "k": np.array([1.5])}, "is not a whole number"),
        ({"users": [100], "k": [1, 2]}, "k: 2 numbers given for 1 users"),
        ({"users": [100], "histories": [[], []]}, "histories: 2 given for 1 users"),
        ({"users": [100], "histories": [["x"]]}, "histories: 'x' is a str"),
        ({"users": [100], "histories": [[(1000, datetime(2024, 4, 1))]]}, "has no time zone"),
        ({"users": [100], "as_of": CUT - timedelta(days=1)}, "lies before the bundle's cut"),
        ({"users": [100], "histories": [[(1000, CUT + timedelta(2))]], "as_of": CUT}, "is later than as_of"),
        ({"users": [100], "as_of": "2024-03-02"}, "as_of: '2024-03-02' is a str; give an aware datetime"),
        ({"users": [100], "histories": [[(1000, "2024-03-02")]]}, "histories: '2024-03-02' is a str"),
        ({"users": [100], "histories": [[(1000, CUT, 1)]]}, r"histories: \(1000, .* is no event; give an item, or"),
        ({"users": [100], "histories": [[(1000,)]]}, r"histories: \(1000,\) is no event; give an item, or"),
        ({"users": [100], "histories": [[(1000, CUT, "view", 1)]]}, r"histories: \(1000, .* is no event; give an item"),
        ({"users": [100], "histories": [1000]}, "histories: 1000 is no list"),
        ({"users": [100], "histories": 1000}, "histories: 1000 is no list"),
        ({"users": 100}, "user_id: 100 is no list; give a list of ids"),
        ({"users": [2**63]}, "user_id: 9223372036854775808 does not fit into 64 bits"),
        ({"users": [100], "exclude": None}, "exclude: None is no list"),
        ({"users": [100], "allow": "1000"}, "allow: '1000' is no list"),
        ({"users": [100], "context": pl.DataFrame({"timestamp": ["noon"]})}, "context: column 'timestamp' is String"),
        ({"users": [100], "context": pl.DataFrame({"timestamp": [1_700_000_000]})}, "'timestamp' is Int64; make it a"),
        ({"users": [100], "context": pl.DataFrame({"device": ["a", "b"]})}, "context: 2 rows given for 1 users"),
        ({"users": [100] * 512, "context": pl.DataFrame({"device": ["a"] * 513})}, "513 rows given for 512 users"),
    ],
)
def test_what_cannot_be_answered(bundle: Bundle, arguments: dict, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        bundle.recommend(**arguments)


def test_unknown_item_has_no_vector(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="1 of 2 are not in the catalogue, such as 7"):
        bundle.embed_items([1000, 7])


def test_registry_uri_without_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(BundleError, match="needs mlflow"):
        Bundle.load("models:/shop/1")


def test_the_carried_code_reads_a_bundle_alone(exported, tmp_path: Path) -> None:
    """Only the listed modules, none of the training libraries, and the golden sample comes out."""
    write_reader_package(tmp_path)
    script = f"""
import sys
for name in ("pytorch_lightning", "lightning", "hydra", "omegaconf", "optuna", "mlflow", "dataframely", "scipy"):
    sys.modules[name] = None
sys.path.insert(0, {str(tmp_path)!r})
import recsys
assert recsys.__file__.startswith({str(tmp_path)!r}), recsys.__file__
from recsys.bundle.reader import Bundle
import recsys.bundle.pyfunc
print(Bundle.load({str(exported[0])!r}).check_sample())
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "27"


def test_the_carried_code_is_all_that_the_reader_imports(repo: Path) -> None:
    """Follow the import statements from the two doors; the list in ``package.py`` is exactly what they reach."""
    reached, queue = set(), ["bundle/reader.py", "bundle/pyfunc.py"]
    while queue:
        module = queue.pop()
        if module in reached:
            continue
        reached.add(module)
        queue += [str(Path(module).parent / "__init__.py") if "/" in module else "__init__.py", "__init__.py"]
        for node in ast.walk(ast.parse((repo / "recsys" / module).read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("recsys"):
                names = [f"{node.module}.{alias.name}" for alias in node.names] + [str(node.module)]
                paths = [name.removeprefix("recsys").lstrip(".").replace(".", "/") + ".py" for name in names]
                queue += [path for path in paths if (repo / "recsys" / path).is_file()]
    assert reached == set(MODULES)
