#!/usr/bin/env bash
# The page in a real browser, against the real binary, over recorded and live traffic:
#
#   scripts/page-test.sh               every view at three widths, light and dark (under two minutes)
#   scripts/page-test.sh --shots DIR   keeps a picture of each in DIR
#   scripts/page-test.sh --big         measures an incident of 3 000 members and 15 000 findings too
#
# What is checked stands at the head of tests/page/check.mjs. Installs Chromium, node, npm and two npm packages if need be.
set -euo pipefail
# shellcheck source=scripts/env.sh
. "$(dirname "$0")/env.sh"
cd "$SLASHWATCH_ROOT"
say() { echo "page-test: $*" >&2; }

more=()
while [ $# -gt 0 ]; do
  case $1 in
    --big) more+=(--big) ;;
    --shots) more+=(--shots "${2:?--shots needs a folder}"); shift ;;
    *) sed -n '2,8p' "$0" >&2; exit 64 ;;
  esac
  shift
done

scripts/setup.sh --page
cargo build --release --locked --quiet --bin slashwatch
exec node tests/page/check.mjs --binary "$CARGO_TARGET_DIR/release/slashwatch" --modules "$SLASHWATCH_PAGE_TEST" --chromium "$(command -v chromium || command -v chromium-browser)" ${more[@]+"${more[@]}"}
