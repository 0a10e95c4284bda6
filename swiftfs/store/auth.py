"""Turns credentials into one keystoneauth session for all connections. No secret is ever printed."""

import logging
import math
import ssl
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import keystoneauth1.exceptions as keystone_errors
import requests
from keystoneauth1.plugin import BaseAuthPlugin
from keystoneauth1.session import Session
from keystoneauth1.token_endpoint import Token

from swiftfs.concurrency import Future, Rank, monotonic, new_future, new_lock, wait_all
from swiftfs.errors import (
    ConfigurationError,
    LoginRefused,
    NotSwift,
    StoreError,
    TimedOut,
    Unavailable,
    printable,
)
from swiftfs.store.account_settings import ANY, STORAGE_VARIABLE, TOKEN_VARIABLE, StorageChoice
from swiftfs.store.error_map import causes_of, clock_difference, reason
from swiftfs.store.login import (
    BadUrl,
    ForeignServer,
    PasswordLogin,
    V1Login,
    as_sent,
    checked_auth_url,
    checked_storage_url,
    guard_logins,
    likely_cause,
)
from swiftfs.store.retry import remaining

# What only Keystone needs is imported by the functions that log in there: other logins start sooner.

log = logging.getLogger(__name__)

PASSWORD, TOKEN = "v3password", "v3token"

TOKEN_SECONDS = 1.0
"""How long a token is used before keystoneauth is asked whether it is still valid. That takes as much CPU
time as to read an answer. It renews a token 30 seconds before its end."""

UNKNOWN_ISSUER = {18, 19, 20, 21}
"""OpenSSL's X509_V_ERR codes for a certificate from an unknown issuer."""


