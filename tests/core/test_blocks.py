import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from stages.core import blocks
from stages.core.blocks import read_blocks, read_columns, read_state, write_blocks
from stages.core.errors import InputError
from stages.core.matrices import Block
from stages.core.tables import write_table

IDS = pd.Series(["r1", "r2", "r3", "r4"])
DENSE = np.arange(8, dtype=np.float32).reshape(4, 2)
SPARSE = np.array([[0, 1, 0], [0, 0, 0], [2, 0, 3], [0, 0, 4]], np.float32)
BLOCKS = {
    "prompt": Block(DENSE, ("one", "two")),
    "response_a": Block(sparse.csr_matrix(SPARSE), ("word ö", "word 🦦", "char  x ")),
}
STATE = {"svd": {"idf": np.array([1.0, 2.0]), "words": np.array(["ö", "🦦"])}}


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [2, 0, 3, 1], [3, 1]])
def test_dense_and_sparse_blocks_come_back_in_the_order_of_the_ids(tmp_path, order):
    write_blocks(tmp_path / "set", IDS, BLOCKS)
    read = read_blocks(tmp_path / "set", IDS.iloc[order].reset_index(drop=True))
    assert {key: block.names for key, block in read.items()} == {
        key: block.names for key, block in BLOCKS.items()
    }
    assert list(read) == list(BLOCKS)
    np.testing.assert_array_equal(read["prompt"].X, DENSE[order])
    assert sparse.issparse(read["response_a"].X)
    np.testing.assert_array_equal(read["response_a"].X.toarray(), SPARSE[order])


def test_same_blocks_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        write_blocks(tmp_path / name, IDS, BLOCKS, STATE)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    arrays = [f"response_a.{part}.npy" for part in ("data", "indices", "indptr")]
    assert files == ["ids.parquet", "names.json", "prompt.npy", *arrays, "svd.state.npz"]
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_rows_that_are_appended_give_the_bytes_of_the_whole(tmp_path):
    column = {"pair": Block(DENSE[:, :1], ("one",))}
    write_blocks(tmp_path / "whole", IDS, BLOCKS | column, STATE)
    with blocks.blocks_writer(tmp_path / "parts", IDS, STATE) as append:
        for first, last in ((0, 0), (0, 1), (1, 1), (1, 4)):
            append({
                key: Block(block.X[first:last], block.names)
                for key, block in (BLOCKS | column).items()
            })  # fmt: skip
    for name in ("ids.parquet", "names.json", "prompt.npy", "pair.npy", "svd.state.npz"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    for part in ("data", "indices", "indptr"):
        name = f"response_a.{part}.npy"
        np.save(tmp_path / name, getattr(BLOCKS["response_a"].X, part))
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_error_while_appending_leaves_what_was_there(tmp_path):
    write_blocks(tmp_path / "set", IDS, BLOCKS)
    wrong = {"prompt": Block("no matrix", ())}
    with (
        pytest.raises(AttributeError),
        blocks.blocks_writer(tmp_path / "set", IDS) as append,
    ):
        append(BLOCKS | wrong)
    assert set(read_blocks(tmp_path / "set", IDS)) == set(BLOCKS)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_more_values_than_32_bits_number_have_places_of_64_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "MOST", 3)
    write_blocks(tmp_path / "set", IDS, BLOCKS)
    assert np.load(tmp_path / "set" / "response_a.indptr.npy").dtype == np.int64
    read = read_blocks(tmp_path / "set", IDS)["response_a"].X
    np.testing.assert_array_equal(read.toarray(), SPARSE)


def test_blocks_stay_on_disk_until_their_rows_are_taken(tmp_path):
    write_blocks(tmp_path / "set", IDS, BLOCKS)
    read = read_blocks(tmp_path / "set", IDS)
    matrix = read["response_a"].X
    for array in (read["prompt"].X, matrix.data, matrix.indices):
        while not isinstance(array, np.memmap):
            array = array.base
        assert array.filename


def test_state_is_stored_and_is_no_block(tmp_path):
    write_blocks(tmp_path / "set", IDS, BLOCKS, STATE)
    with np.load(tmp_path / "set" / "svd.state.npz", allow_pickle=False) as state:
        assert state["words"].tolist() == ["ö", "🦦"]
    assert set(read_blocks(tmp_path / "set", IDS)) == set(BLOCKS)


def test_columns_become_a_block_for_each_text_column(tmp_path):
    frame = pd.DataFrame(
        {"response_a.n": [1, 2], "pair.cos.x": [0.5, 0.25], "response_a.m": [3, 4]}
    )
    frame.insert(0, "id", ["r1", "r2"])
    write_table(frame, tmp_path / "style.parquet")
    found = read_columns(tmp_path / "style.parquet", pd.Series(["r2", "r1"]))
    assert {key: block.names for key, block in found.items()} == {
        "response_a": ("n", "m"),
        "pair": ("cos.x",),
    }
    np.testing.assert_array_equal(found["response_a"].X, [[2, 4], [1, 3]])
    np.testing.assert_array_equal(found["pair"].X, [[0.25], [0.5]])


def test_id_without_features_is_an_input_error(tmp_path):
    write_blocks(tmp_path / "set", IDS, BLOCKS)
    with pytest.raises(InputError, match="no features for id 'r9'"):
        read_blocks(tmp_path / "set", pd.Series(["r1", "r9"]))


def test_fitted_state_is_read_back_and_a_damaged_one_refused(tmp_path):
    ids = pd.Series(["x"], name="id")
    state = {"svd": {"idf": np.ones(2), "words": np.array(["a", "bc"])}}
    write_blocks(tmp_path / "set", ids, {}, state)
    found = read_state(tmp_path / "set", "svd")
    assert found["words"].tolist() == ["a", "bc"]
    np.testing.assert_array_equal(found["idf"], [1, 1])
    (tmp_path / "set" / "svd.state.npz").write_bytes(b"PK\x03\x04 half")
    for name in ("svd", "none"):
        with pytest.raises(InputError, match=rf"{name}\.state\.npz: cannot be read"):
            read_state(tmp_path / "set", name)
