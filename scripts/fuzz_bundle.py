"""Sends random raw requests through every form of a bundle's models, and counts where they do not say the same.

::

    python scripts/fuzz_bundle.py bundle=FOLDER [inputs=100000] [seed=0] [batch=512] [pairs=4]

Requests go the bundle's own way from raw ids, histories, times and contexts to tensors. A bundle has no eager model;
its TorchScript runs the same operations one by one, so it is what the others, ``torch.export`` and ONNX, are compared
with: three executions that share no code but torch's kernels, and onnxruntime not even these. Exit code 1 if a number,
an item or the order of two items differs by more than the tolerance of the form (recsys/export/parity.py).
"""

import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from fuzz_requests import Source
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from recsys.bundle.parts import read_tower
from recsys.bundle.reader import Bundle
from recsys.errors import RecsysError, did_you_mean
from recsys.export.onnx_form import load_onnx, missing_libraries
from recsys.export.parity import TOP_K, Compiled, Inputs, tolerance_of
from recsys.export.prove import FORMS, STEM

POOL = 1024
"""Items that each batch of users ranks, other ones each time; users that rank each batch of items: :data:`RANKERS`."""
RANKERS = 64
LONG_EVERY, LONG_SHARE = 8, 8
"""One batch in so many is of known users and of long histories, and this part of a batch: they take much longer."""
Models = Mapping[str, Mapping[str, Compiled]]
"""Model -> form -> how it is run; the first form of each is what the others are compared with."""


@dataclass(frozen=True)
class Settings:
    """What is asked for; ``pairs`` are candidates of each request that the ranker scores."""

    bundle: str = ""
    inputs: int = 100_000
    seed: int = 0
    batch: int = 512
    pairs: int = 4


