"""The framing of W&B's run files: cut, damaged, not one at all. Frames are made by a writer of a few lines here, after
LevelDB's log format; files of the real writer are read in tests/integration/test_trackers.py."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import pytest

from experiment_specs.errors import SpecError
from orchestrator.importers.wandb_files import BLOCK, HEAD, MESSAGES, read, record_class, records, run_file


def framed(*contents: bytes) -> bytes:
    out = bytearray(HEAD)
    for content in contents:
        first, rest = True, content
        while first or rest:
            left = BLOCK - len(out) % BLOCK
            if left < 7:
                out += b"\0" * left
                continue
            piece, rest = rest[: left - 7], rest[left - 7 :]
            kind = (1 if first else 4) if not rest else (2 if first else 3)
            out += struct.pack("<IHB", zlib.crc32(bytes([kind]) + piece), len(piece), kind) + piece
            first = False
    return bytes(out)


def run_record(run_id: str = "abc", **config: object) -> bytes:
    record = record_class()()
    record.run.run_id, record.run.display_name, record.run.start_time.seconds = run_id, "exp", 1_760_000_000
    for key, value in config.items():
        record.run.config.update.add(key=key, value_json=json.dumps(value))
    return bytes(record.SerializeToString())


def history(step: int, **values: float) -> bytes:
    record = record_class()()
    record.history.step.num = step
    for tag, value in values.items():
        record.history.item.add(nested_key=[tag], value_json=json.dumps(value))
    return bytes(record.SerializeToString())


@pytest.mark.parametrize("size", [0, 1, BLOCK - 15, BLOCK - 14, BLOCK - 13, BLOCK - 7, BLOCK, 3 * BLOCK + 5])
def test_records_of_every_size_come_back(size: int) -> None:
    damage: list[str] = []
    contents = [b"a" * size, b"b", b"c" * 100]
    assert list(records(framed(*contents), damage)) == contents
    assert damage == []


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_cut_end_costs_the_last_record_alone(cut: int) -> None:
    damage: list[str] = []
    whole = framed(b"first", b"second" * 10)
    assert list(records(whole[:-cut], damage)) == [b"first"]
    assert len(damage) == 1
    assert "cut off in its last record" in damage[0]


def test_a_record_of_several_blocks_that_is_cut_between_them_is_told() -> None:
    damage: list[str] = []
    whole = framed(b"first", b"x" * (2 * BLOCK))
    assert list(records(whole[:BLOCK], damage)) == [b"first"]
    assert "cut off" in damage[0]


def test_a_damaged_piece_costs_its_block_and_is_told() -> None:
    damage: list[str] = []
    data = bytearray(framed(b"first", b"x" * 1000, b"lost", b"y" * (BLOCK - 800), b"after"))
    data[100] ^= 1
    assert list(records(bytes(data), damage)) == [b"first", b"after"]
    assert damage == [f"damaged at byte {len(HEAD) + 7 + 5}: what lies up to byte {BLOCK} is lost"]


def test_a_length_beyond_its_block_is_damage_and_not_the_end() -> None:
    data = bytearray(framed(b"first", b"x" * (BLOCK + 10), b"after"))
    data[len(HEAD) + 7 + 5 + 4 : len(HEAD) + 7 + 5 + 6] = b"\xff\xff"
    damage: list[str] = []
    assert list(records(bytes(data), damage)) == [b"first", b"after"]
    assert len(damage) == 1


def test_a_cut_run_keeps_what_it_has(tmp_path: Path) -> None:
    file = tmp_path / "run-abc.wandb"
    file.write_bytes(framed(run_record(), history(1, acc=0.5), history(2, acc=0.6))[:-3])
    [run] = read(tmp_path).runs
    assert run.metrics == {"acc": [(1, 0.5)]}
    assert (run.ended, run.label) == ("unknown", "exp (abc)")
    assert "cut off" in run.notes[0]
    assert "no exit record" in run.notes[1]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b"SQLite format 3\0", "does not begin with :W&B"),
        (b":W", "does not begin with :W&B"),
        (HEAD[:-1] + b"\x01", "version 1 of the format"),
        (HEAD[:-1], "version unknown"),
        (HEAD, "no record of a run"),
        (framed(history(1, acc=0.5)), "no record of a run"),
        (framed(run_record())[:-2], "no record of a run: cut off"),
    ],
)
def test_what_is_no_run_is_told(tmp_path: Path, content: bytes, problem: str) -> None:
    file = tmp_path / "run-x.wandb"
    file.write_bytes(content)
    with pytest.raises(SpecError, match=problem):
        run_file(file)
    with pytest.raises(SpecError, match=problem):
        read(tmp_path)


def test_one_bad_file_does_not_refuse_the_others(tmp_path: Path) -> None:
    (tmp_path / "run-bad.wandb").write_bytes(b"nothing")
    (tmp_path / "run-good.wandb").write_bytes(framed(run_record(), history(1, acc=0.5)))
    tracked = read(tmp_path)
    assert [run.run_id for run in tracked.runs] == ["abc"]
    assert [one.name for one in tracked.left_out] == ["bad"]


def test_a_folder_without_runs_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"looked for files run-\*\.wandb"):
        read(tmp_path)
    with pytest.raises(SpecError, match="no such folder"):
        read(tmp_path / "nowhere")


def test_a_message_that_is_none_of_wandbs_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "run-abc.wandb"
    file.write_bytes(framed(run_record(), b"\xff\xff\xff", history(3, acc=0.7)))
    found = run_file(file)
    assert found.metrics == {"acc": [(3, 0.7)]}
    assert len(found.damage) == 1


def test_a_mapping_that_an_older_client_logged_as_one_value(tmp_path: Path) -> None:
    record = record_class()()
    record.history.step.num = 4
    record.history.item.add(key="val", value_json='{"acc": 0.5, "inner": {"n": 3}}')
    record.history.item.add(key="image", value_json='{"_type": "image-file", "width": 4}')
    file = tmp_path / "run-abc.wandb"
    file.write_bytes(framed(run_record(), record.SerializeToString()))
    assert run_file(file).metrics == {"val.acc": [(4, 0.5)], "val.inner.n": [(4, 3.0)]}


def test_numbers_and_kinds_of_fields_are_those_of_the_installed_wandb() -> None:
    from wandb.proto import wandb_internal_pb2 as theirs

    names = {"Item": ("ConfigItem", "HistoryItem")}
    for message, fields in MESSAGES.items():
        if message == "Timestamp":
            continue
        for name in names.get(message, (message,)):
            descriptor = getattr(theirs, name).DESCRIPTOR
            ours = record_class().DESCRIPTOR.file.message_types_by_name[message]
            for field in fields:
                theirs_field, our_field = descriptor.fields_by_name[field], ours.fields_by_name[field]
                assert (theirs_field.number, theirs_field.type) == (our_field.number, our_field.type), (name, field)
                assert theirs_field.is_repeated == our_field.is_repeated, (name, field)
