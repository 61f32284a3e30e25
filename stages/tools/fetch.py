"""Fetch a public dataset into data/raw/<dataset>/, or a model into backbones/. A tool, no stage.

From the Hugging Face hub by its own library, from Kaggle by its own client (`pip install kagglehub`
and an account), at a pinned revision; each file's SHA-256 is checked before it is used. Beside the
raw files lies `SOURCE.json`: where they come from, the licence, the checksums. Where a source
labels its test part, the labels go to `test_labels.csv`, which no stage reads. Without a network
the command says what to download where; `--downloads` takes a folder with these files.

    verdict fetch dbpedia14
    verdict fetch --model microsoft/deberta-v3-base@<commit>
"""

import csv
import hashlib
import json
import logging
import shutil
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

from stages.core.errors import InputError
from stages.core.tables import atomic, write_json
from stages.runtime.cli import run
from stages.tools.convert import convert

log = logging.getLogger("verdict")

TEST_SHARE = 5  # one text in five is a test text where a source has no test part

# Writes the raw files into a folder from the downloaded ones, by their name without its folder.
Convert: TypeAlias = Callable[[Mapping[str, Path], Path], None]


@dataclass(frozen=True)
class Source:
    """Where a dataset comes from; `files` are paths there with their SHA-256 (None: unknown)."""

    host: str  # "hub": Hugging Face; "kaggle": a dataset; "competition": of Kaggle
    name: str
    revision: str
    licence: str
    files: Mapping[str, str | None]
    convert: Convert

    @property
    def page(self) -> str:
        """Where a person finds the files."""
        return {
            "hub": f"https://huggingface.co/datasets/{self.name}/tree/{self.revision}",
            "kaggle": f"https://www.kaggle.com/datasets/{self.name}/versions/{self.revision}",
            "competition": f"https://www.kaggle.com/competitions/{self.name}/data",
        }[self.host]


def goemotions(files: Mapping[str, Path], raw: Path) -> None:
    """Three Parquet parts of the official split: text, class numbers, id."""
    import pyarrow.parquet as pq

    for part, name in {"train": "train", "validation": "dev", "test": "test"}.items():
        table = pq.read_table(files[f"{part}-00000-of-00001.parquet"])
        labels = [",".join(map(str, row)) for row in table["labels"].to_pylist()]
        rows = zip(table["text"].to_pylist(), labels, table["id"].to_pylist(), strict=True)
        if name == "test":
            write_rows(raw / "test.tsv", [], ((row[0], row[2]) for row in rows))
            write_test_labels(raw, zip(table["id"].to_pylist(), labels, strict=True))
        else:
            write_rows(raw / f"{name}.tsv", [], rows)
    (raw / "emotions.txt").write_text("\n".join(class_names(table, "labels")) + "\n", "utf-8")


def dbpedia14(files: Mapping[str, Path], raw: Path) -> None:
    """Two Parquet parts: title, content and the class number from 0, written as from 1."""
    import pyarrow.parquet as pq

    for part, start in (("train", "tr"), ("test", "te")):
        table = pq.read_table(files[f"{part}-00000-of-00001.parquet"])
        ids = [f"{start}{at:06d}" for at in range(len(table))]
        classes = [number + 1 for number in table["label"].to_pylist()]
        texts = (table["title"].to_pylist(), table["content"].to_pylist())
        if part == "train":
            rows = zip(ids, classes, *texts, strict=True)
            write_rows(raw / "train.csv", ["id", "class", "title", "content"], rows)
        else:
            write_rows(raw / "test.csv", ["id", "title", "content"], zip(ids, *texts, strict=True))
            write_test_labels(raw, zip(ids, classes, strict=True))
    (raw / "classes.txt").write_text("\n".join(class_names(table, "label")) + "\n", "utf-8")


def airline(files: Mapping[str, Path], raw: Path) -> None:
    """One CSV of tweets; the same text stands there more than once."""
    with files["Tweets.csv"].open(encoding="utf-8", newline="") as file:
        rows = [(row["text"], row["airline_sentiment"]) for row in csv.DictReader(file)]
    write_parts(raw, rows, "a")


