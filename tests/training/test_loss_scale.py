"""The loss scale of fp16."""

import pytest

from mg.training.loss_scale import LossScale

pytestmark = pytest.mark.once


def test_it_doubles_after_good_updates_in_a_row_and_stays_within_its_bounds():
    scale = LossScale(initial=2.0**23, growth_interval=2)
    values = [(scale.update(fine), scale.value) for fine in (True, False, True, True, True, True)]
    assert values[1] == (True, 2.0**22)
    assert [value for _, value in values[2:]] == [2.0**n for n in (22, 23, 23, 24)]
    for _ in range(4):
        scale.update(True)
    assert scale.value == 2.0**24


def test_it_gives_way_as_long_as_it_can():
    small = LossScale(initial=2.0**-13)
    updates = [(small.update(False), small.value) for _ in range(3)]
    assert updates == [(True, 2.0**-14), (False, 2.0**-14), (False, 2.0**-14)]


@pytest.mark.parametrize("value", [0, 0.0, -1.0, "x", float("nan"), float("inf"), 10**400])
def test_a_state_whose_scale_is_none_is_refused(value):
    scale = LossScale(initial=2.0)
    with pytest.raises(ValueError, match="its loss scale is"):
        scale.load_state({"value": value, "good_updates": 0})
    assert scale.value == 2


@pytest.mark.parametrize("count", [-1, 3, 1.0, "x"])
def test_a_state_whose_count_is_none_is_refused(count):
    with pytest.raises(ValueError, match="good updates are"):
        LossScale(growth_interval=3).load_state({"value": 2.0, "good_updates": count})
