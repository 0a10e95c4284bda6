"""The man pages, generated from the commands and the table of options."""

import re
from collections.abc import Iterator

import click

from swiftfs import __version__
from swiftfs.config.options import OPTIONS

_FILES = (
    ("~/.config/swiftfs/config.toml", "options, read if it exists"),
    (
        "~/.cache/swiftfs/SOURCE-HASH/",
        "the cache folder of a mount: local copies, the journal and, without syslog, the log",
    ),
    ("/etc/swiftfs/NAME.env", "source, mount point and options of swiftfs@NAME.service"),
    ("/etc/swiftfs/NAME.credentials", "its credentials, mode 600"),
)

_EXIT = (
    ("0", "success"),
    ("1", "failure; a line on standard error says why"),
    ("2", "wrong command line"),
)

_ENVIRONMENT = (
    ("SWIFTFS_NAME", "the option NAME, as in SWIFTFS_READ_AHEAD=1M"),
    ("SWIFTFS_OPTIONS", "several options, written as after -o"),
    ("OS_CLOUD", "name of a cloud in clouds.yaml"),
    ("OS_AUTH_URL, OS_USERNAME, OS_PASSWORD, ...", "Keystone authentication: all variables of keystoneauth"),
    ("ST_AUTH, ST_USER, ST_KEY", "v1 authentication"),
)


def command_page(main: click.Group) -> str:
    """Return swiftfs(1)."""
    parts = [
        _head("swiftfs", 1, "use OpenStack Swift containers as a local folder"),
        _section("SYNOPSIS"),
        *(_synopsis(name, command) for name, command in _commands(main)),
        _section("DESCRIPTION"),
        _text("SOURCE is CONTAINER, CONTAINER/PREFIX, or / for the whole account."),
        _section("COMMANDS"),
        *(part for name, command in _commands(main) for part in _command(name, command)),
        _section("MOUNT OPTIONS"),
        _text("Set them as flags of swiftfs mount (--read-ahead 1M), after -o (read_ahead=1M), in the"),
        _text('environment (SWIFTFS_READ_AHEAD=1M), or in a TOML file (read_ahead = "1M"). A place named'),
        _text("earlier in this list overrides the later ones."),
        *_options(),
        _section("ENVIRONMENT"),
        *_terms(_ENVIRONMENT),
        _section("FILES"),
        *_terms(_FILES),
        _section("EXIT STATUS"),
        *_terms(_EXIT),
        _section("SEE ALSO"),
        ".BR mount.swiftfs (8),\n.BR fusermount (1),\n.BR swift (1)",
    ]
    return "\n".join(parts) + "\n"


def helper_page() -> str:
    """Return mount.swiftfs(8)."""
    parts = [
        _head("mount.swiftfs", 8, "mount an OpenStack Swift container from mount(8) and fstab(5)"),
        _section("SYNOPSIS"),
        ".B mount -t swiftfs\n.RI [swift:] CONTAINER [/ PREFIX ]\n.I DIR\n.RB [ -o\n.IR OPTIONS ]",
        _section("DESCRIPTION"),
        _text(
            "mount(8) finds this program in /sbin. Write swift: before the source: if the current folder has"
        ),
        _text("a file of that name, mount(8) turns a bare name into a path."),
        _text("umount(8) finds umount.fuse.swiftfs in /sbin too, and then waits until everything is stored,"),
        _text("as swiftfs umount does. Without that program, or with -l or -f, it does not wait."),
        _section("EXAMPLE"),
        ".nf\nswift:photos  /srv/photos  swiftfs  "
        + _escape("_netdev,nofail,x-systemd.automount,credentials=/etc/swiftfs/photos.credentials")
        + "  0 0\n.fi",
        _section("OPTIONS"),
        _text(
            "Of the usual words in fstab, noexec, ro, sync and their opposites have an effect; dirsync means"
        ),
        _text("sync. nosuid and nodev are always on, and words about times are ignored."),
        *_options(),
        _section("EXIT STATUS"),
        *_terms((("0", "mounted"), ("32", "not mounted; a line on standard error says why"))),
        _section("SEE ALSO"),
        ".BR swiftfs (1),\n.BR mount (8),\n.BR fstab (5)",
    ]
    return "\n".join(parts) + "\n"


def _commands(group: click.Group, before: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield all commands with their names, those of a group of commands in its place."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _commands(command, f"{before}{name} ")
        else:
            yield before + name, command


def _head(name: str, section: int, text: str) -> str:
    title = _escape(name)
    return (
        f'.TH "{title.upper()}" {section} "" "swiftfs {__version__}"\n.SH NAME\n{title} \\- {_escape(text)}'
    )


def _section(name: str) -> str:
    return f".SH {name}"


def _text(text: str) -> str:
    return _escape(text)


def _synopsis(name: str, command: click.Command) -> str:
    arguments = [_argument(item) for item in command.params if isinstance(item, click.Argument)]
    return f".B swiftfs {name}\n{_escape(' '.join(['[OPTIONS]', *arguments]))}\n.br"


def _argument(item: click.Argument) -> str:
    if item.metavar:
        return item.metavar
    name = (item.name or "").upper()
    return name if item.required else f"[{name}]"


def _command(name: str, command: click.Command) -> Iterator[str]:
    yield f".SS swiftfs {name}"
    yield _text(" ".join((command.help or "").split()))
    yield _examples(command)
    for item in command.params:
        if isinstance(item, click.Option) and (item.name not in OPTIONS or name != "mount"):
            flags = ", ".join([*item.opts, *item.secondary_opts])
            word = "" if item.is_flag else f" {item.metavar or 'TEXT'}"
            yield from _terms(((flags + word, item.help or ""),))


def _examples(command: click.Command) -> str:
    lines = (command.epilog or "").partition("Examples:\n")[2].splitlines()
    return ".PP\nExamples:\n.RS\n.nf\n" + "\n".join(_escape(line.strip()) for line in lines) + "\n.fi\n.RE"


def _options() -> Iterator[str]:
    for option in OPTIONS.values():
        word = f"={option.kind.word}" if option.kind.word else ""
        default = f" Default: {option.default}." if option.default else ""
        yield from _terms(((option.name + word, f"{option.help}.{default}"),))


def _terms(rows: tuple[tuple[str, str], ...]) -> Iterator[str]:
    for term, text in rows:
        yield f".TP\n.B {_escape(term)}\n{_escape(text)}"


def _escape(text: str) -> str:
    """Return text with characters escaped that troff would interpret."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "\\(ga").replace("…", "...")
    return re.sub(r"^(?=[.'])", r"\\&", escaped, flags=re.MULTILINE)
