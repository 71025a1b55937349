#!/usr/bin/env bash
# Alert rules and dashboards with a real Prometheus and Alertmanager, over the real binary, on loopback (under a minute):
#
#   scripts/monitoring-test.sh             what is checked stands at the head of tests/monitoring/check.py
#
# Debian's packages are unpacked into a folder of their own. They are not installed, so no service is started.
set -euo pipefail
# shellcheck source=scripts/env.sh
. "$(dirname "$0")/env.sh"
cd "$SLASHWATCH_ROOT"

[ $# = 0 ] || { sed -n '2,6p' "$0" >&2; exit 64; }

scripts/setup.sh --monitoring
cargo build --release --locked --quiet --bin slashwatch
export PATH=$SLASHWATCH_MONITORING/usr/bin:$PATH
promtool check config monitoring/prometheus.yml
promtool test rules monitoring/rules_test.yml
amtool check-config monitoring/alertmanager.yml
exec python3 tests/monitoring/check.py "$CARGO_TARGET_DIR/release/slashwatch"
