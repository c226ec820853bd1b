"""InputError is one clear message with every problem on its own line."""

from __future__ import annotations

import copy

import pytest

from foundation.errors import InputError


def fail_with_two_problems() -> None:
    raise InputError(["first: got 1, allowed 0", "second: got b, allowed a"])


def test_one_problem_is_its_own_message() -> None:
    error = InputError("  data 'mine': no file my.xyz\n")
    assert str(error) == "data 'mine': no file my.xyz"
    assert error.problems == ("data 'mine': no file my.xyz",)
    assert isinstance(error, ValueError)


def test_several_problems_stand_one_on_a_line_in_order() -> None:
    with pytest.raises(InputError) as caught:
        fail_with_two_problems()
    assert str(caught.value) == "first: got 1, allowed 0\nsecond: got b, allowed a"


@pytest.mark.parametrize("problems", ["", " ", [], ["a", ""]])
def test_a_problem_must_say_something(problems: str | list[str]) -> None:
    with pytest.raises(AssertionError):
        InputError(problems)


def test_a_copy_for_another_process_is_whole() -> None:
    with pytest.raises(InputError) as caught:
        fail_with_two_problems()
    copied = copy.deepcopy(caught.value)
    assert copied is not caught.value
    assert copied.problems == caught.value.problems
    assert str(copied) == str(caught.value)
