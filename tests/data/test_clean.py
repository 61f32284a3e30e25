import unicodedata

import pandas as pd
import pytest

from stages.core.errors import InputError
from stages.core.layout import Layout
from stages.core.tables import write_json
from stages.data import clean
from tests.given import write_params

COLUMNS = ("prompt", "response_a", "response_b")
TOKENIZERS = ["regexp", "treebank", "tweet", "toktok"]
NASTY = [
    [""],
    [None],
    [],
    None,
    ["😀👩‍👩‍👧 ok", None, "second\0 turn\u200b"],
    ["lone \ud800 surrogate"],
    ["```python\nprint('hi')\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |"],
    ["<" * 3000, "[" * 3000, "*" * 3000, " " * 3000, "www." * 3000],
    ["日本語のテキスト 中文"],
    "one text, no list",
]


def make_params(**changes):
    params = {
        "lower": True,
        "strip_urls": True,
        "strip_markup": True,
        "strip_punctuation": True,
        "tokenizer": "regexp",
        "stop_words": "none",
        "lemmatize": "none",
        "stem": "none",
    }
    return clean.CleanParams(**(params | changes))


def clean_one(text, **changes):
    return clean.clean_texts(pd.DataFrame({"text": [text]}), make_params(**changes))["text"][0]


def make_rows(n):
    cells = [NASTY[row % len(NASTY)] for row in range(n)]
    frame = pd.DataFrame({"id": [f"r{row}" for row in range(n)]})
    for shift, name in enumerate(COLUMNS):
        frame[name] = cells[shift:] + cells[:shift]
    return frame


@pytest.fixture
def nltk_data(tmp_path, monkeypatch):
    """An NLTK that finds data in an empty folder only, and has not looked yet."""
    import nltk
    from nltk.corpus.reader import WordListCorpusReader, WordNetCorpusReader
    from nltk.corpus.util import LazyCorpusLoader

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "nltk_data")])
    words = LazyCorpusLoader("wordnet", WordNetCorpusReader, "no other languages")
    stop_words = LazyCorpusLoader("stopwords", WordListCorpusReader, r"(?!README|\.).*")
    monkeypatch.setattr(nltk.corpus, "wordnet", words)
    monkeypatch.setattr(nltk.corpus, "stopwords", stop_words)
    yield tmp_path / "nltk_data"
    for file in vars(words).get("_data_file_map", {}).values():  # NLTK leaves it open
        file.close()


@pytest.fixture
def wordnet(nltk_data):
    """A WordNet of a few words."""
    folder = nltk_data / "corpora/wordnet"
    folder.mkdir(parents=True)
    (folder / "lexnames").write_text("00\tadj.all\t3\n")
    (folder / "index.sense").write_text("")
    words = {
        "noun": ("n", ["dog", "us", "u", "wa", "v", "doe", "leaf", "running", "words"]),
        "verb": ("v", ["run", "be", "do", "leave"]),
        "adj": ("a", ["good"]),
        "adv": ("r", ["well"]),
    }
    exceptions = {"noun": "leaves leaf\n", "verb": "was be\nrunning run\n"}
    for pos, (letter, lemmas) in words.items():
        index = "".join(f"{lemma} {letter} 1 0 1 0 00000001\n" for lemma in lemmas)
        (folder / f"index.{pos}").write_text("  1 licence\n" + index)
        (folder / f"data.{pos}").write_text("")
        (folder / f"{pos}.exc").write_text(exceptions.get(pos, ""))
    return folder


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("It's DON’T-care, café!", "it's don't care café"),
        ("see https://example.org/a_b?c=d&e (or www.example.com).", "see or"),
        (
            "# Title\n\n* **bold** and `code`\n1. _one_ snake_case",
            "title bold and code one snake_case",
        ),
        ("[the docs](https://example.org/x) ![](y.png)", "the docs"),
        ("<p class='x'>a &amp; b &lt;c&gt;</p><br/>", "a b c"),
        ("if x < 3 and y > 4: vector", "if x 3 and y 4 vector"),
        ("```python\nreturn 1\n```", "return 1"),
        ("ｆｕｌｌ\u00a0width ﬁ", "full width fi"),
        ("costs 5 € 😀", "costs 5 € 😀"),
        ("日本 語x1", "日 本 語 x1"),
        ("zero\u200bwidth\x07bell", "zerowidthbell"),
    ],
)
def test_default_params_leave_words_only(text, tokens):
    assert clean_one(text) == tokens


def test_params_that_are_off_leave_the_text_alone():
    kept = clean_one(
        "<b>Hi!</b> https://a.b",
        lower=False,
        strip_urls=False,
        strip_markup=False,
        strip_punctuation=False,
    )
    assert kept == "< b > Hi ! < / b > https : / / a . b"


def test_link_leaves_its_text_whatever_it_leads_to():
    text = "see [the docs](https://a.b/c) and ![a pic](d.png) at www.e.f"
    kept = clean_one(text, strip_punctuation=False)
    assert kept == "see the docs and a pic at"