class Account:
    """A Swift account: the storage URL and a token, renewed once for all threads when it is refused.

    `label` names the auth URL and the user for messages; the key stays inside `session`. `storage` chooses
    the storage URL. `login` is what to try out to find why the login is refused.
    """

    def __init__(
        self, session: Session, label: str, storage: StorageChoice, login: PasswordLogin | None = None
    ) -> None:
        self.session = session
        self.label = label
        self._login = login
        self._storage = storage
        self._lock = new_lock(Rank.RENEWALS)
        self._renewals: dict[str, Future[str]] = {}
        self._clock = ""
        self._known_token = "", -math.inf
        self._endpoint = checked_storage_url(storage.url) if storage.url else ""

    def __repr__(self) -> str:
        return f"Account({self.label})"

    def endpoint(self) -> str:
        """Return the storage URL; raise `LoginRefused`, `Unavailable` or `ConfigurationError`."""
        # Without a lock: two threads may ask at once, and get the same answer.
        if not self._endpoint:
            self._endpoint = self._find_endpoint()
        return self._endpoint

    def place(self) -> str:
        """Return what tells its objects from those of the user's other projects and regions.

        That is the path of the storage URL, as a server's host may get another name, and the chosen region.
        Errors as in `endpoint`.
        """
        return f"{urlsplit(self.endpoint()).path} {self._storage.region}".rstrip()

    def token(self) -> str:
        """Return a token, a new one shortly before the old one expires; errors as in `endpoint`."""
        token, until = self._known_token
        return token if monotonic() < until else self._ask_token()

    def _ask_token(self) -> str:
        headers = self._ask(self.session.get_auth_headers) or {}
        token = str(headers.get("X-Auth-Token", ""))
        # In one step, without a lock. If an older token stays here, its refusal replaces it.
        self._known_token = token, monotonic() + TOKEN_SECONDS
        return token

    def renew(self, refused: str) -> str:
        """Return a token that is not `refused`; errors as in `endpoint`.

        If several threads are refused together, one logs in, and the others share its result or failure.
        """
        with self._lock:
            mine: Future[str] | None = None
            renewal = self._renewals.get(refused)
            if renewal is None:
                mine = renewal = self._renewals[refused] = new_future()
        if mine is not None:
            self._log_in(refused, mine)
        left = remaining()
        if not wait_all([renewal], None if left == math.inf else left):
            raise TimedOut(f"{self.label}: no new token in time", may_land=False)
        return renewal.result()

    def _log_in(self, refused: str, renewal: Future[str]) -> None:
        try:
            renewal.set_result(self._new_token(refused))
        except BaseException as error:  # noqa: BLE001  every thread that waits raises it
            renewal.set_exception(error)
        finally:
            with self._lock:
                # After the result is set: a thread that finds no renewal any more finds the new token.
                del self._renewals[refused]

    def explain(self, refusal: LoginRefused) -> LoginRefused:
        """Return a refusal of the first login with its likely cause, if that can be found out."""
        if self._login is None:
            return refusal
        return LoginRefused(f"{self.label}: {likely_cause(self.session, self._login)}{self._clock}")

    def _new_token(self, refused: str) -> str:
        # Another thread may have logged in between the 401 and this.
        if (token := self._ask_token()) != refused:
            return token
        can_log_in = self.session.invalidate()
        token = self._ask_token()
        if token == refused and not can_log_in:
            raise LoginRefused(
                f"{self.label}: the token is refused, and there is no key to get another one: "
                "mount again with a new token"
            )
        return token

    def close(self) -> None:
        """Close the connections to the authentication server."""
        self.session.session.close()

    def _find_endpoint(self) -> str:
        find = partial(self.session.get_endpoint, service_type="object-store")
        region, interface = self._storage.region, self._storage.interface
        found = self._ask(partial(find, interface=interface, region_name=region or None))
        if not found:
            where = f" in region {region}" if region else ""
            raise ConfigurationError(f"{self.label}: no object-store endpoint{where} in the catalog")
        try:
            scheme = urlsplit(as_sent(str(found))).scheme
        except BadUrl as error:
            raise ConfigurationError(f"{self.label}: the storage URL {error}") from None
        if scheme not in ("http", "https"):
            raise ConfigurationError(
                f"{self.label}: the storage URL {printable(str(found))} is neither http nor https"
            )
        return str(found).rstrip("/")

    def _ask(self, question: Callable[[], Any]) -> Any:
        """Return what keystoneauth answers, None if there is no such endpoint; its errors become ours."""
        try:
            return question()
        except keystone_errors.EndpointNotFound:
            return None
        except keystone_errors.ClientException as error:
            raise self._failure(error) from None
        except UnicodeEncodeError:
            raise ConfigurationError(
                f"{self.label}: the user or the key has letters outside of Latin-1, which this login cannot "
                "send"
            ) from None
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            # It reads the server's answer without checks: anything may be anywhere in it.
            raise NotSwift(
                f"{self.label}: cannot authenticate there, the answer makes no sense "
                f"({type(error).__name__}, {_short(error)}): check the auth URL",
                may_land=False,
            ) from None

    def check_storage(self, *, insecure: bool) -> None:
        """Raise `ConfigurationError` if only the login has TLS and `insecure` is not set; see `endpoint`."""
        url = self.endpoint()
        if not (self.label.lower().startswith("https:") and urlsplit(url).scheme == "http"):
            return
        plain = f"{self.label}: the storage URL {url} has no TLS: others on the network can read the data"
        if not insecure:
            raise ConfigurationError(
                f"{plain} and the token; ask for https there, or allow it with insecure_storage=yes"
            )
        log.warning("%s", plain)

    def _failure(self, error: keystone_errors.ClientException) -> StoreError | ConfigurationError:
        if isinstance(error, keystone_errors.Unauthorized | keystone_errors.Forbidden):
            self._clock = clock_difference(_date_of(error))
            return LoginRefused(f"{self.label}: wrong user or key{self._clock}")
        if any(isinstance(cause, ForeignServer) for cause in causes_of(error)):
            return Unavailable(f"{self.label}: {reason(error)}", may_land=False)
        if isinstance(error, keystone_errors.SSLError):
            return StoreError(f"{self.label}: {_tls_failure(error)}")
        status = getattr(error, "http_status", 0) or 0
        if status == 404 and "token" in str(error).lower():  # Keystone's answer to an expired token
            return LoginRefused(f"{self.label}: the token is invalid or has expired")
        if isinstance(error, keystone_errors.ConnectionError) or status >= 500 or status == 429:
            server = f"the authentication server{_proxy_of(self.label)}"
            answer = f"{server} cannot serve now" if status else f"no answer from {server}"
            return Unavailable(f"{self.label}: {answer}, {_short(error)}{': try again later' * bool(status)}")
        make: Callable[[str], StoreError | ConfigurationError] = ConfigurationError
        said = _short(error)
        if isinstance(error, keystone_errors.InvalidResponse):  # such as a captive portal's page
            make = partial(NotSwift, may_land=False)
            said = f"the answer has no token (HTTP {error.response.status_code})"
        return make(f"{self.label}: cannot authenticate there, {said}: check the auth URL")


