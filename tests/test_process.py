"""What the process sets of its interpreter."""

import gc

from runtime import process


def test_nothing_is_collected_while_importing_and_what_was_imported_never() -> None:
    before = gc.get_freeze_count()
    try:
        with process.importing():
            assert not gc.isenabled()
        assert gc.isenabled()
        assert gc.get_freeze_count() > before
    finally:
        gc.unfreeze()
