import inspect
from itertools import permutations
from pathlib import Path

from stages.core.layout import ENSEMBLE, Layout

NAMES = ("svm", "mini")


def paths(dataset, root=Path()):
    """Every file and folder that a layout names, by attribute; those of models for two of them."""
    layout = Layout(dataset, root)
    found = {
        name: value
        for name, value in vars(layout).items()
        if isinstance(value, Path) and not name.startswith("_") and name != "root"
    }
    for name, method in inspect.getmembers(layout, inspect.ismethod):
        if not name.startswith("_"):
            found |= {f"{name} {each}": method(each) for each in NAMES}
    return found


def test_no_path_stands_twice_or_lies_within_another():
    """DVC refuses outputs that overlap."""
    both = [path for dataset in ("one", "two") for path in paths(dataset).values()]
    assert len(both) > 50
    assert len(set(both)) == len(both)
    assert [pair for pair in permutations(both, 2) if pair[0].is_relative_to(pair[1])] == []


def test_every_path_names_its_dataset_and_lies_below_the_root(tmp_path):
    relative = paths("mine")
    for name, path in paths("mine", tmp_path).items():
        assert path == tmp_path / relative[name]
        assert "mine" in {part.partition(".")[0] for part in relative[name].parts}, name


def test_predictions_of_the_ensemble_lie_apart_from_those_of_its_members():
    """The folder of the members' predictions is a dependency of the ensemble."""
    layout = Layout("demo")
    folder = layout.predictions("svm").parent
    assert layout.predictions("mini").parent == folder
    assert not layout.predictions(ENSEMBLE).is_relative_to(folder)


def test_style_is_a_table_among_folders_of_blocks():
    layout = Layout("demo")
    assert layout.features("style").name == "style.parquet"
    assert layout.features("tfidf") == layout.features("style").with_name("tfidf")
