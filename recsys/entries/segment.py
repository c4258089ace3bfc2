"""``recsys segment``: tables in; users with their segments, the segments themselves and a report about them out."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from recsys.config.schema import Config

if TYPE_CHECKING:
    from torch import Tensor

    from recsys.data.prepared import Prepared
    from recsys.segments.model import SegmentModel


def run(cfg: Config) -> "SegmentModel":
    """Fit segments on the training window, assign them to all users and print, save and draw what they look like.

    The run folder gets ``segments.parquet`` (one row a user, as of the end of the window ``segments.as_of``),
    ``segments_report.html`` and the folder ``segments``, which assigns them to others.

    Raises:
        ConfigError: ``segments.demographics`` names no attribute of the users.
        DataError: The tables cannot be used, or an output folder cannot be written.
    """
    from rich.console import Console

    from recsys.data.prepare import prepare
    from recsys.entries.prepare import note_access
    from recsys.segments.fit import fit_on_training_window
    from recsys.segments.report import assign_all, print_segments, segment_report
    from recsys.segments.report_page import write_segments_html
    from recsys.segments.store import save_segments, write_table

    console, folder, settings = Console(), Path(cfg.run_dir), cfg.segments
    prepared = prepare(cfg.data)
    note_access(cfg, prepared, "segment")
    model = fit_on_training_window(prepared, settings, cfg.seed)
    assigned = assign_all(prepared, model)
    report = segment_report(prepared, model, assigned)
    print_segments(report, console)
    page = write_segments_html(report, folder / "segments_report.html")
    stored = save_segments(model, folder / "segments")
    users = write_table(assigned[settings.as_of], folder / "segments.parquet")
    console.print(
        f"users           {users}\nsegments        {stored}\nreport          {page}", markup=False, soft_wrap=True
    )
    return model


def segment_groups(cfg: Config, prepared: "Prepared", cut: int) -> "dict[str, Tensor]":
    """Return which users are in which segment of the kinds ``segments.slices``, as of a cut.

    The segments are those of ``recsys segment``: fitted on the training window, assigned by the events before ``cut``.

    Returns:
        ``rfm_champions`` and so on, with ``_`` for what a metric's name may not hold, to bool ``[U]``.
    """
    import torch

    from recsys.segments.fit import fit_wanted

    if not cfg.segments.slices:
        return {}
    model = fit_wanted(prepared, cfg.segments, cfg.seed, "slices")
    table = model.assign(prepared.events, prepared.users, cut)
    groups: dict[str, torch.Tensor] = {}
    for kind in model.kinds:
        for segment in table[kind].unique().sort():
            name = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{kind}_{segment}")
            inside = torch.from_numpy((table[kind] == segment).to_numpy().copy())
            groups[name] = inside | groups.get(name, torch.zeros_like(inside))
    return groups
