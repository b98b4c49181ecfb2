"""How many children a container has."""

import pytest

from dispatcher.pools.forks import AT_ONCE, MOST_AT_ONCE, at_once


@pytest.mark.parametrize(
    ("slots", "children"), [(1, AT_ONCE), (64, AT_ONCE), (100, 50), (256, MOST_AT_ONCE), (1000, MOST_AT_ONCE)]
)
def test_a_container_has_as_many_children_as_are_of_use_to_its_dispatcher(slots: int, children: int) -> None:
    assert at_once(slots) == children
