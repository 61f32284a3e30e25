import json
import re
import shutil
from contextlib import chdir
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stages.core.errors import InputError
from stages.core.layout import PARAMS, Layout
from stages.core.tables import write_json
from stages.core.tasks import MultiLabel, Preference, SingleLabel, read_task
from stages.evaluation.scoring import oof as rows
from stages.evaluation.scoring import quality
from stages.reporting import _charts as charts
from stages.reporting import _worst as worst
from stages.reporting import report
from tests.reporting.report_data import COST, HOSTILE, MARKDOWN, MODELS, write_results

KINDS = ("preference", "single_label", "multi_label")
MEGABYTE = 1e6


def build(folder, kind):
    """The page that the stage writes."""
    layout = write_results(folder, kind)
    groups = {"linear": MODELS, "dense": [], "latent": [], "backbones": []}
    curves = {"datasets": ["mine"], "models": ["svm"]}
    write_json({"datasets": ["mine"], "build": groups, "learning_curves": curves}, folder / PARAMS)
    with chdir(folder):
        report.main(dataset="mine")
    return layout.report


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The pages of the three kinds of task."""
    return {kind: build(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


# --- numbers


def test_front_is_what_nothing_beats():
    cost, loss = np.array([1.0, 2.0, 2.0, 3.0, 3.0]), np.array([0.9, 0.8, 0.85, 0.8, 0.7])
    assert quality.front(cost, loss).tolist() == [True, True, False, False, True]


def test_equal_points_are_both_on_the_front():
    assert quality.front(np.ones(2), np.ones(2)).all()


def test_ensemble_costs_what_its_members_cost():
    cost = {
        "a": COST,
        "b": COST | {"peak_memory_mb": 500.0},
        "c": COST,
        "ensemble": dict.fromkeys(COST, 1.0),
    }
    weights = {"weight": {"a": 1.0, "b": 0.0}}
    found = quality.total_cost(cost, weights, "ensemble")
    assert found["ensemble"]["cpu_seconds"] == 5  # both were trained
    assert found["ensemble"]["predict_ms_per_row"] == 1.12  # one is needed to predict
    assert found["ensemble"]["peak_memory_mb"] == 500
    assert found["a"] == cost["a"]


def test_model_judged_on_fewer_rows_is_on_no_front():
    scores = {
        name: {
            "oof": {
                "rows": n,
                "log_loss": loss,
                "accuracy": 0.5,
                "standard_error": {"log_loss": 0.01, "accuracy": 0.02},
            }
        }
        for name, n, loss in (("svm", 100, 1.0), ("minilm", 20, 0.5))
    }
    table = quality.worth(scores, dict.fromkeys(scores, COST), exclusive=True)
    assert set(table.loc[table["front"], "model"]) == {"svm"}
    assert set(table["quality"]) == {"log_loss", "accuracy"}


def test_mean_leaves_out_what_is_not_known():
    mean, error = rows.clustered_mean(np.array([1.0, np.nan, 3.0]), np.arange(3))
    assert (mean, error) == (2.0, pytest.approx(1.0))


def test_ranges_are_named_by_their_ends_and_hold_all_rows():
    parts = rows.ranges(np.arange(-10, 1010), 4)
    assert parts.names == ("−10 to 244", "245 to 499", "500 to 754", "755 to 1,009")
    assert np.bincount(parts.part).tolist() == [255] * 4


def test_ranges_of_equal_values_are_one():
    assert rows.ranges(np.full(9, 7), 10).names == ("7",)


def test_script_is_that_of_most_letters():
    texts = ["Hello мир", "привет, to", "漢字", "ひらがなカナ", "한국어", "123 ?!", "Ὦ λόγε"]
    found = rows.scripts(texts).tolist()
    assert found == ["Latin", "Cyrillic", "Han", "Kana", "Hangul", "no letters", "Greek"]


def test_scripts_of_no_letters_at_all():
    assert rows.scripts(["", ""]).tolist() == ["no letters"] * 2


def judged(p, targets, swapped=None):
    task = Preference()
    swapped = task.swap_classes(p) if swapped is None else swapped
    ids = pd.Series([str(i) for i in range(len(p))])
    return rows.OofPredictions(task, ids, np.arange(len(p)), targets, {"svm": p}, {"svm": swapped})


def test_swap_audit_finds_a_model_that_knows_the_position():
    p = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3]])
    obeys = rows.position_bias(judged(p, np.eye(3)[[0, 1]]))[1]
    assert (obeys.swap_error, obeys.rows, obeys.decisions) == (0, 0, 0)
    ignores = rows.position_bias(judged(p, np.eye(3)[[0, 1]], swapped=p))[1]
    assert (ignores.rows, ignores.decisions) == (2, 2)
    assert ignores.swap_error == pytest.approx(0.3)


def test_length_bias_counts_rows_with_a_preference_and_a_longer_answer():
    texts = pd.DataFrame({"response_a": [["xx"], ["xx"], ["x"], ["xx"]], "response_b": [["x"]] * 4})
    p = np.tile([0.6, 0.2, 0.2], (4, 1))
    people, svm = rows.length_bias(judged(p, np.eye(3)[[0, 1, 0, 2]]), texts, "svm")
    assert (people.share, people.rows) == (0.5, 2)  # of the others one is equal, one a tie
    assert svm.share == pytest.approx(0.75)
    p[1] = np.nan  # not predicted: people are not counted there either
    people, _ = rows.length_bias(judged(p, np.eye(3)[[0, 1, 0, 2]]), texts, "svm")
    assert (people.share, people.rows) == (1.0, 1)


def test_difference_is_taken_on_the_rows_of_both():
    targets = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    right = {"svm": np.exp([-1.0, -2.0, -3.0, -3.0]), "minilm": np.exp([np.nan, -1.0, -1.0, -1.0])}
    p = {name: np.column_stack([values, 1 - values]) for name, values in right.items()}
    ids, group = pd.Series(list("wxyz")), np.array([0, 1, 2, 2])
    known = rows.OofPredictions(SingleLabel(("x", "y")), ids, group, targets, p, p)
    mean, error = rows.differences(known, "svm")["minilm"]
    assert mean == pytest.approx(-5 / 3)
    deviations = np.array([2 / 3, -1 / 3 - 1 / 3])  # of the groups
    assert error == pytest.approx(np.sqrt(2 * np.square(deviations).sum()) / 3)
    assert quality.base_loss(known, "minilm") == 0.0


def test_small_slices_are_left_out():
    p = np.tile([0.6, 0.2, 0.2], (50, 1))
    parts = rows.Parts(("few", "many"), np.array([0] * 5 + [1] * 45))
    table = rows.by_slice(judged(p, np.eye(3)[[0] * 50]), parts)
    assert table[["label", "rows"]].to_numpy().tolist() == [["many", 45]]


# --- what people wrote


def test_answers_lose_all_that_could_harm():
    html = worst.markdown(MARKDOWN + HOSTILE)
    tags = set(re.findall(r"<(/?\w+)", html))
    assert not tags & {"script", "img", "a", "b", "style", "iframe"}
    assert not re.search(r"<[^>]*\b(on\w+|style|href|src)=", html)
    assert "<strong>bold</strong>" in html
    assert "&lt;b&gt;no&lt;/b&gt;" in html


def test_long_texts_are_cut_and_the_rest_is_counted():
    texts = {"text": ["x" * (worst.LONGEST + 5)]}
    turns, hidden = worst._read(texts, symmetric=False)
    assert (len(turns[0].asked), hidden) == (worst.LONGEST, 5)


def test_lone_surrogate_can_be_written():
    assert worst.readable("a\ud800b🙂").encode() == "a\ufffdb🙂".encode()


def test_worst_rows_come_first_with_what_they_have_and_were_given():
    task = MultiLabel(("x", "y"))
    targets = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    p = np.array([[0.9, 0.1], [0.05, 0.1], [0.5, 0.6]])
    ids = pd.Series(["1", "2", "3"])
    known = rows.OofPredictions(task, ids, np.arange(3), targets, {"svm": p}, {"svm": p})
    texts = pd.DataFrame({"text": [["one"], ["two"], ["three"]]})
    found = worst.worst_rows(known, "svm", texts, {"x": 0.5, "y": 0.7})
    assert [row.id for row in found] == ["2", "3", "1"]
    assert (found[0].names("actual"), found[0].names("given")) == ("x, y", "(none)")
    assert (found[1].names("actual"), found[1].names("given")) == ("(none)", "x")


def test_json_in_a_script_element_ends_no_element():
    text = report.safe_json({"x": "</script><!--<script>&"})
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"x": "</script><!--<script>&"}


# --- the page


def embedded(page):
    """The page (or its text) without its scripts and style, and the specs."""
    html = page.read_text(encoding="utf-8") if isinstance(page, Path) else page
    specs = re.search(r'<script type="application/json" id="specs">(.*?)</script>', html, re.DOTALL)
    assert specs
    return re.sub(r"<(script|style)\b.*?</\1>", "", html, flags=re.DOTALL), json.loads(specs[1])


@pytest.mark.parametrize("kind", KINDS)
def test_page_has_all_that_its_task_has(pages, kind):
    html, specs = embedded(pages[kind])
    ids = re.findall(r'<h2 id="(\w+)"', html)
    always = ["summary", "leaderboard", "cost", "cascade", "weights", "reliability", "confusion",
              "classes", "audits", "length", "slices", "curve", "worst", "data", "params",
              "source"]  # fmt: skip
    assert ids == [*always[:10], "bias", *always[10:]] if kind == "preference" else ids == always
    assert sorted(re.findall(r'data-chart="([\w-]+)"', html)) == sorted(specs)
    assert html.count('<details class="row"') == 20
    assert 'value="never"' not in html
    assert ">never<" not in html  # it judged no row


def losses_by_row(layout, model):
    """Log losses of the rows that the model judged, by id, from its predictions alone."""
    task = read_task(layout.labels)
    table = pd.read_parquet(layout.predictions(model))
    table = table[table["part"] == "oof"].set_index("id")
    folds = pd.read_parquet(layout.folds).set_index("id").loc[table.index]
    targets, p = (
        frame[[f"{mark}{name}" for name in task.classes]].to_numpy()
        for mark, frame in (("y_", folds), ("p_", table))
    )
    return pd.Series(task.row_losses(targets, p), table.index)


@pytest.mark.parametrize("kind", KINDS)
def test_leaderboard_says_what_the_predictions_say(pages, kind):
    html, _ = embedded(pages[kind])
    board = html[html.index('id="leaderboard"') : html.index('id="cost"')]
    rows = re.findall(r'<th scope="row">(\w+)</th>(.*?)</tr>', board, re.DOTALL)
    assert [name for name, _ in rows] == ["ensemble", "svm", "minilm"]  # fewer rows: the last
    layout = Layout("mine", pages[kind].parents[2])
    final = losses_by_row(layout, "ensemble")
    for model, cells in rows:
        own = losses_by_row(layout, model)
        n_rows, loss, difference = map(float, re.findall(r'data-value="([^"]*)"', cells)[:3])
        assert n_rows == len(own)
        assert loss == pytest.approx(own.mean())
        assert difference == pytest.approx((own - final[own.index]).mean(), abs=1e-12)
        assert f"{own.mean():.4f}" in cells
    summary = html[html.index('id="summary"') : html.index('id="leaderboard"')]
    assert f"{final.mean():.4f}" in summary


@pytest.mark.parametrize("kind", KINDS)
def test_page_is_small_and_names_nothing_to_load(pages, kind):
    html, _ = embedded(pages[kind])
    assert pages[kind].stat().st_size < 3 * MEGABYTE
    named = re.findall(r'\b(?:src|href|action)="([^"]*)"', html)
    assert {name for name in named if not name.startswith("#")} == {"data:,"}


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_text_stays_text(pages, kind):
    html, _ = embedded(pages[kind])
    assert "&lt;script&gt;window.hacked" in html
    assert "<script>window" not in html
    assert "<img" not in html
    assert "{{ 7 * 7 }}" in html
    assert "<b>bold</b>" not in html


def test_same_results_give_the_same_bytes(pages, tmp_path):
    again = build(tmp_path, "preference")
    assert again.read_bytes() == pages["preference"].read_bytes()


def test_page_without_a_learning_curve_or_second_slice(tmp_path):
    layout = write_results(tmp_path, "single_label")
    layout.learning_curve("svm").unlink()
    table = pd.read_parquet(layout.rows).assign(text="same")
    table.to_parquet(layout.rows)
    html, specs = embedded(report.build(layout, ["ensemble", "svm"], "ensemble"))
    assert "curve" not in specs
    assert 'id="slices"' not in html


def test_learning_curves_of_all_models_are_drawn_in_one_chart(tmp_path):
    layout = write_results(tmp_path, "single_label")
    own = pd.read_csv(layout.learning_curve("svm"))
    own.assign(model="logreg").to_csv(layout.learning_curve("logreg"), index=False)
    _, specs = embedded(report.build(layout, ["svm", "ensemble"], "ensemble"))
    models = [line["model"] for line in specs["curve"]["data"]["values"]]
    assert models == ["logreg"] * 3 + ["svm"] * 3


def test_page_of_few_rows(tmp_path):
    layout = write_results(tmp_path, "preference", n_train=30)
    html, specs = embedded(report.build(layout, ["svm", "ensemble"], "ensemble"))
    assert [line["rows"] for line in specs["deciles"]["data"]["values"]] == [30, 30]
    assert 'id="slices"' not in html


def test_slices_of_which_the_final_model_judged_too_few_rows_are_not_shown(tmp_path):
    layout = write_results(tmp_path, "single_label", n_train=100)
    for final, shown in (("ensemble", True), ("minilm", False)):
        html = report.build(layout, ["svm", "minilm", "ensemble"], final)
        assert "<h3>script of the text</h3>" in html
        assert ("<h3>length of the text, characters</h3>" in html) is shown


def test_cascade_that_saves_nothing_says_so(tmp_path):
    layout = write_results(tmp_path, "single_label")
    weights = json.loads(layout.weights.read_text())
    write_json(weights | {"weight": {"svm": 0.0, "minilm": 1.0}}, layout.weights)
    for price, saves in ((0.01, True), (2.5, False)):
        write_json(COST | {"predict_ms_per_row": price}, layout.cost("svm"))
        html = report.build(layout, ["svm", "minilm", "ensemble"], "ensemble")
        assert ("saves nothing" in html) is not saves


def test_page_of_answers_of_equal_length_gives_no_share(tmp_path):
    layout = write_results(tmp_path, "preference")
    table = pd.read_parquet(layout.rows)
    table["response_b"] = table["response_a"]
    table.to_parquet(layout.rows)
    html = report.build(layout, ["svm", "ensemble"], "ensemble")
    assert "No row has a preference and answers of different length." in html
    assert "nan%" not in html


def test_final_model_without_predictions_is_an_error(tmp_path):
    layout = write_results(tmp_path, "single_label")
    with pytest.raises(InputError, match=r"never\.parquet: got no row predicted out of fold"):
        report.build(layout, ["svm", "never"], "never")


def test_damaged_table_is_an_error(tmp_path):
    (tmp_path / "svm.csv").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match=r"svm\.csv: cannot be read as CSV"):
        report.read_csvs({"svm": tmp_path / "svm.csv"}, [])


def test_charts_hold_no_number_that_json_lacks():
    table = pd.DataFrame({"x": [np.nan, 1 / 3, np.inf], "n": np.arange(3), "name": ["a", "b", "c"]})
    found = charts.records(table)
    assert found[0] == {"x": None, "n": 0, "name": "a"}
    assert found[1]["x"] == 0.33333
    assert found[2]["x"] is None


# --- in a browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
browser = pytest.mark.skipif(
    not (CHROMIUM and shutil.which("chromedriver")), reason="no chromium and chromedriver"
)


@pytest.fixture(scope="module")
def driver():
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


def visit(driver, page, width=1600, scheme="light"):
    """Open a page of this width and colour scheme, and wait for its charts."""
    from selenium.webdriver.support.ui import WebDriverWait

    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    prefer(driver, scheme)
    driver.get(page.as_uri())
    WebDriverWait(driver, 600, 0.05).until(
        lambda d: d.execute_script("return document.documentElement.dataset.drawn")
    )


def prefer(driver, scheme):
    feature = {"name": "prefers-color-scheme", "value": scheme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


EMPTY = """
return [...document.querySelectorAll('[data-chart]')]
  .filter(e => !e.querySelector('svg .mark-symbol path, svg .mark-rect path, svg .mark-rule line'))
  .map(e => e.dataset.chart)
