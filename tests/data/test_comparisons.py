import time

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stages.data.comparisons import comparison, put_into_words


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("Net profit was 35.5 mln compared with 29.8 mln .", "rose"),
        ("Profitability ( EBIT % ) was 13.6 % , compared to 14.3 % in Q2 2009 .", "fell"),
        ("It earned EUR 9.8 mn, compared to a loss of EUR 12.7 mn in 2009.", "improved"),
        ("Operating loss was EUR 179mn , compared to a loss of EUR 188mn .", "improved"),
        ("Its net loss widened to 3.2 mln euro from 900,000 euro a year earlier.", "worsened"),
        ("A 1.49 million loss, compared with a 1.70 million profit a year ago.", "worsened"),
        ("Cash flow was a negative EUR 3.1 mn , compared to EUR 23.3 mn .", "worsened"),
        ("Profit after taxes was EUR 0.1 mn , compared to EUR -0.4 mn .", "improved"),
        ("Sales of $2 billion versus $1,500 million", "rose"),
        ("Profit was EUR 8.3 mn , compared to EUR 8.4 in the same period .", "fell"),
        ("Profit fell to 884,000 euro from 2.0 mln euro .", "fell"),
        ("It posted 7.99 mln euro $ 10.4 mln, compared to 8.4 mln euro $ 10.9 mln.", "fell"),
        ("Profit rose to EUR 24.1 m ( USD 33.6 m ) from EUR 30 m ( USD 41 m ) .", "fell"),
        ("Income was £5m against £5m, and 3 % from 2 % .", "rose"),
        (f"Profit was EUR 50 mn , compared to {'x' * 86} EUR 1234.5 mn", "fell"),
    ],
)
def test_amounts_are_compared_by_unit_scale_and_sign(text, word):
    assert comparison(text) == word


@pytest.mark.parametrize(
    "text",
    [
        "",
        "From 12 July 2009 to 2010 it had 300 people, compared to 250 in 2008 .",  # no amounts
        "Sales increased from EUR 13 m , as compared to the period in 2005 .",  # one amount
        "Profit increased from EUR 13 m , while sales increased from EUR 30 m .",  # no new amount
        "It pays 3 % of EUR 5 m from now on .",
        "A margin of 5 % from EUR 3 m .",  # other units
        "EUR 5 m compared to EUR 5 m",
        "EUR 5 m ." + " word" * 40 + " compared to EUR 6 m",  # too far away
    ],
)
def test_nothing_is_said_where_nothing_is_compared(text):
    assert comparison(text) is None


def test_texts_turns_and_nulls_of_the_named_columns_get_the_word_at_their_end():
    rows = pd.DataFrame({"id": ["5 % from 4 %", "b"], "text": ["5 % from 4 %", None]})
    turns = pd.DataFrame({"prompt": [["5 % from 4 %", None, "5 %"]]})
    found = put_into_words(rows, ["text"])
    assert found["id"].tolist() == rows["id"].tolist()
    assert found["text"][0] == "5 % from 4 % (rose)"
    assert found["text"].isna().tolist() == [False, True]
    assert put_into_words(turns, ["prompt"])["prompt"].tolist() == [
        ["5 % from 4 % (rose)", None, "5 %"]
    ]


@given(st.text(alphabet="15 .,%-()$mEURfrom\n"))
@example("-5 % from -6 %")
def test_any_text_has_a_word_or_none(text):
    assert comparison(text) in {"rose", "fell", "improved", "worsened", None}


@pytest.mark.parametrize(
    "piece", ["1", "1,000", "$ 1 ", "from ", "1 % from ", "(", "loss ", "negative "]
)
def test_long_texts_take_time_in_proportion(piece):
    started = time.process_time()
    comparison(piece * (300_000 // len(piece)))
    assert time.process_time() - started < 10
