"""Work done ahead comes in order, only so much of it, and errors come where they belong."""

import pytest

from cnnlab.system.ahead import map_ahead


@pytest.mark.parametrize("ahead", [0, 1, 5, 100])
def test_results_come_in_the_order_of_the_items(ahead):
    assert list(map_ahead(lambda number: number**2, range(30), ahead)) == [number**2 for number in range(30)]
    assert list(map_ahead(str, [], ahead)) == []


def test_no_more_items_are_taken_than_asked_for():
    taken = []

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    results = map_ahead(lambda number: number, items(), ahead=4)
    assert [next(results), next(results)] == [0, 1]
    assert len(taken) == 2 + 4
    results.close()
    assert len(taken) == 6


def test_error_comes_in_place_of_its_result():
    results = map_ahead(lambda number: 6 // number, [3, 2, 0, 1], ahead=4)
    assert [next(results), next(results)] == [2, 3]
    with pytest.raises(ZeroDivisionError):
        next(results)