def open_account(
    environment: Mapping[str, str], *, cloud: str | None = None, storage: StorageChoice = ANY
) -> Account:
    """Return the account that `environment` describes; nothing is sent yet.

    In this order: `cloud` or `OS_CLOUD` (clouds.yaml), `ST_AUTH`/`ST_USER`/`ST_KEY` (v1), `OS_*` (Keystone
    v3: a password, an application credential, a token, or what `OS_AUTH_TYPE` names), a storage URL and a
    token. What `storage` chooses counts before the environment and clouds.yaml. Raise `ConfigurationError`
    naming what is missing, a variable or the package for clouds.yaml.
    """
    named = cloud or environment.get("OS_CLOUD")
    if named:
        return _from_clouds_yaml(named, environment, "--os-cloud" if cloud else "OS_CLOUD", storage)
    if any(environment.get(name) for name in ("ST_AUTH", "ST_USER", "ST_KEY")):
        return _from_v1(environment, storage)
    completed = storage.completed(environment)
    if completed.url and environment.get(TOKEN_VARIABLE) and not _can_log_in(environment):
        url = checked_storage_url(completed.url)
        plugin = Token(url, _checked_token(environment[TOKEN_VARIABLE]))
        session = _session(plugin, environment, [url], keystone=False)
        return Account(session, f"{url} (token)", StorageChoice(url))
    if environment.get("OS_AUTH_URL") or environment.get("OS_AUTH_TYPE"):
        kind = _auth_type(environment)
        make = _from_keystone if kind == PASSWORD else partial(_from_loading, kind)
        return make(environment, storage)
    if completed.url or environment.get(TOKEN_VARIABLE):
        missing = TOKEN_VARIABLE if completed.url else STORAGE_VARIABLE
        raise ConfigurationError(f"incomplete credentials: set {missing}, or the variables of a login")
    raise ConfigurationError(
        "no credentials: name a file of them with --credentials, or set ST_AUTH, ST_USER and ST_KEY, or "
        f"OS_AUTH_URL and the other OS_* variables, or {STORAGE_VARIABLE} and {TOKEN_VARIABLE}, or name a "
        "cloud in clouds.yaml with OS_CLOUD"
    )


def _date_of(error: keystone_errors.ClientException) -> str:
    """Return the Date of the answer that refused a login, empty if there is none."""
    response = getattr(error, "response", None)
    return response.headers.get("Date", "") if isinstance(response, requests.Response) else ""


def _can_log_in(environment: Mapping[str, str]) -> bool:
    """Return whether there is more than a token to log in with: then the token can be renewed."""
    secrets = ("OS_PASSWORD", "OS_APPLICATION_CREDENTIAL_SECRET", "OS_TOKEN", "OS_AUTH_TYPE")
    return any(environment.get(name) for name in secrets)


def _label(url: str, who: str, storage: StorageChoice, storage_url: str) -> str:
    """Return the label of an account; it also names the cache folder, so it differs for each account."""
    if storage_url:
        return f"{url} ({who}) at {storage_url.rstrip('/')}"
    return f"{url} ({who})" + (f" in region {storage.region}" if storage.region else "")


def _from_v1(environment: Mapping[str, str], storage: StorageChoice) -> Account:
    _require(environment, "ST_AUTH", "ST_USER", "ST_KEY")
    url, user = environment["ST_AUTH"], environment["ST_USER"]
    plugin = V1Login(checked_auth_url(url), user, environment["ST_KEY"])
    storage_url = storage.completed(environment).url
    label = _label(url, f"user {user}", ANY, storage_url)
    # The answer to a v1 login has one storage URL, without a region.
    session = _session(plugin, environment, [url], keystone=False)
    return Account(session, label, StorageChoice(storage_url, "public"))


