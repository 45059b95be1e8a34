#!/bin/sh
# Keeps one open issue while the nightly fails. Needs the GitHub CLI, GH_TOKEN and GITHUB_REPOSITORY.
#
# usage: nightly_issue.sh RESULT RUN_URL
#   RESULT   of the workflow's jobs: success closes the issue, failure opens it or adds a comment, anything else does nothing
set -eu

result=$1 url=$2
title='The nightly fails'
export GH_REPO="$GITHUB_REPOSITORY"

# By its exact title: a search would find similar ones too.
open_issue() {
    gh issue list --state open --limit 1000 --json number,title --jq ".[] | select(.title == \"$title\") | .number" | sed -n 1p
}

case $result in
success)
    number=$(open_issue)
    [ -z "$number" ] || gh issue close "$number" --comment "The nightly passed: $url"
    ;;
failure)
    number=$(open_issue)
    if [ -n "$number" ]; then
        gh issue comment "$number" --body "It failed again: $url"
    else
        gh issue create --title "$title" --body "The first run that failed: $url"
    fi
    ;;
*) echo "the result is $result: nothing to report" ;;
esac
