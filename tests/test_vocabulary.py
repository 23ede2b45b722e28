from __future__ import annotations

import io
import pathlib
import pickle

import numpy as np
import pytest
import sentencepiece

from flan_train.errors import UserError
from flan_train.vocabulary import (
    Vocabulary,
    check_model_vocabulary,
    load_vocabulary,
    vocabulary_path,
)


def test_text_survives_a_round_trip() -> None:
    vocabulary = load_vocabulary("quickstart")
    texts = ["What is 12 + 7?", "The answer is 19."]
    encoded = vocabulary.encode_batch(texts)
    assert [vocabulary.decode(ids) for ids in encoded] == texts
    assert encoded == [vocabulary.encode(text) for text in texts]
    assert all(vocabulary.eos_id not in ids for ids in encoded)


def test_decode_stops_at_eos_and_drops_padding() -> None:
    vocabulary = load_vocabulary("quickstart")
    ids = vocabulary.encode("sorted")
    assert vocabulary.decode(np.array([0, *ids, 0, 1, *ids], np.int32)) == "sorted"
    assert vocabulary.decode([]) == ""


def test_ids_beyond_the_pieces_decode_as_unknown() -> None:
    vocabulary = Vocabulary(vocabulary_path("quickstart"), extra_ids=100)
    assert vocabulary.decode([vocabulary.size - 1]) == vocabulary.decode([2])
    assert vocabulary.piece(vocabulary.size - 1) == "<extra_id_0>"
    assert vocabulary.piece(vocabulary.eos_id) == "</s>"
    assert vocabulary.piece(vocabulary.size) == f"<{vocabulary.size}>"


def test_t5_has_100_extra_ids(flan_data_dir: pathlib.Path) -> None:
    vocabulary = load_vocabulary("t5", str(flan_data_dir))
    assert vocabulary.size == 32_100
    check_model_vocabulary(vocabulary, 32_128)


def test_the_same_file_is_loaded_once() -> None:
    assert load_vocabulary("quickstart") is load_vocabulary("quickstart")


def test_pickles_by_path() -> None:
    vocabulary = Vocabulary(vocabulary_path("quickstart"), extra_ids=3, name="mine")
    copy = pickle.loads(pickle.dumps(vocabulary))
    assert (copy.sha256, copy.size, copy.name) == (vocabulary.sha256, vocabulary.size, "mine")
    assert "mine" in repr(copy)


def test_missing_file(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"cannot read the vocabulary(.|\n)*absent\.model"):
        load_vocabulary(str(tmp_path / "absent.model"))


@pytest.mark.parametrize("content", [b"", b"\x00\xffnot a model"])
def test_garbled_file(tmp_path: pathlib.Path, content: bytes) -> None:
    path = tmp_path / "garbled.model"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"not a SentencePiece model(.|\n)*garbled\.model"):
        load_vocabulary(str(path))


def test_other_special_ids_are_refused(tmp_path: pathlib.Path) -> None:
    model = io.BytesIO()
    sentences = iter([f"number {i} and {i * i}" for i in range(50)])
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sentences, model_writer=model, vocab_size=40, minloglevel=2
    )
    path = tmp_path / "other.model"
    path.write_bytes(model.getvalue())
    with pytest.raises(UserError, match="pad_id=0, eos_id=1, unk_id=2"):
        Vocabulary(path)


def test_t5_needs_a_data_folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLAN_DATA_DIR", raising=False)
    with pytest.raises(UserError, match="no data folder is named"):
        load_vocabulary("t5")
    with pytest.raises(UserError, match=r"put the `spiece.model`(.|\n)*VOCABULARY"):
        load_vocabulary("t5", str(tmp_path))


def test_model_size_must_go_with_the_vocabulary() -> None:
    vocabulary = load_vocabulary("quickstart")
    check_model_vocabulary(vocabulary, vocabulary.size)
    check_model_vocabulary(vocabulary, vocabulary.size + 127)
    for wrong in (vocabulary.size - 1, vocabulary.size + 128):
        with pytest.raises(UserError, match=rf"{wrong:,} does not go with 'quickstart'"):
            check_model_vocabulary(vocabulary, wrong)
