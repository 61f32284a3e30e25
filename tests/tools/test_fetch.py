"""The tool that fetches public sets: the hub's client on a server here, Kaggle's as a stub."""

import csv
import dataclasses
import functools
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import types
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML

from stages.core.errors import InputError
from stages.core.layout import Layout
from stages.data import ingest
from stages.data.readers.rows import csv_records
from stages.tools import fetch
from tests.given import write_params

ROOT = Path(__file__).parents[2]
PART = "{}-00000-of-00001.parquet"


def parquet(path, names, many, **columns):
    """A part as the hub keeps it: the names of the classes stand in the schema."""
    feature = {"names": names, "_type": "ClassLabel"}
    column = "labels" if many else "label"
    features = {column: {"feature": feature, "_type": "List"} if many else feature}
    info = json.dumps({"info": {"features": features}}).encode()
    table = pa.table(columns).replace_schema_metadata({b"huggingface": info})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def write_goemotions(folder):
    names = ["joy", "fear"]
    for part, start in (("train", "a"), ("validation", "b"), ("test", "c")):
        parquet(
            folder / "simplified" / PART.format(part), names, many=True,
            text=[f'{start} "x"', f"{start}\ty"], labels=[[0], [0, 1]],
            id=[start + "1", start + "2"],
        )  # fmt: skip


def write_dbpedia14(folder):
    for part in ("train", "test"):
        parquet(
            folder / "dbpedia_14" / PART.format(part), ["Company", "Plant"], many=False,
            label=[0, 1], title=["t", "u"], content=[f"{part} one", f"{part}, two"],
        )  # fmt: skip


TEXTS = [f"text {at}" for at in range(40)]
LABELS = ["negative", "neutral", "positive"] * 14


def write_airline(folder):
    rows = [*zip(TEXTS, LABELS, strict=False), (TEXTS[0], "positive")]
    pd.DataFrame(rows, columns=["text", "airline_sentiment"]).to_csv(folder / "Tweets.csv")


def write_phrasebank(folder):
    (folder / "data").mkdir()
    lines = "".join(f"{t} é@{label}\r\n" for t, label in zip(TEXTS, LABELS, strict=False))
    with zipfile.ZipFile(folder / "data" / "FinancialPhraseBank-v1.0.zip", "w") as archive:
        name = "FinancialPhraseBank-v1.0/Sentences_50Agree.txt"
        archive.writestr(zipfile.ZipInfo(name), lines.encode("latin-1"))


WRITE = {
    "goemotions": write_goemotions,
    "goemotions_single": write_goemotions,
    "dbpedia14": write_dbpedia14,
    "airline": write_airline,
    "phrasebank": write_phrasebank,
}


@pytest.fixture
def downloads(tmp_path, monkeypatch):
    """Makes the files of a dataset, and expects their checksums."""
    monkeypatch.chdir(tmp_path)

    def make(dataset):
        folder = tmp_path / "downloads"
        folder.mkdir()
        WRITE[dataset](folder)
        source = fetch.SOURCES[dataset]
        files = {
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in source.files
        }
        monkeypatch.setitem(fetch.SOURCES, dataset, dataclasses.replace(source, files=files))
        return folder

    return make


def table(path):
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file, delimiter="\t" if str(path).endswith("tsv") else ","))


@pytest.mark.parametrize("dataset", WRITE)
def test_fetched_files_are_what_the_params_read(dataset, downloads):
    fetch.main(dataset, downloads=downloads(dataset))
    params = YAML(typ="safe").load(ROOT / "params" / f"{dataset}.yaml")["ingest"]
    write_params(Path(), dataset, ingest=params | {"truth": None})
    ingest.main(dataset=dataset)
    layout = Layout(dataset)
    rows, metrics = pd.read_parquet(layout.rows), json.loads(layout.ingest.read_text())
    assert metrics["rejects"] == metrics["left_out"] == (2 if dataset == "goemotions_single" else 0)
    assert {"train", "test"} <= set(rows["part"])
    assert metrics["raw_rows"] == {"goemotions": 6, "goemotions_single": 6, "dbpedia14": 4}.get(
        dataset, 40
    )
    about = json.loads(Path("data/raw", dataset, "SOURCE.json").read_text())
    assert about["licence"] == fetch.SOURCES[dataset].licence
    assert list(about["sha256"].values()) == list(fetch.SOURCES[dataset].files.values())


def test_labels_of_the_test_part_are_kept_apart(downloads):
    fetch.main("dbpedia14", downloads=downloads("dbpedia14"))
    raw = Path("data/raw/dbpedia14")
    assert table(raw / "test.csv") == [
        ["id", "title", "content"], ["te000000", "t", "test one"], ["te000001", "u", "test, two"],
    ]  # fmt: skip
    assert table(raw / "test_labels.csv")[1:] == [["te000000", "1"], ["te000001", "2"]]
    assert (raw / "classes.txt").read_text() == "Company\nPlant\n"


def test_parts_of_a_source_without_a_test_part_follow_the_text_alone(downloads):
    folder = downloads("airline")
    fetch.main("airline", downloads=folder)
    rows = table("data/raw/airline/train.csv")[1:] + table("data/raw/airline/test.csv")[1:]
    assert sorted(row[1] for row in rows) == sorted(TEXTS)
    assert 1 <= len(table("data/raw/airline/test.csv")) - 1 <= 20
    first = {row[1]: row[0] for row in rows}["text 0"]
    labels = {row[0]: row[-1] for name in ("train", "test_labels")
              for row in table(f"data/raw/airline/{name}.csv")}  # fmt: skip
    assert labels[first] == "negative"  # of a text that stands twice, the first label