@dataclass
class Count:
    """Of one form of a model.

    Attributes:
        inputs: Rows that it was asked.
        rankings: That were made with them.
        numbers: Rows with a number that is off.
        ids: Rankings with an item among the best that is not as good as those of the reference.
        order: Rankings with two of the best the wrong way round.
        swaps: Rankings that are not the same, though within the tolerance.
        difference: Largest, relative to the largest number of its row.
    """

    inputs: int = 0
    rankings: int = 0
    numbers: int = 0
    ids: int = 0
    order: int = 0
    swaps: int = 0
    difference: float = 0.0

    @property
    def off(self) -> int:
        """Whatever is no rounding."""
        return self.numbers + self.ids + self.order


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz a bundle, print a table, and return the exit code."""
    try:
        settings = parsed(sys.argv[1:] if arguments is None else arguments)
        bundle = Bundle.load(settings.bundle)
    except RecsysError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    start = time.perf_counter()
    counts = fuzz(bundle, forms(bundle.folder), settings)
    show(counts, settings, time.perf_counter() - start)
    return int(any(count.off for count in counts.values()))


def parsed(arguments: Sequence[str]) -> Settings:
    """Read ``key=value`` arguments."""
    known = {field.name: field.type for field in fields(Settings)}
    given: dict[str, str | int] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if key not in known or not equals:
            raise RecsysError(f"'{argument}' is none of {'=, '.join(known)}=." + did_you_mean(key, known))
        if known[key] is int and (not value.isdigit() or (int(value) < 1 and key != "seed")):
            raise RecsysError(f"{key}={value}: a whole number of at least 1 is needed.")
        given[key] = int(value) if known[key] is int else value
    if "bundle" not in given:
        raise RecsysError("bundle=FOLDER is missing.")
    return Settings(**given)  # type: ignore[arg-type]


def forms(folder: Path) -> Models:
    """Load every form of every model of a bundle, TorchScript first."""
    found: dict[str, dict[str, Compiled]] = {}
    for side, stem in STEM.items():
        for suffix, form in FORMS.items():
            path = folder / f"{stem}{suffix}"
            if not path.is_file() or (form == "onnx" and missing_libraries()):
                continue
            found.setdefault(side, {})[form] = load(form, path)
    return found


def load(form: str, path: Path) -> Compiled:
    """Return a form of a model as a function of its inputs."""
    if form == "onnx":
        return load_onnx(path)
    if form == "torchscript":
        script: Compiled = read_tower(path)
        return script
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler, about its own internals
        program: Compiled = torch.export.load(path).module()
    return program


def fuzz(bundle: Bundle, models: Models, settings: Settings) -> dict[tuple[str, str], Count]:
    """Run all forms on random inputs and count what differs, by model and form."""
    source = Source(bundle, settings.seed)
    counts = {(side, form): Count() for side, by_form in models.items() for form in list(by_form)[1:]}

    def ask(side: str, inputs: Inputs, others: Tensor) -> Tensor:
        (_, reference), *rest = models[side].items()
        expected = reference(inputs)
        for form, model in rest:
            add(counts[side, form], side, expected, model(inputs), others, tolerance_of(form).limit)
        return expected

    with torch.inference_mode():
        for n, long in track(batches(settings), "fuzzing", transient=True):
            asked = source.requests(n, long)
            read = bundle.user_inputs(asked.users, asked.histories, asked.as_of, asked.context)
            vectors = ask("user", read, source.some(bundle.item_vectors, POOL))
            ask("item", source.items(n), source.some(bundle.user_vectors, RANKERS))
            if bundle.ranking is not None:
                ask("ranker", source.pairs(asked, vectors, settings.pairs), torch.tensor(settings.pairs))
    return counts


def batches(settings: Settings) -> list[tuple[int, bool]]:
    """Return the size of each batch, and whether it is of long histories; together as many as are asked for."""
    out: list[tuple[int, bool]] = []
    left = settings.inputs
    while left:
        long = len(out) % LONG_EVERY == 0
        size = min(max(settings.batch // LONG_SHARE, 1) if long else settings.batch, left)
        out.append((size, long))
        left -= size
    return out


def add(count: Count, side: str, expected: Tensor, found: Tensor, others: Tensor, tolerance: float) -> None:
    """Count what differs in one batch.

    Args:
        count: Of the form.
        side: ``user``, ``item`` or ``ranker``.
        expected: What the reference gives, ``[B, D]``.
        found: What the form gives.
        others: Vectors of the other side; of a ranker the number of pairs of each request.
        tolerance: Of the form.
    """
    count.inputs += len(expected)
    scale = expected.abs().amax(1).clamp(min=1e-6)
    difference = (found - expected).abs().amax(1) / scale
    count.numbers += int((~(difference <= tolerance)).sum())
    count.difference = max(count.difference, float(difference.max()))
    mine, other = (scores(side, output, others) for output in (expected, found))
    slack = 2 * tolerance * mine.abs().amax(1, keepdim=True)
    k = min(TOP_K, mine.size(1))
    best, places = mine.topk(k), other.topk(k).indices
    taken = mine.gather(1, places)  # what the reference says of those that the form found, in its order
    count.rankings += len(mine)
    count.ids += int((~(taken >= best.values[:, -1:] - slack)).any(1).sum())
    count.order += int((taken.diff(dim=1) > slack).any(1).sum())
    count.swaps += int((places != best.indices).any(1).sum())


def scores(side: str, output: Tensor, others: Tensor) -> Tensor:
    """Return the scores of rankings, ``[Q, C]``."""
    if side == "ranker":
        return output[:, 0].view(-1, int(others))
    return output @ others.T if side == "user" else others @ output.T


def show(counts: Mapping[tuple[str, str], Count], settings: Settings, seconds: float) -> None:
    """Print what was counted."""
    title = f"{settings.bundle}: {settings.inputs:,} requests in {seconds:.0f} s"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    for column in ("model", "form", "inputs", "lists", "numbers", "ids", "order", "swaps", "largest", "allowed"):
        table.add_column(column, justify="left" if column in ("model", "form") else "right")
    for (side, form), c in counts.items():
        numbers = (f"{n:,}" for n in (c.inputs, c.rankings, c.numbers, c.ids, c.order, c.swaps))
        largest = (f"{c.difference:.1e}", f"{tolerance_of(form).limit:.0e}")
        table.add_row(side, form, *numbers, *largest, style="bold red" if c.off else None)
    console = Console()
    console.print(table)
    console.print("numbers, ids and order: how many are off; swaps: lists that differ within what is allowed")
    if not counts:
        console.print("nothing to compare: the bundle has one form of each model")


if __name__ == "__main__":
    sys.exit(main())
