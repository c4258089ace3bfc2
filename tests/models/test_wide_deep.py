import io

import pytest
import torch

from recsys.errors import ConfigError
from recsys.models.forest import Forest, Tree
from recsys.models.ranking_losses import weighted_bce
from recsys.models.transforms import FORMS, fit_numeric
from recsys.models.wide import Cross, IdInput
from recsys.models.wide_deep import RankerInputs, RankerShape, WideDeep
from tests.models.trained import RANKER, as_if_trained

NAN, INF = float("nan"), float("inf")
SAMPLE = torch.Generator().manual_seed(5)
IDS = (IdInput("user_id", 12), IdInput("item_id", 30), IdInput("brand", 9, width=3), IdInput("words", 20, slots=4))
NUMERICS = (
    fit_numeric("count", torch.randint(0, 6, (200,), generator=SAMPLE).float()),
    fit_numeric("gap", torch.cat([torch.rand(200, generator=SAMPLE) * 300, torch.tensor([NAN])]), knots=9),
)
CROSSES = (Cross(("user_id", "brand"), 64), Cross(("user_id", "item_id", "brand"), 128))
INPUTS = RankerInputs(IDS, NUMERICS, CROSSES, history=("item_id", "brand", "words"))
SHAPE = RANKER | {"width": 4, "hidden": (16, 8), "forms": FORMS, "attention": 5}
NO_HISTORY = RankerInputs(IDS, NUMERICS, CROSSES)
TREES = (
    Tree([0, 1, 0], [2.0, 40.0, 4.0], [True, False, False], [1, -1, -3], [2, -2, -4], [0.5, -1.0, 2.0, 0.25]),
    Tree([], [], [], [], [], [3.0]),
    Tree([1], [100.0], [False], [-1], [-2], [-0.5, 1.5]),
)
VARIANTS = {
    "all": (INPUTS, {}, 1),
    "tasks": (INPUTS, {}, 3),
    "wide": (NO_HISTORY, {"use_deep": False}, 1),
    "deep": (INPUTS, {"use_wide": False}, 1),
    "plain": (NO_HISTORY, {"norm": "none"}, 2),
    "batch": (INPUTS, {"norm": "batch", "forms": ("normal",)}, 1),
    "linear deep": (NO_HISTORY, {"hidden": ()}, 1),
    "ids": (RankerInputs(IDS), {}, 1),
    "numbers": (RankerInputs((), NUMERICS), {}, 1),
}
FITTED = VARIANTS | {
    "trees": (INPUTS, {"trees": TREES}, 1),
    "trees, tasks": (NO_HISTORY, {"trees": TREES, "use_wide": False}, 3),
}


def make(inputs=INPUTS, changes=None, tasks=1, seed=0):
    """A model whose every weight is random, as if trained, in evaluation mode."""
    torch.manual_seed(seed)
    changes = dict(changes or {})
    trees = changes.pop("trees", ())
    model = as_if_trained(WideDeep(inputs, RankerShape(**(SHAPE | changes)), [0.1] * tasks))
    model.add_trees(Forest(("count", "gap"), trees), 0.7)
    return model


def pairs(n, requests=2, length=5, seed=0):
    chance = torch.Generator().manual_seed(seed)

    def ids(rows, *shape):
        return torch.randint(2, rows, shape, generator=chance)

    past = torch.rand(requests, length, generator=chance) < 0.3
    return {
        "user_id": ids(12, n),
        "item_id": ids(30, n),
        "brand": ids(9, n),
        "words": ids(20, n, 4),
        "count": torch.randint(0, 6, (n,), generator=chance).float(),
        "gap": torch.rand(n, generator=chance) * 300,
        "request": torch.randint(0, requests, (n,), generator=chance),
        "history/item_id": ids(30, requests, length).masked_fill(past, 0),
        "history/brand": ids(9, requests, length).masked_fill(past, 0),
        "history/words": ids(20, requests, length, 4).masked_fill(past.unsqueeze(2), 0),
        "history/age": torch.rand(requests, length, generator=chance) * 300,
    }


def filled(features, ids=0, number=NAN):
    """Replace every id and number of pairs and histories."""
    return {
        k: v if k == "request" else torch.full_like(v, ids if v.dtype == torch.int64 else number)
        for k, v in features.items()
    }


def close(one, other, atol=1e-5):
    return one.shape == other.shape and torch.allclose(one, other, atol=atol, rtol=1e-5)


def cases():
    some = pairs(7)
    wild = {"count": torch.tensor([INF, -INF, 1e30, NAN, -5.0, 0.0, 3.0])}
    return {
        "none": pairs(0),
        "one": pairs(1, 1, 1),
        "odd": some,
        "large": pairs(1030, 9, 40),
        "missing": filled(some),
        "unseen": filled(some, ids=1, number=1e30),
        "wild": some | wild,
    }


