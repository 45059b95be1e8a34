#!/bin/sh
# Compares the catalogue with upstream's repository: each release of a matrix file at its tag, and which tags are new.
# Ends with 8 if anything differs, as `catalogue --check-upstream` does. Needs git and python3.
#
# usage: nightly_upstream.sh MATRIX URL
#   URL   of tensorflow/serving, or of a mirror of it
set -eu

matrix=$1 url=$2
scratch=build/.upstream # the same each night, as what is printed names it
trap 'rm -rf "$scratch"' EXIT
rm -rf "$scratch"
mkdir -p "$scratch"
serving=$scratch/serving
git clone --quiet --no-checkout "$url" "$serving"
./factory list --matrix "$matrix" --json >"$scratch/list"
./factory catalogue --json >"$scratch/catalogue"

read_json() {
    python3 -c "import json, sys; found = json.load(open(sys.argv[1])); print(*$2, sep='\n')" "$scratch/$1"
}

code=0
for release in $(read_json list 'sorted({one["like"] or one["release"] for one in found["variants"]})'); do
    if git -C "$serving" checkout --quiet --force "tags/$release"; then
        ./factory catalogue "$release" --check-upstream "$serving" || code=$?
    else
        echo "Upstream has no tag $release any more." >&2
        code=8
    fi
done

read_json catalogue '[one["release"] for one in found["releases"]]' >"$scratch/known"
first=$(head -n 1 "$scratch/known")
# Releases before the catalogue's first are not built here.
new=$({ echo "$first" && git -C "$serving" tag | grep -Ex '[0-9]+\.[0-9]+\.[0-9]+'; } | sort -uV |
    awk -v first="$first" 'after; $0 == first { after = 1 }' | grep -Fvxf "$scratch/known" || true)
if [ -n "$new" ]; then
    echo "Upstream has releases that the catalogue does not have (docs/new-release.md): $(echo "$new" | paste -sd " ")" >&2
    code=8
fi
exit "$code"
