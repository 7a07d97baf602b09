"""A W&B run's file, read back: records over the blocks of 32 KiB of LevelDB's log."""

import struct
import zlib

import pytest
from wandb.proto.wandb_internal_pb2 import Record

from pwmray.tracking.wandb_file import is_complete, read_records

BLOCK = 32_768
HEADER = b":W&B" + struct.pack("<HB", 0xBEE1, 0)
START = Record()
START.run.run_id = "a"
END = Record()
END.exit.exit_code = 0


def make_row(num_bytes):
    """Return a row of history that is so many bytes long."""
    row = Record()
    item = row.history.item.add(key="return_mean")
    item.value_json = "1" * (num_bytes - 40)
    item.value_json += "1" * (num_bytes - row.ByteSize())
    assert row.ByteSize() == num_bytes
    return row


def as_log(records):
    """Return records as LevelDB's documentation of its log has them, behind W&B's header."""
    data = bytearray(HEADER)
    for record in records:
        rest, is_first, is_last = record.SerializeToString(), True, False
        while not is_last:
            left = BLOCK - len(data) % BLOCK
            if left < 7:  # no room for the head of a chunk
                data += bytes(left)
                left = BLOCK
            chunk, rest = rest[: left - 7], rest[left - 7 :]
            is_last = not rest
            kind = {(True, True): 1, (True, False): 2, (False, False): 3, (False, True): 4}[
                is_first, is_last
            ]
            data += struct.pack("<IHB", zlib.crc32(bytes([kind]) + chunk), len(chunk), kind) + chunk
            is_first = False
    return bytes(data)


@pytest.mark.parametrize("gap", [0, 1, 6, 7, 8])
def test_records_are_read_whatever_is_left_of_the_block_in_which_one_ends(gap, tmp_path):
    path = tmp_path / "run.wandb"
    begun = len(as_log([START]))
    rows = [make_row(BLOCK - begun - 7 - gap), make_row(3 * BLOCK), make_row(300)]
    path.write_bytes(as_log([START, *rows, END]))
    assert list(read_records(path)) == [START, *rows, END]
    assert is_complete(path, 3)
    assert not is_complete(path, 2)


@pytest.mark.parametrize("missing", [1, 9, 400, 3 * BLOCK])
def test_file_that_was_cut_has_the_records_before_that_and_is_not_complete(missing, tmp_path):
    path = tmp_path / "run.wandb"
    records = [START, make_row(300), make_row(3 * BLOCK), make_row(300), END]
    path.write_bytes(as_log(records)[:-missing])
    found = list(read_records(path))
    assert found == records[: len(found)]
    assert 2 <= len(found) < 5
    assert not is_complete(path, 3)


def test_file_of_something_else_is_named(tmp_path):
    path = tmp_path / "run.wandb"
    path.write_text("no log")
    with pytest.raises(ValueError, match=r"run\.wandb is not a W&B run file"):
        list(read_records(path))
    path.write_bytes(b"")  # before its first record is written
    assert list(read_records(path)) == []
