"""What every tracker keeps to. A new one joins by a line in `TRACKERS`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from support.faces import face_at, person
from trackers.tracks import NorfairTracker, Tracker, TrackerConfig

PATIENCE, MEMORY = 6, 8
TRACKERS: dict[str, Callable[[], Tracker]] = {
    "norfair": lambda: NorfairTracker(TrackerConfig(patience=PATIENCE, memory=MEMORY)),
}


@pytest.fixture(params=TRACKERS)
def tracker(request: pytest.FixtureRequest) -> Tracker:
    return TRACKERS[request.param]()


class TestTracker:
    def test_a_new_face_has_an_id_at_once(self, tracker: Tracker) -> None:
        assert len(tracker.update([face_at(50, 50)]).observations) == 1

    def test_observations_are_the_faces_given_in_their_order(self, tracker: Tracker) -> None:
        tracker.update([face_at(50, 50), face_at(300, 50)])
        faces = [face_at(301, 50), face_at(51, 50), face_at(600, 60)]
        update = tracker.update(faces)
        assert [id(o.face) for o in update.observations] == [id(face) for face in faces]

    def test_a_moving_face_keeps_its_id(self, tracker: Tracker) -> None:
        ids = {tracker.update([face_at(50 + 12 * i, 50 + 3 * i)]).observations[0].track_id for i in range(20)}
        assert len(ids) == 1

    def test_a_face_seen_every_fifth_frame_keeps_its_id(self, tracker: Tracker) -> None:
        ids = {
            tracker.update([face_at(50 + 20 * i, 50)], period=5).observations[0].track_id for i in range(12)
        }
        assert len(ids) == 1

    def test_two_faces_have_two_ids(self, tracker: Tracker) -> None:
        for i in range(5):
            update = tracker.update([face_at(50 + 3 * i, 50), face_at(200 - 3 * i, 50)])
            assert len({o.track_id for o in update.observations}) == 2

    def test_an_unseen_track_is_not_observed(self, tracker: Tracker) -> None:
        tracker.update([face_at(50, 50)])
        assert tracker.update([]).observations == ()

    def test_a_face_missed_for_a_moment_keeps_its_id(self, tracker: Tracker) -> None:
        first = tracker.update([face_at(50, 50)]).observations[0].track_id
        for _ in range(PATIENCE):
            assert tracker.update([]).ended == ()
        assert tracker.update([face_at(52, 50)]).observations[0].track_id == first

    def test_the_end_of_a_track_is_told_once(self, tracker: Tracker) -> None:
        first = tracker.update([face_at(50, 50)]).observations[0].track_id
        ended = [track for _ in range(PATIENCE + MEMORY + 5) for track in tracker.update([]).ended]
        assert ended == [first]

    def test_a_long_period_ends_tracks_as_many_calls_do(self, tracker: Tracker) -> None:
        first = tracker.update([face_at(50, 50)]).observations[0].track_id
        update = tracker.update([face_at(50, 50)], period=500)
        assert update.ended == (first,)
        assert update.observations[0].track_id != first

    def test_a_seen_track_never_ends(self, tracker: Tracker) -> None:
        for i in range(4 * (PATIENCE + MEMORY)):
            faces = [face_at(50, 50)] if i % (PATIENCE + 1) == 0 else []
            assert tracker.update(faces).ended == ()

    def test_a_lost_person_is_known_again_elsewhere(self, tracker: Tracker) -> None:
        first = tracker.update([face_at(50, 50, embedding=person(1))]).observations[0].track_id
        tracker.update([face_at(51, 50)])  # carried by optical flow: without an embedding
        for _ in range(PATIENCE + 3):
            tracker.update([])
        update = tracker.update(
            [face_at(400, 90, embedding=person(2)), face_at(600, 90, embedding=person(1))]
        )
        assert [o.track_id == first for o in update.observations] == [False, True]

    def test_people_who_meet_do_not_swap(self, tracker: Tracker) -> None:
        def faces(i: int) -> list[int]:
            left = face_at(100 + 10 * i, 50, embedding=person(1))
            right = face_at(200 - 10 * i, 52, embedding=person(2))
            return [o.track_id for o in tracker.update([left, right]).observations]

        start = faces(0)
        # They meet and turn back: motion alone would take them past each other.
        for i in [1, 2, 3, 4, 5, 4, 3, 2, 1]:
            assert faces(i) == start

    def test_reset_ends_all_and_ids_are_never_used_again(self, tracker: Tracker) -> None:
        before = [o.track_id for o in tracker.update([face_at(50, 50), face_at(300, 50)]).observations]
        assert sorted(tracker.reset()) == sorted(before)
        after = [o.track_id for o in tracker.update([face_at(50, 50), face_at(300, 50)]).observations]
        assert not set(before) & set(after)
        assert tracker.reset() == tuple(sorted(after))

    def test_ids_do_not_depend_on_other_trackers(self, tracker: Tracker) -> None:
        other = TRACKERS["norfair"]()
        mine = [o.track_id for o in tracker.update([face_at(50, 50)]).observations]
        assert [o.track_id for o in other.update([face_at(50, 50)]).observations] == mine

    def test_landmarks_that_are_no_numbers_are_refused(self, tracker: Tracker) -> None:
        face = face_at(50, 50)
        face.landmarks[0, 0] = np.nan
        with pytest.raises(ValueError, match="finite"):
            tracker.update([face])

    def test_a_period_below_one_is_refused(self, tracker: Tracker) -> None:
        with pytest.raises(ValueError, match="period"):
            tracker.update([], period=0)
