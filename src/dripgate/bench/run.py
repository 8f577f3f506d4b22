"""Making the rows that are not there yet, on every core, each added to the file as it finishes."""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from queue import Empty
from typing import Any

from dripgate.bench.plan import Cell, Plan, plan_for, table
from dripgate.bench.protocol import Job, device, open_data, run_job
from dripgate.bench.rows import Row, append, key_of, mend
from dripgate.errors import DripgateError, UserError
from dripgate.progress import Bar, no_bar

FILE = "bench.jsonl"
Log = Callable[[str], None]
Cells = Callable[[str], Sequence[Cell]]
Plans = Callable[[str], Plan]


def bench(
    names: Sequence[str],
    out: Path,
    *,
    seeds: Iterable[int],
    plans: Plans = plan_for,
    cells: Cells = table,
    workers: int | None = None,
    log: Log | None = None,
    bar: Bar = no_bar,
) -> list[Row]:
    """Make every row that ``out`` does not hold yet and return all rows that were asked for.

    plans, cells: how a data set is used, and its rows. workers: processes, by default one per
    core, or one where there is a GPU. log: is told of every finished row. bar: counts them.

    Raises DataError or UserError for what cannot be used; rows that are finished stay.
    """
    log = log or (lambda _: None)
    path, seeds = out / FILE, list(seeds)
    rows = mend(path, Row)
    _one_plan(names, plans, rows, path)
    todo = _jobs(names, seeds, plans, cells, {row.key for row in rows})
    for name in dict.fromkeys(job.data for job in todo):
        log(f"reading {name}")
        open_data(name, plans(name))  # decoded once, before several want it
    total = sum(len(job.cells) for job in todo)
    log(f"{total} rows to make; {path} holds {len(rows)}")
    with bar(total, "rows") as told:
        for number, row in enumerate(made(todo, workers), 1):
            append(path, row)
            rows.append(row)
            log(f"[{number}/{total}] {described(row)}")
            told(number)
    asked = {
        key_of(name, plans(name).id, seed, *cell)
        for name in names for seed in seeds for cell in cells(name)
    }  # fmt: skip
    return [row for row in rows if row.key in asked]


def made(jobs: Sequence[Job], workers: int | None = None) -> Iterator[Row]:
    """The jobs' rows, as they come. workers: as for ``bench``."""
    workers = workers or (1 if device().type == "cuda" else os.cpu_count() or 1)
    if workers > 1:
        return _beside(jobs, workers)
    return (row for job in jobs for row in run_job(job))


def _one_plan(names: Sequence[str], plans: Plans, rows: Sequence[Row], path: Path) -> None:
    """A table whose rows were trained differently would compare plans, not rules."""
    for name in names:
        if any(row.data == name and row.plan != plans(name).id for row in rows):
            raise UserError(
                f"{path} holds rows of {name} by another plan (--preset, --steps, --dtype, or "
                "that of another dripgate); choose another folder for --out"
            )


def _jobs(
    names: Sequence[str], seeds: Sequence[int], plans: Plans, cells: Cells,
    done: set[tuple[object, ...]],
) -> list[Job]:  # fmt: skip
    """What is left to do, seed by seed: rows of one data set and seed together."""
    found = []
    for seed in seeds:
        for name in names:
            plan = plans(name)
            left = [c for c in cells(name) if key_of(name, plan.id, seed, *c) not in done]
            if left:
                found.append(Job(name, plan, seed, left))
    return found


def _beside(todo: Sequence[Job], workers: int) -> Iterator[Row]:
    """Rows of several processes, as they come."""
    context = multiprocessing.get_context("spawn")
    tasks: Any = context.Queue()
    results: Any = context.Queue()
    for job in todo:
        tasks.put(job)
    for _ in range(workers):
        tasks.put(None)
    # Daemons: however this process ends, they end.
    processes = [
        context.Process(target=_work, args=(tasks, results), daemon=True) for _ in range(workers)
    ]
    for process in processes:
        process.start()
    try:
        yield from _collected(results, processes)
    finally:
        for process in processes:
            process.terminate()


def _collected(results: Any, processes: Sequence[Any]) -> Iterator[Row]:
    while True:
        running = [process for process in processes if process.exitcode is None]
        try:
            result = results.get(timeout=0.5)
        except Empty:
            if failed := [process for process in processes if process.exitcode]:
                raise DripgateError(
                    f"a process of the benchmark ended with code {failed[0].exitcode} (out of "
                    "memory?); run the same command again to go on, with --workers 1"
                ) from None
            if not running:
                return
            continue
        if isinstance(result, DripgateError):
            raise result
        yield result


def _work(tasks: Any, results: Any) -> None:
    while (job := tasks.get()) is not None:
        try:
            for row in run_job(job):
                results.put(row)
        except DripgateError as error:
            results.put(error)
            return


def described(row: Row) -> str:
    """In a line."""
    target = row.keep_target if row.keep_target == "auto" else f"{row.keep_target:.0%}"
    alone = ", alone" if row.protocol == "alone" else ""
    return (
        f"{row.data} {row.condition}{alone} seed {row.seed} {row.rule} {target}: kept "
        f"{row.kept:.1%}, accuracy {row.accuracy:.1%}, {row.seconds:.0f} s"
    )
