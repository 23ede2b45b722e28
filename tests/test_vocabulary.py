from __future__ import annotations

import io
import json
import os
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
from tests import spiece_models


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


# --- model folders of Hugging Face


def sentinel_pieces() -> bytes:
    """Returns a model file like mT5's: bytes stand for what has no piece, sentinels are pieces."""
    more = [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    more += [(f"▁<extra_id_{i}>", 0.0, 1) for i in reversed(range(100))]
    return spiece_models.content({"▁": -2.0, "▁a": -3.0, "b": -4.0}, more=more, trainer={35: 1})


def test_a_model_folder_stands_for_its_file(tmp_path: pathlib.Path) -> None:
    (tmp_path / "spiece.model").write_bytes(sentinel_pieces())
    (tmp_path / "tokenizer_config.json").write_text('{"extra_ids": 100}')
    vocabulary = load_vocabulary(str(tmp_path))
    assert vocabulary.path == tmp_path / "spiece.model"
    # The sentinels are pieces: no ids follow them, whatever stands beside the file.
    assert vocabulary.has_sentinels
    assert vocabulary.size == 3 + 3 + 256 + 100
    assert vocabulary.piece(vocabulary.size - 1) == "▁<extra_id_0>"
    # mT5: 250,100 pieces, and a model of 250,112.
    check_model_vocabulary(vocabulary, vocabulary.size + 12)
    assert vocabulary.decode(vocabulary.encode("a b é")) == "a b é"


def test_ids_beyond_16_bits_are_stored(tmp_path: pathlib.Path) -> None:
    many = {f"p{i}": -5.0 for i in range(70_000)}
    path = tmp_path / "large.model"
    path.write_bytes(spiece_models.content({"▁": -2.0} | many | {"▁last": -1.0}))
    vocabulary = load_vocabulary(str(path))
    (ids,) = vocabulary.encode_stored(["last"], np.dtype("<u4"))
    assert np.frombuffer(ids, "<u4").tolist() == [70_004]


@pytest.mark.parametrize(("said", "size"), [({"extra_ids": 100}, 106), ({}, 6), (None, 6)])
def test_a_folder_says_how_many_sentinels_follow(
    said: dict[str, int] | None, size: int, tmp_path: pathlib.Path
) -> None:
    content = spiece_models.content({"▁": -2.0, "▁a": -3.0, "b": -4.0})
    for name in ("spiece.model", "own.model"):
        (tmp_path / name).write_bytes(content)
    if said is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    assert load_vocabulary(str(tmp_path / "spiece.model")).size == size
    # A file of another name is not what that one describes.
    assert load_vocabulary(str(tmp_path / "own.model")).size == 6


def test_what_a_folder_says_may_change(tmp_path: pathlib.Path) -> None:
    (tmp_path / "spiece.model").write_bytes(spiece_models.content({"▁": -2.0}))
    described = tmp_path / "tokenizer_config.json"
    for number, extra in enumerate((5, 7)):
        described.write_text(json.dumps({"extra_ids": extra}))
        os.utime(described, ns=(number, number))
        assert load_vocabulary(str(tmp_path)).extra_ids == extra


def test_t5s_own_file_has_its_sentinels_under_any_name(
    flan_data_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    content = load_vocabulary("t5", str(flan_data_dir)).path.read_bytes()
    (tmp_path / "copied.model").write_bytes(content)
    vocabulary = load_vocabulary(str(tmp_path / "copied.model"))
    assert (vocabulary.size, vocabulary.piece(32_099)) == (32_100, "<extra_id_0>")
    for padded in (32_100, 32_128):
        check_model_vocabulary(vocabulary, padded)


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"extra_ids": -1}', '{"extra_ids": "100"}', '{"extra_ids": 10001}', "[" * 99999],
)
def test_a_broken_tokenizer_config_is_named(content: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "spiece.model").write_bytes(spiece_models.content({"▁": -2.0}))
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(UserError, match=r"how many sentinel ids(.|\n)*tokenizer_config\.json"):
        load_vocabulary(str(tmp_path))


def test_a_folder_without_a_model_file(tmp_path: pathlib.Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"no SentencePiece model(.|\n)*tokenizer\.json alone"):
        load_vocabulary(str(tmp_path))
