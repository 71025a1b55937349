#!/usr/bin/env bash
# Builds what a release publishes, for machines with glibc 2.28 or later (Debian 10, RHEL 8, Ubuntu 18.10 and newer):
#
#   scripts/release-binaries.sh [x86_64] [aarch64]      both if none is named; into target/dist, about 25 minutes each on two cores
#
# Zig compiles and links C and C++ for both machines, with libc++ inside, so no cross toolchain is needed. Before the first time:
#
#   pip install cargo-zigbuild ziglang
#   rustup target add x86_64-unknown-linux-gnu aarch64-unknown-linux-gnu
set -euo pipefail
cd "$(dirname "$0")/.."
say() { echo "release-binaries: $*" >&2; }

readonly GLIBC=2.28
machines=("$@")
[ $# -gt 0 ] || machines=(x86_64 aarch64)
for machine in "${machines[@]}"; do
  case $machine in x86_64 | aarch64) ;; *) sed -n '2,9p' "$0" >&2; exit 64 ;; esac
done
for tool in cargo-zigbuild readelf dpkg-deb; do
  command -v $tool > /dev/null || { say "no $tool here; the head of this file says what is needed"; exit 1; }
done
[ -z "$(git status --porcelain)" ] || { say "the work tree has changes; a release is made of a commit"; exit 1; }

version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
dist=$PWD/target/dist
rm -rf "$dist"
mkdir -p "$dist"
# The archive that the other scripts make is for this machine alone.
unset ROCKSDB_LIB_DIR ROCKSDB_STATIC
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
for machine in "${machines[@]}"; do
  target=$machine-unknown-linux-gnu
  say "$target, glibc $GLIBC"
  cargo zigbuild --release --locked --bin slashwatch --target "$target.$GLIBC" --target-dir target --config 'profile.release.strip="symbols"'
  binary=target/$target/release/slashwatch
  needed=$(readelf -d "$binary" | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p')
  if wrong=$(grep -vE '^(libc|libm|libdl|libpthread|librt|libresolv|libutil|ld-linux.*)\.so' <<< "$needed"); then
    say "$binary needs more than glibc: $wrong"
    exit 1
  fi
  newest=$(readelf -V "$binary" | grep -oE 'GLIBC_[0-9.]+' | sort -uV | tail -n 1)
  if [ "$(printf '%s\n' "$newest" "GLIBC_$GLIBC" | sort -V | tail -n 1)" != "GLIBC_$GLIBC" ]; then
    say "$binary needs $newest"
    exit 1
  fi
  name=slashwatch-$version-linux-$machine
  mkdir "$dist/$name"
  cp "$binary" README.md CHANGELOG.md LICENSE-APACHE LICENSE-MIT config/reference.toml "$dist/$name/"
  tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" -C "$dist" -czf "$dist/$name.tar.gz" "$name"
  rm -r "${dist:?}/$name"
done

# Man pages and completions are printed by the one that runs here, if it was built.
host=target/$(uname -m)-unknown-linux-gnu/release/slashwatch
for machine in "${machines[@]}"; do
  if [ -x "$host" ]; then
    HOST_BINARY=$host packaging/debian/build.sh "target/$machine-unknown-linux-gnu/release/slashwatch" "$dist"
  else
    say "no Debian package of $machine: build $(uname -m) too"
  fi
done
(cd "$dist" && sha256sum -- *.tar.gz *.deb > SHA256SUMS)
say "in $dist:"
cat "$dist/SHA256SUMS"
