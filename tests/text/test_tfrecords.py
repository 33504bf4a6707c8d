"""Our reader of TFRecords agrees with TensorFlow's writer and with a slow checksum."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexatm_jax.text.compressed import open_bytes
from alexatm_jax.text.tfrecords import HASHED_BYTES, bytes_feature, crc32c, read_records


def test_the_checksum_of_the_standard():
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA


@pytest.mark.parametrize(
    "size", [0, 1, 3, 4, 5, HASHED_BYTES, HASHED_BYTES + 3, 2 * HASHED_BYTES + 9]
)
def test_the_checksum_of_any_size(tfrecord, size):
    data = bytes(number * number % 251 for number in range(size))
    assert crc32c(data) == tfrecord.crc32c(data)


@given(st.lists(st.binary(max_size=9)), st.integers(1, 9))
def test_long_records_come_cut(tfrecord, records, max_bytes):
    file = io.BytesIO(b"".join(map(tfrecord.record, records)))
    assert list(read_records(file, max_bytes)) == [record[: max_bytes + 1] for record in records]


def test_a_wrong_checksum_costs_one_record(tfrecord):
    content = b"".join(map(tfrecord.record, [b"one", b"two", b"three"])).replace(b"two", b"tvo")
    assert list(read_records(io.BytesIO(content), 9)) == [b"one", None, b"three"]


@given(st.binary(max_size=30))
def test_any_bytes_are_an_example_or_refused(data):
    try:
        assert isinstance(bytes_feature(data, "text"), list)
    except ValueError:
        pass


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x0a\x05abc", "5 bytes goes beyond"),
        (b"\x0b", "wire type 3"),
        (b"\x0a\x80", "does not end"),
        (b"\x80" * 11, "does not end"),
    ],
)
def test_other_bytes_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        bytes_feature(data, "text")


FEATURES = st.dictionaries(
    st.text(max_size=3),
    st.lists(st.binary(max_size=200)) | st.lists(st.integers(-5, 5)) | st.lists(st.just(0.5)),
    max_size=5,
)


@pytest.fixture(scope="module")
def tensorflow():
    return pytest.importorskip("tensorflow")


@given(st.lists(FEATURES, max_size=4))
@pytest.mark.parametrize("compression", ["", "GZIP"])
def test_what_tensorflow_writes_is_read(tmp_path_factory, tensorflow, compression, rows):
    train = tensorflow.train
    path = tmp_path_factory.mktemp("records") / ("a.gz" if compression else "a")
    with tensorflow.io.TFRecordWriter(str(path), compression) as writer:
        for row in rows:
            features = {}
            for name, values in row.items():
                if all(isinstance(value, bytes) for value in values):
                    feature = train.Feature(bytes_list=train.BytesList(value=values))
                elif isinstance(values[0], int):
                    feature = train.Feature(int64_list=train.Int64List(value=values))
                else:
                    feature = train.Feature(float_list=train.FloatList(value=values))
                features[name] = feature
            example = train.Example(features=train.Features(feature=features))
            writer.write(example.SerializeToString())
    with open_bytes(str(path)) as file:
        examples = list(read_records(file, 10_000))
    assert len(examples) == len(rows)
    for example, row in zip(examples, rows, strict=True):
        for name, values in row.items():
            expected = values if all(isinstance(value, bytes) for value in values) else []
            assert bytes_feature(example, name) == expected
        assert bytes_feature(example, "no such") == []
