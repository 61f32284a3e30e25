#!/usr/bin/env bash
# Writes what is said about a pull request: <out>/comment.md, and as images the plots that changed,
# <out>/plots. All that it reads is in Git. Fails where there is nothing to compare: the comment
# then says why.
#     .github/compare.sh origin/main out
set -uo pipefail
base=$1 out=$2
comment=$out/comment.md
mkdir -p "$out"
rm -rf "$comment" "$out/plots"
python -m stages.tools.compare.compare "$base" HEAD \
  --markdown-out "$comment" --plots-out "$out/plots" 2>"$out/errors.txt"
status=$?
cat "$out/errors.txt" >&2
if [ "$status" -ne 0 ] && [ ! -s "$comment" ]; then  # a comment may stand though plots failed
  # the first line is MARKER of stages/tools/compare/_report.py
  printf '%s\n' '<!-- verdict: compare -->' '### Not compared' '' '```' >"$comment"
  cat "$out/errors.txt" >>"$comment"
  printf '%s\n' '```' >>"$comment"
fi
if [ "${GATE:-}" = failure ]; then
  printf '\n%s\n' "**dvc.lock is stale**: these are not the figures of this code and these params." >>"$comment"
fi
plots=$(find "$out/plots" -name '*.png' 2>/dev/null | wc -l)
if [ "$plots" -gt 0 ] && [ -n "${GITHUB_RUN_ID:-}" ]; then
  run=$GITHUB_SERVER_URL/$GITHUB_REPOSITORY/actions/runs/$GITHUB_RUN_ID
  printf '\n%s\n' "$plots plots as images: [artifact \`plots\`]($run#artifacts)." >>"$comment"
fi
cat "$comment" >>"${GITHUB_STEP_SUMMARY:-/dev/null}"
exit "$status"
