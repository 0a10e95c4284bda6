"""The child process: proxy, account, container and object servers of Swift on one event loop.

The settings come as one line of JSON on stdin, whose end means that the parent is gone; one line on stdout
says that the server answers. Swift patches the standard library, so this needs its own process.
Layout of a cluster of one node: https://docs.openstack.org/swift/latest/development_saio.html
"""

import base64
import contextlib
import gc
import importlib
import json
import logging
import logging.handlers
import os
import shutil
import sys
import warnings
from array import array
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from swiftfs.concurrency import new_thread
from swiftfs.demo.server import HOST, USERS

DEVICE = "disk"
PART_POWER = 4
"""16 partitions: each is a folder of the data, and more of them only slow the disk down."""
HASH_SUFFIX = "swiftfs-demo"
"""Part of every path in the data folder. It must never change, or old data is not found."""
BACKLOG = 1024
ACCOUNT_UPDATE_INTERVAL = 1.0
"""Seconds until an account knows the usage of its containers; five minutes on an ordinary cluster."""
TOKEN_KEY = b"tokens outlive a restart".ljust(32)
"""A cluster keeps its tokens while a node is down; with a key no store is needed (older Swifts ignore it)."""

PIPELINE = (
    *("catch_errors", "gatekeeper", "healthcheck", "cache", "listing_formats", "bulk", "tempurl", "tempauth"),
    *("copy", "container_quotas", "account_quotas", "slo", "dlo", "versioned_writes", "symlink"),
)
"""The filters in front of the proxy, in the order of Swift's own `proxy-server.conf-sample`."""

KEYSTONE_FILTERS = ("authtoken", "keystoneauth")
"""Instead of tempauth: one validates the token, the other decides what its user may do."""

COMMON = {
    "log_level": "WARNING",
    "log_requests": "false",
    "mount_check": "false",
    "disable_fallocate": "true",
    "fallocate_reserve": "0",
    # One busy core serves everything: a slow answer does not mean a dead node.
    "conn_timeout": "5",
    "node_timeout": "60",
    "container_update_timeout": "60",
}
PROXY = {
    "account_autocreate": "true",
    "allow_account_management": "true",
    # The only node must not be disabled after a few errors.
    "error_suppression_limit": "1000000000",
}
FILTERS: Mapping[str, Mapping[str, str]] = {"versioned_writes": {"allow_versioned_writes": "true"}}


def main() -> None:
    """Serve until the parent is gone."""
    orders = json.loads(sys.stdin.buffer.readline())
    data = Path(orders["data"])
    new_thread(_watch_parent, "parent", (data if orders["private"] else None,), daemon=True).start()
    settings = orders["settings"]
    configuration = _write_swift_conf(data, settings)
    _import_swift(configuration)
    serve(data, configuration, orders["port"], settings)


def _watch_parent(rubbish: Path | None) -> None:
    """End with the parent. A killed parent cannot delete its private folder, so this does it."""
    os.read(sys.stdin.fileno(), 1)
    if rubbish is not None:
        shutil.rmtree(rubbish, ignore_errors=True)
    os._exit(0)


def _write_swift_conf(data: Path, settings: Mapping[str, Any]) -> Path:
    folder = data / "etc"
    folder.mkdir(exist_ok=True)
    (data / "devices" / DEVICE).mkdir(parents=True, exist_ok=True)
    constraints = {"container_listing_limit": str(settings["listing_limit"]), **settings["constraints"]}
    lines = ["[swift-hash]", f"swift_hash_path_suffix = {HASH_SUFFIX}", "[swift-constraints]"]
    lines += [f"{name} = {value}" for name, value in constraints.items()]
    lines += ["[storage-policy:0]", "name = demo", "default = yes"]
    (folder / "swift.conf").write_text("\n".join(lines) + "\n")
    return folder


def _import_swift(configuration: Path) -> None:
    """Import Swift so that its modules see `configuration`: many read `swift.conf` when they are imported."""
    warnings.simplefilter("ignore")
    utils = importlib.import_module("swift.common.utils")
    utils.monkey_patch()
    utils.set_swift_dir(str(configuration))
    importlib.import_module("swift.common.constraints").reload_constraints()
    importlib.import_module("swift.common.storage_policy").reload_storage_policies()


