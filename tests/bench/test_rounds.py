"""Turns, and which samples count."""

import pytest

from mimlab import cores
from mimlab.bench import rounds
from mimlab.bench.rounds import Series, turns
from mimlab.cores import Sample


def test_every_case_has_one_turn_a_round_in_changing_order():
    said, heard = [], []
    work = {name: (lambda name=name: said.append(name) or f"{name}{len(said)}") for name in "abc"}
    found = turns(work, 6, seed=1, each=lambda turn, name: heard.append((turn, name)))
    assert {name: len(samples) for name, samples in found.items()} == {"a": 6, "b": 6, "c": 6}
    assert sorted(int(sample[1:]) for samples in found.values() for sample in samples) == list(range(1, 19))
    assert all(sample[0] == name for name, samples in found.items() for sample in samples)
    orders = ["".join(said[i : i + 3]) for i in range(0, 18, 3)]
    assert all(sorted(order) == ["a", "b", "c"] for order in orders) and len(set(orders)) > 1
    assert [name for _, name in heard] == said
    said.clear()
    turns(work, 6, seed=1)
    assert ["".join(said[i : i + 3]) for i in range(0, 18, 3)] == orders


def samples(walls, others):
    return [Sample(wall, wall / 2, other) for wall, other in zip(walls, others, strict=True)]


def test_disturbed_samples_do_not_count():
    series = Series(samples([1.0, 1.1, 1.2, 9.0], [0.0, 0.1, 0.0, 8.0]))
    assert series.clean == [True, True, True, False]
    assert series.median == 1.1 and series.best == 1.0 and series.spread == pytest.approx(0.2 / 1.1)


def test_with_too_few_clean_samples_all_count():
    series = Series(samples([1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 9.0, 9.0]))
    assert sum(series.clean) == 2 and series.median == 2.5


def test_a_ratio_is_that_of_the_same_rounds():
    ours = Series(samples([1.0, 2.0, 4.0, 1.0], [0.0] * 4))
    theirs = Series(samples([2.0, 4.0, 8.0, 50.0], [0.0, 0.0, 0.0, 50.0]))
    assert theirs.over(ours) == 2.0  # while the machine grew slower, and the last round was disturbed
    assert ours.over(theirs) == 0.5


def test_processor_seconds_need_no_filter():
    series = Series(samples([1.0, 3.0], [9.0, 9.0]), clock="cpu")
    assert series.values == [0.5, 1.5] and all(series.clean)


def test_where_nothing_tells_of_others_all_count(monkeypatch):
    monkeypatch.setattr(cores, "busy", lambda: None)
    sample = rounds.timed(lambda: None)
    assert sample.other is None and Series([sample]).clean == [True]
    assert rounds.wait(5)


def test_others_are_told_from_this_process(monkeypatch):
    """The machine worked 3 s meanwhile, of which this process's share is next to nothing."""
    told = iter([(100.0, 7.0), (103.0, 9.0)])
    monkeypatch.setattr(cores, "busy", lambda: next(told))
    sample = rounds.timed(lambda: None)
    assert sample.other == pytest.approx(3.0, abs=0.1) and sample.nice == pytest.approx(2.0)


def test_waiting_ends_when_it_is_quiet_or_patience_is_over(monkeypatch):
    monkeypatch.setattr(rounds, "WINDOW", 0.01)
    monkeypatch.setattr(rounds, "timed", lambda work: Sample(1.0, 0.0, 0.05))
    assert rounds.wait(5)
    monkeypatch.setattr(rounds, "timed", lambda work: Sample(1.0, 0.0, 2.0))
    assert not rounds.wait(0.05)
