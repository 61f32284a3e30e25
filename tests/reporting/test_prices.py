from stages.core.layout import ENSEMBLE
from stages.reporting import _prices
from tests.reporting.report_data import COST


def test_member_is_not_computed_twice():
    cost = {name: dict.fromkeys(COST, 1.0) for name in ("svm", "lgbm", ENSEMBLE)}
    found = _prices.prices_of("svm", cost, {"weight": {"svm": 0.5, "lgbm": 0.5}})
    assert (found.cheap, found.dear, found.rest) == (1, 3, 2)
    alone = _prices.prices_of("svm", cost, {"weight": {"svm": 0.0, "lgbm": 0.5}})
    assert (alone.cheap, alone.dear, alone.rest) == (1, 2, 2)


def test_price_goes_from_that_of_the_ensemble_to_that_of_the_cheap_model():
    prices = _prices.Prices(cheap=1.0, dear=10.0, rest=9.5)
    assert [prices.of(share) for share in (0, 0.5, 1)] == [10, 5.75, 1]
