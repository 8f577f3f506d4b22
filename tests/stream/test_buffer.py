"""The queue between a source and a slow scorer: bounded, and what it loses is counted."""

import threading

from hypothesis import given
from hypothesis import strategies as st

from dripgate.stream.buffer import Buffer

ITEMS = st.lists(st.binary(max_size=60), max_size=60)


@given(ITEMS, st.integers(1, 100), st.lists(st.integers(0, 3), max_size=60))
def test_dropping_the_oldest_keeps_the_newest_within_the_room(payloads, room, takes):
    """Against a plain list, from which the oldest go until the new one fits."""
    model, lost, told = [], [], []
    buffer = Buffer(room, lambda item: len(item[1]), drop_oldest=True, on_lost=told.append)
    for item in enumerate(payloads):
        assert buffer.put(item)
        while model and sum(len(payload) for _, payload in model) + len(item[1]) > room:
            lost.append(model.pop(0))
        model.append(item)
        for _ in range(takes[item[0]] if item[0] < len(takes) else 0):
            one, model = model[:1], model[1:]
            assert buffer.take(1, 0) == one
        assert len(buffer) == len(model)
    assert told == lost
    assert buffer.lost == len(lost)
    assert buffer.take(100, 0) == model


@given(ITEMS, st.integers(1, 100))
def test_waiting_loses_nothing_and_keeps_the_order(items, room):
    buffer = Buffer(room, len)
    most = []

    def produce():
        for item in items:
            buffer.put(item)
            most.append(sum(map(len, buffer._items)) if len(buffer) > 1 else 0)
        buffer.end()

    thread = threading.Thread(target=produce)
    thread.start()
    taken = []
    while not buffer.over:
        taken += buffer.take(2, 1)
    thread.join()
    assert taken == items
    assert max(most, default=0) <= room
    assert buffer.lost == 0


def test_what_ends_the_buffer_is_raised_when_it_is_empty():
    buffer = Buffer(10, len)
    buffer.put(b"a")
    buffer.end(ValueError("the cable"))
    assert not buffer.over
    assert buffer.take(5, 0) == [b"a"]
    try:
        over = buffer.over
    except ValueError as error:
        over = str(error)
    assert over == "the cable"


def test_one_who_waits_to_put_is_let_go_when_it_ends():
    buffer = Buffer(1, len)
    buffer.put(b"a")
    answers = []
    thread = threading.Thread(target=lambda: answers.append(buffer.put(b"b")))
    thread.start()
    buffer.end()
    thread.join(30)
    assert answers == [False]
