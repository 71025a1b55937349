#!/usr/bin/env bash
# The Debian package: made, checked, installed and started (some seconds, after the build):
#
#   scripts/deb-test.sh              of the binary in the target folder
#   scripts/deb-test.sh BINARY       of another one
#
# It is installed over a copy-on-write view of this machine with a systemd, a network and processes of its own (namespaces and overlayfs),
# so nothing of this machine changes. That part needs root, and is left out with a reason elsewhere.
set -euo pipefail
# shellcheck source=scripts/env.sh
. "$(dirname "$0")/env.sh"
cd "$SLASHWATCH_ROOT"
say() { echo "deb-test: $*" >&2; }

case ${1:-} in
  '') scripts/setup.sh --package; cargo build --release --locked --quiet --bin slashwatch; binary=$CARGO_TARGET_DIR/release/slashwatch ;;
  -*) sed -n '2,8p' "$0" >&2; exit 64 ;;
  *) binary=$1 ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
package=$(packaging/debian/build.sh "$binary" "$work")
say "$(basename "$package"), $(du -h "$package" | cut -f1): $(dpkg-deb -f "$package" Depends)"

if command -v lintian > /dev/null; then
  lintian --allow-root --fail-on error,warning "$package"
  say "lintian has no objection"
else
  say "without lintian, which is not installed"
fi

# From 0 (nothing can happen) to 10; network and user are what a watcher needs.
mkdir -p "$work/unit"
cp packaging/debian/slashwatch.service "$work/unit/"
systemd-analyze security --offline=true --threshold=20 "$work/unit/slashwatch.service" > "$work/security" || { tail -n 1 "$work/security" >&2; exit 1; }
say "systemd-analyze security:$(tail -n 1 "$work/security" | sed 's/.*exposure level//')"

if [ "$(id -u)" != 0 ] || ! unshare --pid --fork --mount --cgroup true 2> /dev/null; then
  say "not installed and not started: that needs root and namespaces"
  exit 0
fi

# Runs as the only job of the inner systemd. What it prints goes to the result file.
cat > "$work/inside.sh" << 'INSIDE'
set -ex
dpkg -i /share/*.deb
systemctl is-enabled slashwatch.service
test "$(systemctl show -p ActiveState --value slashwatch.service)" = inactive   # there is no configuration yet
slashwatch init --network hoodi --node http://127.0.0.1:1 --data-dir /var/lib/slashwatch --out /etc/slashwatch/slashwatch.toml
slashwatch config check /etc/slashwatch/slashwatch.toml
systemctl start slashwatch.service
answers() { python3 -c 'import urllib.request; assert urllib.request.urlopen("http://127.0.0.1:5080/healthz", timeout=5).status == 200' 2> /dev/null; }
set +x
for _ in $(seq 100); do answers && break; sleep 0.1; done
set -x
answers
pid=$(systemctl show -p MainPID --value slashwatch.service)
test "$(stat -c %U /proc/$pid)" = slashwatch
grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/$pid/status
grep -q '^CapEff:.*\b0000000000000000$' /proc/$pid/status
grep -q '^NoNewPrivs:.*1$' /proc/$pid/status
grep -q '^Seccomp:.*2$' /proc/$pid/status
test "$(stat -c %U:%a /var/lib/slashwatch)" = slashwatch:750
test -e /var/lib/slashwatch/LOCK
systemctl reload slashwatch.service
systemctl stop slashwatch.service
systemctl show -p Result -p ExecMainStatus slashwatch.service
test "$(systemctl show -p Result --value slashwatch.service)" = success
man -w slashwatch-run > /dev/null || test -e /usr/share/man/man1/slashwatch-run.1.gz
dpkg -r slashwatch
test ! -e /usr/bin/slashwatch && test -e /var/lib/slashwatch/LOCK
echo INSTALLED-STARTED-STOPPED-REMOVED
INSIDE
cat > "$work/outside.sh" << 'OUTSIDE'
set -e
[ $$ = 1 ] || { echo "not in a process namespace of its own" >&2; exit 1; }
mount --make-rprivate /
mkdir "$1/layers"
mount -t tmpfs tmpfs "$1/layers"
mkdir "$1/layers/upper" "$1/layers/work" "$1/layers/root"
root=$1/layers/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/layers/upper,workdir=$1/layers/work" "$root"
mkdir -p "$root/share"
mount --bind "$1" "$root/share"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
# Only our two units are started, none of this machine's.
rm -rf "$root"/lib/systemd/system/*.wants "$root"/etc/systemd/system/*.wants "$root"/usr/sbin/policy-rc.d
printf '[Unit]\nWants=package-test.service\n' > "$root/etc/systemd/system/package-test.target"
cat > "$root/etc/systemd/system/package-test.service" << 'UNIT'
[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
ExecStart=/bin/bash -c 'timeout 60 bash /share/inside.sh > /share/result 2>&1; systemctl status --no-pager --full slashwatch.service >> /share/result 2>&1 || true'
ExecStopPost=/bin/systemctl --force poweroff
UNIT
exec env -i container=namespaces PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot "$root" /lib/systemd/systemd --system --unit=package-test.target --show-status=no
OUTSIDE
# The inner systemd ends by powering off, which is a signal here.
timeout --kill-after=5 90 unshare --fork --kill-child --pid --mount --cgroup --ipc --uts --net bash "$work/outside.sh" "$work" 2> "$work/namespaces" || true
if [ ! -e "$work/result" ]; then
  say "not installed and not started: no systemd of its own can run here ($(tail -n 1 "$work/namespaces"))"
  exit 0
fi
if ! grep -q INSTALLED-STARTED-STOPPED-REMOVED "$work/result" 2> /dev/null; then
  cat "$work/namespaces" "$work/result" >&2 || true
  say "the package could not be installed, started, stopped and removed"
  exit 1
fi
say "installed, started as its user without capabilities, reloaded, stopped and removed"
