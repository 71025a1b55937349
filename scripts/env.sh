# shellcheck shell=bash
# Where things are built. Sourced by ./demo, ./test and the other scripts; makes nothing but the cache folder.
# With it in your shell (`. scripts/env.sh`) plain cargo commands share what the scripts have built.
#
#   SLASHWATCH_CACHE   everything that is expensive to make; outside the clone, so a second clone finds it
#   CARGO_TARGET_DIR, ROCKSDB_LIB_DIR, ROCKSDB_STATIC   kept if you have set them

SLASHWATCH_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export SLASHWATCH_ROOT
[ -x "$HOME/.cargo/bin/cargo" ] && ! command -v cargo > /dev/null && PATH="$HOME/.cargo/bin:$PATH"

SLASHWATCH_CACHE=${SLASHWATCH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/slashwatch}
if mkdir -p "$SLASHWATCH_CACHE" 2> /dev/null && [ -w "$SLASHWATCH_CACHE" ]; then
  export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$SLASHWATCH_CACHE/target}
else
  SLASHWATCH_CACHE=$SLASHWATCH_ROOT/target/cache
  mkdir -p "$SLASHWATCH_CACHE"
  export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$SLASHWATCH_ROOT/target}
fi
export SLASHWATCH_CACHE
# The devnet's client (npm packages) and its work files: beside the cache, since `cargo` knows nothing of them.
export SLASHWATCH_DEVNET=${SLASHWATCH_DEVNET:-$SLASHWATCH_CACHE-devnet}
# The browser's driver (npm packages) for scripts/page-test.sh.
export SLASHWATCH_PAGE_TEST=${SLASHWATCH_PAGE_TEST:-$SLASHWATCH_CACHE-page}
# Prometheus and Alertmanager for scripts/monitoring-test.sh, unpacked and not installed.
export SLASHWATCH_MONITORING=${SLASHWATCH_MONITORING:-$SLASHWATCH_CACHE-monitoring}
# The full test data and the real client live beside the clone. Without them tests use the committed set: tests/data/README.md.
export SLASHWATCH_SHARED=${SLASHWATCH_SHARED:-$SLASHWATCH_ROOT/../shared}

# One archive for each version of the crate and recipe of scripts/rocksdb-archive.sh ("-1": raise it when the flags change).
if [ -z "${ROCKSDB_LIB_DIR:-}" ]; then
  rocksdb_version=$(awk '/^name = "librocksdb-sys"/ { getline; gsub(/.*= |"/, ""); print; exit }' "$SLASHWATCH_ROOT/Cargo.lock")
  SLASHWATCH_ROCKSDB=$SLASHWATCH_CACHE/rocksdb-$rocksdb_version-1-$(uname -m)
  export SLASHWATCH_ROCKSDB
  [ -s "$SLASHWATCH_ROCKSDB/librocksdb.a" ] && export ROCKSDB_LIB_DIR=$SLASHWATCH_ROCKSDB
fi
if [ -s "${ROCKSDB_LIB_DIR:-}/librocksdb.a" ]; then export ROCKSDB_STATIC=1; fi
