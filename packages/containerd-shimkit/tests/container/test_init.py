"""What an init sees to itself."""

from __future__ import annotations

import threading

import pytest
from containerd_shimkit import InternalError
from containerd_shimkit.container.init import check_threads


def test_a_thread_that_an_engine_has_started_is_refused() -> None:
    check_threads()
    go = threading.Event()
    thread = threading.Thread(target=go.wait)
    thread.start()
    try:
        with pytest.raises(InternalError, match="has started a thread in `load`"):
            check_threads()
    finally:
        go.set()
        thread.join()
