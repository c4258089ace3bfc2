"""What new products inherit, against plain Python: cosines of weighted attributes, and what ids add to vectors."""

import math

import pytest
import torch
from torch import Tensor, nn

from recsys.export import kin
from recsys.export.kin import inherited

KNOWN, NEW = 30, 4


class Tower(nn.Module):
    """What attributes say, what an id adds, and a last component of popularity alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.ids, self.kinds, self.tags = torch.randn(KNOWN + 2, 3), torch.randn(6, 3), torch.randn(6, 3)
        self.ids[:2] = 0.0

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        ids = features["item_id"]
        person = self.kinds[features["kind"]] + self.tags[features["tags"]].sum(1) + self.ids[ids]
        return torch.cat([person, features["popularity"][:, None] + self.ids[ids][:, :1]], 1)


def shop() -> dict[str, Tensor]:
    """30 products, the first of which has an id that the model does not know, and 4 new ones; the last is like none."""
    chance = torch.Generator().manual_seed(1)
    n = KNOWN + NEW
    ids = torch.cat([torch.tensor([1]), torch.arange(KNOWN - 1) + 2, torch.ones(NEW, dtype=torch.int64)])
    kind = torch.randint(1, 6, (n,), generator=chance)
    tags = torch.randint(0, 6, (n, 2), generator=chance)
    kind[-1], tags[-1] = 1, torch.tensor([0, 1])  # neither value is known
    return {"item_id": ids, "kind": kind, "tags": tags, "popularity": torch.rand(n, generator=chance)}


def by_hand(inputs: dict[str, Tensor], tower: Tower) -> list[list[float]]:
    def values(row: int) -> set[tuple[str, int]]:
        tags = {("tag", int(tag)) for tag in inputs["tags"][row]}
        return {pair for pair in {("kind", int(inputs["kind"][row]))} | tags if pair[1] >= 2}

    known = range(1, KNOWN)
    count = {pair: sum(pair in values(i) for i in known) for row in known for pair in values(row)}
    weight = {pair: math.log(len(known) / n) for pair, n in count.items()}

    def cosine(one: int, other: int) -> float:
        lengths = [math.sqrt(sum(weight.get(pair, 0.0) ** 2 for pair in values(row))) for row in (one, other)]
        shared = sum(weight[pair] ** 2 for pair in values(one) & values(other) if pair in weight)
        return shared / (lengths[0] * lengths[1]) if shared else 0.0

    out = []
    for row in range(KNOWN, KNOWN + NEW):
        kin_ = sorted(((cosine(row, other), -other) for other in known), reverse=True)[: kin.KIN]
        total = sum(similarity for similarity, _ in kin_) or 1.0
        adds = [
            sum(similarity / total * float(tower.ids[inputs["item_id"][-other]][d]) for similarity, other in kin_)
            for d in range(3)
        ]
        out.append([*adds, 0.0])
    return out


@pytest.mark.parametrize("cells", [1, 70, 2**23])
def test_the_mean_of_what_the_ids_of_the_most_similar_add(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kin, "CELLS", cells)
    monkeypatch.setattr(kin, "KIN", 5)
    inputs, tower = shop(), Tower()
    users = torch.cat([torch.randn(7, 3), torch.full((7, 1), 0.2)], 1)  # all agree about popularity
    vectors = tower({name: column[:KNOWN] for name, column in inputs.items()})
    found = inherited(tower, inputs, vectors, users)
    torch.testing.assert_close(found, torch.tensor(by_hand(inputs, tower)))
    assert found[:3].abs().sum(1).min() > 0
    assert found[3].abs().sum() == 0


def test_a_model_without_ids_has_nothing_to_inherit() -> None:
    inputs, tower = shop(), Tower()
    inputs["item_id"] = torch.ones_like(inputs["item_id"])
    vectors = tower({name: column[:KNOWN] for name, column in inputs.items()})
    assert inherited(tower, inputs, vectors, torch.randn(7, 4)).equal(torch.zeros(NEW, 4))
