"""The parts that the modules of posix/ share."""

from dataclasses import dataclass
from pathlib import Path

from swiftfs.config.options import Options
from swiftfs.filecache.cache import FileCache
from swiftfs.filecache.segment_layout import SegmentLayout
from swiftfs.journal.journal import Journal
from swiftfs.namespace.entry import Defaults
from swiftfs.namespace.namespace import Namespace
from swiftfs.store.protocol import ObjectStore


@dataclass(slots=True)
class Services:
    """The parts of a mount below the filesystem, which `service/build.py` makes.

    `layout` limits the size of a file. `defaults` are the attributes of objects that store none.
    """

    store: ObjectStore
    namespace: Namespace
    file_cache: FileCache
    journal: Journal
    layout: SegmentLayout
    options: Options
    defaults: Defaults
    cache_dir: Path
