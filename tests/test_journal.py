"""The journal: what was answered is not asked again, and what may have been seen is never forgotten."""

from __future__ import annotations

import pytest
import torch

from zoracle.errors import CheckpointError, InputError
from zoracle.rollout.journal import Journal
from zoracle.types import Evaluation, Purpose

ROWS = torch.tensor([0, 0, 2])
NONE = torch.zeros(3, dtype=torch.int64)


def answer(value, dtype=torch.float32, success=True):
    return Evaluation(torch.full((3,), value, dtype=dtype), torch.tensor([False, True, False]) if success else None)


def two_calls_and_one_in_flight(path):
    with Journal(path) as journal:
        journal.resume(0, NONE)
        journal.ask(Purpose.OPTIMISE, ROWS)
        journal.answer(answer(1.5))
        journal.ask(Purpose.MONITOR, ROWS)
        journal.answer(answer(torch.nan, torch.float64, success=False))
        journal.ask(Purpose.OPTIMISE, ROWS + 0)


def test_answers_come_back_bit_for_bit_and_what_was_in_flight_is_lost(tmp_path):
    two_calls_and_one_in_flight(tmp_path / "j")
    with Journal(tmp_path / "j") as journal:
        journal.resume(0, torch.tensor([0, 7, 0]))
        assert journal.lost.tolist() == [2, 7, 1]
        first = journal.answered(Purpose.OPTIMISE, ROWS)
        assert first.loss.dtype is torch.float32
        assert first.loss.tolist() == [1.5] * 3
        assert first.success.tolist() == [False, True, False]
        assert journal.answering
        second = journal.answered(Purpose.MONITOR, ROWS)
        assert second.loss.dtype is torch.float64
        assert second.loss.isnan().all()
        assert second.success is None
        assert not journal.answering
        assert journal.answered(Purpose.OPTIMISE, ROWS) is None
        assert journal.number == 3


def test_what_a_checkpoint_holds_is_left_out(tmp_path):
    two_calls_and_one_in_flight(tmp_path / "j")
    with Journal(tmp_path / "j") as journal:
        journal.resume(2, NONE)
        assert not journal.answering
        assert journal.lost.tolist() == [2, 0, 1]
    with Journal(tmp_path / "j") as journal:
        journal.resume(3, NONE)
        assert journal.lost.tolist() == [0, 0, 0]
        journal.forget()
    assert not (tmp_path / "j").exists(), "an empty one is removed"


@pytest.mark.parametrize(("purpose", "rows"), [(Purpose.MONITOR, ROWS), (Purpose.OPTIMISE, ROWS[:2])])
def test_answers_to_other_calls_are_lost_and_counted(tmp_path, purpose, rows):
    two_calls_and_one_in_flight(tmp_path / "j")
    with Journal(tmp_path / "j") as journal:
        journal.resume(0, NONE)
        assert journal.answered(purpose, rows) is None
        assert journal.lost.tolist() == [6, 0, 3]
        assert not journal.answering


def test_any_cut_leaves_whole_records_and_goes_on(tmp_path):
    two_calls_and_one_in_flight(tmp_path / "whole")
    data = (tmp_path / "whole").read_bytes()
    asked = []
    for cut in range(len(data) + 1):
        path = tmp_path / f"cut-{cut}"
        path.write_bytes(data[:cut])
        with Journal(path) as journal:
            journal.resume(0, NONE)
            lost = int(journal.lost.sum())
            known = [journal.answered(Purpose.OPTIMISE, ROWS), journal.answered(Purpose.MONITOR, ROWS)]
            asked.append(lost + 3 * sum(one is not None for one in known))
            journal.ask(Purpose.OPTIMISE, ROWS)
            journal.answer(answer(2.0))
        with Journal(path) as journal:
            journal.resume(0, NONE)
            assert int(journal.lost.sum()) == lost
    assert asked == sorted(asked)
    assert (asked[0], asked[-1]) == (0, 9)


def test_what_cannot_be_a_journal(tmp_path):
    (tmp_path / "text").write_bytes(b"\x05\x00\x00\x00hello and more")
    with pytest.raises(CheckpointError, match="is no journal of a run"):
        Journal(tmp_path / "text")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        Journal(tmp_path / "file" / "j")
    with Journal(tmp_path / "j"), pytest.raises(InputError, match="is in use by another process"):
        Journal(tmp_path / "j")
