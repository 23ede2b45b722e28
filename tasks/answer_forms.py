"""The forms in which two answers are compared: each maps an answer to a text, and is idempotent."""

from __future__ import annotations

import fractions
import re
import string
import unicodedata

LEADING = " \t\n:,;"
TRAILING = " \t\n.,;:!?"
BRACKETS = frozenset("()[]{}<>")

_PAIRS = {"(": ")", "[": "]", "{": "}", '"': '"', "'": "'", "`": "`", "“": "”", "*": "*"}
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?:\D|$))")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_FIRST_ARTICLE = re.compile(r"^(?:a|an|the)\s+(?=\S)")
# A sum of money or a share counts as its number.
_MONEY = "$€£¥₹₽฿₩"
_MOST_DIGITS = 30
_PLAIN_NUMBER = re.compile(r"([+-]?)(\d*)(?:\.(\d*))?(?:/(\d+))?", re.ASCII)
# Digits in groups: 1,234,567 and, as in India and Bangladesh, 12,34,567; 1 234 567; 1'234'567.
_GROUPED = r"\d{1,3}(?:,\d{3})+|\d{1,2}(?:,\d{2})+,\d{3}|\d{1,3}(?:[ \u00a0\u202f\u2009'’]\d{3})+"
NUMBER = re.compile(
    rf"(?<![\d.,])(?P<sign>(?<![\w)%])[+-])?(?:[{_MONEY}]\s?(?P<sign2>[+-])?)?"
    rf"(?P<whole>(?:{_GROUPED})(?![\d,]?\d)|\d+|(?=\.\d))"
    r"(?:\.(?P<part>\d+)|,(?P<comma>\d+)(?![\d,]))?(?:/(?P<below>\d+)(?![\d/]))?",
    re.ASCII,
)


def normalise(text: str) -> str:
    """Returns the form in which answers are compared.

    Lower case, single spaces, outer punctuation, quotes and matched brackets off, no thousands
    separators. An answer that is nothing but punctuation stays as it is; of one that is nothing
    but brackets the brackets stay, without spaces.

    >>> normalise(' (C). '), normalise('1,200'), normalise('f(x)'), normalise('-5.')
    ('c', '1200', 'f(x)', '-5')
    >>> normalise('] ) >.')
    '])>'
    """
    kept = " ".join(text.split()).casefold()
    brackets = kept.rstrip(TRAILING)
    if brackets and BRACKETS.issuperset(brackets.replace(" ", "")):
        return brackets.replace(" ", "")
    stripped = kept
    while True:
        before = stripped
        stripped = stripped.lstrip(LEADING).rstrip(TRAILING)
        if _is_wrapped(stripped):
            stripped = stripped[1:-1]
        if stripped == before:
            break
    return _THOUSANDS.sub("", stripped) or kept


def _is_wrapped(text: str) -> bool:
    """Whether the first and last characters are a pair that belongs together."""
    if len(text) < 2 or _PAIRS.get(text[0]) != text[-1]:
        return False
    opening, closing = text[0], text[-1]
    inner = text[1:-1]
    if opening == closing:
        return opening not in inner
    depth = 0
    for character in inner:
        depth += (character == opening) - (character == closing)
        if depth < 0:
            return False
    return depth == 0


def as_written(text: str) -> str:
    """Returns the text with single spaces, case and punctuation kept."""
    return " ".join(text.split())


