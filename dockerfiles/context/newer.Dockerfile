# Compares an image's packages with what the distribution of its base has now; nothing is installed.
#   BASE    the image's base, whose own lists of sources are asked
#   RUN_ID  another one each time: distributions move on
# Named contexts: packages, a folder with the file that newer.sh reads; apt, a folder with a flat apt repository, instead of all others
# Secrets: network, ca (inputs.sh)
ARG BASE
FROM scratch AS packages
FROM scratch AS apt

FROM ${BASE} AS work
ARG APT_SNAPSHOT=""
ARG RUN_ID
# hadolint ignore=DL3002
USER 0
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
COPY inputs.sh newer.sh /factory/
RUN --mount=type=secret,id=network --mount=type=secret,id=ca --mount=type=tmpfs,target=/run/inputs \
    --mount=type=bind,from=apt,target=/inputs/apt --mount=type=bind,from=packages,target=/inputs/packages \
    echo "run ${RUN_ID}" \
 && source /factory/inputs.sh \
 && source /factory/newer.sh \
 && write_newer /inputs/packages/packages /out

FROM scratch
COPY --from=work /out /