def serve(data: Path, configuration: Path, port: int, settings: Mapping[str, Any]) -> None:
    """Start the four servers, notify the parent and serve for ever; `port` is the proxy's."""
    import eventlet  # noqa: PLC0415 - not before Swift chose what to patch
    from swift.common.utils import get_hub  # noqa: PLC0415

    eventlet.hubs.use_hub(get_hub())
    common = {**COMMON, "swift_dir": str(configuration), "devices": str(data / "devices")}
    backends = {name: _listen(0) for name in ("account", "container", "object")}
    for name, listener in backends.items():
        _write_ring(configuration / f"{name}.ring.gz", listener.getsockname()[1])
    usage = AccountUsage(common)
    for name, listener in backends.items():
        module = importlib.import_module("swift.obj.server" if name == "object" else f"swift.{name}.server")
        server = module.app_factory(common)
        eventlet.spawn_n(_run, listener, usage.watching(server) if name == "container" else server)
    front = _front(_pipeline(common, settings), settings["delay"], usage.add_rows)
    _log_to_stderr()
    listener = _listen(port)
    eventlet.spawn_n(usage.keep_up_to_date)
    gc.collect()
    gc.freeze()
    print("ready", flush=True)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    _run(listener, front)


def _listen(port: int) -> Any:
    from eventlet.green import socket  # noqa: PLC0415

    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Accepted sockets inherit it; without it the tail of a long answer waits 40 ms for a delayed ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.bind((HOST, port))
    listener.listen(BACKLOG)
    return listener


def _write_ring(path: Path, port: int) -> None:
    from swift.common.ring import RingData  # noqa: PLC0415

    device = {"id": 0, "region": 1, "zone": 1, "ip": HOST, "port": port, "device": DEVICE, "weight": 1.0}
    partitions = array("H", [0] * (1 << PART_POWER))
    RingData([partitions], [device], 32 - PART_POWER).save(str(path))


def _pipeline(common: Mapping[str, str], settings: Mapping[str, Any]) -> Any:
    """Chain the filters as `swift.common.wsgi.loadapp` does from a file, without Paste Deploy."""
    proxy = importlib.import_module("swift.proxy.server").Application({**common, **PROXY})
    chain = [proxy]
    for name in reversed(_filter_names(settings)):
        if name not in settings["without"]:
            chain.insert(0, _filter(name, common, settings)(chain[0]))
    for application in chain:
        application._pipeline = chain
        application._pipeline_request_logging_app = proxy
        application._pipeline_final_app = proxy
    return chain[0]


def _filter_names(settings: Mapping[str, Any]) -> tuple[str, ...]:
    if not settings["keystone"]:
        return PIPELINE
    place = PIPELINE.index("tempauth")
    return PIPELINE[:place] + KEYSTONE_FILTERS + PIPELINE[place + 1 :]


def _filter(name: str, common: Mapping[str, str], settings: Mapping[str, Any]) -> Any:
    if name == "cache":
        from swiftfs.demo.filters import cache_filter  # noqa: PLC0415

        return cache_filter
    if name == "authtoken":
        module = importlib.import_module("keystonemiddleware.auth_token")
        return module.filter_factory(dict(common), **_authtoken_options(settings["keystone"]))
    options = dict(FILTERS.get(name, {}))
    if name == "tempauth":
        options = dict(_tempauth_options(settings["token_life"]))
    if name == "versioned_writes" and settings["object_versioning"]:
        options["allow_object_versioning"] = "true"
    module = importlib.import_module(f"swift.common.middleware.{name}")
    return module.filter_factory(dict(common), **options)


def _authtoken_options(keystone: Mapping[str, str]) -> dict[str, str]:
    """As in https://docs.openstack.org/swift/latest/overview_auth.html#configuring-swift-to-use-keystone."""
    return {
        "www_authenticate_uri": keystone["auth_url"],
        "auth_url": keystone["auth_url"],
        "auth_type": "password",
        "username": keystone["user"],
        "password": keystone["password"],
        "project_name": keystone["project"],
        "user_domain_id": "default",
        "project_domain_id": "default",
        "interface": "public",
        "delay_auth_decision": "true",
        "include_service_catalog": "false",
        "cache": "swift.cache",
    }


