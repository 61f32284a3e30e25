"""Where the files of a dataset are: the one place that knows a path, for every stage and tool."""

from pathlib import Path

ENSEMBLE = "ensemble"  # the name of the blend, beside those of the models
PARAMS = Path("params.yaml")  # which datasets, models and backbones `dvc repro` builds
CHECKED = Path("data/checked.txt")  # written once the names in params.yaml were found to be sound
USED_PARAMS = Path("data/used_params")  # what stands in params/, with all defaults
LEADERBOARD = Path("metrics/leaderboard.csv")
LEADERBOARD_TEXT = Path("metrics/leaderboard.md")
LEARNING_CURVES = Path("metrics/learning_curves")
SCRATCH = Path("scratch")  # what a killed run left, to go on from; never an output


class Layout:
    """The paths of a dataset, relative to `root`; dvc.yaml declares the same ones.

    A test runs every stage and compares the paths that it asked for with those that dvc.yaml
    declares.
    """

    def __init__(self, dataset: str, root: Path = Path()) -> None:
        data, metrics = root / "data" / dataset, root / "metrics"
        own = f"{dataset}.json"
        self.dataset, self.root = dataset, root
        self._data, self._metrics, self._models = data, metrics, root / "models" / dataset
        self.params = root / "params" / f"{dataset}.yaml"
        self.used_params = root / USED_PARAMS / own
        # what the user brings, and what `ingest` makes of it
        self.raw = root / "data" / "raw" / dataset
        self.rows = data / "rows.parquet"
        self.rejects = data / "rejects.parquet"
        self.labels = data / "labels.json"
        self.strata = data / "strata.parquet"
        self.ingest = metrics / "ingest" / own
        # folds, and what models are trained on
        self.folds = data / "folds.parquet"
        self.split = metrics / "split" / own
        self.augmented = data / "augmented.parquet"
        self.clean = data / "clean.parquet"
        # the ensemble and what follows it
        self.weights = metrics / "weights" / own
        self.audit = metrics / "audit" / own
        self.cascade = metrics / "cascade" / own
        self.cascade_curve = metrics / "cascade_curves" / f"{dataset}.csv"
        self.report = metrics / "report" / f"{dataset}.html"
        self.card = self._models / "README.md"
        self.submission = data / "submission.csv"

    def features(self, name: str) -> Path:
        """A feature set: a folder of blocks, or the table of `style`."""
        return self._data / "features" / (f"{name}.parquet" if name == "style" else name)

    def tokens(self, backbone: str) -> Path:
        """Token ids of all rows for a backbone."""
        return self._data / "tokens" / backbone

    def token_counts(self, backbone: str) -> Path:
        """How long the sequences are that a backbone reads."""
        return self._metrics / "tokens" / self.dataset / f"{backbone}.json"

    def model(self, name: str) -> Path:
        """The folder of a fitted model."""
        return self._models / name

    def predictions(self, model: str) -> Path:
        """Predictions of a model, or of the ensemble, which is not among its own members."""
        if model == ENSEMBLE:
            return self._data / "ensemble.parquet"
        return self._data / "predictions" / f"{model}.parquet"

    def trials(self, model: str) -> Path:
        """The trials of a model's search."""
        return self._metrics / "trials" / self.dataset / f"{model}.csv"

    def loss_curve(self, backbone: str) -> Path:
        """The losses of a backbone while it was tuned."""
        return self._metrics / "loss_curves" / self.dataset / f"{backbone}.csv"

    def learning_curve(self, model: str) -> Path:
        """The metrics of a model on fewer rows."""
        return self._metrics / "learning_curves" / self.dataset / f"{model}.csv"

    def cost(self, model: str) -> Path:
        """What a model took to train and takes to predict."""
        return self._metrics / "cost" / self.dataset / f"{model}.json"

    def scores(self, model: str) -> Path:
        """The metrics of a model."""
        return self._metrics / "scores" / self.dataset / f"{model}.json"

    def thresholds(self, model: str) -> Path:
        """The thresholds that give a row its labels, where it can have several."""
        return self._metrics / "thresholds" / self.dataset / f"{model}.json"

    def losses(self, model: str) -> Path:
        """The loss of each out-of-fold row."""
        return self._metrics / "losses" / self.dataset / f"{model}.parquet"

    def classes(self, model: str) -> Path:
        """The metrics of each class."""
        return self._metrics / "classes" / self.dataset / f"{model}.csv"

    def confusion(self, model: str) -> Path:
        """How often one class was taken for another."""
        return self._metrics / "confusion" / self.dataset / f"{model}.csv"

    def reliability(self, model: str) -> Path:
        """Predicted probabilities beside actual shares."""
        return self._metrics / "reliability" / self.dataset / f"{model}.csv"
