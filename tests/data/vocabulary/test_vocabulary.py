"""Properties of encoding, decoding and training a vocabulary."""

import io
import pickle
import re
import unicodedata

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from alexatm_jax.data.vocabulary import SPECIAL_PIECES, SpecialIds, Vocabulary, train

SIZE = 300
SENTENCES = [
    f"Sentence: {n} kilometers; Translation in Telugu: {n} కి\u200cమీ; année {1900 + n}"
    for n in range(80)
]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "tiny.model"
    return train(SENTENCES, path, size=SIZE, user_defined_symbols=["42"])


def train_foreign(path, pieces, **options):
    """A vocabulary as others train them: special pieces user-defined, at other ids."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=model,
        vocab_size=150,
        hard_vocab_limit=False,
        user_defined_symbols=pieces,
        minloglevel=2,
        **options,
    )
    path.write_bytes(model.getvalue())


def test_special_ids_are_those_of_the_shared_layout(vocabulary):
    assert vocabulary.special == SpecialIds(0, 1, 2, 3, 4, 5, 6)
    assert vocabulary.special.protected == frozenset(range(7))
    assert vocabulary.size == SIZE


def test_equal_special_ids_are_refused():
    with pytest.raises(ValueError, match="seven different"):
        SpecialIds(0, 1, 2, 3, 4, 5, 5)


# U+2581 is SentencePiece's own sign for a space, hence the one character it cannot keep.
@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581")))
def test_nfc_text_survives_the_round_trip(vocabulary, text):
    text = unicodedata.normalize("NFC", text)
    ids = vocabulary.encode(text)
    assert ids.dtype == np.int32 and ids.ndim == 1
    assert vocabulary.decode(ids) == text


HARD_TEXTS = ["కి\u200cమీ 🎉👩\u200d🚀", "a  b", " a ", "1\u202f234\u00a0€", "", "a\nb"]


@pytest.mark.parametrize("text", HARD_TEXTS)
def test_hard_texts_survive_the_round_trip(vocabulary, text):
    assert vocabulary.decode(vocabulary.encode(text)) == text


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([*SPECIAL_PIECES.values(), " ", "x", "[", "CLM"])))
def test_plain_text_never_gives_special_pieces(vocabulary, parts):
    ids = vocabulary.encode("".join(parts))
    assert not vocabulary.special.protected & set(ids.tolist())


def test_digits_stand_apart_except_in_symbols(vocabulary):
    pieces = [vocabulary.decode([token]) for token in vocabulary.encode("1942")]
    assert [piece for piece in pieces if piece] == ["1", "9", "42"]


def test_prompt_shows_text_as_the_clm_objective_does(vocabulary):
    expected = [vocabulary.special.clm, *vocabulary.encode("Sentence: 3")]
    assert vocabulary.encode_prompt("[CLM] Sentence: 3").tolist() == expected
    two = vocabulary.encode_prompt("année [DOC] 3[MASK]").tolist()
    middle = [vocabulary.special.doc, *vocabulary.encode("3"), vocabulary.special.mask]
    assert two == [*vocabulary.encode("année"), *middle]


def test_decode_stops_at_eos_and_drops_special_pieces(vocabulary):
    special = vocabulary.special
    three = vocabulary.encode("3").tolist()
    ids = [special.bos, special.clm, *three, special.doc, *three, special.eos, *three]
    assert vocabulary.decode(ids) == "3 3"
    assert vocabulary.render(ids) == "<s> [CLM] 3 [DOC] 3 </s> 3"


def test_rows_beyond_the_vocabulary_decode_visibly(vocabulary):
    assert "⁇" in vocabulary.decode([vocabulary.size + 3])
    assert "⁇" in vocabulary.decode([vocabulary.special.unk])


@given(seed=st.integers(0, 10_000))
def test_the_bytes_of_pieces_are_the_decoded_text(vocabulary, seed):
    tokens = np.random.default_rng(seed).integers(vocabulary.size, size=6).tolist()
    tokens = [token for token in tokens if token != vocabulary.special.eos]
    first, later = (vocabulary.piece_bytes(first=flag) for flag in (True, False))
    shown = [token for token in tokens if later[token]]
    text = b"".join((later if index else first)[token] for index, token in enumerate(shown))
    # Of invalid UTF-8, Python and SentencePiece replace different numbers of bytes.
    found, wanted = (
        re.sub("\ufffd+", "\ufffd", shown)
        for shown in (vocabulary.decode(tokens), text.decode(errors="replace"))
    )
    assert found == wanted


def test_pickles_without_its_file(tmp_path):
    path = tmp_path / "gone.model"
    vocabulary = train(SENTENCES, path, size=SIZE)
    pickled = pickle.dumps(vocabulary)
    path.unlink()
    copy = pickle.loads(pickled)
    np.testing.assert_array_equal(copy.encode("3 km"), vocabulary.encode("3 km"))
    assert (copy.sha256, copy.special) == (vocabulary.sha256, vocabulary.special)


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_training_is_deterministic(tmp_path, model_type):
    options = {"size": SIZE, "model_type": model_type}
    first = train(SENTENCES, tmp_path / "a.model", **options)
    second = train(iter(SENTENCES), tmp_path / "b" / "b.model", **options)
    assert first.sha256 == second.sha256
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.model", "b"]


def test_long_documents_are_trained_on(tmp_path):
    special_and_bytes, characters, merges = 7 + 256, 3, 2
    size = special_and_bytes + characters + merges
    vocabulary = train([" km" * 5000], tmp_path / "long.model", size=size)
    assert len(vocabulary.encode("km")) == 1


@pytest.mark.parametrize(
    "sentences, options, message",
    [
        (SENTENCES, {"size": 100_000}, r"100000, but this text yields at most \d+ pieces"),
        (SENTENCES, {"size": 30}, r"alone need \d+"),
        ([], {"size": 300}, "no text"),
        (SENTENCES, {"size": 300, "model_type": "word"}, "'bpe' or 'unigram'"),
        (SENTENCES, {"size": 400, "user_defined_symbols": ["[CLM]"]}, "leave them out"),
    ],
)
def test_training_errors_write_nothing(tmp_path, sentences, options, message):
    with pytest.raises(ValueError, match=message):
        train(sentences, tmp_path / "bad.model", **options)
    assert not list(tmp_path.iterdir())


def test_missing_and_unreadable_files(tmp_path):
    with pytest.raises(ValueError, match="no vocabulary file .*none.model.*run_mode=cache"):
        Vocabulary(tmp_path / "none.model")
    for content in (b"", b"not a model"):
        (tmp_path / "bad.model").write_bytes(content)
        with pytest.raises(ValueError, match="is no SentencePiece model"):
            Vocabulary(tmp_path / "bad.model")


def test_other_ids_are_looked_up_by_piece(tmp_path):
    train_foreign(tmp_path / "foreign.model", ["[CLM]", "[PAD]", "[MASK]", "[DOC]"])
    foreign = Vocabulary(tmp_path / "foreign.model")
    assert foreign.special.clm == 3 and foreign.special.unk == 0
    assert foreign.special.clm not in foreign.encode("x [CLM] y")
    assert foreign.encode_prompt("[CLM] y")[0] == foreign.special.clm


def test_missing_special_pieces_are_all_named(tmp_path):
    train_foreign(tmp_path / "lacking.model", ["[CLM]", "[MASK1]", "[PAD]"])
    with pytest.raises(ValueError, match=re.escape("['[MASK]', '[DOC]']")) as raised:
        Vocabulary(tmp_path / "lacking.model")
    assert "'[MASK1]'" in str(raised.value)
