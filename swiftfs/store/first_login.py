"""The first login of a mount or a command, which ends in time whatever hangs in it."""

from contextvars import copy_context

from swiftfs.concurrency import Future, new_future, new_thread, wait_all
from swiftfs.errors import Unavailable
from swiftfs.store.auth import Account
from swiftfs.store.retry import deadline

LOGIN_SECONDS = 12.0
"""The longest time for all requests of the login together: it may have redirects and several steps."""

HANG_SECONDS = 15.0
"""After this time a login fails that hangs outside of a request: in the resolver, or in a library's lock."""


def log_in(account: Account, *, insecure_storage: bool) -> None:
    """Log in, and check the storage URL; errors as in `Account.check_storage`.

    Raise `Unavailable` after `HANG_SECONDS`.
    """
    done: Future[None] = new_future()
    # In the caller's context: its deadline counts, too. A daemon: what hangs must not keep the process.
    arguments = (_log_in, account, insecure_storage, done)
    thread = new_thread(copy_context().run, "login", arguments, daemon=True)
    thread.start()
    if not wait_all([done], HANG_SECONDS):
        raise Unavailable(
            f"{account.label}: no login within {HANG_SECONDS:.0f} seconds: "
            "check the network and its name servers"
        )
    thread.join()
    done.result()


def _log_in(account: Account, insecure_storage: bool, done: Future[None]) -> None:
    try:
        with deadline(LOGIN_SECONDS):
            account.check_storage(insecure=insecure_storage)
            account.token()
        done.set_result(None)
    except BaseException as error:  # noqa: BLE001  whoever waits raises it
        done.set_exception(error)
