import io

import pytest
import torch

from recsys.models.embeddings import FeatureInput
from recsys.models.tower_shape import TowerInputs, TowerShape
from recsys.models.two_tower import TwoTower
from tests.models.trained import BOUNDS, TOWERS, as_if_trained

NAN = float("nan")
ITEMS, USERS = 40, 20
SIZES = TOWERS | {"width": 8, "code_width": 6, "hidden": 16, "heads": 2, "factor_width": 4}
INPUTS = TowerInputs(
    item_rows=ITEMS,
    user_rows=USERS,
    item=(FeatureInput("brand", 9), FeatureInput("words", 30, width=3), FeatureInput("price", 0, 3.0, 2.0)),
    user=(
        FeatureInput("city", 7),
        FeatureInput("income", 0, 1.0, 1.0),
        FeatureInput("store", 5),
        FeatureInput("clock", 45),
    ),
)
CONTEXT = ("store", "clock")


def make(inputs=INPUTS, context=CONTEXT, seed=0, **changes):
    """A model whose every weight is random, as if trained, in evaluation mode."""
    torch.manual_seed(seed)
    model = TwoTower(inputs, TowerShape(**(SIZES | {"dropout": 0.2} | changes)), context, 0.07, BOUNDS)
    as_if_trained(model)
    if model.fold_in.width:
        model.fold_in.start_from(torch.arange(ITEMS), torch.randn(ITEMS, model.fold_in.width), 1.0, 10.0)
    return model


@pytest.fixture
def model():
    return make()


def item_features(n, seed=0, prefix="", shape=None):
    chance = torch.Generator().manual_seed(seed)
    shape = shape or (n,)

    def ids(rows, *slots):
        return torch.randint(2, rows, (*shape, *slots), generator=chance)

    price = torch.randn(shape, generator=chance) * 3
    return {
        f"{prefix}item_id": ids(ITEMS),
        f"{prefix}brand": ids(9),
        f"{prefix}words": ids(30, 4),
        f"{prefix}price": price,
    }


def candidates(n, seed=0):
    chance = torch.Generator().manual_seed(seed + 100)
    state = {
        "popularity": torch.rand(n, generator=chance) * 5,
        "age": torch.rand(n, generator=chance) * 400,
    }
    return item_features(n, seed) | state


def requests(n, length, seed=0):
    chance = torch.Generator().manual_seed(seed + 200)
    past = item_features(n, seed, "history/", (n, length))
    user = {
        "user_id": torch.randint(2, USERS, (n,), generator=chance),
        "city": torch.randint(2, 7, (n,), generator=chance),
        "income": torch.randn(n, generator=chance),
        "store": torch.randint(2, 5, (n,), generator=chance),
        "clock": torch.randint(2, 45, (n, 3), generator=chance),
        "history/age": torch.rand(n, length, generator=chance) * 300,
        "history/repeats": torch.randint(0, 9, (n, length), generator=chance),
    }
    return past | user


def blank(features, *names):
    """Make the named features missing: padding or NaN."""
    return features | {
        k: torch.zeros_like(v) if v.dtype == torch.int64 else torch.full_like(v, NAN)
        for k, v in features.items()
        if k in names
    }


def without_history(features, rows=slice(None)):
    """Make the histories of some rows all padding, as requests_as_of does."""
    out = {k: v.clone() for k, v in features.items()}
    for name, values in out.items():
        if name.startswith("history/"):
            is_number = values.dtype != torch.int64 and name != "history/age"
            values[rows] = NAN if is_number else 0
    return out


def close(one, other, atol=1e-5):
    return torch.allclose(one, other, atol=atol, rtol=1e-5)


def assert_sane(vectors, n):
    assert len(vectors) == n
    assert vectors.isfinite().all()
    assert (vectors != 0).any(1).all()


VARIANTS = [{}, {"use_ids": False}, {"use_content": False}]


@pytest.mark.parametrize("variant", VARIANTS, ids=["all", "content_only", "id_only"])
def test_scripted_is_eager_by_value(variant, device: torch.device):
    model = make(**variant).to(device)
    disk = io.BytesIO()
    towers = []
    for tower in (model.item_tower, model.user_tower):
        disk.seek(0)
        torch.jit.save(torch.jit.script(tower), disk)
        disk.seek(0)
        towers.append(torch.jit.load(disk, map_location=device))
    atol = 1e-5 if device.type == "cpu" else 1e-4  # scripted code may be fused there, which rounds elsewhere
    with torch.no_grad():
        for n, length in ((1, 1), (3, 7), (129, 40), (1, 3)):
            items = {k: v.to(device) for k, v in candidates(n, n).items()}
            asked = {k: v.to(device) for k, v in without_history(requests(n, length, n), slice(0, n, 2)).items()}
            assert close(towers[0](items), model.item_tower(items), atol)
            assert close(towers[1](asked), model.user_tower(asked), atol)
            missing = blank(items, *items), blank(asked, "user_id", "city", "income", *CONTEXT)
            assert close(towers[0](missing[0]), model.item_tower(missing[0]), atol)
            assert close(towers[1](missing[1]), model.user_tower(missing[1]), atol)


