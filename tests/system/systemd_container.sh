#!/bin/sh
# Boots systemd in a container, a small Debian in the folder ROOT that is kept for the next time, and runs there
# the tests that need one. It wants root, debootstrap, systemd-nspawn, and a mirror of Debian.
#   tests/system/systemd_container.sh ROOT [pytest args]
# DEBIAN is the release (bookworm), MIRROR where it is downloaded.
set -eu
root=$1
shift
here=$(cd "$(dirname "$0")/../.." && pwd)
[ $# -gt 0 ] || set -- tests/system/test_systemd_real.py tests/system/test_followed_pages_real.py
for program in debootstrap systemd-nspawn; do
    command -v $program >/dev/null || { echo "$program is missing: apt install debootstrap systemd-container" >&2 && exit 1; }
done

# The last line is what users have who follow the pages.
release=${DEBIAN:-bookworm}
library=libfuse2
[ "$release" = bookworm ] || library=libfuse2t64
packages=systemd,systemd-sysv,dbus,ca-certificates,fuse3,$library,procps,python3-venv,rsync,git,fio,sqlite3
packages=$packages,sudo,man-db,e2fsprogs,libpam-systemd,dbus-user-session
if [ "$(cat "$root/complete" 2>/dev/null)" != "$release $packages" ]; then
    rm -rf --one-file-system "$root"
    debootstrap --variant=minbase --include="$packages" "$release" "$root" "${MIRROR:-http://deb.debian.org/debian}"
    echo "$release $packages" >"$root/complete"
fi
cp -L /etc/resolv.conf "$root/etc/resolv.conf"
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
env | grep -E '^(PIP_|(HTTPS?|NO)_PROXY=|https?_proxy=|no_proxy=)' >"$root/root/environment" || true
for helper in mount.swiftfs umount.fuse.swiftfs; do
    ln -sf "/root/venv/bin/$helper" "$root/sbin/$helper"
done
# Users must be able to open /dev/fuse; where the machine's own forbids it, they get another node.
cat >"$root/root/tests" <<EOF
#!/bin/sh
[ "\$(stat -c %a /dev/fuse)" = 666 ] || { umount /dev/fuse && rm -f /dev/fuse && mknod -m 666 /dev/fuse c 10 229; }
cd /root/swiftfs && SWIFTFS_VENV=/root/venv ./dev test -p no:cacheprovider $*
EOF
chmod +x "$root/root/tests"
cat >"$root/etc/systemd/system/swiftfs-tests.service" <<EOF
[Unit]
After=network.target
SuccessAction=exit
FailureAction=exit
[Service]
Type=oneshot
WorkingDirectory=/root
Environment=HOME=/root TESTS_MAY_CHANGE_MACHINE=yes
EnvironmentFile=-/root/environment
ExecStart=/root/tests
StandardOutput=file:/root/output
StandardError=inherit
[Install]
WantedBy=multi-user.target
EOF
ln -sf ../swiftfs-tests.service "$root/etc/systemd/system/multi-user.target.wants/swiftfs-tests.service"
: >"$root/root/output"
tail -f "$root/root/output" &
tail=$!
trap 'kill $tail' EXIT
# The tree is an overlay: what the tests write there is gone with the container.
systemd-nspawn --quiet --register=no --keep-unit --directory="$root" --overlay="$here::/root/swiftfs" \
    --bind=/dev/fuse --bind=/dev/autofs --console=passive --boot </dev/null >"$root.log" 2>&1
