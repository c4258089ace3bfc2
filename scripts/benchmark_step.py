"""Takes our training step apart: how long each part takes, and how long its matrix products alone would."""

import itertools
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from benchmark_train import WARM_UP, Bench, Meter, now, spread, train
from torch.utils.flop_counter import FlopCounterMode

import recsys.training.task as task_module
from recsys.data.asof import ItemClock
from recsys.data.tables import FeatureTables
from recsys.models.two_tower import TwoTower
from recsys.training.task import RetrieverTask, retrieval_loss

PARTS = ("gather", "towers", "loss", "backward", "optimizer")


class Stopwatch:
    """Charges the time since it was last asked to the part that is running; parts nest."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._device, self._part, self._last = device, "other", now(device)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Charge what runs inside to ``name``."""
        outer = self._part
        self._switch(name)
        yield
        self._switch(outer)

    def around(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """Return the function, charged to ``name``."""

        def timed(*arguments: Any) -> Any:
            with self.part(name):
                return function(*arguments)

        return timed

    def _switch(self, name: str) -> None:
        moment = now(self._device)
        self.seconds[self._part] += moment - self._last
        self._part, self._last = name, moment


def step_parts(bench: Bench, steps: int) -> dict[str, float]:
    """Take our training steps by hand, without a Trainer; returns mean milliseconds a step of each part."""
    model, optimizer = _by_hand(bench)
    inside: list[tuple[Any, str, str]]
    inside = [(FeatureTables, "items", "gather"), (FeatureTables, "moments", "gather"), (ItemClock, "state", "gather")]
    inside += [(task_module, "inclusion_log_probability", "loss"), (task_module, "sampled_softmax", "loss")]
    endless = itertools.chain.from_iterable(itertools.repeat(bench.batches))
    watch = Stopwatch(bench.device)
    with ExitStack() as stack:
        for owner, name, part in inside:
            stack.enter_context(patch.object(owner, name, watch.around(getattr(owner, name), part)))
        for step in range(WARM_UP + steps):
            if step == WARM_UP:
                watch.seconds.clear()
            with watch.part("gather"):
                batch = next(endless)
            with watch.part("towers"):
                loss = retrieval_loss(model, batch, bench.tables, bench.batches)
            with watch.part("backward"):
                loss.backward()
            with watch.part("optimizer"):
                optimizer.step()
                optimizer.zero_grad()
    return {part: 1e3 * watch.seconds[part] / steps for part in PARTS}


def step_flops(bench: Bench, steps: int) -> float:
    """Count the floating point operations of the matrix products of those steps, forward and backward; mean a step."""
    model, _ = _by_hand(bench)
    endless = itertools.chain.from_iterable(itertools.repeat(bench.batches))
    counter = FlopCounterMode(display=False)
    for batch in itertools.islice(endless, WARM_UP, WARM_UP + steps):
        with counter:
            retrieval_loss(model, batch, bench.tables, bench.batches).backward()
    return counter.get_total_flops() / steps


def matmul_rate(device: torch.device, size: int, repetitions: int = 3) -> float:
    """Return floating point operations per second of a float32 product of two large matrices; the best time counts."""
    a, b = torch.rand(size, size, device=device), torch.rand(size, size, device=device)
    a @ b
    times = []
    for _ in range(repetitions):
        start = now(device)
        a @ b
        times.append(now(device) - start)
    return 2.0 * size**3 / min(times)


def anatomy(bench: Bench, steps: int, repetitions: int, matmul_size: int) -> dict[str, Any]:
    """Where the time of our step goes: by hand and through Trainer.fit in turns, the same steps; medians."""
    by_hand, by_trainer = [], []
    for _ in range(repetitions):
        by_hand.append(step_parts(bench, steps))
        by_trainer.append(1e3 * train(bench.ours(), Meter(WARM_UP, steps=steps), bench.device).seconds / steps)
    parts = {part: statistics.median(run[part] for run in by_hand) for part in PARTS}
    step = statistics.median(by_trainer)
    flops, rate = step_flops(bench, steps), matmul_rate(bench.device, matmul_size)
    return {
        "milliseconds": parts | {"loop": step - sum(parts.values())},
        "step_milliseconds": spread(by_trainer),
        "matmul_flops": flops,
        "matmul_flops_per_second": rate,
        "matmul_milliseconds": 1e3 * flops / rate,
        "matmul_share": 1e3 * flops / rate / step,
    }


def _by_hand(bench: Bench) -> tuple[TwoTower, torch.optim.Optimizer]:
    task = bench.ours().task
    assert isinstance(task, RetrieverTask)
    task.model.to(bench.device).train()
    return task.model, task.configure_optimizers()["optimizer"]
