"""The model card: what a person reads before trusting a bundle."""

from collections.abc import Mapping
from typing import Any

from recsys.bundle.format import Manifest


def model_card(manifest: Manifest, parity: Mapping[str, Any], name: str) -> str:
    """Return the card as Markdown."""
    facts = {
        "Answers": f"the best of {manifest.n_items:,} items for each of {manifest.n_users:,} known users, and for "
        "unknown ones from what they did since",
        "Fitted on": f"{manifest.fitted_on}, data `{manifest.data_fingerprint[:12]}`",
        "Knows events before": manifest.cut,
        "Vectors": f"{manifest.width} float32 numbers, compared by inner product",
        "History": f"the last {manifest.history_length} events",
        "Index": f"{manifest.index['kind']}, recall@{manifest.index['measured_k']} {manifest.index['recall']:.4f} "
        "against exact search",
        "Parity": f"largest difference between the compiled and the eager towers {parity['max_difference']:.1e} "
        f"over {len(parity['cases'])} cases",
    }
    what = "A two-tower retriever: a user's vector and an item's vector, whose inner product ranks."
    score = "A score orders the items of one user; it is no probability and says nothing across bundles."
    if manifest.ranker:
        what = (
            "A two-tower retriever finds candidates, beside the user's own history and what is popular; a Wide & Deep "
        )
        what += "ranker orders them."
        score = "A score is the probability that the user takes the item in the days that the ranker was trained for, "
        score += "given that they take anything."
    lines = [f"# {name}", "", what]
    lines += ["", *(f"- **{key}**: {value}" for key, value in facts.items())]
    lines += ["", "## Windows", "", "| window | begins |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in manifest.windows.items()]
    if manifest.metrics:
        lines += ["", "## Measured", "", "| metric | value |", "|---|---|"]
        lines += [f"| {key} | {value:.4f} |" for key, value in sorted(manifest.metrics.items())]
    lines += ["", "## Reads", "", "| feature | side | kind |", "|---|---|---|"]
    lines += [f"| {f['name']} | {f['side']} | {f['kind']} |" for f in manifest.features]
    lines += [
        "", "## Limits", "",
        "- It repeats what the log rewards: popular items come up more often than rare ones.",
        "- Items and users that came after the date above are known by their attributes at most.",
        f"- {score}",
        "",
    ]  # fmt: skip
    return "\n".join(lines)
