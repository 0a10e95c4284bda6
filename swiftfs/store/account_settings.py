"""How an account is reached: its cloud, its storage URL, and what else a user names instead of the server."""

from collections.abc import Mapping

from msgspec import Struct

STORAGE_VARIABLE, TOKEN_VARIABLE = "OS_STORAGE_URL", "OS_AUTH_TOKEN"
"""What `swift auth` prints."""

LOGIN_VARIABLES = (
    *("OS_CLOUD", "ST_AUTH", "ST_USER", "ST_KEY", "OS_AUTH_URL", "OS_AUTH_TYPE"),
    *(STORAGE_VARIABLE, TOKEN_VARIABLE),
)
"""Without one of them there is no login; what else is missing beside one is told by its kind."""


class StorageChoice(Struct, frozen=True):
    """The options that choose the storage: its URL, or interface and region in a catalog; empty if not."""

    url: str = ""
    interface: str = ""
    region: str = ""

    def completed(self, environment: Mapping[str, str]) -> "StorageChoice":
        """Return the choice with the variables of `environment` for what is empty."""
        named = environment.get("OS_INTERFACE") or environment.get("OS_ENDPOINT_TYPE") or "public"
        return StorageChoice(
            self.url or environment.get(STORAGE_VARIABLE, ""),
            self.interface or named.removesuffix("URL"),
            self.region or environment.get("OS_REGION_NAME", ""),
        )


ANY = StorageChoice()
"""Nothing is chosen."""


class AccountSettings(Struct, frozen=True):
    """How an account is reached, besides the variables of the environment.

    `cloud` is one of clouds.yaml. New containers get `storage_policy`, or the server's default one. With
    `insecure_storage` the storage may have no TLS although the login has it.
    """

    cloud: str | None = None
    storage: StorageChoice = ANY
    storage_policy: str = ""
    insecure_storage: bool = False


DEFAULT_SETTINGS = AccountSettings()
