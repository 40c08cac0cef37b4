"""Laws of sessions, leases and numbers; a clock of our own, no sockets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tepdist.errors import SessionError, StateConsumed
from tepdist.service.access import read_tokens
from tepdist.service.sessions import Session, Sessions


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def new_sessions(ttl_s: float = 10.0) -> tuple[Sessions[str, str], Clock]:
    clock = Clock()
    return Sessions(ttl_s, clock), clock


def new_session(number: int = 1) -> Session[str, str]:
    return Session(number, client=None, ttl_s=1.0, now_s=0.0)


@given(st.lists(st.text(), min_size=1, max_size=20))
def test_a_number_of_another_session_is_as_unknown_as_one_never_given(items):
    mine, other = new_session(), new_session()
    for item in items:
        number = mine.tensors.add(item)
        assert mine.tensors.get(number) == item
        with pytest.raises(SessionError, match="there is no tensor") as foreign:
            other.tensors.get(number)
        with pytest.raises(SessionError, match="there is no tensor") as never:
            other.tensors.get(7)
        assert foreign.value.problem.replace(str(number), "7") == never.value.problem
        assert foreign.value.hint == never.value.hint


@given(st.lists(st.booleans(), max_size=30))
def test_a_shelf_holds_what_was_added_and_not_removed(removals):
    shelf = new_session().tensors
    held = {}
    for removed in removals:
        number = shelf.add("x")
        held[number] = "x"
        if removed:
            shelf.remove([number])
            del held[number]
            with pytest.raises(StateConsumed):
                shelf.get(number)
    assert dict(shelf.items()) == held


def test_session_keys_are_long_and_differ():
    sessions, _ = new_sessions()
    keys = {sessions.open(client=None, ttl_s=None).key for _ in range(50)}
    assert len(keys) == 50
    assert {len(key) for key in keys} == {32}


def test_a_lease_lapses_and_frees_what_the_session_held():
    sessions, clock = new_sessions()
    session = sessions.open(client=None, ttl_s=5.0)
    session.tensors.add("x")
    clock.now_s = 4.9
    assert sessions.lapse() == ()
    clock.now_s = 5.0
    assert sessions.lapse() == (session,)
    assert len(session.tensors) == 0
    with (
        pytest.raises(SessionError, match="unknown"),
        sessions.call(session.key, client=None),
    ):
        pass


def test_a_call_renews_the_lease_and_holds_it_while_it_lasts():
    sessions, clock = new_sessions()
    session = sessions.open(client=None, ttl_s=5.0)
    with sessions.call(session.key, client=None):
        clock.now_s = 100.0
        assert sessions.lapse() == ()
    clock.now_s = 104.9
    assert sessions.lapse() == ()
    clock.now_s = 105.0
    assert sessions.lapse() == (session,)


def test_what_a_call_adds_to_a_session_closed_meanwhile_is_freed():
    sessions, _ = new_sessions()
    session = sessions.open(client=None, ttl_s=None)
    with sessions.call(session.key, client=None):
        sessions.close(session.key)
        session.tensors.add("late")
    assert len(session.tensors) == 0


def test_another_clients_session_is_unknown():
    sessions, _ = new_sessions()
    session = sessions.open(client="alice", ttl_s=None)
    with (
        pytest.raises(SessionError, match="unknown"),
        sessions.call(session.key, client="bob"),
    ):
        pass


@pytest.mark.parametrize("ttl_s", [0.0, -1.0, float("nan")])
def test_a_lease_of_no_length_is_refused(ttl_s):
    sessions, _ = new_sessions()
    with pytest.raises(SessionError, match="lease"):
        sessions.open(client=None, ttl_s=ttl_s)


def test_a_lease_is_never_longer_than_the_servers():
    sessions, _ = new_sessions(ttl_s=3.0)
    assert sessions.open(client=None, ttl_s=float("inf")).ttl_s == 3.0


def test_a_token_file_names_its_clients():
    access = read_tokens("# people\nalice: s3cret\n\nbob:hunter2:x\n")
    assert access.client_of("s3cret") == "alice"
    assert access.client_of("hunter2:x") == "bob"
    for wrong in ("", "s3cre", None):
        with pytest.raises(SessionError):
            access.client_of(wrong)


@pytest.mark.parametrize("text", ["", "# none\n", "alice\n", ":x\n", "alice:\n"])
def test_a_token_file_that_lets_nobody_in_is_refused(text):
    with pytest.raises(SessionError):
        read_tokens(text)
