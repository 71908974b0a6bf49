"""Frames and marks: what is cut on the way is put together again, and of two who meet one gives way."""

from __future__ import annotations

import tempfile

import msgspec
import pytest

from runtime.event import Event
from runtime.executors.frames import UNLIMITED, Answer, Frames, Job, Mark, Member, Reply, encode, ending_of, frame_of


def test_frames_are_whole_however_they_arrive() -> None:
    member = Member(Event(type="go", source="t", id="1", data={"n": 1}), 2, 3.0, "k", 4, {"first": [5]}, {"n": 6})
    sent = [[Job(number, [member])] for number in range(1, 4)]
    bytes = b"".join(map(frame_of, sent))
    for size in (1, 3, 7, len(bytes)):
        frames = Frames()
        arrived = [body for start in range(0, len(bytes), size) for body in frames.feed(bytes[start : start + size])]
        assert [msgspec.msgpack.decode(body, type=list[Job]) for body in arrived] == sent


def test_a_worker_begins_nothing_beyond_the_limit() -> None:
    with tempfile.TemporaryFile() as file:
        file.truncate(Mark.SIZE)
        ours, theirs = Mark(file.fileno()), Mark(file.fileno())
    ours.limit = UNLIMITED
    assert theirs.begin(1)
    ours.limit = ours.begun
    assert not theirs.begin(2)
    assert ours.begun == 1
    ours.limit = UNLIMITED
    assert theirs.begin(2)
    assert ours.begun == 2


def answers_in(frame: bytes) -> list[Answer]:
    return [answer for body in Frames().feed(frame) for answer in msgspec.msgpack.decode(body, type=list[Answer])]


def test_answers_that_were_not_sent_are_there_until_there_is_no_room() -> None:
    with tempfile.TemporaryFile() as file:
        file.truncate(Mark.SIZE)
        ours, theirs = Mark(file.fileno()), Mark(file.fileno())
    assert ours.kept == b""
    kept: list[Answer] = []
    while theirs.keep(encode(answer := Reply(len(kept) + 1, 0.5, "x" * 1000, []))):
        kept.append(answer)
        assert answers_in(ours.kept) == kept
    assert len(kept) > 60
    assert ours.begun == 0
    theirs.forget()
    assert ours.kept == b""
    assert theirs.keep(encode(Reply(7, 0.5, None, [])))
    assert answers_in(ours.kept) == [Reply(7, 0.5, None, [])]


@pytest.mark.parametrize(
    ("status", "told"), [(3, "ended with exit code 3"), (-11, "was killed by signal 11 (SIGSEGV)"), (-200, "was killed by signal 200")]
)
def test_an_end_is_told_for_people(status: int, told: str) -> None:
    assert ending_of(status) == told
