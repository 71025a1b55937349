#!/usr/bin/env bash
# Makes a machine that has only Rust ready to build: says what it does, does it once, is silent and quick afterwards.
#
#   scripts/setup.sh             what ./demo and ./test need: g++, make and libclang (RocksDB's bindings), the crates, librocksdb.a
#   scripts/setup.sh --devnet    also what scripts/devnet-test.sh needs: python3, curl, node, npm and the real client
#   scripts/setup.sh --page      also what scripts/page-test.sh needs: node, npm, Chromium and two npm packages
#   scripts/setup.sh --package   also what scripts/deb-test.sh needs: dpkg-dev and lintian
#   scripts/setup.sh --monitoring   also what scripts/monitoring-test.sh needs: python3, and Prometheus and Alertmanager, unpacked
set -euo pipefail
# shellcheck source=scripts/env.sh
. "$(dirname "$0")/env.sh"
cd "$SLASHWATCH_ROOT"
say() { echo "setup: $*" >&2; }

devnet=no page=no monitoring=no package=no
case ${1:-} in
  '') ;;
  --devnet) devnet=yes ;;
  --page) page=yes ;;
  --monitoring) monitoring=yes ;;
  --package) package=yes ;;
  *) sed -n '2,9p' "$0" >&2; exit 64 ;;
esac

command -v cargo > /dev/null || { say "no Rust here: install it from https://rustup.rs, then run this again"; exit 1; }

# -- what apt has to bring ---------------------------------------------------------------------------------------------
wanted=()
has_libclang() { # libclang-cpp.so is another library, and some machines have only that one
  local folder
  for folder in "${LIBCLANG_PATH:-/nowhere}" /usr/lib/llvm-*/lib /usr/lib/*-linux-gnu /usr/lib64; do
    compgen -G "$folder/libclang.so*" > /dev/null || compgen -G "$folder/libclang-[0-9]*.so*" > /dev/null && return
  done
  return 1
}
command -v "${CXX:-g++}" > /dev/null || wanted+=(g++)
# jemalloc comes with a makefile
command -v make > /dev/null || wanted+=(make)
has_libclang || wanted+=(libclang-dev)
if [ $devnet = yes ]; then
  command -v curl > /dev/null || wanted+=(curl ca-certificates)
  command -v python3 > /dev/null || wanted+=(python3)
  command -v node > /dev/null || wanted+=(nodejs)
  command -v npm > /dev/null || wanted+=(npm)
  # native parts of the client are compiled when there is no binary of them for this machine
  [ -f /usr/include/node/node_version.h ] || wanted+=(libnode-dev)
fi
if [ $page = yes ]; then
  command -v node > /dev/null || wanted+=(nodejs)
  command -v npm > /dev/null || wanted+=(npm)
  command -v chromium > /dev/null || command -v chromium-browser > /dev/null || wanted+=(chromium)
fi
if [ $package = yes ]; then
  command -v dpkg-shlibdeps > /dev/null || wanted+=(dpkg-dev)
  command -v lintian > /dev/null || wanted+=(lintian)
  command -v python3 > /dev/null || wanted+=(python3)
fi
if [ $monitoring = yes ]; then
  command -v python3 > /dev/null || wanted+=(python3)
fi
if [ ${#wanted[@]} -gt 0 ]; then
  as_root=()
  [ "$(id -u)" = 0 ] || as_root=(sudo)
  if ! command -v apt-get > /dev/null; then
    say "please install with your package manager: ${wanted[*]}"
  elif [ ${#as_root[@]} -gt 0 ] && ! command -v sudo > /dev/null; then
    say "neither root nor sudo: please have installed: apt-get install ${wanted[*]}"
    exit 1
  else
    say "installing ${wanted[*]} with apt-get"
    log=$(mktemp)
    if ! { "${as_root[@]}" apt-get update && "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${wanted[@]}"; } > "$log" 2>&1; then
      tail -n 15 "$log" >&2
      rm -f "$log"
      say "apt-get failed: install by hand, then run this again: ${wanted[*]}"
      exit 1
    fi
    rm -f "$log"
  fi
fi

# -- the crates --------------------------------------------------------------------------------------------------------
fetch() {
  cargo fetch --quiet --offline "$@" 2> /dev/null && return
  say "fetching the crates that ${*: -1} needs"
  cargo fetch --quiet "$@" || { sleep 5; cargo fetch --quiet "$@"; }
}
fetch --locked --manifest-path Cargo.toml
# The fuzz targets are a workspace of their own. Its lock file is made from ours, so that both build the same versions.
[ fuzz/Cargo.lock -nt Cargo.lock ] || cp Cargo.lock fuzz/Cargo.lock
fetch --manifest-path fuzz/Cargo.toml || say "no libfuzzer-sys to be had: only the fuzz step needs it"

# -- one target folder, several clones --------------------------------------------------------------------------------
# Cargo tells crates of two clones apart by nothing but the times of their files, so what another clone built may pass for
# ours. New times make our own crates (not the 500 others) be built again.
mkdir -p "$CARGO_TARGET_DIR"
if [ "$(cat "$CARGO_TARGET_DIR/.clone" 2> /dev/null)" != "$SLASHWATCH_ROOT" ]; then
  find "$SLASHWATCH_ROOT/crates" "$SLASHWATCH_ROOT/tests" "$SLASHWATCH_ROOT/fuzz" -name '*.rs' -exec touch {} +
  echo "$SLASHWATCH_ROOT" > "$CARGO_TARGET_DIR/.clone"
fi

# -- room on the disk ---------------------------------------------------------------------------------------------------
# A build on a full disk ends in a compiler panic.
free_gib=$(($(df --output=avail -k "$CARGO_TARGET_DIR" | tail -n 1) / 1024 / 1024))
if [ "$free_gib" -lt 8 ]; then
  say "only $free_gib GiB are free for $CARGO_TARGET_DIR, and a build of everything takes 8: make room (deleting $CARGO_TARGET_DIR/*/incremental is always safe), or set SLASHWATCH_CACHE to a folder on a larger disk"