@torch.no_grad()
def test_towers_fit_together_and_rows_do_not_mix(model):
    items, asked = candidates(70), requests(70, 9)
    item, user = model.item_tower(items), model.user_tower(asked)
    assert_sane(item, 70)
    assert_sane(user, 70)
    assert item.shape[1] == user.shape[1]
    assert len(item.unique(dim=0)) == len(user.unique(dim=0)) == 70
    for row in (0, 33, 69):
        alone = {k: v[row : row + 1] for k, v in items.items()}, {k: v[row : row + 1] for k, v in asked.items()}
        assert close(model.item_tower(alone[0]), item[row : row + 1])
        assert close(model.user_tower(alone[1]), user[row : row + 1])


@torch.no_grad()
def test_every_feature_counts(model):
    items, asked = candidates(5), requests(5, 6)
    other_items, other_asked = candidates(5, seed=1), requests(5, 6, seed=1)
    item, user = model.item_tower(items), model.user_tower(asked)
    for name in items:
        changed = model.item_tower(items | {name: other_items[name]})
        assert not close(changed, item, atol=1e-3), name
    for name in asked:
        changed = model.user_tower(asked | {name: other_asked[name]})
        assert not close(changed, user, atol=1e-3), name


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS, ids=["all", "content_only", "id_only"])
def test_whatever_is_missing_the_vectors_are_finite(variant):
    model = make(**variant)
    items, asked = candidates(4), requests(4, 6)
    for name in items:
        assert_sane(model.item_tower(blank(items, name)), 4)
    for name in ("user_id", "city", "income", "store", "clock", "history/brand", "history/words", "history/price"):
        assert_sane(model.user_tower(blank(asked, name)), 4)
    assert_sane(model.user_tower(without_history(asked)), 4)
    nobody = blank(without_history(requests(4, 1)), "user_id", "city", "income", "store", "clock")
    assert model.user_tower(nobody).isfinite().all()
    assert model.item_tower(blank(items, *items)).isfinite().all()


@torch.no_grad()
def test_a_user_without_history_is_known_by_attributes(model):
    asked = without_history(requests(6, 5))
    assert len(model.user_tower(asked).unique(dim=0)) == 6
    same = model.user_tower({k: v[:1].expand(3, *v.shape[1:]).contiguous() for k, v in asked.items()})
    assert close(same[0], same[2])


@torch.no_grad()
@pytest.mark.parametrize(("before", "after"), [(1, 0), (0, 4), (7, 2)])
def test_padding_says_nothing(model, before, after):
    asked = without_history(requests(5, 6), 2)
    noise = requests(5, before + 6 + after, seed=9)
    padded = dict(asked)
    for name in asked:
        if name.startswith("history/"):
            padded[name] = noise[name].clone()  # whatever stands where item_id is padding
            padded[name][:, before : before + 6] = asked[name]
    padded["history/item_id"][:, :before] = 0
    padded["history/item_id"][:, before + 6 :] = 0
    assert close(model.user_tower(padded), model.user_tower(asked))


@torch.no_grad()
def test_item_tower_reads_items_alone_and_user_tower_no_candidates(model):
    items, asked = candidates(4), requests(4, 3)
    item, user = model.item_tower(items), model.user_tower(asked)
    assert torch.equal(model.item_tower(items | asked), item)
    assert torch.equal(model.user_tower(asked | items), user)


def other_ids(features, name, rows):
    values = features[name]
    return features | {name: torch.where(values == 0, values, 2 + (values + 3) % (rows - 2))}


@torch.no_grad()
def test_content_only_does_not_know_ids():
    model = make(use_ids=False)
    items, asked = candidates(6), without_history(requests(6, 5), 1)
    assert close(model.item_tower(other_ids(items, "item_id", ITEMS)), model.item_tower(items))
    changed = other_ids(other_ids(asked, "history/item_id", ITEMS), "user_id", USERS)
    assert close(model.user_tower(changed), model.user_tower(asked))


