"""The pages for man(1), written from the commands and the table of options."""

import re
from collections.abc import Iterator

import click

from swiftfs import __version__
from swiftfs.config.options import OPTIONS

_FILES = (
    ("~/.config/swiftfs/config.toml", "options, read where it exists"),
    (
        "~/.cache/swiftfs/SOURCE-HASH/",
        "the local copies, the journal and, without syslog, the log of a mount",
    ),
    ("/etc/swiftfs/NAME.env", "source, mount point and options of swiftfs@NAME.service"),
    ("/etc/swiftfs/NAME.credentials", "its credentials, mode 600"),
)

_EXIT = (
    ("0", "all went well"),
    ("1", "it failed; one line on standard error says why"),
    ("2", "wrong usage"),
)

_ENVIRONMENT = (
    ("SWIFTFS_NAME", "the option NAME, as in SWIFTFS_READ_AHEAD=1M"),
    ("SWIFTFS_OPTIONS", "several options, written as after -o"),
    ("OS_CLOUD", "a cloud of clouds.yaml"),
    ("OS_AUTH_URL, OS_USERNAME, OS_PASSWORD, ...", "Keystone: all variables of keystoneauth"),
    ("ST_AUTH, ST_USER, ST_KEY", "v1 authentication"),
)


def command_page(main: click.Group) -> str:
    """Return swiftfs(1)."""
    parts = [
        _head("swiftfs", 1, "use OpenStack Swift containers as a local folder"),
        _section("SYNOPSIS"),
        *(_synopsis(name, command) for name, command in sorted(main.commands.items())),
        _section("DESCRIPTION"),
        _text("SOURCE is CONTAINER, CONTAINER/PREFIX, or / for the whole account."),
        _section("COMMANDS"),
        *(part for name, command in sorted(main.commands.items()) for part in _command(name, command)),
        _section("MOUNT OPTIONS"),
        _text("As flags of swiftfs mount (--read-ahead 1M), after -o (read_ahead=1M), in the environment"),
        _text(
            '(SWIFTFS_READ_AHEAD=1M), and in a TOML file (read_ahead = "1M"). The last of these is weakest.'
        ),
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
            "mount(8) finds this program in /sbin. Write swift: before the source, for mount(8) makes a path"
        ),
        _text("of a bare name when the current folder has something of that name."),
        _text("umount(8) finds umount.fuse.swiftfs there, and with it returns when all is stored, as does"),
        _text("swiftfs umount; where it is missing, or with -l or -f, it does not wait."),
        _section("EXAMPLE"),
        ".nf\nswift:photos  /srv/photos  swiftfs  "
        + _escape("_netdev,nofail,x-systemd.automount,credentials=/etc/swiftfs/photos.credentials")
        + "  0 0\n.fi",
        _section("OPTIONS"),
        _text(
            "Of the words of fstab noexec, ro, sync and their opposites are obeyed, dirsync counts as sync,"
        ),
        _text("nosuid and nodev always hold, and those about times are ignored."),
        *_options(),
        _section("EXIT STATUS"),
        *_terms((("0", "mounted"), ("32", "not mounted; one line on standard error says why"))),
        _section("SEE ALSO"),
        ".BR swiftfs (1),\n.BR mount (8),\n.BR fstab (5)",
    ]
    return "\n".join(parts) + "\n"


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
    for item in command.params:
        if isinstance(item, click.Option) and (item.name not in OPTIONS or name != "mount"):
            flags = ", ".join([*item.opts, *item.secondary_opts])
            word = "" if item.is_flag else f" {item.metavar or 'TEXT'}"
            yield from _terms(((flags + word, item.help or ""),))


def _options() -> Iterator[str]:
    for option in OPTIONS.values():
        word = f"={option.kind.word}" if option.kind.word else ""
        default = f" Default: {option.default}." if option.default else ""
        yield from _terms(((option.name + word, f"{option.help}.{default}"),))


def _terms(rows: tuple[tuple[str, str], ...]) -> Iterator[str]:
    for term, text in rows:
        yield f".TP\n.B {_escape(term)}\n{_escape(text)}"


def _escape(text: str) -> str:
    """Return text that troff prints as it is."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "\\(ga").replace("…", "...")
    return re.sub(r"^(?=[.'])", r"\\&", escaped, flags=re.MULTILINE)
