"""Put a file as a comment on the pull request of a workflow run: update ours, or add one.

Runs with the rights of the repository on what a pull request, even of a fork, has written: so it
takes the pull request from GitHub's own event (HEAD is `<owner>:<branch>`, SHA its commit), and
from the file nothing but text.

    HEAD=me:my-branch SHA=0123abc GITHUB_REPOSITORY=us/verdict python .github/comment.py comment.md
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

MARKER = "<!-- verdict: compare -->"  # that of stages/tools/compare/_report.py
LONGEST = 65_536  # characters that GitHub takes
BOT = "github-actions[bot]"


def gh(path: str, *options: str, body: str | None = None) -> Any:
    """The answer of GitHub's API to a call by its command line client."""
    words = ["gh", "api", f"repos/{os.environ['GITHUB_REPOSITORY']}/{path}", *options]
    if body is not None:
        words += ["--input", "-"]
    content = None if body is None else json.dumps({"body": body})
    done = subprocess.run(  # noqa: S603 - the words are ours, its texts data
        words, input=content, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


def main(file: Path) -> None:
    """Comment on the open pull request whose head is still the commit of the run."""
    body = file.read_text(encoding="utf-8")
    if not body.startswith(MARKER) or len(body) > LONGEST:
        sys.exit(f"{file}: expected {MARKER} first and at most {LONGEST} characters")
    pulls = gh(f"pulls?state=open&head={quote(os.environ['HEAD'])}")
    numbers = [pull["number"] for pull in pulls if pull["head"]["sha"] == os.environ["SHA"]]
    if not numbers:
        sys.stdout.write("no open pull request has this commit as its head: a later run comments\n")
    for number in numbers:
        pages = gh(f"issues/{number}/comments?per_page=100", "--paginate", "--slurp")
        ours = [
            comment["id"]
            for page in pages
            for comment in page
            if comment["user"]["login"] == BOT and comment["body"].startswith(MARKER)
        ]
        if ours:
            gh(f"issues/comments/{ours[0]}", "--method", "PATCH", body=body)
        else:
            gh(f"issues/{number}/comments", "--method", "POST", body=body)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
