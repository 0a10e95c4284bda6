"""How often keystoneauth is asked for the token."""

from typing import Any, cast

from support.manual_clock import ManualClock
from swiftfs.store.account_settings import StorageChoice
from swiftfs.store.auth import TOKEN_SECONDS, Account


class Session:
    """Counts what a session of keystoneauth is asked; each login has another token."""

    def __init__(self) -> None:
        self.asked = self.logins = 0

    def get_auth_headers(self) -> dict[str, str]:
        self.asked += 1
        return {"X-Auth-Token": f"token{self.logins}"}

    def invalidate(self) -> bool:
        self.logins += 1
        return True


def account_of(session: Session) -> Account:
    """Return an account with this session."""
    return Account(cast(Any, session), "me", StorageChoice("http://swift/v1/AUTH_me"))


def test_the_token_is_asked_for_once_a_second(clock: ManualClock) -> None:
    session = Session()
    account = account_of(session)
    assert {account.token() for _ in range(10)} == {"token0"}
    assert session.asked == 1
    clock.now += TOKEN_SECONDS
    assert account.token() == "token0"
    assert session.asked == 2


def test_a_refused_token_is_not_used_again(clock: ManualClock) -> None:
    session = Session()
    account = account_of(session)
    refused = account.token()
    assert account.renew(refused) == account.token() == "token1"


def test_a_token_that_another_thread_has_renewed_is_not_renewed_again(clock: ManualClock) -> None:
    session = Session()
    account = account_of(session)
    refused = account.token()
    session.invalidate()
    assert account.token() == refused
    assert account.renew(refused) == account.token() == "token1"
    assert session.logins == 1
