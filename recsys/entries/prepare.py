"""``recsys prepare``: tables in; a prepared data set and a report about it out."""

from pathlib import Path
from typing import TYPE_CHECKING

from recsys.config.schema import Config, PrepareConfig

if TYPE_CHECKING:
    from recsys.data.prepared import Prepared


def run(cfg: PrepareConfig) -> "Prepared | None":
    """Prepare the data (or reuse it), print the report and write ``data_report.html`` into the run folder.

    The report has a section with what :func:`~recsys.audit.prepared.audit_tables` finds; ``recsys audit`` finds more.
    With ``partition`` one step of preparing in partitions is done, and the last one reports.

    Raises:
        DataError: The tables cannot be used, or an output folder cannot be written.
    """
    from rich.console import Console
    from rich.markup import escape

    from recsys.audit.findings import errors
    from recsys.audit.prepared import audit_tables
    from recsys.audit.sections import leak_section
    from recsys.data.prepare import prepare, prepare_step
    from recsys.data.report import data_report, print_summary
    from recsys.data.report_page import write_html

    console = Console()
    prepared = prepare(cfg.data) if cfg.partition is None else prepare_step(cfg.data, cfg.partition)
    if prepared is None:
        return None
    note_access(cfg, prepared, "prepare")
    report = data_report(prepared)
    print_summary(report, console)
    findings = audit_tables(prepared)
    for leak in errors(findings):
        console.print(f"[bold red]leak[/bold red] {escape(f'{leak.leak}: {leak.place}: {leak.evidence}')}")
    page = write_html(report, Path(cfg.run_dir, "data_report.html"), [leak_section(findings)])
    console.print(f"prepared data  {prepared.path}\ndata report    {page}", markup=False, soft_wrap=True)
    return prepared


def note_access(cfg: Config, prepared: "Prepared", verb: str) -> None:
    """Append a line to the access log, where one is configured: who reads whose data, and for what.

    Raises:
        DataError: The log cannot be written.
    """
    from recsys.privacy.access_log import log_access

    privacy = cfg.data.privacy
    if privacy.access_log is not None:
        columns, users = prepared.report["columns"], len(prepared.users)
        log_access(privacy.access_log, verb, columns=columns, users=users, purpose=privacy.purpose, run=cfg.run_dir)
