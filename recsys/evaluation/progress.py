"""A progress bar for evaluations, one line a model."""

from collections.abc import Iterator
from contextlib import contextmanager

from recsys.evaluation.evaluate import Progress


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Show a bar on the console while the context lasts; hand the yielded callback to ``evaluate``."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = TextColumn("{task.description:<20}"), BarColumn(), MofNCompleteColumn(), TextColumn("users")
    with Bars(*columns, TimeElapsedColumn()) as bars:
        tasks = {}

        def tell(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done)

        yield tell
