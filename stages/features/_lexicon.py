"""Words and patterns that tell how an answer is written.

All but those of capitals, numbers and ends of sentences read lower-cased text, in time linear in
its length. Unlike `re`, `regex` knows the vowel signs of Hindi or Telugu as parts of a word.
"""

import regex


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


FUNCTION_WORDS = _words(
    """
    a an the and or but if of in on at to for from by with as is are was were be been
    being it its this that these those i you he she we they his her their our your my me
    him them us not no so than then there here what which who whom whose when where why
    how can could will would shall should may might must do does did have has had just
    also into about over after before between out up down all any some such only own same
    other more most very s t
    """
)
HEDGES = _words(
    """
    may might could perhaps possibly generally typically usually often sometimes likely
    probably seems appear appears suggest various depending depends
    """
)
CONNECTIVES = _words(
    """
    however therefore because additionally furthermore moreover overall finally first
    second third firstly secondly example instance consequently although while since thus
    hence instead also
    """
)
FIRST_PERSON = _words("i i'm i've i'll i'd me my mine myself")
SECOND_PERSON = _words("you your yours you're you'll you've yourself")
NEGATIONS = _words(
    """
    not no never cannot can't don't doesn't isn't won't wouldn't didn't aren't wasn't
    unable none nothing
    """
)
# Short lists: sentiment is nearly worthless for preferences (docs/log.md)
POSITIVE = _words(
    """
    good great best better nice love happy enjoy enjoyable excellent wonderful amazing
    beautiful helpful hope fun positive success successful safe strong benefit benefits
    easy perfect effective improve interesting important valuable thank thanks welcome
    delicious favorite joy glad excited exciting proud fantastic awesome enhance healthy
    reliable popular unique comfortable
    """
)
NEGATIVE = _words(
    """
    bad worse worst wrong hate sad angry fear terrible awful horrible poor difficult
    problem problems issue issues harm harmful danger dangerous risk risks illegal fail
    failed failure error errors death die kill pain hurt negative lose loss lost stupid
    unfortunately impossible inappropriate offensive violence crime attack damage disease
    sick hard struggle worry anxiety war
    """
)

REFUSAL = regex.compile(
    r"""\b(?:
        i(?:\ am|'m)\ (?:sorry|afraid|unable|not\ able)
      | i\ (?:cannot|can't|can\ not|won't|do\ not|don't)\ (?:
            provide|assist|help|answer|fulfill|create|generate|engage|write|do\ that|comply|support
          | give|discuss|recommend|condone|feel\ comfortable
          | have\ (?:access|personal|the\ ability|enough|any\ information))
      | unable\ to\ (?:provide|assist|help|answer)
      | it\ (?:is|would\ be)\ not\ (?:appropriate|ethical)
      | against\ my\ (?:programming|guidelines)
      | lo\ siento | je\ suis\ désolé | es\ tut\ mir\ leid | entschuldigung | desculpe
      | mi\ dispiace | к\ сожалению | извините
    ) | 抱歉 | 对不起 | 很遗憾 | 申し訳""",
    regex.VERBOSE,
)
DISCLAIMER = regex.compile(
    r"""\b(?:
        as\ an?\ (?:ai|artificial|large\ language|language\ model|assistant|machine)
      | i(?:\ am|'m)\ (?:an?\ |just\ an?\ )?(?:ai|artificial|large\ language|language\ model)\b
      | als\ ki\b | como\ (?:una?\ )?(?:ia\b|modelo\ de\ l) | en\ tant\ qu'ia
    ) | 作为.{0,6}(?:人工智能|ai|语言模型|助手)""",
    regex.VERBOSE,
)
APOLOGY = regex.compile(r"\b(?:apologi[sz]e|apologies|sorry)\b")
QUESTION_BACK = regex.compile(
    r"""\b(?:
        could\ you\ (?:please\ )?(?:provide|clarify|tell|share|specify)
      | can\ you\ (?:provide|clarify|tell|share|please)
      | please\ (?:provide|clarify|specify|let\ me\ know)
      | more\ (?:information|context|details|specific)
      | what\ (?:would\ you|do\ you|kind\ of) | not\ sure\ (?:what|i\b)
    )""",
    regex.VERBOSE,
)

CJK = regex.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]")
# km² is one; marks alone, as those behind an emoji, are none
WORD = regex.compile(r"[\p{L}\p{N}_][\w\p{N}]*(?:'[\w\p{N}]+)?")
NUMBER = regex.compile(r"\d+(?:[.,]\d+)*")
SENTENCE_END = regex.compile(r"[.!?…](?=[\s\"'”’)*]|$)|[。！？]|\n+")
CAPITALISED = regex.compile(r"\b[A-Z][a-z]+")
CONTRACTION = regex.compile(r"\w'(?:t|s|re|ll|ve|m|d)\b")
NUMBERED = regex.compile(r"^[ \t]{0,12}(?:\d{1,3}[.)、]|[a-z][.)])[ \t]?", regex.MULTILINE)
BULLET = regex.compile(r"^[ \t]{0,12}[-*•+–][ \t]", regex.MULTILINE)
HEADER = regex.compile(r"^[ \t]{0,3}#{1,6}[ \t]", regex.MULTILINE)
VOWELS = regex.compile(r"[aeiouy]+")