@torch.no_grad()
def test_id_only_does_not_know_attributes():
    model = make(use_content=False)
    items, asked = candidates(6), requests(6, 5)
    fresh, fresh_asked = candidates(6, seed=1), requests(6, 5, seed=1)
    for name in ("brand", "words", "price"):
        assert close(model.item_tower(items | {name: fresh[name]}), model.item_tower(items)), name
        key = f"history/{name}"
        assert close(model.user_tower(asked | {key: fresh_asked[key]}), model.user_tower(asked)), name
    for name in ("city", "income", "store", "clock"):
        assert close(model.user_tower(asked | {name: fresh_asked[name]}), model.user_tower(asked)), name


@torch.no_grad()
def test_unseen_items_are_told_apart_by_their_attributes(model):
    items = candidates(6)
    items |= {"item_id": torch.ones(6, dtype=torch.int64), "popularity": torch.zeros(6), "age": torch.full((6,), NAN)}
    items["brand"][:], items["words"][:], items["price"][:] = 3, 4, 5.0
    items["brand"][1] = 4
    items["words"][2] = 5
    items["price"][3] = 1.0
    items["price"][4] = NAN
    vectors = model.item_tower(items)
    assert_sane(vectors, 6)
    assert close(vectors[0], vectors[5])
    assert len(vectors[:5].unique(dim=0)) == 5
    assert not any(close(vectors[0], vectors[i], atol=1e-3) for i in range(1, 5))


def test_hidden_ids_in_training():
    """Code and taste learn to do without ids; the prior, last, does not, and the factors do not learn."""
    chances = {"dropout": 0.0, "context_dropout": 0.0, "history_dropout": 0.0, "factor_width": 0}
    model = make(id_dropout=1.0, user_id_dropout=1.0, **chances).train()
    items, asked = candidates(6), requests(6, 5)
    with torch.no_grad():
        known, other = model.item_tower(items), model.item_tower(other_ids(items, "item_id", ITEMS))
        assert close(known[:, :-1], other[:, :-1])
        for name, rows in (("user_id", USERS), ("history/item_id", ITEMS)):
            assert close(model.user_tower(other_ids(asked, name, rows)), model.user_tower(asked))


def test_hidden_context_in_training_is_missing_context():
    chances = {"dropout": 0.0, "id_dropout": 0.0, "user_id_dropout": 0.0, "history_dropout": 0.0}
    model = make(context_dropout=1.0, **chances).train()
    asked = requests(6, 5)
    with torch.no_grad():
        shown = model.user_tower(asked)
        assert close(shown, model.user_tower(blank(asked, *CONTEXT)))
        assert not close(shown, model.user_tower(blank(asked, "city")), atol=1e-3)
        model.eval()
        assert not close(model.user_tower(asked), shown, atol=1e-3)
    assert asked["store"].min() > 0  # the caller's tensors stay as they were


def test_dropout_is_for_training_alone(model):
    items, asked = candidates(6), requests(6, 5)
    with torch.no_grad():
        assert torch.equal(model.item_tower(items), model.item_tower(items))
        assert torch.equal(model.user_tower(asked), model.user_tower(asked))
        model.train()
        assert not torch.equal(model.item_tower(items), model.item_tower(items))
        assert not torch.equal(model.user_tower(asked), model.user_tower(asked))


@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "trained"])
def test_gradients_are_finite_whatever_is_missing(fresh):
    model = TwoTower(INPUTS, TowerShape(**SIZES), CONTEXT, 0.07, BOUNDS) if fresh else make()
    model.train()
    items = blank(candidates(4), "age", "price", "brand")
    items["item_id"][0] = 0
    asked = without_history(blank(requests(4, 5), "income", "store"), slice(0, 2))
    (model.user_tower(asked) @ model.item_tower(items).T).square().sum().backward()
    gradients = [
        p.grad.coalesce().values() if p.grad.is_sparse else p.grad for p in model.parameters() if p.grad is not None
    ]
    assert len(gradients) > 10
    assert all(g.isfinite().all() for g in gradients)


def test_a_shop_without_attributes():
    inputs = TowerInputs(item_rows=ITEMS, user_rows=USERS)
    for variant in VARIANTS:
        model = make(inputs, (), **variant)
        items = {k: v for k, v in candidates(3).items() if k in ("item_id", "popularity", "age")}
        names = ("user_id", "history/item_id", "history/age", "history/repeats")
        asked = {k: v for k, v in requests(3, 4).items() if k in names}
        with torch.no_grad():
            item, user = model.item_tower(items), model.user_tower(asked)
            assert_sane(item, 3)
            assert_sane(user, 3)
            assert close(torch.jit.script(model.item_tower)(items), item)
            assert close(torch.jit.script(model.user_tower)(asked), user)