@pytest.mark.parametrize("variant", FITTED)
@torch.no_grad()
def test_scripted_is_eager_by_value(variant, device: torch.device):
    model = make(*FITTED[variant]).to(device)
    disk = io.BytesIO()
    torch.jit.save(torch.jit.script(model), disk)
    disk.seek(0)
    scripted = torch.jit.load(disk, map_location=device)
    atol = 1e-5 if device.type == "cpu" else 1e-4
    for name, features in cases().items():
        features = {k: v.to(device) for k, v in features.items()}
        expected = model(features)
        assert expected.shape[0] == len(features["user_id"]), name
        assert expected.isfinite().all(), name
        for _ in range(3):
            assert close(scripted(features), expected, atol), name


def read(model, features):
    """Only what the model reads: an exported program takes nothing else."""
    names = [i for i in features if i in model.deep.names or i in model.wide.names or i in model.numeric.names]
    with_history = [*(f"history/{n}" for n in INPUTS.history), "history/age", "request"]
    return {n: features[n] for n in [*names, *(with_history if model.deep.use_history else [])]}


@pytest.mark.parametrize("variant", FITTED)
@pytest.mark.filterwarnings("ignore")  # of the compiler, about its own internals
@torch.no_grad()
def test_exported_is_eager_by_value(variant):
    model = make(*FITTED[variant])
    example = read(model, pairs(7, 3, 5))
    free = torch.export.Dim.DYNAMIC
    shapes = {name: {0: free, 1: free} if name.startswith("history/") else {0: free} for name in example}
    program = torch.export.export(model, (example,), dynamic_shapes=(shapes,)).module()
    for name, features in cases().items():
        if name != "none":  # a program is made for at least one pair
            assert close(program(read(model, features)), model(read(model, features))), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_unfitted_it_predicts_the_base_rate(variant):
    inputs, changes, tasks = VARIANTS[variant]
    rates = [0.02, 0.3, 0.5][:tasks]
    model = WideDeep(inputs, RankerShape(**(SHAPE | changes)), rates).eval()
    out = torch.sigmoid(model(pairs(7))).view(7, tasks)
    assert torch.allclose(out, torch.tensor(rates).expand(7, tasks), atol=1e-6)
    assert torch.allclose(model.base_rates, torch.tensor(rates))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("case", ["odd", "missing", "unseen", "wild"])
def test_gradients_are_finite_whatever_is_missing(variant, case):
    model = make(*VARIANTS[variant]).train()
    out = model(cases()[case])
    out.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert (model.bias.grad == 7).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_in_use_has_one_optimizer(variant):
    model = make(*VARIANTS[variant])
    wide, deep = ({id(p) for p in part} for part in (model.wide_parameters(), model.deep_parameters()))
    assert not wide & deep
    model.train()(pairs(7)).sum().backward()
    trained = {id(p) for p in model.parameters() if p.grad is not None and p.numel()}
    assert trained <= wide | deep


@torch.no_grad()
def test_logit_is_the_sum_of_the_parts():
    model = make(NO_HISTORY)
    features = pairs(9)
    encoded = model.encode(features)
    wide = model.wide.weights(encoded["wide/rows"], encoded["wide/bins"])
    deep = model.deep(encoded, model.numeric.deep(encoded["numeric/position"], encoded["numeric/log"]))[:, 0]
    assert torch.allclose(model(features), model.bias + wide.sum((1, 2)) + deep, atol=1e-5)
    assert wide.shape == (9, len(model.wide.columns), 1)


@torch.no_grad()
def test_encoded_once_is_encoded_as_well():
    model = make()
    features = pairs(9)
    encoded = model.encode(features)
    rows = torch.tensor([4, 0, 7])
    shared = {"history/item_id", "history/brand", "history/words", "history/age"}
    some = {k: v if k in shared else v[rows] for k, v in encoded.items()}
    assert close(model.score(some), model(features)[rows])


@pytest.mark.parametrize("name", ["user_id", "item_id", "brand", "words", "count", "gap", "history/item_id"])
@torch.no_grad()
def test_every_input_matters_also_when_it_is_missing(name):
    model, features = make(), pairs(9)
    expected = model(features)
    blank = features[name].clone()
    blank[:] = NAN if blank.dtype == torch.float32 else 0
    assert (model(features | {name: blank}) - expected).abs().max() > 1e-3


@torch.no_grad()
def test_unseen_ids_are_as_if_missing():
    model, features = make(), pairs(9)
    one, two = (model(features | {"user_id": torch.full((9,), i), "brand": torch.full((9,), i)}) for i in (0, 1))
    assert torch.equal(one, two)


@torch.no_grad()
def test_a_pair_does_not_see_the_others():
    model, features = make(), pairs(9, requests=3)
    alone = {k: v if k.startswith("history/") else v[4:5] for k, v in features.items()}
    assert close(model(alone), model(features)[4:5])
    row = int(features["request"][4])
    own = {k: v[row : row + 1] if k.startswith("history/") else v for k, v in alone.items()}
    assert close(model(own | {"request": torch.tensor([0])}), model(features)[4:5])


