"""Options: where they can be set, which place takes precedence, and the messages of errors."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from msgspec.structs import fields

from support.options import parse_options
from support.other_users import NOBODY, as_root
from swiftfs.cli import app
from swiftfs.cli.command_line import given
from swiftfs.config.options import OPTIONS, SWITCH, Options
from swiftfs.config.sources import (
    OPPOSITES,
    Setting,
    build_options,
    from_environment,
    from_file,
    from_words,
    gather,
)
from swiftfs.errors import ConfigurationError

SAMPLES = {
    "FOLDER=AGE;…": "logs/=90d",
    "": "yes",
    "SIZE": "128M",
    "SECONDS": "7",
    "NUMBER": "2000",
    "OCTAL": "027",
    "TEXT": "word",
    "FILE": "/etc/word",
    "AMOUNT": "5.5",
    "FOLDER": "/srv/word",
    "auto|same|CONTAINER": "pieces",
}
RANGES = {
    "uploads": "7",
    "connections": "7",
    "metrics": "localhost:9177",
    "bwlimit": "08:00,2M:off Sat-19:00,off",
}
NEEDED = {"budget": ("prices", "/etc/prices")}
"""Options that make no sense without another one."""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder without a configuration."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return tmp_path


def sample(name: str) -> str:
    """Return a value that is not the default."""
    word = OPTIONS[name].kind.word
    return RANGES.get(name) or SAMPLES.get(word) or word.split("|")[-1]


def toml(folder: Path, text: str) -> Path:
    file = folder / "options.toml"
    file.write_text(text)
    return file


def refusal(*levels: list[Setting]) -> str:
    with pytest.raises(ConfigurationError) as caught:
        build_options(levels)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.matrix(12)
@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "config"])
def test_every_option_can_be_set_in_every_place(name: str, tmp_path: Path) -> None:
    text = sample(name)
    option = OPTIONS[name]
    flag = True if option.kind is SWITCH else text
    file = toml(tmp_path, f'{name} = "{text}"')
    places = [
        gather({}, [f"{name}={text}"]),
        gather({option.variable: text}),
        gather({"SWIFTFS_OPTIONS": f"{name}={text}"}),
        gather({}, flags=given({name: flag})),
        gather({}, [f"config={file}"]),
    ]
    needed = [Setting(*NEEDED[name], "test")] if name in NEEDED else []
    values = [getattr(build_options([needed, *levels]), name) for levels in places]
    assert values == [option.kind.parse(text)] * len(places)
    assert name in {"exec", "prefetch"} or values[0] != getattr(Options(), name)


@pytest.mark.parametrize("name", [name for name, option in OPTIONS.items() if option.kind is SWITCH])
def test_an_empty_value_turns_no_switch_on(name: str, tmp_path: Path) -> None:
    file = toml(tmp_path, f'{name} = ""')
    places = {
        "-o": gather({}, [f"{name}="]),
        f"variable {OPTIONS[name].variable}": gather({OPTIONS[name].variable: ""}),
        "variable SWIFTFS_OPTIONS": gather({"SWIFTFS_OPTIONS": f"ttl=1,{name} = ,uploads=1"}),
        f"{file}, line 1": gather({}, [f"config={file}"]),
    }
    for origin, levels in places.items():
        assert refusal(*levels) == f"option {name}= ({origin}): expected yes or no; it is empty"
    assert getattr(parse_options([f"ttl=1,{name}"]), name) is True


@pytest.mark.parametrize("word", sorted(OPPOSITES))
def test_a_word_that_turns_an_option_off_has_no_value(word: str) -> None:
    for value in ("", "yes", "no"):
        with pytest.raises(ConfigurationError, match=rf"^option {word}={value} \(-o\): expected no value$"):
            from_words([f"{word}={value}"])


def test_the_place_with_precedence_wins(tmp_path: Path) -> None:
    file = toml(tmp_path, "ttl = 1\nuploads = 1\nconnections = 1\nmax_entries = 1001\n")
    environment = {"SWIFTFS_CONFIG": str(file), "SWIFTFS_OPTIONS": "uploads=2,connections=2,max_entries=1002"}
    levels = gather(environment, ["connections=3", "max_entries=1003"], given({"max_entries": "1004"}))
    options = build_options(levels)
    assert (options.ttl, options.uploads, options.connections, options.max_entries) == (1, 2, 3, 1004)


def test_the_later_value_wins_and_an_option_s_own_variable_over_the_common_one() -> None:
    assert parse_options(["ttl=1,ttl=2", "ttl=3"]).ttl == 3
    assert parse_options([], {"SWIFTFS_TTL": "5", "SWIFTFS_OPTIONS": "ttl=4"}).ttl == 5


def test_the_user_s_own_file_is_read_where_it_exists(home: Path) -> None:
    assert parse_options([], {}) == Options()
    folder = home / ".config" / "swiftfs"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text('ttl = 5\ncredentials = "~/secret"')
    options = parse_options([], {})
    assert (options.ttl, options.credentials) == (5, f"{home}/secret")
    assert parse_options(["config=/dev/null"], {}) == Options(config="/dev/null")
    assert parse_options(["ttl=6"], {}).ttl == 6


def test_a_mode_in_toml_needs_quotes(tmp_path: Path) -> None:
    assert build_options([from_file(toml(tmp_path, "umask = '027'"))]).umask == 0o027
    with pytest.raises(ConfigurationError, match=r"umask .*line 1\): write the value in quotes"):
        from_file(toml(tmp_path, "umask = 0o27"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# a comment\nttll = 3", "unknown option 'ttll' ({file}, line 2); did you mean 'ttl'?"),
        ("ttl = 3\n[photos]\nttl = 4", "table [photos] ({file}, line 2): write the options at the top"),
        ("[mount]\nttl = 3\n\nuplaods = 4", "unknown option 'uplaods' ({file}, line 4); did you mean"),
        ("uploads = 3\n[mount]\nttl = 'x'", "option ttl=x ({file}, line 3): expected seconds"),
        ("ttl = 'x'", "option ttl=x ({file}, line 1): expected seconds, 0 to a year"),
        ("ttl = [1]", "option ttl ({file}, line 1): write the value in quotes"),
        (
            "read_ahead = '1M'\n'read-ahead' = '2M'",
            "option read_ahead ({file}, line 2) is set a second time: see {file}, line 1",
        ),
        ("ttl = 1\n[mount]\nttl = 1", "option ttl ({file}, line 3) is set a second time: see {file}, line 1"),
        ("ro = true\nreadonly = false", "option ro ({file}, line 2) is set a second time: see {file}, line"),
        ("config = 'x'", "option 'config' ({file}, line 1): a configuration file cannot name another one"),
        ("ttl =\nuploads = 1", "configuration file {file}: Invalid value (at line 1"),
    ],
)
def test_an_error_in_a_file_is_reported_with_its_line(tmp_path: Path, text: str, expected: str) -> None:
    file = toml(tmp_path, text)
    with pytest.raises(ConfigurationError) as caught:
        build_options([from_file(file)])
    assert str(caught.value).startswith(expected.format(file=file))


@pytest.mark.parametrize("table", ["mount", "swiftfs", "options"])
def test_options_in_a_table_count_as_at_the_top(tmp_path: Path, table: str) -> None:
    options = build_options([from_file(toml(tmp_path, f"ttl = 5\n[{table}]\nread-ahead = '1M'"))])
    assert (options.ttl, options.read_ahead) == (5, 2**20)


@pytest.mark.parametrize(
    ("word", "name", "value"),
    [
        ("readonly", "ro", True),
        ("read-only", "ro", True),
        ("read_only", "ro", True),
        ("readonly=no", "ro", False),
        ("read-ahead=1M", "read_ahead", 2**20),
        ("read_ahead = 1M", "read_ahead", 2**20),
        (" ttl =5 ", "ttl", 5),
        ("cache-dir = /x", "cache_dir", "/x"),
        ("no-default-permissions", "default_permissions", False),
    ],
)
def test_options_are_understood_as_people_write_them(word: str, name: str, value: object) -> None:
    assert getattr(parse_options([word]), name) == value
    assert getattr(parse_options([], {"SWIFTFS_OPTIONS": f"uploads=5,{word}"}), name) == value


def test_a_wrong_size_is_answered_with_sizes_as_people_write_them() -> None:
    assert refusal([Setting("cache_size", "1", "-o")]) == (
        "option cache_size=1 (-o): expected a size, 64M to 1P"
    )


def test_a_file_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        gather({}, [f"config={tmp_path}/missing"])
    (tmp_path / "latin").write_bytes(b"ttl = '\xff'")
    with pytest.raises(ConfigurationError, match="configuration file"):
        gather({}, [f"config={tmp_path}/latin"])


def test_an_error_elsewhere_is_reported_with_its_place() -> None:
    assert refusal(from_environment({"SWIFTFS_READAHEAD": "1M"})) == (
        "unknown option 'readahead' (variable SWIFTFS_READAHEAD); did you mean 'read_ahead'?"
    )
    assert "(variable SWIFTFS_OPTIONS)" in refusal(from_environment({"SWIFTFS_OPTIONS": "nothing"}))
    assert refusal([Setting("uploads", "65", "--uploads")]) == (
        "option uploads=65 (--uploads): expected a number, 1 to 64"
    )
    with pytest.raises(ConfigurationError, match=r"unknown option 'tll' \(-o\); did you mean 'ttl'"):
        parse_options(["tll=3"])


def test_variables_of_the_unit_are_no_options() -> None:
    assert from_environment({"SWIFTFS_SOURCE": "box", "SWIFTFS_MOUNTPOINT": "/mnt", "OS_CLOUD": "x"}) == []


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("allow_other,allow_root", ("allow_other", "allow_root")),
        ("sync,settle=3", ("sync", "settle")),
        ("os_cloud=a,credentials=/b", ("os_cloud", "credentials")),
        ("cache_size=64M,segment_size=128M", ("cache_size=64M", "segment_size=128M")),
    ],
)
def test_contradictions_are_refused(words: str, names: tuple[str, str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_options([words])
    assert all(name in str(caught.value) for name in names)


def test_options_that_only_seem_to_contradict_are_accepted() -> None:
    assert parse_options(["sync,settle=0"]).sync
    assert parse_options(["allow_other,allow_root=no"]).allow_other
    assert parse_options(["ro,sync,uploads=8"]).ro


def test_an_option_overrides_contradicting_ones_of_places_without_precedence() -> None:
    environment = {"SWIFTFS_SETTLE": "30", "SWIFTFS_ALLOW_ROOT": "yes", "SWIFTFS_OS_CLOUD": "naver"}
    options = parse_options(["sync,allow_other,credentials=/x"], environment)
    assert (options.sync, options.settle) == (True, Options().settle)
    assert (options.allow_other, options.allow_root) == (True, False)
    assert (options.credentials, options.os_cloud) == ("/x", "")
    assert not parse_options(["settle=3"], {"SWIFTFS_SYNC": "yes"}).sync


def test_options_of_fstab_are_ignored_or_disable() -> None:
    options = parse_options(["rw,_netdev,nofail,noauto,x-systemd.automount,noatime,comment=x,X-mount.mkdir"])
    assert options == Options()
    assert not parse_options(["ro,rw"]).ro
    assert not parse_options(["async"], {"SWIFTFS_SYNC": "yes"}).sync
    assert parse_options(["dirsync"]).sync
    assert not parse_options(["exec,noexec"]).exec
    with pytest.raises(ConfigurationError, match="remount is not supported: unmount it"):
        parse_options(["remount,ro"])


def test_the_help_shows_each_option_with_its_default() -> None:
    text = " ".join(CliRunner().invoke(app.main, ["mount", "--help"]).output.split())
    for option in OPTIONS.values():
        assert option.flag in text
        assert not option.default or f"[{option.default}]" in text
    assert len(OPTIONS) == len(fields(Options))


@pytest.mark.parametrize("mode", [0o646, 0o602, 0o666])
def test_a_file_that_all_can_change_is_refused(home: Path, mode: int) -> None:
    file = home / ".config" / "swiftfs" / "config.toml"
    file.parent.mkdir(parents=True)
    file.write_text("insecure_storage = true")
    file.chmod(mode)
    expected = f"configuration file {file} can be changed by other users: chmod go-w it"
    for environment, words in (({}, []), ({}, [f"config={file}"]), ({"SWIFTFS_CONFIG": str(file)}, [])):
        with pytest.raises(ConfigurationError, match=expected):
            gather(environment, words)
    file.chmod(0o644)
    assert gather({})[0]


@as_root
def test_a_file_that_a_group_can_change_is_refused(tmp_path: Path) -> None:
    file = toml(tmp_path, "ttl = 3")
    os.chown(file, -1, NOBODY)
    file.chmod(0o664)
    with pytest.raises(ConfigurationError, match="can be changed by other users"):
        from_file(file)


@as_root
def test_the_file_of_another_user_is_refused(tmp_path: Path) -> None:
    file = toml(tmp_path, "ttl = 3")
    os.chown(file, NOBODY, -1)
    with pytest.raises(ConfigurationError, match="belongs to another user: chown it, or make a copy"):
        from_file(file)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("bwlimit=08:00,2M:off 19:00,off,ro", "08:00,2M:off 19:00,off"),
        ('bwlimit="08:00,2M:off Sat-19:00,off",ro', "08:00,2M:off Sat-19:00,off"),
        ("bwlimit= 08:00,2M ,ro", "08:00,2M"),
        ("bwlimit=2M:10M,ro", "2M:10M"),
    ],
)
def test_a_timetable_has_commas_of_its_own(word: str, expected: str) -> None:
    options = parse_options([f"ttl=5,{word}"])
    assert (options.bwlimit.text, options.ro, options.ttl) == (expected, True, 5.0)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("bwlimit=08:00", "option bwlimit=08:00 (-o): expected off, a rate such as 2M"),
        ("bwlimit=1K", "'1K' is too slow for a server to wait"),
        (
            "tpslimit=-1",
            "option tpslimit=-1 (-o): expected requests a second, such as 10 or 0.5 (0.1 or more)",
        ),
        ("tpslimit=0.01", "expected requests a second"),
        ("tpslimit=nan", "expected requests a second"),
        ("budget=much,prices=/p", "(-o): expected an amount of the currency of `prices`, or off"),
        ("budget=5", "option budget=5 (-o) needs the prices of requests and traffic: mount with prices=FILE"),
    ],
)
def test_a_wrong_limit_is_refused(word: str, expected: str) -> None:
    assert expected in refusal(*gather({}, [word]))