def phrasebank(files: Mapping[str, Path], raw: Path) -> None:
    """The sentences on which at least half of the annotators agree, `sentence@label` a line."""
    with zipfile.ZipFile(files["FinancialPhraseBank-v1.0.zip"]) as archive:
        content = archive.read("FinancialPhraseBank-v1.0/Sentences_50Agree.txt")
    lines = [line.rpartition("@") for line in content.decode("latin-1").splitlines()]
    write_parts(raw, [(text, label.strip()) for text, at, label in lines if at], "p")


def competition(files: Mapping[str, Path], raw: Path) -> None:
    """The competition's files as they are."""
    for name, path in files.items():
        shutil.copyfile(path, raw / name)


GOEMOTIONS = Source(
    "hub", "google-research-datasets/go_emotions", "add492243ff905527e67aeb8b80c082af02207c3",
    "Apache-2.0",
    {
        "simplified/train-00000-of-00001.parquet":
            "b7d74279616ae7c9b8374ab62ea9f9d6504d36a577bb17f745d720dc2b0d4e76",
        "simplified/validation-00000-of-00001.parquet":
            "d46ad5633c4fa41829d22d549743a7bf858d94129536a02af7280c281db5e63a",
        "simplified/test-00000-of-00001.parquet":
            "fd0953e535ba2569edc6a1daaa1133f8e4b9071691d540c9bab812fda132bc26",
    },
    goemotions,
)  # fmt: skip
SOURCES = {
    "goemotions": GOEMOTIONS,
    "goemotions_single": GOEMOTIONS,
    "dbpedia14": Source(
        "hub", "fancyzhx/dbpedia_14", "9abd46cf7fc8b4c64290f26993c540b92aa145ac", "CC BY-SA 3.0",
        {
            "dbpedia_14/train-00000-of-00001.parquet":
                "0640e4664a99cc94c47db1d7b2e01c14455d5bbecb8183ad1f93bde59f3f28ee",
            "dbpedia_14/test-00000-of-00001.parquet":
                "05fed41640e97f93ffd442757f6a84170348cf0c7500ecbda9e95ddcd928c631",
        },
        dbpedia14,
    ),
    "phrasebank": Source(
        "hub", "takala/financial_phrasebank", "598b6aad98f7c8d67be161b12a4b5f2497e07edd",
        "CC BY-NC-SA 3.0: no commercial use",
        {
            "data/FinancialPhraseBank-v1.0.zip":
                "0e1a06c4900fdae46091d031068601e3773ba067c7cecb5b0da1dcba5ce989a6",
        },
        phrasebank,
    ),
    "airline": Source(
        "kaggle", "crowdflower/twitter-airline-sentiment", "4",
        "CC BY-NC-SA 4.0: no commercial use",
        {"Tweets.csv": "ea94b23f41892b290dec3330bb8cf9cb6b8bc669eaae5f3a84c40f7b0de8f15e"},
        airline,
    ),
    "arena": Source(
        "competition", "llm-classification-finetuning", "latest",
        "the rules of the competition, which you accept on its page",
        {"train.csv": None, "test.csv": None, "sample_submission.csv": None},
        competition,
    ),
}  # fmt: skip


def class_names(table: Any, column: str) -> list[str]:
    """The names of the classes of a column, as the hub's `datasets` stores them in a schema."""
    feature = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"][column]
    return list(feature.get("feature", feature)["names"])