def _tempauth_options(token_life: int) -> Iterator[tuple[str, str]]:
    yield "token_life", str(token_life)
    yield "fernet_key_demo", base64.urlsafe_b64encode(TOKEN_KEY).decode()
    yield "active_fernet_key_id", "demo"
    for user in USERS:
        yield f"user_{user.name.replace(':', '_')}", " ".join((user.key, *user.rights))


def _front(application: Any, delay: float, add_rows: Callable[..., None]) -> Any:
    from swiftfs.demo.filters import Control, Faults, Recorder  # noqa: PLC0415

    faults = Faults(application, delay)
    return Control(Recorder(faults), faults, add_rows)


class AccountUsage:
    """Reports the use of containers to their accounts, as `swift-container-updater` does.

    The updater opens the database of every container each time, 50 a second; this class only changed ones.
    """

    def __init__(self, common: Mapping[str, str]) -> None:
        self._common = common
        self._updater = importlib.import_module("swift.container.updater").ContainerUpdater(dict(common))
        self._changed: set[tuple[bytes, bytes]] = set()

    def watching(self, server: Any) -> Any:
        """Return a container server that also records which containers it has changed."""

        def watched(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
            answer = server(environ, start_response)
            if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
                # /device/partition/account/container, and perhaps an object; WSGI passes bytes as latin-1.
                account, container = environ["PATH_INFO"].encode("latin-1").split(b"/")[3:5]
                self._changed.add((account, container))
            return answer

        return watched

    def keep_up_to_date(self) -> None:
        """Report for ever."""
        import eventlet  # noqa: PLC0415

        for folder in self._updater.get_paths():
            self._updater.container_sweep(folder)
        while True:
            eventlet.sleep(ACCOUNT_UPDATE_INTERVAL)
            changed, self._changed = self._changed, set()
            for names in changed:
                self._updater.container_sweep(self._database(*names).parent)

    def add_rows(self, account: str, container: str, rows: list[dict[str, Any]]) -> None:
        """Write rows into the container's database, as its server does when objects are stored."""
        from swift.common.utils import Timestamp  # noqa: PLC0415
        from swift.container.backend import ContainerBroker  # noqa: PLC0415

        names = account.encode(), container.encode()
        broker = ContainerBroker(str(self._database(*names)), account=account, container=container)
        fixed = {"created_at": Timestamp.now().internal, "deleted": 0, "storage_policy_index": 0}
        broker.merge_items([{**row, **fixed} for row in rows])
        self._changed.add(names)

    def _database(self, account: bytes, container: bytes) -> Path:
        from swift.common.utils import hash_path, storage_directory  # noqa: PLC0415
        from swift.container.backend import DATADIR  # noqa: PLC0415

        digest = hash_path(account, container)
        # All rings have as many partitions.
        partition = self._updater.get_account_ring().get_part(account, container)
        folder = Path(self._common["devices"], DEVICE, storage_directory(DATADIR, partition, digest))
        return folder / f"{digest}.db"


def _run(listener: Any, application: Any) -> None:
    from eventlet import wsgi  # noqa: PLC0415
    from swift.common.constraints import MAX_REQUEST_LINE  # noqa: PLC0415
    from swift.common.http_protocol import SwiftHttpProtocol  # noqa: PLC0415

    wsgi.server(
        listener,
        application,
        log=logging.getLogger("swift.wsgi"),
        protocol=SwiftHttpProtocol,
        socket_timeout=60,
        log_output=False,
        capitalize_response_headers=False,
        url_length_limit=MAX_REQUEST_LINE,
    )


def _log_to_stderr() -> None:
    """Send all logs of Swift to one file instead of syslog, which a machine may not have."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    for logger in [logging.getLogger(name) for name in tuple(logging.root.manager.loggerDict)]:
        for old in tuple(logger.handlers):
            if isinstance(old, logging.handlers.SysLogHandler):
                logger.removeHandler(old)
                old.close()
                logger.addHandler(handler)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