def test_files_may_lie_in_one_folder(downloads, tmp_path):
    folder = downloads("goemotions")
    for path in list(folder.rglob("*.parquet")):
        path.rename(folder / path.name)
    fetch.main("goemotions", downloads=folder)
    assert table("data/raw/goemotions/train.tsv") == [['a "x"', "0", "a1"], ["a\ty", "0,1", "a2"]]


@pytest.fixture
def hub(tmp_path):
    """Serves a folder as the Hugging Face hub serves a dataset; what was asked for."""
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def send_head(self):
            asks = re.fullmatch("/datasets/.+/resolve/([0-9a-f]{40})/(.+)", self.path)
            if asks is None:  # the client asks for more than files
                return self.send_error(404)
            asked.append(self.path)
            self.revision, file = asks.groups()
            self.path = f"/{file}"
            return super().send_head()

        def end_headers(self):
            file = Path(self.translate_path(self.path))
            if file.is_file():
                digest = hashlib.sha256(file.read_bytes()).hexdigest()
                self.send_header("ETag", f'"{digest}"')
                self.send_header("X-Repo-Commit", self.revision)
            super().end_headers()

        def log_message(self, *_args):
            pass

    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(tmp_path / "downloads"))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_own_client_of_the_hub_fetches_the_pinned_revision(downloads, hub, tmp_path):
    downloads("dbpedia14")
    address, asked = hub
    source = fetch.SOURCES["dbpedia14"]
    program = (
        "import dataclasses, json, sys; from stages.tools import fetch\n"
        "from stages.runtime.cli import run\n"
        "source = fetch.SOURCES['dbpedia14']\n"
        "source = dataclasses.replace(source, files=json.loads(sys.argv.pop()))\n"
        "fetch.SOURCES['dbpedia14'] = source; run(fetch.main)"
    )  # the files here are not the published ones: their checksums are put in place of those
    done = subprocess.run(
        [sys.executable, "-c", program, "dbpedia14", json.dumps(source.files)],
        env=os.environ
        | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = [f"/datasets/{source.name}/resolve/{source.revision}/{n}" for n in source.files]
    assert list(dict.fromkeys(asked)) == expected
    assert "licence: CC BY-SA 3.0" in done.stderr
    assert sorted(path.name for path in Path("data/raw").iterdir()) == ["dbpedia14"]
    assert table("data/raw/dbpedia14/train.csv")[1] == ["tr000000", "1", "t", "train one"]


def test_kaggle_is_asked_by_its_own_client(downloads, monkeypatch):
    folder, asked = downloads("airline"), []

    def stub(handle, *, output_dir):
        asked.append(handle)
        Path(output_dir, "Tweets.csv").write_bytes((folder / "Tweets.csv").read_bytes())

    client = types.SimpleNamespace(dataset_download=stub)
    monkeypatch.setitem(sys.modules, "kagglehub", client)
    fetch.main("airline")
    assert asked == ["crowdflower/twitter-airline-sentiment/versions/4"]
    assert Path("data/raw/airline/train.csv").is_file()


def test_files_of_a_competition_are_taken_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def stub(handle, *, output_dir):
        for name in ("train.csv", "test.csv", "sample_submission.csv"):
            Path(output_dir, name).write_text(f"{handle} {name}\r\n")

    client = types.SimpleNamespace(competition_download=stub)
    monkeypatch.setitem(sys.modules, "kagglehub", client)
    fetch.main("arena")
    content = Path("data/raw/arena/train.csv").read_text()
    assert content == "llm-classification-finetuning train.csv\n"


@pytest.mark.parametrize("dataset", ["dbpedia14", "airline", "arena"])
def test_offline_the_message_says_what_to_download_where(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def offline(*_args):
        raise OSError("no route to host")

    monkeypatch.setattr(fetch, "download", offline)
    with pytest.raises(InputError, match=r"got OSError: no route to host; expected") as caught:
        fetch.main(dataset)
    source = fetch.SOURCES[dataset]
    assert all(name in str(caught.value) for name in source.files)
    assert f"from: {source.page} (licence: " in str(caught.value)
    assert f"then: verdict fetch {dataset} --downloads" in str(caught.value)
    assert not Path("data").exists()


def test_file_with_another_checksum_is_refused(downloads):
    folder = downloads("airline")
    with (folder / "Tweets.csv").open("a") as file:
        file.write("more")
    with pytest.raises(InputError, match=r"Tweets\.csv: SHA-256: got [0-9a-f]{64}; expected"):
        fetch.main("airline", downloads=folder)
    with pytest.raises(InputError, match=r"2 fault.*\n.*missing file"):
        fetch.main("dbpedia14", downloads=folder)
    assert not Path("data").exists()


def test_what_is_there_is_not_replaced(downloads):
    folder = downloads("airline")
    fetch.main("airline", downloads=folder)
    with pytest.raises(InputError, match=r"airline: there is something already"):
        fetch.main("airline", downloads=folder)


def test_unknown_dataset_is_told_with_the_known_ones():
    with pytest.raises(InputError, match=r"got 'imdb'; expected one of \['airline', 'arena'"):
        fetch.main("imdb")


def test_sources_are_pinned_and_licensed():
    assert set(fetch.SOURCES) == {*WRITE, "arena"}
    for source in fetch.SOURCES.values():
        assert source.licence
        assert source.host == "competition" or all(len(h) == 64 for h in source.files.values())


def test_carriage_return_in_a_text_does_not_tear_its_row(tmp_path):
    path = tmp_path / "t.csv"
    rows = [["1", "first\rsecond"], ["2", "a\r\nb"], ["3", 'say "c"\n']]
    fetch.write_rows(path, ["id", "text"], rows)
    found = list(csv_records(path))
    assert [[record.fields["id"], record.fields["text"]] for record in found] == rows
    assert not any(record.fault for record in found)