def _from_keystone(environment: Mapping[str, str], storage: StorageChoice) -> Account:
    from keystoneauth1.identity import v3  # noqa: PLC0415

    _require(environment, "OS_AUTH_URL")
    user = environment.get("OS_USERNAME") or environment.get("OS_USER_ID")
    project = environment.get("OS_PROJECT_ID") or environment.get("OS_PROJECT_NAME")
    missing = [] if user else ["OS_USERNAME or OS_USER_ID"]
    missing += [] if environment.get("OS_PASSWORD") else ["OS_PASSWORD"]
    missing += [] if project else ["OS_PROJECT_ID or OS_PROJECT_NAME"]
    if missing:
        raise ConfigurationError(f"OS_AUTH_URL is set, but not {', '.join(missing)}")
    url = _versioned(checked_auth_url(environment["OS_AUTH_URL"]))
    # Only a name needs its domain; an id is unique (Keystone API v3).
    by_name = bool(environment.get("OS_PROJECT_NAME")) and not environment.get("OS_PROJECT_ID")
    # One of the two, the one in the label: of both, keystoneauth would take the id.
    name = environment.get("OS_USERNAME")
    who: dict[str, Any] = {"username": name, "user_id": None if name else environment.get("OS_USER_ID")}
    login = PasswordLogin(url, who, _domain(environment, "user"), project or "", environment["OS_PASSWORD"])
    plugin = v3.Password(
        auth_url=url,
        password=login.password,
        project_id=environment.get("OS_PROJECT_ID"),
        project_name=environment.get("OS_PROJECT_NAME") if by_name else None,
        **who,
        **login.domain,
        **(_domain(environment, "project") if by_name else {}),
    )
    return _at_keystone(plugin, environment, storage, url, f"user {user}", [url], login)


def _at_keystone(
    plugin: BaseAuthPlugin,
    environment: Mapping[str, str],
    storage: StorageChoice,
    url: str,
    who: str,
    named: Iterable[str],
    login: PasswordLogin | None = None,
) -> Account:
    completed = storage.completed(environment)
    label = _label(url, who, storage, completed.url)
    return Account(_session(plugin, environment, named, keystone=True), label, completed, login)


def _auth_type(environment: Mapping[str, str]) -> str:
    """Return keystoneauth's name of the login method (its entry points `keystoneauth1.plugin`)."""
    named = environment.get("OS_AUTH_TYPE", "")
    if named:
        return {"password": PASSWORD, "token": TOKEN}.get(named, named)
    if environment.get("OS_APPLICATION_CREDENTIAL_ID") or environment.get("OS_APPLICATION_CREDENTIAL_NAME"):
        return "v3applicationcredential"
    return TOKEN if environment.get("OS_TOKEN") and not environment.get("OS_PASSWORD") else PASSWORD


def _from_loading(kind: str, environment: Mapping[str, str], storage: StorageChoice) -> Account:
    """Set the plugin's options from the variables that are named after them, as `openstack` does."""
    from keystoneauth1 import loading  # noqa: PLC0415

    logging.getLogger("stevedore").setLevel(logging.ERROR)  # what it warns of is in the error, too
    try:
        loader: Any = loading.get_plugin_loader(kind)
    except keystone_errors.NoMatchingPlugin:
        raise ConfigurationError(f"OS_AUTH_TYPE={kind}: keystoneauth knows no such login method") from None
    given = {}
    for option in loader.get_options():
        names = [one.name for one in (option, *option.deprecated)]
        values = [environment.get("OS_" + name.upper().replace("-", "_")) for name in names]
        given[option.dest] = next((value for value in values if value), None)
    if kind == TOKEN and not given.get("token"):
        raise ConfigurationError(f"to log in by {kind}, set OS_TOKEN too")
    url = given.get("auth_url")
    if url:
        given["auth_url"] = url = _versioned(checked_auth_url(url))
    try:
        plugin = loader.load_from_options(**given)
    except keystone_errors.MissingRequiredOptions as error:
        missing = ["OS_" + option.name.upper().replace("-", "_") for option in error.options]
        raise ConfigurationError(f"to log in by {kind}, set {', '.join(missing)} too") from None
    except keystone_errors.ClientException as error:
        raise ConfigurationError(f"to log in by {kind}: {_short(error)}") from None
    who = given.get("username") or given.get("user_id") or given.get("application_credential_id") or kind
    where = f"{url or given.get('endpoint') or ''}"
    return _at_keystone(plugin, environment, storage, where, f"user {who}", _urls_in(given))