fi

# -- RocksDB, once -----------------------------------------------------------------------------------------------------
if [ -z "${ROCKSDB_LIB_DIR:-}" ]; then
  say "compiling RocksDB once into $SLASHWATCH_ROCKSDB (about 3 minutes on two cores)"
  started=$SECONDS
  if scripts/rocksdb-archive.sh "$SLASHWATCH_ROCKSDB" > "$SLASHWATCH_CACHE/rocksdb.log" 2>&1; then
    say "RocksDB compiled in $((SECONDS - started)) s"
  else
    say "that failed (see $SLASHWATCH_CACHE/rocksdb.log): cargo will compile RocksDB its ordinary way, about 20 minutes"
  fi
fi

# -- the real client ---------------------------------------------------------------------------------------------------
if [ $devnet = yes ] && [ ! -x "$SLASHWATCH_DEVNET/client/node_modules/.bin/lodestar" ]; then
  say "installing the real client into $SLASHWATCH_DEVNET (about a minute, 250 MB)"
  mkdir -p "$SLASHWATCH_DEVNET"
  if ! DEVNET_ROOT=$SLASHWATCH_DEVNET bash "$SLASHWATCH_SHARED/lodestar/devnet.sh" install > "$SLASHWATCH_DEVNET/install.log" 2>&1; then
    tail -n 5 "$SLASHWATCH_DEVNET/install.log" >&2
    say "the client could not be installed (see $SLASHWATCH_DEVNET/install.log)"
    exit 1
  fi
fi

# -- the browser's driver ----------------------------------------------------------------------------------------------
if [ $page = yes ] && ! cmp -s tests/page/package-lock.json "$SLASHWATCH_PAGE_TEST/package-lock.json"; then
  say "installing two npm packages into $SLASHWATCH_PAGE_TEST"
  mkdir -p "$SLASHWATCH_PAGE_TEST"
  cp tests/page/package.json tests/page/.npmrc "$SLASHWATCH_PAGE_TEST/"
  cp tests/page/package-lock.json "$SLASHWATCH_PAGE_TEST/npm-shrinkwrap.json"
  log=$(mktemp)
  if ! (cd "$SLASHWATCH_PAGE_TEST" && npm ci --no-audit --no-fund) > "$log" 2>&1; then
    tail -n 5 "$log" >&2
    rm -f "$log"
    say "npm could not install them"
    exit 1
  fi
  rm -f "$log"
  # Only now, so that an installation that was cut off is made again.
  mv "$SLASHWATCH_PAGE_TEST/npm-shrinkwrap.json" "$SLASHWATCH_PAGE_TEST/package-lock.json"
fi

# -- Prometheus and Alertmanager ---------------------------------------------------------------------------------------
# Installing the packages would start two services, so they are only unpacked.
if [ $monitoring = yes ] && ! { [ -x "$SLASHWATCH_MONITORING/usr/bin/prometheus" ] && [ -x "$SLASHWATCH_MONITORING/usr/bin/prometheus-alertmanager" ]; }; then
  command -v apt-get > /dev/null && command -v dpkg-deb > /dev/null || { say "no apt here to take Prometheus and Alertmanager from"; exit 1; }
  say "unpacking Prometheus and Alertmanager into $SLASHWATCH_MONITORING"
  rm -rf "$SLASHWATCH_MONITORING"
  mkdir -p "$SLASHWATCH_MONITORING/packages"
  log=$(mktemp)
  download() { (cd "$SLASHWATCH_MONITORING/packages" && apt-get download prometheus prometheus-alertmanager) >> "$log" 2>&1; }
  as_root=()
  [ "$(id -u)" = 0 ] || as_root=(sudo -n)
  if ! download && ! { "${as_root[@]}" apt-get update >> "$log" 2>&1 && download; }; then
    tail -n 5 "$log" >&2
    rm -f "$log"
    say "apt-get could not download them"
    exit 1
  fi
  rm -f "$log"
  for package in "$SLASHWATCH_MONITORING"/packages/*.deb; do dpkg-deb -x "$package" "$SLASHWATCH_MONITORING"; done
  rm -r "$SLASHWATCH_MONITORING/packages"
fi
# Debian's Alertmanager reads its default templates from there, and no option says otherwise.
templates=/usr/share/prometheus/alertmanager
if [ $monitoring = yes ] && [ ! -e $templates/default.tmpl ]; then
  say "linking Alertmanager's templates to $templates"
  as_root=()
  [ "$(id -u)" = 0 ] || as_root=(sudo -n)
  "${as_root[@]}" mkdir -p "$(dirname $templates)"
  "${as_root[@]}" ln -sfn "$SLASHWATCH_MONITORING$templates" $templates
fi
