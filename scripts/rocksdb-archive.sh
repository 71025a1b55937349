#!/usr/bin/env bash
# Makes librocksdb.a from the sources inside the librocksdb-sys crate, in four g++ runs instead of 343.
#
#   scripts/rocksdb-archive.sh DIR      leaves DIR/librocksdb.a; does nothing when it is there already
#
# Why: cargo builds RocksDB one file at a time and once per profile, 39 CPU minutes each. The headers are what costs, so we
# include the files into three big ones and compile those: 5 CPU minutes, once, for test, clippy and release alike.
# What we pay: this script knows the compiler flags of the crate's build.rs (features lz4 and zstd) and has to follow them
# when the crate changes. It is a shortcut only: without it, or when it fails, plain `cargo build` does it the long way.
set -euo pipefail

out=${1:?usage: scripts/rocksdb-archive.sh DIR}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out"
out=$(cd "$out" && pwd)
exec 9> "$out/.lock"
flock 9 # two clones at once: the second waits for the first and finds the archive
[ -s "$out/librocksdb.a" ] && exit 0

# Where the sources are, as cargo says: independent of the cargo home, the registry's name and vendoring.
metadata=$(cargo metadata --format-version 1 --locked --manifest-path "$here/../Cargo.toml")
crate_dir() {
  local manifest
  manifest=$(grep -o "\"manifest_path\":\"[^\"]*/$1[^/\"]*/Cargo.toml\"" <<< "$metadata" | head -n 1 | cut -d '"' -f 4)
  [ -n "$manifest" ] || { echo "rocksdb-archive: no crate $1 among the dependencies" >&2; exit 1; }
  dirname "$manifest"
}
sys=$(crate_dir librocksdb-sys)
zstd=$(crate_dir zstd-sys)/zstd/lib
lz4=$(crate_dir lz4-sys)/liblz4/lib
for needed in "$sys/rocksdb_lib_sources.txt" "$sys/build_version.cc" "$zstd/zstd.h" "$lz4/lz4.h"; do
  [ -f "$needed" ] || { echo "rocksdb-archive: $needed is not where it used to be" >&2; exit 1; }
done

flags=(-std=c++20 -O2 -w -fPIC -ffunction-sections -fdata-sections -include cstdint
  -I "$sys/rocksdb/include" -I "$sys/rocksdb" -I "$sys" -I "$zstd" -I "$lz4"
  -DLZ4=1 -DZSTD=1 -DNDEBUG=1 -DHAVE_ALIGNED_NEW -DHAVE_UINT128_EXTENSION
  -DOS_LINUX -DROCKSDB_PLATFORM_POSIX -DROCKSDB_LIB_IO_POSIX -DROCKSDB_SCHED_GETCPU_PRESENT
  -DROCKSDB_AUXV_GETAUXVAL_PRESENT -DROCKSDB_FALLOCATE_PRESENT -DROCKSDB_RANGESYNC_PRESENT)
case $(uname -m) in
  x86_64) flags+=(-msse4.2 -mpclmul) ;; # CRC32C by instruction; every x86-64 since 2010 has both
  aarch64) flags+=(-march=armv8-a+crc+crypto) ;;
esac

work=$(mktemp -d "$out/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"
# In the crate's own order (so that equal names in neighbouring files meet as they were tried), cut by size into three.
# fs_posix.cc stays apart: gcc 12 dies of it ("merge_weak") inside a big file.
{
  echo "$sys/build_version.cc"
  tr -d ' \r' < "$sys/rocksdb_lib_sources.txt" | grep '\.cc$' | grep -v -e build_version -e '^env/fs_posix\.cc$' | sed "s|^|$sys/rocksdb/|"
} > all.txt
xargs -d '\n' stat -c '%s %n' < all.txt | awk '
  { size[NR] = $1; name[NR] = $2; total += $1 }
  END { for (i = 1; i <= NR; i++) { part = int(done * 3 / total); done += size[i]; printf "#include \"%s\"\n", name[i] > ("part" part ".cc") } }'
echo "#include \"$sys/rocksdb/env/fs_posix.cc\"" > part_fs.cc

# A big file takes up to 3 GB to compile: fewer at once where memory is short.
jobs=$(nproc)
free_gb=$(awk '/^MemAvailable/ { print int($2 / 1048576) }' /proc/meminfo 2> /dev/null || echo 2)
[ $((jobs * 3)) -le "$free_gb" ] || jobs=$((free_gb / 3))
[ "$jobs" -ge 1 ] || jobs=1
printf '%s\n' part*.cc | xargs -P "$jobs" -I{} "${CXX:-g++}" "${flags[@]}" -c {} -o {}.o
ar rcs librocksdb.a part*.o
mv librocksdb.a "$out/librocksdb.a" # in one step: a half-written archive is never taken for a whole one
