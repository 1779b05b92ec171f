"""The journal: what was answered is not asked again, and what may have been seen is never forgotten."""

from __future__ import annotations

import contextlib
import warnings

import pytest
import torch

from zoracle.errors import CheckpointError, DamagedWarning, InputError
from zoracle.rollout.journal import Journal, digests
from zoracle.types import Evaluation, Purpose

ROWS = torch.tensor([0, 0, 2])
NONE = torch.zeros(3, dtype=torch.int64)
POINTS = torch.arange(6.0).view(3, 2)
HASHES = digests(POINTS)


def answer(value, dtype=torch.float32, success=True):
    return Evaluation(torch.full((3,), value, dtype=dtype), torch.tensor([False, True, False]) if success else None)


def two_calls_and_one_in_flight(path):
    with Journal(path) as journal:
        journal.resume(0, NONE)
        journal.ask(Purpose.OPTIMISE, ROWS, HASHES)
        journal.answer(answer(1.5))
        journal.ask(Purpose.MONITOR, ROWS, HASHES)
        journal.answer(answer(torch.nan, torch.float64, success=False))
        journal.ask(Purpose.OPTIMISE, ROWS, HASHES)


def known(journal, purpose=Purpose.OPTIMISE, rows=ROWS, hashes=HASHES):
    return [None if one is None else one.answer.loss[one.at] for one in journal.recall(purpose, rows, hashes)]


def test_answers_come_back_bit_for_bit_and_what_was_in_flight_is_lost(tmp_path):
    two_calls_and_one_in_flight(tmp_path / "j")
    with Journal(tmp_path / "j") as journal:
        journal.resume(0, torch.tensor([0, 7, 0]))
        assert journal.lost.tolist() == [2, 7, 1]
        first = journal.recall(Purpose.OPTIMISE, ROWS, HASHES)
        assert [float(one.answer.loss[one.at]) for one in first] == [1.5] * 3
        assert [bool(one.answer.success[one.at]) for one in first] == [False, True, False]
        assert first[0].answer.loss.dtype is torch.float32
        assert journal.answering
        (second, *_) = journal.recall(Purpose.MONITOR, ROWS, HASHES)
        assert second.answer.loss.dtype is torch.float64
        assert second.answer.loss.isnan().all()
        assert second.answer.success is None
        assert not journal.answering
        assert known(journal) == [None] * 3


def test_answers_are_found_in_whatever_calls_their_points_are_asked_for(tmp_path):
    two_calls_and_one_in_flight(tmp_path / "j")
    with Journal(tmp_path / "j") as journal:
        journal.resume(0, NONE)
        assert [float(one) for one in known(journal, rows=ROWS[2:], hashes=HASHES[2:])] == [1.5]
        found = known(journal, rows=torch.tensor([1, 0, 0]), hashes=(HASHES[0], *HASHES[:2]))
        assert [one is not None for one in found] == [False, True, True]
        assert journal.lost.tolist() == [2, 0, 1]


def test_an_answer_is_never_given_to_another_point(tmp_path):
    """The bug was: one problem, another point, the same number of points; it was given the answers of others."""
    two_calls_and_one_in_flight(tmp_path / "j")
    with Journal(tmp_path / "j") as journal:
        journal.resume(0, NONE)
        others = digests(POINTS + 1)
        assert known(journal, hashes=others) == [None] * 3
        assert journal.lost.tolist() == [4, 0, 2], "what was answered, and what was in flight"
        assert known(journal) == [None] * 3


def test_hashes_tell_points_types_and_steps_apart():
    same = [digests(POINTS)[0], digests(POINTS.clone()[:1])[0], digests(torch.cat((POINTS, POINTS), 1)[:, :2])[0]]
    assert len(set(same)) == 1
    step = torch.tensor([3, 3, 4])
    every = [*digests(POINTS), *digests(POINTS.double()), *digests(POINTS, step), *digests(POINTS, step + 10)]
    assert len(set(every)) == 12


def test_what_a_checkpoint_holds_is_left_out(tmp_path):
    two_calls_and_one_in_flight(tmp_path / "j")
    with Journal(tmp_path / "j") as journal:
        journal.resume(1, NONE)  # written, and the process killed before the file was emptied
        assert not journal.answering
        assert journal.lost.tolist() == [0, 0, 0]
    assert not (tmp_path / "j").exists(), "an empty one is removed"


def test_a_journal_of_a_later_checkpoint_is_refused_and_left(tmp_path):
    with Journal(tmp_path / "j") as journal:
        journal.resume(4, NONE)
        journal.ask(Purpose.OPTIMISE, ROWS, HASHES)
    before = (tmp_path / "j").read_bytes()
    with Journal(tmp_path / "j") as journal, pytest.raises(CheckpointError, match="goes with a later checkpoint than"):
        journal.resume(3, NONE)
    assert (tmp_path / "j").read_bytes() == before