def span(text: str) -> str:
    """Returns the form in which SQuAD and TyDiQA compare: lower case, no punctuation, no articles.

    >>> span('The "Eiffel  Tower".'), span('a.')
    ('eiffel tower', '')
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def noun(text: str) -> str:
    """Returns the normalised text without an article before it.

    >>> noun('The nurse.'), noun('an accountant'), noun('theatre'), noun('The')
    ('nurse', 'accountant', 'theatre', 'the')
    """
    kept = normalise(text)
    while (shorter := normalise(_FIRST_ARTICLE.sub("", kept, count=1))) != kept:
        kept = shorter
    return kept


def words(text: str) -> str:
    """Returns a list of words without what stands between them, lower case.

    >>> words('apple, Pear and fig'), words("1. apple\\n2. pear"), words('salt and pepper')
    ('apple pear fig', 'apple pear', 'salt and pepper')
    """
    text = re.sub(r"(?:^|\n)\s*(?:\d+[.)]|[-*•])\s+", "\n", text.casefold())
    listed = re.sub(r",?\s+and\s+(?=\S+\W*$)", ", ", text) if "," in text else text
    found = [word.strip("[]()\"'`“”*.,;:!?") for word in re.split(r"[,;\s]+", listed)]
    return " ".join(word for word in found if word)


def ascii_digits(text: str) -> str:
    """Returns the text with digits, signs and separators of every script as ASCII has them.

    >>> ascii_digits('১২.৫'), ascii_digits('−１２'), ascii_digits('٣٬٥٠٠٫٥')
    ('12.5', '-12', '3,500.5')
    """
    if text.isascii():
        return text
    plain = []
    for character in text:
        if "\uff01" <= character <= "\uff5e":
            # The full-width forms of ASCII. Of other text a normal form would change the letters.
            character = chr(ord(character) - 0xFEE0)
        digit = unicodedata.decimal(character, None)
        plain.append(_SIGNS.get(character, character) if digit is None else str(digit))
    return "".join(plain)


_SIGNS = {"−": "-", "–": "-", "‒": "-", "﹣": "-", "٬": ",", "٫": ".", "،": ","}


def number_of(match: re.Match[str]) -> str:
    """Returns the plain form of a match of `NUMBER`: no separators, no needless zeros.

    A fraction is carried out where its decimals end, else it is written in lowest terms.
    """
    whole = re.sub(r"\D", "", match["whole"], flags=re.ASCII)
    part = match["part"] or match["comma"] or ""
    negative = "-" in ((match["sign"] or "") + (match["sign2"] or ""))
    text = f"{'-' * negative}{whole or '0'}.{part}"
    return plain_number(text + (f"/{match['below']}" if match["below"] else ""))


def plain_number(text: str) -> str:
    """Returns the plain form of "-012.50", "+3" or "1/2"; other text unchanged.

    >>> [plain_number(text) for text in ("-012.50", "+3.", "1/2", "2/6", "-0")]
    ['-12.5', '3', '0.5', '1/3', '0']
    """
    match = _PLAIN_NUMBER.fullmatch(text)
    if not match or not (match[2] or match[3]):
        return text
    whole, part, below = match[2].lstrip("0"), (match[3] or "").rstrip("0"), match[4]
    if below and len(whole + part) + len(below) <= _MOST_DIGITS and int(below):
        value = fractions.Fraction(int(f"{whole}{part}" or "0"), 10 ** len(part) * int(below))
        whole, part, below = _decimal(value)
    plain = (whole or "0") + (f".{part}" if part else "") + (f"/{below}" if below else "")
    return plain if plain == "0" or match[1] != "-" else f"-{plain}"


def _decimal(value: fractions.Fraction) -> tuple[str, str, str]:
    """Returns (whole, decimals, denominator): the last is empty where the decimals end."""
    rest, places = value.denominator, 0
    for prime in (2, 5):
        power = 0
        while rest % prime == 0:
            rest //= prime
            power += 1
        places = max(places, power)
    if rest != 1:
        return str(value.numerator), "", str(value.denominator)
    digits = str(value.numerator * 10**places // value.denominator).zfill(places + 1)
    return digits[: len(digits) - places].lstrip("0"), digits[len(digits) - places :], ""


def number(text: str) -> str:
    """Returns a number in its plain form; a text that is not one number is normalised.

    >>> number('১,২০০'), number('$12.00'), number('-3'), number('70 %'), number('two')
    ('1200', '12', '-3', '70', 'two')
    """
    kept = ascii_digits(text).strip().rstrip(TRAILING + "%" + _MONEY)
    match = NUMBER.fullmatch(kept)
    return number_of(match) if match else normalise(text)
