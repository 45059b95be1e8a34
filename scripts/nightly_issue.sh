#!/bin/sh
# Keeps one open issue while the nightly fails or its checks find something. Needs the GitHub CLI, GH_TOKEN and
# GITHUB_REPOSITORY.
#
# usage: nightly_issue.sh RESULT RUN_URL FOLDER
#   RESULT   of the workflow's jobs: success or failure; with anything else nothing is done
#   FOLDER   with what nightly_check.sh wrote: JOB/CHECK.md
set -eu

result=$1 url=$2 folder=$3
title='The nightly needs attention'
export GH_REPO="$GITHUB_REPOSITORY"

# By its exact title: a search would find similar ones too.
open_issue() {
    gh issue list --state open --limit 1000 --json number,title --jq ".[] | select(.title == \"$title\") | .number" | sed -n 1p
}

# GitHub takes 65536 characters.
found=$(cat "$folder"/*/*.md 2>/dev/null | head -c 60000)
case $result in
failure) text="It failed: $url" ;;
success) text="It passed, and its checks found something: $url" ;;
*)
    echo "the result is $result: nothing to report"
    exit
    ;;
esac
number=$(open_issue)
if [ "$result" = success ] && [ -z "$found" ]; then
    [ -z "$number" ] || gh issue close "$number" --comment "The nightly passed, and its checks found nothing: $url"
    exit
fi
if [ -n "$found" ]; then
    mark="<!-- $(printf %s "$found" | cksum) -->"
    # The same every night is said once.
    if [ "$result" = success ] && [ -n "$number" ] &&
        gh issue view "$number" --json body,comments --jq '[.body, .comments[].body] | last' | grep -qF -e "$mark"; then
        echo "the checks found what the issue says already"
        exit
    fi
    text=$(printf '%s\n%s\n%s' "$text" "$mark" "$found")
fi
if [ -n "$number" ]; then
    gh issue comment "$number" --body "$text"
else
    gh issue create --title "$title" --body "$text"
fi
