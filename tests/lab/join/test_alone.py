"""One command at a time changes what a host is."""

import os

import pytest

from lab.errors import BusyError
from lab.join.alone import alone


def test_a_second_command_is_refused_until_the_first_has_ended() -> None:
    """However the first ends."""
    name = f"test-{os.getpid()}"
    with pytest.raises(KeyError), alone(name):
        with pytest.raises(BusyError, match="wait until it has ended"), alone(name):
            pytest.fail("two at once")
        raise KeyError
    with alone(name):
        pass
