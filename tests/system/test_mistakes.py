"""What users type by mistake, and the one line that they see."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from support.commands import swiftfs
from support.mounts import clean_environment
from support.troubleshooting import quoted
from swiftfs.demo.server import SwiftServer

WRONG, FAILED = 2, 1
"""The exit codes of a command line that cannot be understood, and of one that cannot be done."""

TYPED: tuple[tuple[str, int, str], ...] = (
    # The command
    ("swiftfs photos mp", WRONG, "no such command 'photos': 'swiftfs mount photos mp' mounts it *"),
    ("swiftfs mnt photos mp", WRONG, "no such command 'mnt'; did you mean 'mount', 'umount'? *"),
    ("swiftfs mount photos", WRONG, "missing argument 'MOUNTPOINT' (see 'swiftfs mount --help')"),
    ("swiftfs mount photos mp --reed-ahead 1M", WRONG, "*'--reed-ahead'; did you mean *'--read-ahead'? *"),
    (
        "swiftfs mount photos mp -o read_ahead = 1M",
        WRONG,
        "got unexpected extra arguments (= 1M): write NAME=VALUE *",
    ),
    ("swiftfs mount photos mp -o", WRONG, "option '-o' requires an argument (see 'swiftfs mount --help')"),
    ("swiftfs trash list photos --config", WRONG, "*requires an argument (see 'swiftfs trash list --help')"),
    ("swiftfs ls photos", WRONG, "no such command 'ls' (see 'swiftfs --help')"),
    ("swiftfs mount photos ''", WRONG, "invalid value for 'MOUNTPOINT': the path is empty (see *)"),
    ("swiftfs umount ''", WRONG, "invalid value for 'MOUNTPOINT': the path is empty (see *)"),
    ("swiftfs warm mp ''", WRONG, "invalid value for 'PATH...': the path is empty (see *)"),
    ("swiftfs check photos --against ''", WRONG, "invalid value for '--against': the path is empty (see *)"),
    ("swiftfs share a/b --for 1h --ip ''", WRONG, "invalid value for '--ip': it is empty (see *)"),
    (
        "swiftfs share a/b --for 1h --filename ''",
        WRONG,
        "invalid value for '--filename': it is empty (see *)",
    ),
    ("swiftfs trash empty photos ''", WRONG, "invalid value for '[PATH...]': it is empty (see *)"),
    ("swiftfs trash restore photos ''", WRONG, "invalid value for 'PATH...': it is empty (see *)"),
    ("swiftfs 'my photos' full", WRONG, "*: \"swiftfs mount 'my photos' full\" mounts it (see *)"),
    ("swiftfs status --jsn", WRONG, "no such option '--jsn'; did you mean '--json'? *"),
    ("swiftfs --verbose mount photos mp", WRONG, "no such option '--verbose'*(see 'swiftfs --help')"),
    ("cd gone; swiftfs mount photos mp", FAILED, "the current folder was deleted: cd to another one"),
    ("cd gone; swiftfs status mp", FAILED, "the current folder was deleted: cd to another one"),
    ("cd gone; swiftfs umount mp", FAILED, "the current folder was deleted: cd to another one"),
    ("cd gone; swiftfs mount photos /mnt --cache-dir c", FAILED, "the current folder was deleted: *"),
    # The options
    ("swiftfs mount photos mp -o tll=3", FAILED, "unknown option 'tll' (-o); did you mean 'ttl'?"),
    ("swiftfs mount photos mp -o ttl=soon", FAILED, "option ttl=soon (-o): expected seconds, 0 to a year"),
    ("swiftfs mount photos mp -o cache_size=1", FAILED, "option cache_size=1 (-o): *a size, 64M to 1P"),
    ("swiftfs mount photos mp -o sync,settle=3", FAILED, "options sync and settle (-o) contradict *"),
    ("swiftfs mount photos mp -o remount,ro", FAILED, "remount is not supported: *"),
    *(
        (f"swiftfs mount photos mp -o {name}={text}", FAILED, f"option {name}={text} (-o): expected no value")
        for name, text in {"dev": "", "suid": "", "noatime": "yes"}.items()
    ),
    *(
        (f"swiftfs mount photos mp {words}", FAILED, f"option {name}= ({origin}): expected *; it is empty")
        for words, name, origin in (
            ("--cache-dir ''", "cache_dir", "--cache-dir"),
            ("-o cache_dir=", "cache_dir", "-o"),
            ("--credentials=", "credentials", "--credentials"),
            ("--config ''", "config", "--config"),
            ("-o config=", "config", "-o"),
            ("-o metrics=", "metrics", "-o"),
            ("-o prices=", "prices", "-o"),
            ("-o storage_url=", "storage_url", "-o"),
            ("--region ''", "region", "--region"),
            ("--os-cloud ''", "os_cloud", "--os-cloud"),
            ("-o storage_policy=", "storage_policy", "-o"),
        )
    ),
    ("swiftfs gc photos --credentials ''", FAILED, "option credentials= (--credentials): *; it is empty"),
    ("SWIFTFS_CREDENTIALS= swiftfs probe photos", FAILED, "option credentials= (variable *): *; it is empty"),
    ("swiftfs mount photos mp --config table.toml", FAILED, "table [photos] (table.toml, line 2): *"),
    ("swiftfs mount photos mp --config none.toml", FAILED, "configuration file none.toml: No such file*"),
    ("swiftfs mount photos mp --config bare.toml", FAILED, "*: write the value in quotes at line 2, as in *"),
    ("swiftfs mount photos mp --config mode.toml", FAILED, "*: write the value in quotes at line 1, as in *"),
    ("swiftfs mount photos mp --config twice.toml", FAILED, "*: ttl is set a second time at line 3"),
    ("swiftfs mount photos mp --config latin.toml", FAILED, "*latin.toml: it is not text in UTF-8"),
    ("swiftfs mount photos mp -o prices=bare.toml", FAILED, "option prices=*: write the value in quotes *"),
    # Source and mount point
    ("swiftfs mount swift://photos mp", FAILED, "source 'swift://photos' is a URL: write CONTAINER or *"),
    ("swiftfs check https://localhost/v1/AUTH_test/photos", WRONG, "source 'https:*' is a URL: write *"),
    (
        "swiftfs mount nobox mp",
        FAILED,
        "no container 'nobox' at *: check its name; 'swiftfs mount --create nobox */mp' makes it, *",
    ),
    ("swiftfs mount swift:nobox mp", FAILED, "*; 'swiftfs mount --create nobox */mp' makes it, *"),
    ("swiftfs mount nobox/2024 mp", FAILED, "*; 'swiftfs mount --create nobox/2024 */mp' makes it, *"),
    (
        "NOTIFY_SOCKET=@x swiftfs mount nobox mp",
        FAILED,
        "no container 'nobox' at *; the option 'create' makes *",
    ),
    (
        "swiftfs probe nobox",
        FAILED,
        "no container 'nobox': check its name, or make it by 'swiftfs mount --create nobox FOLDER'",
    ),
    (
        "swiftfs probe nobox/2024",
        FAILED,
        "no container 'nobox': check its name, or make it by 'swiftfs mount --create nobox/2024 FOLDER'",
    ),
    (
        "swiftfs mount -- -c mp",
        FAILED,
        "no container '-c' at *; 'swiftfs mount --create -- -c */mp' makes it, *",
    ),
    ("swiftfs probe -- -c", FAILED, "no container '-c': *'swiftfs mount --create -- -c FOLDER'"),
    ("swiftfs gc zzz", FAILED, "no container 'zzz', and no container for its segments: check its name"),
    ("swiftfs mount /nobox mp", FAILED, "source '/nobox': use CONTAINER, CONTAINER/PREFIX, or / *"),
    ("swiftfs check f\udcff", WRONG, "source 'f\\udcff' is not UTF-8: no object has such a name"),
    *(
        (f"swiftfs {words}", FAILED, "source *'f\\udcff*' is not UTF-8: *")
        for words in ("mount f\udcff mp", "mount f\udcff/x mp", "gc f\udcff", "cp f\udcff/x a/b")
    ),
    ("swiftfs mount photos mp --cache-dir /proc/f\udcff", FAILED, "cache folder /proc/f\\udcff: No such *"),
    ("swiftfs mount nobox none", FAILED, "mount point */none: No such file or directory: mkdir it, or *"),
    ("swiftfs mount nobox table.toml", FAILED, "mount point */table.toml: Not a directory"),
    ("swiftfs mount nobox full", FAILED, "mount point */full is not empty: choose an empty folder"),
    ("swiftfs mount nobox mp --cache-dir mp/cache", FAILED, "cache folder */mp/cache is inside the mount *"),
    ("swiftfs mount nobox mp --cache-dir full", FAILED, "cache folder */full holds other files: *"),
    ("swiftfs pin full", FAILED, "*/full is not in a swiftfs mount"),
    ("swiftfs unpin full/none", FAILED, "*/full/none is not in a swiftfs mount"),
    ("swiftfs warm full", FAILED, "*/full is not in a swiftfs mount"),
    ("swiftfs thaw full mp", FAILED, "*/full is not in a swiftfs mount"),
    # The login
    ("ST_KEY=wrong swiftfs mount nobox mp", FAILED, "*: wrong user or key"),
    ("ST_KEY= swiftfs mount nobox mp", FAILED, "incomplete credentials: set ST_KEY"),
    (
        "ST_AUTH= ST_USER= ST_KEY= swiftfs mount nobox mp",
        FAILED,
        "no credentials: name a file of them with --credentials, *",
    ),
    ("ST_AUTH=127.0.0.1:8080/auth/v1.0 swiftfs mount nobox mp", FAILED, "*is not an http or https URL"),
    (
        "ST_AUTH=http://localhost/v1/AUTH_test swiftfs mount nobox mp",
        FAILED,
        "http://localhost/v1/AUTH_test is a storage URL, *: set the auth URL, such as *",
    ),
    ("swiftfs mount nobox mp --credentials commented", FAILED, "the auth URL '*' is no valid URL: there *"),
    ("swiftfs mount nobox mp --credentials latin.toml", FAILED, "*latin.toml: it is not text in UTF-8"),
    ("swiftfs mount nobox mp --credentials none", FAILED, "credentials file none: No such file or *"),
    ("swiftfs mount nobox mp --credentials other", FAILED, "credentials file other has no login: *"),
    ("swiftfs mount nobox mp --credentials unset", FAILED, "credentials file unset has no login: *"),
    ("swiftfs mount nobox mp --credentials open", FAILED, "credentials file open can be read by other *"),
    # clouds.yaml
    ("swiftfs mount nobox mp --os-cloud demo", FAILED, "--os-cloud demo: no clouds.yaml in */home, *"),
    ("OS_CLOUD=demo swiftfs mount nobox mp", FAILED, "OS_CLOUD demo: no clouds.yaml in *"),
    (
        "OS_CLIENT_CONFIG_FILE=none.yaml swiftfs mount nobox mp --os-cloud demo",
        FAILED,
        "OS_CLIENT_CONFIG_FILE=none.yaml: no such file",
    ),
    (
        "OS_CLIENT_CONFIG_FILE=clouds/two.yaml swiftfs mount nobox mp --os-cloud dmeo",
        FAILED,
        "clouds/two.yaml has no cloud 'dmeo'; it has demo, other",
    ),
    (
        "OS_CLIENT_CONFIG_FILE=clouds/two.yaml swiftfs mount nobox mp --os-cloud demo",
        FAILED,
        "clouds/two.yaml, cloud 'demo': auth has no password, no project_name or project_id",
    ),
    (
        "OS_CLIENT_CONFIG_FILE=clouds/two.yaml swiftfs mount nobox mp --os-cloud other",
        FAILED,
        "clouds/two.yaml, cloud 'other': *vendor profile nobody *",
    ),
    (
        "OS_CLIENT_CONFIG_FILE=clouds/broken.yaml swiftfs mount nobox mp --os-cloud demo",
        FAILED,
        "clouds/broken.yaml, line 3: expected ',' or ']', but got ':'",
    ),
    (
        "OS_CLIENT_CONFIG_FILE=clouds/list.yaml swiftfs mount nobox mp --os-cloud demo",
        FAILED,
        "clouds/list.yaml has no clouds: *",
    ),
    *(
        (f"OS_CLIENT_CONFIG_FILE=clouds/odd.yaml swiftfs mount nobox mp --os-cloud {cloud}", FAILED, text)
        for cloud, text in {
            "number": "clouds/odd.yaml, cloud 'number': expected settings such as 'auth:' below it",
            "login": "clouds/odd.yaml, cloud 'login': expected settings such as 'auth_url:' below 'auth:'",
            "url": "clouds/odd.yaml, cloud 'url': auth_url is no text: 5",
            "old": "clouds/odd.yaml, cloud 'old': http://localhost:5000/v2.0/ is Keystone v2; only v3 is *",
        }.items()
    ),
    # Other commands
    ("swiftfs status mp", FAILED, "*/mp is not a swiftfs mount"),
    ("swiftfs umount mp", FAILED, "*/mp is not a swiftfs mount"),
    ("swiftfs flush none", FAILED, "*/none: No such file or directory"),
    ("swiftfs export mp out", FAILED, "*/mp is neither a swiftfs mount nor a cache folder"),
    ("swiftfs gc nobox --older-than 7", WRONG, "*'7': expected an age such as 12h, 7d or 2w *"),
    ("swiftfs check nobox --bodies=-1", WRONG, "*'--bodies': '-1': expected a percentage after '=', *"),
    ("swiftfs check nobox --bodies=", WRONG, "*'--bodies': '': expected a percentage after '=', *"),
    ("swiftfs probe nobox --size 2T", WRONG, "*'2T': expected a size, 1M to 1G *"),
)

CLOUDS = {
    "odd.yaml": "clouds: {number: 5, login: {auth: [a]}, url: {auth: {auth_url: 5}}, "
    "old: {auth: {auth_url: 'http://localhost:5000/v2.0/', username: u}}}",
    "two.yaml": """
