"""SentencePiece vocabularies without TensorFlow: text to ids and back."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import sentencepiece

from flan_train import spiece, words
from flan_train.errors import UserError

PAD_ID, EOS_ID, UNK_ID = 0, 1, 2
# Padding the embedding to a multiple of this keeps it divisible over devices; a model's vocabulary
# may be that much larger than the pieces, never smaller.
EMBEDDING_PADDING = 128
T5_EXTRA_IDS = 100

_QUICKSTART = ("tasks", "vocabularies", "quickstart.spiece.model")
_T5 = ("vocab", "t5_cc_all.32000.spiece.model")
# The same file under any name: T5, T5 1.1 and Flan-T5 have 100 sentinel ids after its pieces.
_T5_SHA256 = "d60acb128cf7b7f2536e8f38a5b18a05535c9e14c7a355904270e15b0945ea86"
# What a model folder calls its SentencePiece model, and says about it.
_IN_FOLDER = ("spiece.model", "tokenizer.model", "sentencepiece.bpe.model")
_TOKENIZER_CONFIG = "tokenizer_config.json"
_MOST_EXTRA_IDS = 10_000


class Vocabulary:
    """A SentencePiece model, with `extra_ids` sentinel ids after its pieces.

    Attributes:
      path: the model file.
      name: what it was asked for by.
      sha256: hex digest of the file's bytes.
      size: pieces + extra ids.
      has_sentinels: whether <extra_id_0> is one of the pieces.
    """

    pad_id = PAD_ID
    eos_id = EOS_ID
    unk_id = UNK_ID

    def __init__(self, path: str | os.PathLike[str], extra_ids: int = 0, name: str = "") -> None:
        """Loads a model file.

        Raises:
          UserError: no such file; not a SentencePiece model; pad, EOS and unknown are not the ids
            0, 1 and 2 that T5 models use.
        """
        self.path = pathlib.Path(path)
        self.name = name or self.path.name
        self.extra_ids = extra_ids
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise UserError(
                f"cannot read the vocabulary: {error.strerror}",
                where=str(self.path),
                expected="a SentencePiece model file",
                fix="set VOCABULARY to 'quickstart', 't5' or the path of a .model file",
            ) from None
        self.sha256 = hashlib.sha256(content).hexdigest()
        self._model = sentencepiece.SentencePieceProcessor()
        try:
            if not content:
                raise ValueError("the file is empty")
            if self.sha256 != _T5_SHA256:
                spiece.check(content)
            self._model.LoadFromSerializedProto(content)
        except (RuntimeError, ValueError):
            raise UserError(
                "the vocabulary is not a SentencePiece model",
                where=f"{self.path} ({len(content)} bytes)",
                expected="a .model file, whole and unaltered",
                fix="fetch the file again",
            ) from None
        self._caches: dict[str, words.WordCache | None] = {}
        self._pieces = self._model.vocab_size()
        self.size = self._pieces + extra_ids
        # mT5's file has its sentinels as pieces.
        self.has_sentinels = any(
            not self._model.is_unknown(self._model.piece_to_id(piece))
            for piece in ("<extra_id_0>", "▁<extra_id_0>")
        )
        found = (self._model.pad_id(), self._model.eos_id(), self._model.unk_id())
        if found != (PAD_ID, EOS_ID, UNK_ID):
            raise UserError(
                f"the vocabulary has pad, EOS and unknown at ids {found}",
                where=str(self.path),
                expected="0, 1 and 2",
                fix="train the model with pad_id=0, eos_id=1, unk_id=2, bos_id=-1",
            )

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each text, without EOS."""
        # One thread: preparing runs one process a core as it is.
        return self._model.encode(list(texts), out_type=int, num_threads=1)

    def encode_stored(self, texts: Sequence[str], dtype: np.dtype[Any]) -> list[bytes]:
        """Returns the ids of each text, without EOS, as bytes of a stored type.

        The ids are those of `encode_batch`. With a model like T5's they come from a cache of words,
        about five times faster where words come back (`flan_train.words`).

        Args:
          texts: what to encode.
          dtype: the type of an id, such as "<u2".
        """
        return self.encode_pieces([(text,) for text in texts], dtype)

    def encode_pieces(self, texts: Sequence[Sequence[str]], dtype: np.dtype[Any]) -> list[bytes]:
        """Returns the ids of each text, without EOS, as `encode_stored`.

        Args:
          texts: each in pieces with white space on one side of every cut; pieces that other texts
            have too cost next to nothing.
          dtype: the type of an id.
        """
        dtype = np.dtype(dtype)
        if dtype.str not in self._caches:
            try:
                self._caches[dtype.str] = words.cache_for(self._model, dtype)
            except ValueError as error:
                raise UserError(
                    f"the vocabulary is damaged: {error}",
                    where=str(self.path),
                    expected="a .model file, whole and unaltered",
                    fix="fetch the file again",
                ) from error
        cache = self._caches[dtype.str]
        if cache is not None:
            return cache.encode(texts)
        whole = self.encode_batch(["".join(pieces) for pieces in texts])
        return [np.asarray(ids, dtype).tobytes() for ids in whole]

    def encode(self, text: str) -> list[int]:
        """Returns the ids of one text, without EOS."""
        return self._model.encode(text, out_type=int)

    def decode(self, ids: Iterable[int] | np.ndarray) -> str:
        """Returns the text of ids up to the first EOS, without padding.

        Ids beyond the pieces (sentinels, and the rows an embedding is padded with) read as unknown.
        """
        kept: list[int] = []
        for token in ids:
            token = int(token)
            if token == EOS_ID:
                break
            if token != PAD_ID:
                kept.append(token if 0 <= token < self._pieces else UNK_ID)
        return self._model.decode(kept)

    def piece(self, token: int) -> str:
        """Returns how one id is written: a piece, or `<extra_id_N>` counted from the end."""
        if 0 <= token < self._pieces:
            return self._model.id_to_piece(int(token))
        return f"<extra_id_{self.size - 1 - token}>" if token < self.size else f"<{token}>"

    def __reduce__(self) -> tuple[object, ...]:
        return (Vocabulary, (self.path, self.extra_ids, self.name))

    def __repr__(self) -> str:
        return f"Vocabulary({self.name!r}, size={self.size})"


