import numpy as np
import pandas as pd
import pytest

from stages.core.errors import InputError
from stages.core.folds import read_folds
from stages.core.tables import write_table
from stages.core.tasks import Preference


@pytest.fixture
def table():
    return pd.DataFrame(
        {
            "id": list("uvwxyz"),
            "part": ["train", "test", "train", "train", "test", "train"],
            "fold": [1, -1, 0, 1, -1, 0],
            "group": [5, 6, 7, 5, 8, 9],
            "y_tie": [1, np.nan, 0, 0.5, np.nan, 0],  # not in the order of the classes
            "y_a": [0, np.nan, 1, 0.25, np.nan, 0],
            "y_b": [0, np.nan, 0, 0.25, np.nan, 1],
        }
    )


def test_each_row_has_its_place(tmp_path, table):
    write_table(table, tmp_path / "folds.parquet")
    folds = read_folds(tmp_path / "folds.parquet", Preference())
    assert folds.numbers == [0, 1]
    assert folds.train(0).tolist() == [0, 3]
    assert folds.train(None).tolist() == [0, 2, 3, 5]
    assert folds.held(0).tolist() == [2, 5]
    assert folds.unseen.tolist() == [1, 4]
    assert folds.targets[3].tolist() == [0.25, 0.25, 0.5]


def test_less_than_two_folds_are_refused(tmp_path, table):
    write_table(table.assign(fold=[0, -1, 0, 0, -1, 0]), tmp_path / "folds.parquet")
    with pytest.raises(InputError, match=r"fold: got \[0\]; expected at least two folds"):
        read_folds(tmp_path / "folds.parquet", Preference())


def test_missing_target_column_is_refused(tmp_path, table):
    write_table(table.drop(columns="y_tie"), tmp_path / "folds.parquet")
    with pytest.raises(InputError, match=r"missing columns \['y_tie'\]"):
        read_folds(tmp_path / "folds.parquet", Preference())
