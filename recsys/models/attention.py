"""What in a user's history has to do with the candidate (Deep Interest Network, Zhou et al. 2018)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.models.history import AGE_BUCKETS, age_bucket


class CandidateAttention(nn.Module):
    """The events of a history, each weighted by how it goes with the candidate, summed.

    The weight comes from a small network over candidate, event, their product and the event's age. As in the paper
    weights are not normalised: their sum says how much of the history is about the candidate, and is an output too.

    Histories are held once a request. What depends on the event alone is computed once a request as well; a pair
    costs one gather of the history and one small product.

    Args:
        width: D, of candidates and events.
        hidden: H, of the network.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.of_candidate = nn.Linear(width, hidden)
        self.of_event = nn.Linear(width, hidden, bias=False)
        self.of_product = nn.Parameter(torch.randn(width, hidden) / width**0.5)
        self.of_age = nn.Parameter(torch.zeros(AGE_BUCKETS, hidden))
        self.activation = nn.PReLU()
        self.weight = nn.Linear(hidden, 1)

    def forward(self, candidate: Tensor, history: Tensor, age: Tensor, visible: Tensor, request: Tensor) -> Tensor:
        """Read histories for P pairs of R requests.

        Args:
            candidate: ``[P, D]``.
            history: ``[R, L, D]``.
            age: Days from event to request, float32 ``[R, L]``; anything where there is no event.
            visible: Where there is an event, bool ``[R, L]``.
            request: Request of each pair, int64 ``[P]`` in [0, R).

        Returns:
            ``[P, D + 1]``: the weighted sum, and the sum of the weights; zero without events.
        """
        of_event = self.of_event(history) + F.embedding(age_bucket(torch.nan_to_num(age, 0.0)), self.of_age)
        events = history[request]  # [P, L, D]
        of_product = torch.bmm(events, candidate.unsqueeze(2) * self.of_product)  # [P, L, H]
        hidden = self.of_candidate(candidate).unsqueeze(1) + of_event[request] + of_product
        weights = self.weight(self.activation(hidden)).squeeze(2) * visible[request]
        pooled = torch.bmm(weights.unsqueeze(1), events).squeeze(1)
        return torch.cat([pooled, weights.sum(1, keepdim=True)], 1)
