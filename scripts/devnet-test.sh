#!/usr/bin/env bash
# slashwatch against a real consensus client, on loopback, without the network outside:
#
#   scripts/devnet-test.sh             everything: 30 minutes connected, then a split network, then the kill switch (45 minutes)
#   scripts/devnet-test.sh --short     the networks only, each step as brief as it can be (about 5 minutes)
#   scripts/devnet-test.sh --bounty    the kill switch only, against real validator clients (about 3 minutes)
#   ... --keep DIR                     keeps logs, captures and findings in DIR
#
# What is checked stands at the heads of scripts/devnet/check.py and scripts/devnet/bounty.py. Needs ../shared/lodestar beside
# the clone; installs node, npm and the client if need be (scripts/setup.sh --devnet). Everything it starts it also stops,
# whatever happens.
set -euo pipefail
cd "$(dirname "$0")/.."

arguments=() keep=() checks=(check bounty)
while [ $# -gt 0 ]; do
  case $1 in
    --short) arguments+=(--short) checks=(check) ;;
    --bounty) checks=(bounty) ;;
    --keep) keep=(--keep "${2:?--keep needs a folder}"); shift ;;
    *) sed -n '2,11p' "$0" >&2; exit 64 ;;
  esac
  shift
done

scripts/setup.sh --devnet
. scripts/env.sh
cargo build --release --locked --quiet --bin slashwatch

export DEVNET_ROOT=$SLASHWATCH_DEVNET DEVNET_SCRIPT=$SLASHWATCH_SHARED/lodestar/devnet.sh
# The client's ports are fixed, so one check at a time on this machine.
exec 9> "${TMPDIR:-/tmp}/devnet.lock"
flock --timeout 600 9 || { echo "another check has been using the client's ports for ten minutes: try again later" >&2; exit 1; }
cleanup() { bash "$DEVNET_SCRIPT" down > /dev/null 2>&1 9>&- || true; }
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
checker=
trap '[ -z "$checker" ] || { kill -TERM $checker 2> /dev/null; wait $checker; } || true; cleanup' EXIT
rc=0
for check in "${checks[@]}"; do
  [ $check = check ] || arguments=()
  python3 -B scripts/devnet/$check.py --binary "$CARGO_TARGET_DIR/release/slashwatch" ${arguments[@]+"${arguments[@]}"} ${keep[@]+"${keep[@]}"} 9>&- &
  checker=$!
  wait $checker || rc=$?
  checker=
done
exit $rc
