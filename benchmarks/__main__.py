"""``python -m benchmarks NAME|all [--quick] [--steps N] [--repeats N] --out DIR``."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path

from benchmarks.measure import Options
from benchmarks.report import Report, table
from zoracle.errors import InputError
from zoracle.storage.files import check_writable, write_json, write_text

BENCHMARKS = {
    "attack": "benchmarks.attack",
    "large-images": "benchmarks.large_images",
    "overhead": "benchmarks.overhead",
    "public-pattern": "benchmarks.public_pattern",
    "training": "benchmarks.training",
    "training-memory": "benchmarks.training_memory",
    "package": "benchmarks.package",
    "scaling": "benchmarks.scaling",
    "ranks": "benchmarks.ranks",
    "finetune": "benchmarks.finetune",
    "gpu": "benchmarks.gpu",
}
TABLE = "table.md"


def main(argv: list[str] | None = None) -> int:
    """Run benchmarks; writes a JSON file for each and one table for all. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="How fast zoracle is.")
    parser.add_argument("name", choices=[*BENCHMARKS, "all"], help="which")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--quick", action="store_true", help="the least that goes through everything: no numbers")
    parser.add_argument("--steps", type=int, default=20, help="steps of an attack in each repeat (20)")
    parser.add_argument("--repeats", type=int, default=5, help="repeats of each measurement (5)")
    asked = parser.parse_args(argv)
    if asked.steps < 2 or asked.repeats < 1:
        parser.error(f"--steps is {asked.steps} and --repeats {asked.repeats}; expected at least 2 and 1")
    try:
        check_writable(asked.out / TABLE)
    except InputError as error:
        parser.error(str(error))
    options = Options(asked.quick, 1 if asked.quick else asked.repeats, asked.steps)
    reports: list[Report] = []
    for name in BENCHMARKS if asked.name == "all" else (asked.name,):
        print(f"{name} ...", file=sys.stderr, flush=True)
        report: Report = import_module(BENCHMARKS[name]).run(options)
        if asked.quick:  # its numbers mean nothing
            report = report._replace(figures=[one._replace(at_most=None, at_least=None) for one in report.figures])
        reports.append(report)
        write_json(asked.out / f"{name}.json", report.as_json(asked.quick))
        write_text(asked.out / TABLE, table(reports))  # after each: one that is interrupted leaves what there is
    print(table(reports), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