def test_turns_are_joined_and_nulls_are_empty():
    assert clean_one(["one", None, "two"]) == "one two"
    assert [clean_one(cell) for cell in ([], [None], None, float("nan"))] == [""] * 4


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("stem", ["none", "snowball", "porter"])
def test_every_tokenizer_and_stemmer_bears_nasty_texts(tokenizer, stem):
    rows = make_rows(len(NASTY))
    cleaned = clean.clean_texts(rows[[*COLUMNS]], make_params(tokenizer=tokenizer, stem=stem))
    assert cleaned.shape == (len(NASTY), 3)
    assert cleaned.map(lambda text: text == " ".join(text.split())).to_numpy().all()
    categories = {unicodedata.category(c) for text in cleaned["prompt"] for c in text}
    assert not categories & {"Cc", "Cs"}
    assert cleaned["prompt"][:4].tolist() == [""] * 4


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_every_tokenizer_finds_the_words(tokenizer):
    cleaned = clean_one("The otters swam, quickly (all day).", tokenizer=tokenizer)
    assert cleaned == "the otters swam quickly all day"


@pytest.mark.parametrize("words", ["कैसे होंगे आपका", "నాకు ఎలా", "ɛ̃ septḿ̥"])
def test_marks_that_modify_a_letter_belong_to_its_word(words):
    assert clean_one(words) == unicodedata.normalize("NFKC", words)


def test_no_text_takes_too_long_for_the_tokenizer(monkeypatch):
    monkeypatch.setattr("nltk.redos.DEFAULT_TIMEOUT", 1e-6)  # seconds; 12 MB take 5
    assert clean_one("to and fro " * 10_000) == " ".join(["to and fro"] * 10_000)


def test_stop_words_go_before_stemming_whatever_their_case():
    cleaned = clean_one(
        "THE otters were running", stop_words="sklearn", stem="snowball", lower=False
    )
    assert cleaned == "otter run"


def test_each_distinct_word_is_normalised_once(monkeypatch):
    seen = []
    monkeypatch.setattr(clean, "is_punctuation", seen.append)
    clean_one(["a b a", "b a c"])
    assert seen == ["a", "b", "c"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # joblib forks a process with threads
def test_workers_and_chunks_do_not_change_the_result(monkeypatch, tmp_path):
    rows = pd.concat([make_rows(4)] * 6, ignore_index=True)
    alone = clean.clean_texts(rows[[*COLUMNS]], make_params(stem="snowball"))
    start = stage(tmp_path, monkeypatch, rows, make_params(stem="snowball"))
    monkeypatch.setattr(clean, "ROWS_PER_CHUNK", 4)
    pd.testing.assert_frame_equal(start("one").drop(columns="id"), alone)
    monkeypatch.setattr(clean, "PARALLEL_FROM", 1)
    monkeypatch.setenv("VERDICT_WORKERS", "2")
    start("two")
    assert Layout("one").clean.read_bytes() == Layout("two").clean.read_bytes()


def test_missing_wordnet_is_refused_with_the_command_that_gets_it(nltk_data):
    with pytest.raises(InputError, match=r"nltk\.downloader wordnet"):
        clean.clean_texts(make_rows(2)[[*COLUMNS]], make_params(lemmatize="wordnet"))


def test_wordnet_that_lacks_a_file_is_refused(wordnet):
    (wordnet / "lexnames").unlink()
    with pytest.raises(InputError, match=r"lemmatize: wordnet: .*lexnames"):
        clean.make_normalizer(make_params(lemmatize="wordnet"))


def test_missing_stop_words_are_refused_with_the_command_that_gets_them(nltk_data):
    with pytest.raises(InputError, match=r"stop_words: nltk: .*nltk\.downloader stopwords"):
        clean.make_normalizer(make_params(stop_words="nltk"))


def test_nltk_stop_words_are_read_where_installed(nltk_data):
    folder = nltk_data / "corpora/stopwords"
    folder.mkdir(parents=True)
    (folder / "english").write_text("the\nof\n")
    assert clean_one("The end of it", stop_words="nltk") == "end it"


@pytest.mark.usefixtures("wordnet")
def test_lemmas_are_of_nouns_then_verbs_and_function_words_are_spared():
    text = "Dogs leaves running was us does good vs unknown"
    assert clean_one(text, lemmatize="wordnet") == "dog leaf run be us do good vs unknown"


def stage(folder, monkeypatch, rows, params):
    """A function that runs the stage on `rows` as a dataset of any name, and reads its output."""
    monkeypatch.chdir(folder)

    def start(dataset):
        layout = Layout(dataset)
        write_params(folder, dataset, clean=params.model_dump())
        write_json({"kind": "preference", "classes": ["a", "b", "tie"]}, layout.labels)
        layout.augmented.parent.mkdir(parents=True, exist_ok=True)
        rows.to_parquet(layout.augmented)
        clean.main(dataset=dataset)
        return pd.read_parquet(layout.clean)

    return start


def test_main_writes_the_same_bytes_twice(tmp_path, monkeypatch):
    start = stage(tmp_path, monkeypatch, make_rows(4), make_params())
    frame = start("one")
    start("two")
    assert Layout("one").clean.read_bytes() == Layout("two").clean.read_bytes()
    assert frame.columns.tolist() == ["id", *COLUMNS]
    assert frame["response_a"].tolist()[:3] == ["", "", ""]
