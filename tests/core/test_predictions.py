import numpy as np

from stages.core.predictions import prediction_table


def test_table_names_parts_and_classes(folds, task):
    values = np.random.default_rng(0).dirichlet(np.ones(3), len(folds.ids))
    table = prediction_table(folds, task, {"p_": values, "swapped_p_": values[:, [1, 0, 2]]})
    assert list(table) == [
        *("id", "part", "p_a", "p_b", "p_tie", "swapped_p_a", "swapped_p_b", "swapped_p_tie")
    ]
    assert table["id"].tolist() == folds.ids.tolist()
    is_test = folds.part == "test"
    assert set(table.loc[is_test, "part"]) == {"test"}
    assert set(table.loc[~is_test, "part"]) == {"oof"}
    np.testing.assert_array_equal(table[["p_a", "p_b", "p_tie"]], values)
    np.testing.assert_array_equal(table["swapped_p_a"], values[:, 1])
