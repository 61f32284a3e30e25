"""`stages.serving.predict` on many rows: the test file of a set, again and again.

    python benchmarks/predict.py --dataset airline --rows 10000 --rows 1000000

Needs the trained pipeline of the set, and a test file as CSV. Prints seconds, rows a second and the
peak memory of all processes for each number of rows: the memory must not grow with them.
"""

import sys
import tempfile
from pathlib import Path

import cyclopts
import pandas as pd
from speed import measure, row


def write_rows(source: Path, rows: int, path: Path) -> None:
    """The rows of `source`, repeated until there are `rows`."""
    head, body = source.read_text("utf-8").split("\n", 1)
    n = len(pd.read_csv(source))
    with path.open("w", encoding="utf-8") as file:
        file.write(head + "\n")
        for _ in range(rows // n):
            file.write(body)
    pd.read_csv(source, nrows=rows % n, dtype=str, keep_default_na=False).to_csv(
        path, mode="a", index=False, header=False, lineterminator="\n"
    )


def main(*, dataset: str, rows: list[int], test: str = "test.csv") -> None:
    """Print the table."""
    print(row(["rows", "wall s", "rows a second", "peak GB"]))
    print(row(["---:"] * 4))
    for n in rows:
        with tempfile.TemporaryDirectory() as name:
            many, out = Path(name, "many.csv"), Path(name, "out.csv")
            write_rows(Path("data/raw", dataset, test), n, many)
            command = f"{sys.executable} -m stages.serving.predict --dataset {dataset} {many} {out}"
            spent = measure(command, Path.cwd())
            found = sum(len(part) for part in pd.read_csv(out, usecols=["id"], chunksize=100_000))
        if found != n:
            sys.exit(f"{dataset}: got {found} predictions; expected {n}")
        speed = f"{n / spent.wall:.0f}"
        print(row([f"{n:,}", f"{spent.wall:.1f}", speed, f"{spent.gigabytes:.2f}"]))


if __name__ == "__main__":
    cyclopts.run(main)
