"""Words of states: what everything else relies on."""

from __future__ import annotations

import copy
import pickle

import orjson
import pytest

from taskforge.core.states import AttemptState, DeadLetterState, RunState, StepState


def test_a_state_is_its_word_and_there_is_one_object_of_each() -> None:
    states = [*RunState, *StepState, *AttemptState, *DeadLetterState]
    assert len(states) == sum(map(len, (RunState, StepState, AttemptState, DeadLetterState)))
    for state in states:
        assert state == str(state) == f"{state}" and hash(state) == hash(str(state))
        assert type(str(state)) is str and orjson.dumps([state]) == f'["{state}"]'.encode()
        copies = (copy.copy(state), copy.deepcopy([state])[0], pickle.loads(pickle.dumps(state)))
        assert all(same is state for same in (type(state)(str(state)), *copies))
        assert getattr(type(state), state) is state
    assert [str(state) for state in DeadLetterState] == ["OPEN", "RETRIED", "DISCARDED"]
    with pytest.raises(ValueError, match="'PENDING' is no RunState"):
        RunState("PENDING")
