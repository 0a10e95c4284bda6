"""The storage URL that a user names, instead of the one in the answer to the login."""

from collections.abc import Mapping

from swiftfs.lazy_dataclass import dataclass

STORAGE_VARIABLE, TOKEN_VARIABLE = "OS_STORAGE_URL", "OS_AUTH_TOKEN"
"""What `swift auth` prints."""


@dataclass(frozen=True, slots=True)
class StorageChoice:
    """The options that choose the storage: its URL, or the interface and the region of a catalog.

    What is empty is chosen by the environment or by clouds.yaml.
    """

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