clouds:
  demo:
    auth: {auth_url: http://localhost:5000/v3, username: u}
  other:
    profile: nobody
    auth: {auth_url: http://localhost:5000/v3, username: u}
""",
    "broken.yaml": "clouds:\n  demo: [x\n    auth:\n",
    "list.yaml": "- demo\n",
}


@pytest.fixture
def home(tmp_path: Path, swift: SwiftServer) -> Path:
    """A folder with what the commands name."""
    home = tmp_path / "home"
    for name in ("mp", "full/x", "clouds"):
        (home / name).mkdir(parents=True)
    (home / "table.toml").write_text("ttl = 3\n[photos]\nttl = 4\n")
    (home / "bare.toml").write_text("# mine\nread_ahead = 1M\n")
    (home / "mode.toml").write_text("umask = 027\n")
    (home / "twice.toml").write_text("ttl = 3\nro = true\nttl = 4\n")
    (home / "latin.toml").write_bytes(b'cache_dir = "caf\xe9"\n')
    (home / "latin.toml").chmod(0o600)
    (home / "commented").write_text("ST_AUTH=http://localhost/auth/v1.0 # ours\nST_USER=u\nST_KEY=k\n")
    (home / "commented").chmod(0o600)
    (home / "other").write_text("OS_PROJECT_NAME=photos\n")
    (home / "other").chmod(0o600)
    (home / "unset").write_text("ST_AUTH=\nST_USER=\nST_KEY=\n")
    (home / "unset").chmod(0o600)
    (home / "open").write_text("ST_KEY=x\n")
    (home / "open").chmod(0o644)
    for name, text in CLOUDS.items():
        (home / "clouds" / name).write_text(text)
        (home / "clouds" / name).chmod(0o600)
    return home


@pytest.mark.matrix(24)
@pytest.mark.parametrize(("typed", "code", "seen"), TYPED, ids=[typed for typed, _, _ in TYPED])
def test_a_mistake_is_answered_in_one_line(
    home: Path, swift: SwiftServer, typed: str, code: int, seen: str
) -> None:
    result = shell(typed, home, swift)
    expected = ".*".join(map(re.escape, f"swiftfs: {seen}\n".split("*")))
    assert re.fullmatch(expected, result.stderr), result.stderr
    assert (result.returncode, result.stdout) == (code, "")
    assert not (home / ".cache").exists()
    if code == FAILED:
        assert quoted(result.stderr)


def shell(typed: str, home: Path, swift: SwiftServer) -> subprocess.CompletedProcess[str]:
    """Do what a shell does with the line."""
    environment = {**swift.environment(), "HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config")}
    before, _, words = typed.partition("swiftfs ")
    if not before.startswith("cd "):
        environment |= dict(word.split("=", 1) for word in before.split())
        return swiftfs(*shlex.split(words), environment=environment, folder=home)
    (home / "gone").mkdir()
    program = typed.replace("cd gone;", "cd gone && rmdir ../gone &&")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["sh", "-c", program],
        env={**clean_environment(), **environment, "PATH": path},
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
