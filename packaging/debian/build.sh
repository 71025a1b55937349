#!/usr/bin/env bash
# Makes a Debian package of a binary that is built already, with dpkg-deb:
#
#   packaging/debian/build.sh BINARY OUT_DIR      prints the package's path
#
# The program's own man pages and completions are packed. A binary for another machine cannot print them: then HOST_BINARY, one of the
# same version for this machine, does.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ $# = 2 ] || { sed -n '2,7p' packaging/debian/build.sh >&2; exit 64; }
binary=$1 out=$2 host=${HOST_BINARY:-$1}

case $(od -An -tx2 -j18 -N2 "$binary" | tr -d ' ') in # the machine in the ELF header
  003e) architecture=amd64 triplet=x86_64-linux-gnu ;;
  00b7) architecture=arm64 triplet=aarch64-linux-gnu ;;
  *) echo "build.sh: $binary is for a machine that is not known here" >&2; exit 65 ;;
esac
version=$("$host" --version | awk '{ print $2 }')
# The same sources make the same package.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2> /dev/null || date +%s)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
umask 022

install -D -m 755 "$binary" "$root/usr/bin/slashwatch"
if readelf -SW "$binary" | grep -q ' \.symtab '; then
  strip=$(command -v $triplet-strip || command -v strip)
  "$strip" "$root/usr/bin/slashwatch"
fi
install -d -m 755 "$root/etc/slashwatch"
install -D -m 644 packaging/debian/slashwatch.service "$root/lib/systemd/system/slashwatch.service"
install -D -m 644 packaging/debian/slashwatch.sysusers "$root/usr/lib/sysusers.d/slashwatch.conf"
install -D -m 644 config/reference.toml "$root/usr/share/doc/slashwatch/examples/reference.toml"
install -D -m 644 packaging/debian/copyright "$root/usr/share/doc/slashwatch/copyright"
gzip -9n < CHANGELOG.md > "$root/usr/share/doc/slashwatch/NEWS.gz"
maintainer=$(sed -n 's/^Maintainer: //p' packaging/debian/control.in)
printf 'slashwatch (%s) unstable; urgency=medium\n\n  * What changed is in NEWS.gz.\n\n -- %s  %s\n' "$version" "$maintainer" "$(date -Rud "@$SOURCE_DATE_EPOCH")" \
  | gzip -9n > "$root/usr/share/doc/slashwatch/changelog.gz"
install -d -m 755 "$root/usr/share/slashwatch"
cp -r monitoring "$root/usr/share/slashwatch/monitoring"
install -d -m 755 "$root/usr/share/man/man1"
"$host" man --out "$root/usr/share/man/man1"
gzip -9n "$root"/usr/share/man/man1/*.1
for shell in bash:bash-completion/completions/slashwatch zsh:zsh/vendor-completions/_slashwatch fish:fish/vendor_completions.d/slashwatch.fish; do
  install -d -m 755 "$(dirname "$root/usr/share/${shell#*:}")"
  "$host" completions "${shell%%:*}" > "$root/usr/share/${shell#*:}"
done
chmod -R u=rwX,go=rX "$root"

# Which libraries, and how new they must be. A static binary needs none.
mkdir -p "$work/debian"
printf 'Source: slashwatch\n\nPackage: slashwatch\nArchitecture: any\n' > "$work/debian/control"
depends=$(cd "$work" && dpkg-shlibdeps -O --ignore-missing-info "root/usr/bin/slashwatch" 2> "$work/shlibdeps" | sed -n 's/^shlibs:Depends=//p' || true)
if [ -z "$depends" ] && readelf -d "$root/usr/bin/slashwatch" | grep -q NEEDED; then cat "$work/shlibdeps" >&2; exit 1; fi

mkdir "$root/DEBIAN"
for script in postinst prerm postrm; do install -m 755 packaging/debian/$script "$root/DEBIAN/$script"; done
sed -e "s/@VERSION@/$version/" -e "s/@ARCHITECTURE@/$architecture/" -e "s/@SIZE@/$(du -sk --exclude=DEBIAN "$root" | cut -f1)/" \
  -e "s/@DEPENDS@/$depends/" -e 's/^Depends: , /Depends: /' packaging/debian/control.in > "$root/DEBIAN/control"
(cd "$root" && find . -type f ! -path './DEBIAN/*' -printf '%P\0' | sort -z | xargs -0 md5sum) > "$root/DEBIAN/md5sums"
mkdir -p "$out"
package=$out/slashwatch_${version}_$architecture.deb
dpkg-deb --root-owner-group -Zxz -z3 --build "$root" "$package" > /dev/null
echo "$package"