def vocabulary_path(name: str, data_dir: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """Returns the file of a vocabulary.

    Args:
      name: "quickstart" (shipped), "t5" (in the data folder), the path of a file, or the path of
        a model folder as Hugging Face lays them out.
      data_dir: the data folder, else FLAN_DATA_DIR.

    Raises:
      UserError: "t5" without a data folder, or without the file in it; a folder without a
        SentencePiece model.
    """
    if name == "quickstart":
        return pathlib.Path(__file__).resolve().parent.joinpath(*_QUICKSTART)
    if name != "t5":
        return _in_folder(pathlib.Path(name).expanduser())
    folder = data_dir or os.environ.get("FLAN_DATA_DIR")
    if not folder:
        raise UserError(
            "the vocabulary 't5' is read from the data folder, and no data folder is named",
            where="FLAN_DATA_DIR",
            expected="a folder with " + "/".join(_T5) + " in it",
            fix="set FLAN_DATA_DIR, or give --data_dir",
        )
    path = pathlib.Path(folder).expanduser().joinpath(*_T5)
    if not path.is_file():
        raise UserError(
            "the vocabulary 't5' is not there",
            where=str(path),
            expected="T5's SentencePiece model, 32,000 pieces",
            fix="put the `spiece.model` of a T5 checkpoint there under this name (for one "
            "google/t5-v1_1-base at huggingface.co), or set VOCABULARY to the path of the file",
        )
    return path


def load_vocabulary(
    name: str, data_dir: str | os.PathLike[str] | None = None, extra_ids: int | None = None
) -> Vocabulary:
    """Returns a vocabulary by name or path; the same object for the same unchanged file.

    Args:
      name: "quickstart", "t5", or the path of a file or of a model folder.
      data_dir: the data folder, else FLAN_DATA_DIR.
      extra_ids: sentinel ids after the pieces. None for what goes with the file: 100 with T5's,
        under whatever name; none where they are pieces, as in mT5's; else what the
        tokenizer_config.json beside a file of a model folder says; else none.

    Raises:
      UserError: the file is missing or is no vocabulary.
    """
    if extra_ids is None and name == "t5":
        extra_ids = T5_EXTRA_IDS
    path = vocabulary_path(name, data_dir)
    described = path.with_name(_TOKENIZER_CONFIG)
    stamps = tuple(each.stat().st_mtime_ns if each.is_file() else 0 for each in (path, described))
    return _load(str(path), stamps, extra_ids, name)


@functools.lru_cache(maxsize=8)
def _load(path: str, stamps: tuple[int, ...], extra_ids: int | None, name: str) -> Vocabulary:
    if extra_ids is not None:
        return Vocabulary(path, extra_ids, name)
    plain = Vocabulary(path, 0, name)
    extra_ids = _extra_ids(plain)
    return Vocabulary(path, extra_ids, name) if extra_ids else plain


def _in_folder(path: pathlib.Path) -> pathlib.Path:
    if not path.is_dir():
        return path
    for name in _IN_FOLDER:
        if (path / name).is_file():
            return path / name
    raise UserError(
        "the folder has no SentencePiece model",
        where=str(path),
        expected=f"{_IN_FOLDER[0]}, as in a T5 or mT5 folder of Hugging Face",
        fix="download it into the folder; a tokenizer.json alone is not read",
    )


def _extra_ids(plain: Vocabulary) -> int:
    """Returns how many sentinel ids follow the pieces of a model file that is known by its path."""
    if plain.sha256 == _T5_SHA256:
        return T5_EXTRA_IDS
    path = plain.path.with_name(_TOKENIZER_CONFIG)
    if plain.has_sentinels or plain.path.name not in _IN_FOLDER or not path.is_file():
        return 0
    try:
        described = json.loads(path.read_bytes())
        found = described.get("extra_ids", 0)
        if type(found) is not int or not 0 <= found <= _MOST_EXTRA_IDS:
            raise ValueError(f"extra_ids is no whole number up to {_MOST_EXTRA_IDS:,}")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(
            f"cannot read how many sentinel ids the vocabulary has: {error}",
            where=str(path),
            expected="JSON as Hugging Face writes it",
            fix=f"download it again, or put {plain.path.name} into a folder without it",
        ) from None
    return found


def check_model_vocabulary(vocabulary: Vocabulary, vocab_size: int) -> None:
    """Returns when a model with `vocab_size` embedding rows can read the vocabulary's ids.

    Raises:
      UserError: fewer rows than ids, or so many more that another vocabulary must be meant.
    """
    if vocabulary.size <= vocab_size < vocabulary.size + EMBEDDING_PADDING:
        return
    padded = -(-vocabulary.size // EMBEDDING_PADDING) * EMBEDDING_PADDING
    raise UserError(
        f"the model's vocabulary of {vocab_size:,} does not go with '{vocabulary.name}'",
        where=f"T5Config.vocab_size; {vocabulary.path} has {vocabulary.size:,} ids",
        expected=f"{vocabulary.size:,} or up to {EMBEDDING_PADDING - 1} more; best {padded:,}",
        fix="choose the vocabulary the checkpoint was trained with, or set vocab_size",
    )
