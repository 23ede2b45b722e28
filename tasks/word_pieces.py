"""Words of a text in any script, for metrics that compare words."""

from __future__ import annotations

import re
import unicodedata

_ASCII_WORD = re.compile(r"[a-z0-9]+")
# Scripts that put no space between words; their characters are compared one by one.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u0f00-\u109f\u1780-\u17ff\u1950-\u19df\u3005-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)


class WordPieces:
    """A tokeniser for rouge-score, whose own drops every letter beyond a to z.

    For ASCII text both give the same, without a stemmer.
    """

    def tokenize(self, text: str) -> list[str]:
        """Returns the words in lower case; letters, digits and the marks on them.

        >>> WordPieces().tokenize("Don't: 3 cafés"), WordPieces().tokenize("答案 is 7。")
        (['don', 't', '3', 'cafés'], ['答', '案', 'is', '7'])
        """
        text = text.lower()
        if text.isascii():
            return _ASCII_WORD.findall(text)
        spaced = _UNSPACED.sub(r" \g<0> ", unicodedata.normalize("NFC", text))
        kept = (c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in spaced)
        return "".join(kept).split()
