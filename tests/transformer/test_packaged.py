import hashlib
import io
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from stages.core.errors import InputError
from stages.transformer.network import packaged as _packaged
from stages.transformer.network.backbones import Source, load_backbone, load_tokenizer, locate
from stages.transformer.network.packaged import PACKAGED, Packaged, packaged_folder
from stages.transformer.network.params import BackboneParams

FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 100}
SHA256 = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}


def backbone(name):
    return BackboneParams(
        name=name, revision=None, pooling="mean", attention="auto", dropout=0.0,
        attention_dropout=0.0,
    )  # fmt: skip


def network(files, sha256=SHA256):
    return Packaged("a/b", "1" * 40, dict.fromkeys(map(str, files), ""), sha256, "a-package")


@pytest.fixture
def home(monkeypatch, tmp_path):
    """Packages are named by the paths of their files; what is unpacked goes to `tmp_path`."""

    class Distribution:
        def __init__(self, name):
            self.name = name

        def locate_file(self, _):
            return self.name

    monkeypatch.setattr(_packaged, "distribution", Distribution)
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))


@pytest.fixture
def parts(home, tmp_path):
    """A zip of a folder with files too many, cut in three."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (FILES | {"own.py": b"", "sub/config.json": b"no"}).items():
            archive.writestr(f"model/{name}", content)
    content = whole.getvalue()
    size = len(content) // 3 + 1
    paths = [tmp_path / f"zip.00{part}" for part in (1, 2, 3)]
    for number, path in enumerate(paths):
        path.write_bytes(content[number * size : (number + 1) * size])
    return paths


def test_parts_of_a_zip_are_unpacked_once_and_only_what_is_published(parts, tmp_path):
    folder = packaged_folder(network(parts))
    assert folder == tmp_path / "home/verdict/a--b"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    parts[0].write_bytes(b"")
    assert packaged_folder(network(parts)) == folder
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == ["a--b"]


def test_all_that_unpack_at_once_find_the_whole(parts, tmp_path):
    with ThreadPoolExecutor(4) as pool:  # a lock on a file holds between threads as processes do
        found = list(pool.map(packaged_folder, [network(parts)] * 4))
    assert found == [tmp_path / "home/verdict/a--b"] * 4


def test_a_zip_that_is_broken_leaves_nothing(parts, tmp_path):
    parts[2].write_bytes(b"")
    with pytest.raises(zipfile.BadZipFile):
        packaged_folder(network(parts))
    assert [path.name for path in (tmp_path / "home/verdict").iterdir()] == ["a--b.lock"]


def test_other_files_than_the_published_are_refused(parts, tmp_path):
    with pytest.raises(
        InputError,
        match=r"config.json: not the published file, got sha256 44136f.*; remove /.*a--b$",
    ):
        packaged_folder(network(parts, SHA256 | {"config.json": "53aa"}))
    (tmp_path / "model.safetensors").write_bytes(FILES["model.safetensors"])
    alone = network([tmp_path / "model.safetensors"])
    with pytest.raises(InputError, match=r"config.json: missing; install a-package again"):
        packaged_folder(alone)
    (tmp_path / "config.json").write_bytes(FILES["config.json"])
    assert packaged_folder(alone) == tmp_path


def test_a_missing_part_means_the_hub(parts, monkeypatch):
    parts[2].unlink()
    monkeypatch.setitem(PACKAGED, "mpnet", network(parts))
    assert locate(backbone("mpnet")) == Source("a/b", "1" * 40)


@pytest.mark.parametrize(
    ("name", "weights", "ids"),  # without the pooler
    [("minilm", 22_565_376, [1037, 1038, 100]), ("mpnet", 108_895_872, [1041, 1042, 104])],
)
def test_packages_have_the_weights(name, weights, ids):
    if PACKAGED[name].installed() is None:
        pytest.skip(f"{PACKAGED[name].install} is not installed")
    model = load_backbone(backbone(name), device=torch.device("cpu"), dtype=torch.float32)
    assert sum(p.numel() for p in model.parameters()) == weights
    tokenizer = load_tokenizer(backbone(name))
    assert tokenizer("A b 😀 \x00", add_special_tokens=False)["input_ids"] == ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["a", "b", "[UNK]"]


def test_networks_come_from_the_hub_where_the_packages_are_missing(monkeypatch):
    monkeypatch.setattr(Packaged, "installed", lambda _: None)
    assert locate(backbone("minilm")) == Source(
        "sentence-transformers/all-MiniLM-L6-v2", "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
    )
    assert locate(backbone("mpnet")) == Source(
        "sentence-transformers/all-mpnet-base-v2", "e8c3b32edf5434bc2275fc9bab85f82640a19130"
    )