def test_what_is_carried_counts_only_with_its_checkpoint(tmp_path):
    def carried(path):
        two_calls_and_one_in_flight(path)
        with Journal(path) as journal:
            journal.resume(0, NONE)
            known(journal)
            again = journal.carry()
            assert again[Purpose.OPTIMISE].tolist() == [2, 0, 1]
            return journal.epoch

    epoch = carried(tmp_path / "written")
    with Journal(tmp_path / "written") as journal:
        journal.resume(epoch, NONE)
        assert [float(one) for one in known(journal)] == [1.5] * 3
        assert [bool(one.isnan()) for one in known(journal, Purpose.MONITOR)] == [True] * 3
        assert journal.lost.tolist() == [0, 0, 0]
    carried(tmp_path / "not written")
    for _ in range(2):
        with Journal(tmp_path / "not written") as journal:
            journal.resume(0, NONE)
            assert journal.lost.tolist() == [2, 0, 1], "once, however often it is read"
    with Journal(tmp_path / "not written") as journal:
        journal.resume(0, NONE)
        assert [float(one) for one in known(journal)] == [1.5] * 3
        journal.ask(Purpose.OPTIMISE, ROWS, HASHES)
    with Journal(tmp_path / "not written") as journal:
        journal.resume(0, NONE)
        assert journal.lost.tolist() == [4, 0, 2]


def test_abandoned_answers_are_not_carried(tmp_path):
    with Journal(tmp_path / "j") as journal:
        journal.resume(0, NONE)
        journal.ask(Purpose.OPTIMISE, ROWS, HASHES)
        journal.answer(answer(1.5))
        journal.abandon(Purpose.OPTIMISE, torch.tensor([0]))
        assert journal.since(Purpose.OPTIMISE).tolist() == [0, 0, 1]
        journal.carry()
    with Journal(tmp_path / "j") as journal:
        journal.resume(1, NONE)
        assert [one is None for one in known(journal)] == [True, True, False]


def test_any_cut_leaves_whole_records_and_goes_on(tmp_path):
    two_calls_and_one_in_flight(tmp_path / "whole")
    data = (tmp_path / "whole").read_bytes()
    mark = data.index(b"\n") + 1
    asked, said = [], 0
    for cut in range(mark, len(data) + 1):
        path = tmp_path / f"cut-{cut}"
        path.write_bytes(data[:cut])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            journal = Journal(path)
        said += len(caught)
        assert all(one.category is DamagedWarning for one in caught)
        with journal:
            journal.resume(0, NONE)
            lost = int(journal.lost.sum())
            answers = known(journal) + known(journal, Purpose.MONITOR)
            asked.append(lost + sum(one is not None for one in answers))
            journal.ask(Purpose.OPTIMISE, ROWS, HASHES)
            journal.answer(answer(2.0))
        with Journal(path) as journal:
            journal.resume(0, NONE)
            assert int(journal.lost.sum()) == lost
    assert asked == sorted(asked)
    assert (asked[0], asked[-1]) == (0, 9)
    assert said == len(data) - mark - 6, "but for the six ends of whole records and none at all"


def test_every_flipped_bit_is_said_and_none_is_used(tmp_path):
    two_calls_and_one_in_flight(tmp_path / "whole")
    data = (tmp_path / "whole").read_bytes()
    outcomes = {"cut": 0, "refused": 0}
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        path = tmp_path / "j"
        path.write_bytes(damaged)
        with warnings.catch_warnings(record=True) as caught, contextlib.suppress(CheckpointError):
            warnings.simplefilter("always")
            journal = None
            journal = Journal(path)
            journal.close()
        if journal is None:
            outcomes["refused"] += 1
            assert path.read_bytes() == damaged
            continue
        outcomes["cut"] += 1
        assert [one.category for one in caught] == [DamagedWarning]
        assert data.startswith(path.read_bytes() if path.exists() else b"")
    assert min(outcomes.values()) > 20


def test_zeros_behind_the_last_record_end_no_run(tmp_path):
    two_calls_and_one_in_flight(tmp_path / "j")
    with (tmp_path / "j").open("ab") as file:
        file.write(bytes(100_000))
    with pytest.warns(DamagedWarning, match="the last 100000 bytes of"):
        journal = Journal(tmp_path / "j")
    with journal:
        journal.resume(0, NONE)
        assert [float(one) for one in known(journal)] == [1.5] * 3


def test_a_damaged_middle_is_refused_and_the_file_left(tmp_path):
    two_calls_and_one_in_flight(tmp_path / "j")
    data = bytearray((tmp_path / "j").read_bytes())
    data[60:90] = bytes(30)
    (tmp_path / "j").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"is damaged at byte \d+, with good records behind"):
        Journal(tmp_path / "j")
    assert (tmp_path / "j").read_bytes() == data


@pytest.mark.parametrize("content", [b"", b"hello", b"\x05\x00\x00\x00hello and more", b"zoracle-calls-2\n"])
def test_the_files_of_others_are_refused_and_left(tmp_path, content):
    (tmp_path / "j").write_bytes(content)
    with pytest.raises(CheckpointError, match="is not a file of this version of zoracle, and is left as it is"):
        Journal(tmp_path / "j")
    assert (tmp_path / "j").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["j"]


def test_nothing_is_written_through_a_link(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "j").symlink_to(tmp_path / "precious")
    with pytest.raises(InputError, match="is a link, and zoracle does not write through links"):
        Journal(tmp_path / "j")
    (tmp_path / "j").unlink()
    (tmp_path / "j").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is a link"):
        Journal(tmp_path / "j")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["j", "precious"]
    assert (tmp_path / "precious").read_text() == "mine"


def test_what_cannot_be_a_journal(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        Journal(tmp_path / "file" / "j")
    with Journal(tmp_path / "j"), pytest.raises(InputError, match="is in use by another process"):
        Journal(tmp_path / "j")