def test_dropout_of_ids_is_for_training_only():
    model, features = make(changes={"id_dropout": 0.5, "dropout": 0.0}), pairs(200)
    with torch.no_grad():
        assert torch.equal(model(features), model(features))
        model.train()
        assert not torch.equal(model(features), model(features))


def test_embeddings_start_from_given_vectors():
    model = make()
    table = model.deep.embeddings[1].table.weight
    before = table.detach().clone()
    vectors = torch.randn(30, 4, generator=torch.Generator().manual_seed(1))
    model.start_from("item_id", torch.tensor([0, 1, 9, 5, *[1] * 26]), vectors)
    known = vectors[[2, 3]]
    assert torch.allclose(table[[9, 5]], known * 0.1 / known.square().mean().sqrt())
    rest = [i for i in range(30) if i not in (5, 9)]
    assert torch.equal(table[rest], before[rest])

    model.start_from("item_id", torch.arange(30), torch.cat([vectors * 50, vectors], 1))
    assert table[2:].square().mean().sqrt().item() == pytest.approx(0.1, rel=1e-4)
    assert torch.equal(table[:2], before[:2])
    narrow = table.detach().clone()
    model.start_from("item_id", torch.arange(30), vectors[:, :3])
    assert not torch.equal(table[2:, :3], narrow[2:, :3])
    assert torch.equal(table[:, 3], narrow[:, 3])
    with pytest.raises(ConfigError, match=r"'item_di' has no embedding.*mean 'item_id'"):
        model.start_from("item_di", torch.tensor([2]), torch.zeros(1, 4))


@pytest.mark.parametrize(
    ("inputs", "changes", "message"),
    [
        (RankerInputs(), {}, "at least one feature"),
        (RankerInputs((IDS[0], IDS[0])), {}, "declared twice: user_id"),
        (INPUTS, {"use_wide": False, "use_deep": False}, "both false"),
        (INPUTS, {"norm": "laier"}, "'laier' is not one of.*mean 'layer'"),
        (RankerInputs(IDS, history=("item",)), {}, "'item' is not a categorical.*mean 'item_id'"),
        (RankerInputs(IDS, history=("words",)), {}, "'words' has several ids"),
    ],
)
def test_impossible_models_are_refused(inputs, changes, message):
    with pytest.raises(ConfigError, match=message):
        WideDeep(inputs, RankerShape(**(RANKER | changes)), [0.1])


def fit(inputs, features, labels, steps, base_rate=0.5, **changes):
    """Train on all rows at once; returns the model and its last loss."""
    torch.manual_seed(0)
    shape = RANKER | {"dropout": 0.0, "id_dropout": 0.0, "sparse_rows": 10**9} | changes
    model = WideDeep(inputs, RankerShape(**shape), [base_rate])
    encoded = model.encode(features)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = weighted_bce(model.score(encoded), labels)
        loss.backward()
        optimizer.step()
    return model.eval(), float(loss.detach())


def test_wide_memorises_what_a_small_deep_part_cannot():
    """Who buys what, without any system: a label for each of 900 pairs, drawn by a coin."""
    user, item = (g.flatten() for g in torch.meshgrid(torch.arange(2, 32), torch.arange(2, 32), indexing="ij"))
    labels = torch.randint(0, 2, (900,), generator=torch.Generator().manual_seed(0)).float()
    inputs = RankerInputs((IdInput("user", 32), IdInput("item", 32)), crosses=(Cross(("user", "item"), 2**14),))
    features = {"user": user, "item": item}
    _, wide = fit(inputs, features, labels, 150, use_deep=False)
    _, deep = fit(inputs, features, labels, 150, use_wide=False, width=2, hidden=(4,))
    assert wide < 0.1
    assert deep > 0.5


def test_deep_generalises_where_wide_cannot():
    """A smooth function of two numbers together; one weight a bin of each number cannot say it."""
    chance = torch.Generator().manual_seed(0)
    x = torch.rand(4000, 2, generator=chance) * 2 - 1
    labels = (x[:, 0] * x[:, 1] > 0).float()
    inputs = RankerInputs(numerics=tuple(fit_numeric(n, x[:, i]) for i, n in enumerate("ab")))
    features, probe = ({"a": x[rows, 0], "b": x[rows, 1]} for rows in (slice(0, 3000), slice(3000, None)))
    found = {}
    for name, changes in {"wide": {"use_deep": False}, "deep": {"use_wide": False, "hidden": (32,)}}.items():
        model, _ = fit(inputs, features, labels[:3000], 150, **changes)
        found[name] = float(((model(probe) > 0) == (labels[3000:] > 0)).float().mean())
    assert found["wide"] < 0.65
    assert found["deep"] > 0.95
