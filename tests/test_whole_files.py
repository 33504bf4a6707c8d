from __future__ import annotations

import json

import pytest

from alexatm_jax.whole_files import write_json, write_json_lines, write_whole


def test_a_file_is_replaced_whole_or_left_alone(tmp_path):
    path = tmp_path / "made" / "file"
    write_whole(path, b"first")

    def fails_halfway(draft):
        draft.write_bytes(b"sec")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, fails_halfway)
    assert path.read_bytes() == b"first"
    assert [found.name for found in path.parent.iterdir()] == ["file"]


def test_processes_of_one_number_on_two_machines_write_two_drafts(tmp_path, monkeypatch):
    drafts = []
    for host in ("pod-0", "pod-1"):
        monkeypatch.setattr("socket.gethostname", lambda host=host: host)
        write_whole(tmp_path / "file", lambda path: drafts.append(path) or path.touch())
    assert len(set(drafts)) == 2
    assert all(path.match(".file.*.tmp") for path in drafts)


def test_json_is_readable_and_has_no_nan(tmp_path):
    write_json(tmp_path / "a.json", {"text": "కిమీ"})
    assert (tmp_path / "a.json").read_text() == '{\n "text": "కిమీ"\n}\n'
    write_json_lines(tmp_path / "b.jsonl", [{"n": 1}, {"n": 2}])
    lines = (tmp_path / "b.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"n": 1}, {"n": 2}]
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
