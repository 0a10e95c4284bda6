"""What the file system is made of."""

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
    """What everything of floor 3 shares; `mount` builds it. `layout` says how large a file may be."""

    store: ObjectStore
    namespace: Namespace
    file_cache: FileCache
    journal: Journal
    layout: SegmentLayout
    options: Options
    defaults: Defaults
    cache_dir: Path