"""
TOO_WIDE = """
return [...document.querySelectorAll('body *')]
  .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.scroll, nav, pre'))
  .map(e => e.tagName + '.' + e.getAttribute('class'))
"""


@browser
@pytest.mark.parametrize("kind", KINDS)
def test_page_draws_all_charts_and_loads_nothing_but_itself(driver, pages, kind):
    driver.get_log("browser")
    driver.get_log("performance")
    visit(driver, pages[kind])
    assert driver.execute_script(EMPTY) == []
    assert driver.execute_script("return window.hacked") is None
    assert driver.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = {
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    }
    assert asked == {pages[kind].as_uri()}


@browser
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [400, 1600])
def test_nothing_is_wider_than_the_window(driver, pages, kind, width):
    visit(driver, pages[kind], width)
    driver.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    assert driver.execute_script(TOO_WIDE) == []


LOOK = """
const label = document.querySelector('[data-chart=worth] .role-axis-label text');
return [getComputedStyle(document.body).backgroundColor, label.getAttribute('fill')]
"""


@browser
def test_page_and_charts_follow_the_colour_scheme(driver, pages):
    from selenium.webdriver.support.ui import WebDriverWait

    visit(driver, pages["preference"], scheme="light")
    light = driver.execute_script(LOOK)
    prefer(driver, "dark")  # without a new visit
    WebDriverWait(driver, 600, 0.05).until(lambda d: d.execute_script(LOOK)[1] != light[1])
    dark = driver.execute_script(LOOK)
    assert light[0] == "rgb(255, 255, 255)"
    assert max(map(int, re.findall(r"\d+", dark[0]))) < 50


@browser
def test_table_sorts_by_a_click_and_back_by_another(driver, pages):
    visit(driver, pages["preference"])
    heads = driver.find_elements("css selector", ".sortable thead th")
    names = [head.text.split("\n")[0].split(" ")[0] for head in heads]
    place = names.index("macro-F1")
    script = (
        "return [...document.querySelector('.sortable').tBodies[0].rows]"
        f".map(row => Number(row.cells[{place}].dataset.value))"
    )
    heads[place].find_element("css selector", "button").click()
    up = driver.execute_script(script)
    heads[place].find_element("css selector", "button").click()
    down = driver.execute_script(script)
    assert up == sorted(up)
    assert down == sorted(up, reverse=True)
    assert len(set(up)) == 3
    assert heads[place].get_attribute("aria-sort") == "descending"


MARKS = """
const marks = [...document.querySelectorAll(`[data-chart=${arguments[0]}] .mark-symbol path`)];
return marks.map(m => m.getAttribute('transform')).join()
"""


@browser
def test_choice_of_a_model_reaches_charts_and_tables(driver, pages):
    from selenium.webdriver.support.ui import Select, WebDriverWait

    visit(driver, pages["single_label"])
    before = driver.execute_script(MARKS, "deciles")
    Select(driver.find_element("id", "model")).select_by_visible_text("svm")
    WebDriverWait(driver, 600, 0.05).until(
        lambda d: d.execute_script(MARKS, "deciles") not in ("", before)
    )
    shown = driver.execute_script(
        "return [...document.querySelectorAll('div[data-model]:not([hidden])')]"
        ".map(e => e.dataset.model)"
    )
    assert shown == ["svm"]


@browser
def test_choice_of_a_cost_moves_the_points(driver, pages):
    from selenium.webdriver.support.ui import Select, WebDriverWait

    visit(driver, pages["preference"])
    before = driver.execute_script(MARKS, "worth")
    select = driver.find_element("css selector", "[data-signal=quality]")
    Select(select).select_by_value("accuracy")
    WebDriverWait(driver, 600, 0.05).until(
        lambda d: d.execute_script(MARKS, "worth") not in ("", before)
    )
