"""One object that is always refused does not slow down the others; many refusals slow all down."""

import pytest

from swiftfs.store import server_state
from swiftfs.store.server_state import Pacer


@pytest.mark.parametrize(("refusals", "is_slow"), [(3, False), (40, True)])
def test_only_many_refusals_slow_all_requests_down(
    monkeypatch: pytest.MonkeyPatch, refusals: int, is_slow: bool
) -> None:
    now = 100.0
    monkeypatch.setattr(server_state, "monotonic", lambda: now)
    pacer = Pacer()
    for _ in range(10 * refusals):
        pacer.refused()
        now += 0.5 / refusals
    pacer._turn()
    assert (pacer._turn() > 0.0) == is_slow