def write_rows(path: Path, header: list[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write CSV, or TSV by suffix; without a header where that is empty."""
    delimiter = "\t" if path.suffix == ".tsv" else ","
    with path.open("w", encoding="utf-8", newline="") as file:
        # with "\n" alone it would not quote a carriage return, which ends a line for readers
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\r\n")
        writer.writerows([header] if header else [])
        writer.writerows(rows)


def write_test_labels(raw: Path, rows: Iterable[tuple[str, Any]]) -> None:
    """Keep the labels of the test part away from the pipeline, for a last check by hand."""
    write_rows(raw / "test_labels.csv", ["id", "label"], rows)


def write_parts(raw: Path, rows: Iterable[tuple[str, str]], prefix: str) -> None:
    """Write `(text, label)` of a source without a test part: each text once, parted by its hash."""
    known: dict[str, str] = {}
    for text, label in rows:
        known.setdefault(text, label)
    labelled = [(f"{prefix}{at:06d}", *row) for at, row in enumerate(known.items())]

    parts: tuple[list[tuple[str, str, str]], ...] = ([], [])  # train and test
    for row in labelled:
        parts[hashlib.sha256(row[1].encode()).digest()[0] % TEST_SHARE == 0].append(row)
    write_rows(raw / "train.csv", ["id", "text", "label"], parts[0])
    write_rows(raw / "test.csv", ["id", "text"], (row[:2] for row in parts[1]))
    write_test_labels(raw, ((row[0], row[2]) for row in parts[1]))


def download(source: Source, downloads: Path) -> None:
    """Fetch the files of the source into a folder, by the host's own client."""
    if source.host == "hub":
        from huggingface_hub import hf_hub_download

        for name in source.files:
            hf_hub_download(
                source.name, name, repo_type="dataset", revision=source.revision,
                local_dir=downloads,
            )  # fmt: skip
        return
    import kagglehub

    if source.host == "kaggle":
        handle = f"{source.name}/versions/{source.revision}"
        kagglehub.dataset_download(handle, output_dir=str(downloads))
    else:
        kagglehub.competition_download(source.name, output_dir=str(downloads))


def located(source: Source, downloads: Path) -> dict[str, Path]:
    """The downloaded files by name, as the source has them in folders or all in one."""
    files, faults = {}, []
    for name, expected in source.files.items():
        flat = Path(name).name
        path = downloads / name if (downloads / name).is_file() else downloads / flat
        files[flat] = path
        if not path.is_file():
            faults.append(f"{path}: missing file; expected it from {source.page}")
        elif expected is not None and (got := sha256(path)) != expected:
            faults.append(f"{path}: SHA-256: got {got}; expected {expected}")
    if faults:
        raise InputError.listing(f"{source.name}: {len(faults)} fault(s) in the files", faults)
    return files


def sha256(path: Path) -> str:
    """The checksum of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def build(dataset: str, source: Source, downloads: Path, out: Path) -> None:
    """Check the files and write the raw folder of the dataset, whole or not at all."""
    files = located(source, downloads)
    digests = {name: sha256(path) for name, path in files.items()}
    with atomic(out) as raw:
        raw.mkdir()
        source.convert(files, raw)
        about = {"page": source.page, "licence": source.licence, "sha256": digests}
        write_json({"dataset": dataset, **about}, raw / "SOURCE.json")
    log.info("fetch: %s -> %s", source.page, out)
    log.info("fetch: licence: %s", source.licence)
    for name, digest in digests.items():
        log.info("fetch: SHA-256 %s %s", digest, name)


def main(
    dataset: str = "",
    /,
    *,
    model: str | None = None,
    downloads: Path | None = None,
    to: Path | None = None,
) -> None:
    """Fetch a dataset or a pretrained model.

    Args:
        dataset: Its name in params/.
        model: Instead of a dataset an id on the Hugging Face hub and its commit, `<id>@<commit>`,
            or a folder: pickled weights become safetensors, a slow tokenizer becomes a fast one.
        downloads: Folder with the source's files, where they are downloaded already.
        to: Where it goes; by default data/raw or backbones.
    """
    if model is not None:
        if dataset or downloads:
            raise InputError(
                f"--model: got {model!r} and a dataset or --downloads; expected it alone"
            )
        convert(model, to or Path("backbones"))
        return
    if dataset not in SOURCES:
        raise InputError(f"got {dataset!r}; expected one of {sorted(SOURCES)}, or --model")
    source, out = SOURCES[dataset], (to or Path("data/raw")) / dataset
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out}: there is something already; expected no such folder, or --to")
    if downloads is not None:
        build(dataset, source, downloads, out)
        return
    with TemporaryDirectory() as folder:
        try:
            download(source, Path(folder))
        except Exception as error:  # each client has errors of its own
            needed = "a network" if source.host == "hub" else "kagglehub, an account and a network"
            raise InputError.listing(
                f"{dataset}: cannot be fetched, got {type(error).__name__}: {error}; "
                f"expected {needed}. Without",
                [
                    f"download by hand: {', '.join(source.files)}",
                    f"from: {source.page} (licence: {source.licence})",
                    f"then: verdict fetch {dataset} --downloads <their folder>",
                ],
            ) from error
        build(dataset, source, Path(folder), out)


if __name__ == "__main__":
    run(main)
