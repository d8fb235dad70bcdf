import gc

import pytest

from gtacli.runtime.collection import without_collection


def test_it_rests_in_the_block_and_goes_on_after_an_error() -> None:
    rested = None

    def fail() -> None:
        nonlocal rested
        with without_collection():
            rested = not gc.isenabled()
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert rested
    assert gc.isenabled()


def test_one_that_rests_already_stays_so() -> None:
    gc.disable()
    try:
        with without_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