@torch.no_grad()
def test_what_a_user_did_is_near_before_anything_is_learned():
    torch.manual_seed(0)
    shape = TowerShape(**(TOWERS | {"width": 32, "hidden": 64}))
    model = TwoTower(INPUTS, shape, CONTEXT, 0.07, BOUNDS).eval()
    items, asked = candidates(38), requests(38, 1)
    items["item_id"] = torch.arange(2, ITEMS)
    for name in ("item_id", "brand", "words", "price"):
        asked[f"history/{name}"] = items[name].unsqueeze(1)
    scores = model.user_tower(asked) @ model.item_tower(items).T
    own = scores.diagonal()
    others = (scores.sum(1) - own) / 37
    assert (own > others).all()
    assert float((own - others).mean()) > 0.2


@torch.no_grad()
def test_prior_is_the_log_of_the_buyers_whatever_the_temperature():
    model, items, asked = make(factor_width=0), candidates(5), requests(3, 4)
    items["item_id"] = torch.tensor([2, 3, 4, 1, 0])
    model.item_tower.start_from_popularity(items["item_id"], torch.zeros(5, dtype=torch.int64))
    before = model.item_tower(items)[:, -1]
    model.item_tower.start_from_popularity(items["item_id"], torch.tensor([0, 7, 100, 9, 9]))
    gain = model.item_tower(items)[:, -1] - before
    # The loss divides by the temperature, which the user's last component therefore is.
    scores = model.user_tower(asked)[:, -1:] * gain / model.temperature
    expected = torch.tensor([1.0, 15.0, 201.0, 1.0, 1.0]).log()  # nothing for the unseen
    assert torch.allclose(scores, expected.expand(3, 5), atol=1e-4)


def test_temperature_is_learned_within_its_bounds():
    def start(temperature):
        return TwoTower(INPUTS, TowerShape(**SIZES), (), temperature, (0.05, 0.5))

    model = start(0.1)
    assert model.temperature.item() == pytest.approx(0.1)
    model.temperature.backward()
    assert sum(p.grad is not None and bool(p.grad) for p in model.parameters()) == 1
    assert start(0.01).temperature.item() == pytest.approx(0.05)
    assert start(9.0).temperature.item() == pytest.approx(0.5)


@torch.no_grad()
def test_factors_join_the_towers_with_their_weight_whatever_the_temperature():
    items, asked = candidates(7), requests(5, 9)
    plain, joined = make(factor_width=0), make(factor_weight=1.5)
    joined.load_state_dict(plain.state_dict() | {k: v for k, v in joined.state_dict().items() if "fold_in" in k})
    trained = plain.user_tower(asked) @ plain.item_tower(items).T
    both = joined.user_tower(asked) @ joined.item_tower(items).T
    folded = joined.fold_in(asked["history/item_id"], asked["history/age"]) @ joined.fold_in.items(items["item_id"]).T
    assert torch.allclose((both - trained) / joined.temperature, 1.5 * folded, atol=1e-4)
    assert folded.abs().max() > 0.1


def test_tables_of_ids_are_those_of_users_items_and_their_attributes():
    model = make()
    found = model.id_tables()
    assert {name: tuple(table.shape) for name, table in found.items()} == {
        "item_id": (ITEMS, 8), "user_id": (USERS, 8), "brand": (9, 8), "words": (30, 8), "city": (7, 16),
    }  # fmt: skip
    assert torch.equal(found["item_id"], model.encoder.id_embedding.table.weight)
    assert torch.equal(found["user_id"], model.user_tower.id_embedding.table.weight)
    assert torch.equal(found["brand"], model.encoder.content.parts[0].table.weight[:, :8])  # the rest feeds the MLP
    assert torch.equal(found["city"], model.user_tower.content.parts[0].table.weight)
    words = model.encoder.content.parts[1]  # a narrow table, as wide as the others when it is read
    assert torch.equal(found["words"], (words.table.weight @ words.widen.weight.T)[:, :8])
    before = found["brand"].clone()
    with torch.no_grad():
        model.encoder.content.parts[0].table.weight.zero_()  # the towers are fitted on
    assert torch.equal(found["brand"], before)
    assert set(make(use_ids=False).id_tables()) == {"brand", "words", "city"}
    assert set(make(use_content=False).id_tables()) == {"item_id", "user_id"}
