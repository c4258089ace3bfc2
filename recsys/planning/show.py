"""The plan on the console."""

from typing import TYPE_CHECKING

from recsys.planning.plan import Plan

if TYPE_CHECKING:
    from rich.console import Console


def show(plan: Plan, console: "Console") -> None:
    """Print the sections as one table, then what is worth knowing."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="recsys plan", show_header=False, title_justify="left")
    for style in ("bold", None, None):
        table.add_column(style=style, overflow="fold")
    for title, rows in plan.sections.items():
        for number, (name, text) in enumerate(rows):
            last = number + 1 == len(rows)
            table.add_row("" if number else title, Text(name), Text(text), end_section=last)
    console.print(table)
    for note in plan.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)


def bytes_text(amount: float) -> str:
    """Return an amount of memory as a person reads it, such as ``1.4 GiB``."""
    for unit in ("B", "KiB", "MiB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 10 else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:,.1f} GiB"


def time_text(seconds: float) -> str:
    """Return a duration as a person reads it, such as ``3.2 min``."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    for unit, length in (("s", 1), ("min", 60)):
        if seconds < 120 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds / 3600:,.1f} h"
