#!/usr/bin/env bash
# Fails (255) where dvc.lock is not that of the code, params and metrics of this checkout; needs no
# data. The status of `dvc repro --dry` alone is no gate: it is 255 where a stale stage lacks its
# data, but 0 where the stage needs none or has them in Git, as the leaderboard has.
set -uo pipefail
report=$(dvc repro --dry --allow-missing 2>&1)
status=$?
echo "$report"
if [ "$status" -ne 0 ] || grep -Eq "^(Running stage|Stage .* is cached)" <<<"$report"; then
  echo "dvc.lock is stale: run 'dvc repro', commit dvc.lock and metrics/, and 'dvc push'" >&2
  exit 255
fi