def _from_clouds_yaml(
    cloud: str, environment: Mapping[str, str], option: str, storage: StorageChoice
) -> Account:
    from swiftfs.store.clouds import find_cloud, open_session  # noqa: PLC0415

    region = find_cloud(cloud, environment, option, storage.region)
    session = open_session(region, cloud)
    options = region.get_auth_args()
    if options.get("auth_url"):
        checked_auth_url(str(options["auth_url"]))
    guard_logins(session, _urls_in(options), keystone=True)
    interface = region.get_interface("object-store")
    user = options.get("username") or options.get("user_id") or options.get("application_credential_id", "")
    # `object_store_endpoint_override`
    url = storage.url or str(region.get_endpoint("object-store") or "")
    label = _label(str(options.get("auth_url", "")), f"cloud {cloud}, user {user}", storage, url)
    interface = storage.interface or (interface if isinstance(interface, str) else "public")
    return Account(session, label, StorageChoice(url, interface, region.get_region_name() or ""))


def _tls_failure(error: BaseException) -> str:
    """Return in words why a TLS handshake failed."""
    causes = list(causes_of(error))
    refused = next((cause for cause in causes if isinstance(cause, ssl.SSLCertVerificationError)), None)
    if refused is None:
        return f"TLS fails, {reason(error)}: check https in the URL, and the port"
    hint = "; set OS_CACERT=FILE to the issuer's certificate" if refused.verify_code in UNKNOWN_ISSUER else ""
    return f"the server's certificate is not trusted, {reason(error)}{hint}"


def _proxy_of(label: str) -> str:
    """Return the proxy to the URL that `label` begins with, without its password, for a message."""
    url = label.split(" ", 1)[0]
    proxy = requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url))
    return f" through the proxy {proxy.rpartition('@')[2]}" if proxy else ""


def _urls_in(options: Mapping[str, Any]) -> list[str]:
    """Return the URLs among the options of a way to log in."""
    return [str(value) for name, value in options.items() if value and name.endswith(("url", "endpoint"))]


def _session(
    plugin: BaseAuthPlugin, environment: Mapping[str, str], named: Iterable[str], *, keystone: bool
) -> Session:
    certificates = environment.get("OS_CACERT")
    if certificates:
        file, folder = (None, certificates) if Path(certificates).is_dir() else (certificates, None)
        try:
            # Only to see whether it can be read: requests would report that at the first request, in other
            # words.
            ssl.create_default_context(cafile=file, capath=folder)
        except OSError as error:
            why = reason(error) if isinstance(error, ssl.SSLError) else error.strerror
            raise ConfigurationError(f"OS_CACERT={certificates}: {why}") from None
    session = Session(auth=plugin, verify=certificates or True, app_name="swiftfs")
    guard_logins(session, named, keystone=keystone)
    return session


def _domain(environment: Mapping[str, str], of: str) -> dict[str, Any]:
    """Return the domain of the user or the project; Keystone's own default is the domain id `default`."""
    prefix = f"OS_{of.upper()}_DOMAIN"
    if environment.get(f"{prefix}_ID"):
        return {f"{of}_domain_id": environment[f"{prefix}_ID"]}
    if environment.get(f"{prefix}_NAME"):
        return {f"{of}_domain_name": environment[f"{prefix}_NAME"]}
    if of == "user" and environment.get("OS_USER_ID") and not environment.get("OS_USERNAME"):
        return {}
    return {f"{of}_domain_id": environment.get("OS_DEFAULT_DOMAIN") or "default"}


def _require(environment: Mapping[str, str], *names: str) -> None:
    missing = [name for name in names if not environment.get(name)]
    if missing:
        raise ConfigurationError(f"incomplete credentials: set {', '.join(missing)}")


def _checked_token(token: str) -> str:
    """Return a token; raise `ConfigurationError`, without its value, for what no header can carry."""
    # The library requests would show the whole token in its error.
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise ConfigurationError("OS_AUTH_TOKEN is no token: it has blanks, or letters that no token has")
    return token


def _versioned(url: str) -> str:
    """Return the Keystone URL with its version, which is often missing in `OS_AUTH_URL`."""
    base = url.rstrip("/")
    last = urlsplit(base).path.rsplit("/", 1)[-1]
    if last in ("v2.0", "v2"):
        raise ConfigurationError(f"{url} is Keystone v2; only v3 is supported")
    return base if last == "v3" else f"{base}/v3"


def _short(error: BaseException) -> str:
    return " ".join(reason(error).split())[:200].rstrip(".")
