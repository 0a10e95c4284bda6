"""An account of a Keystone to which no request is sent."""

from swiftfs.store.auth import Account, open_account

SECRET = "s3cret-key-nobody-sees"
KEYSTONE = {
    "OS_AUTH_URL": "https://auth.example:5000/v3",
    "OS_USERNAME": "ACCESSKEY",
    "OS_PASSWORD": SECRET,
    "OS_PROJECT_ID": "0123",
    "OS_USER_DOMAIN_ID": "default",
}


def keystone_account(**changes: str) -> Account:
    """Return the account of `KEYSTONE` with these variables changed, or removed by an empty value."""
    return open_account({name: value for name, value in {**KEYSTONE, **changes}.items() if value})
