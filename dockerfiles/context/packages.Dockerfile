# Downloads what a toolchain installs, for a machine that reaches no mirror; nothing is installed but pip, where a wheel is required.
#   BASE      the toolchain's base image, whose own lists of sources are asked
#   PACKAGES  apt packages
#   WHEELS    a line for each wheel of the Python package index: FILE SHA256 NAME==VERSION PIP_OPTION...
#   RUN_ID    another one each time: mirrors move on
# Secrets: network, ca (inputs.sh); pip_ca (wheels.sh)
ARG BASE
FROM ${BASE} AS work
ARG APT_SNAPSHOT=""
ARG PACKAGES
ARG WHEELS=""
ARG RUN_ID
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
COPY inputs.sh packages.sh wheels.sh /factory/
# Packages are one per word: they are split on purpose.
# hadolint ignore=SC2086
RUN --mount=type=secret,id=network --mount=type=secret,id=ca --mount=type=tmpfs,target=/run/inputs --mount=type=secret,id=pip_ca \
    echo "run ${RUN_ID}" \
 && source /factory/inputs.sh \
 && source /factory/packages.sh \
 && source /factory/wheels.sh \
 && download_packages /out/packages ${PACKAGES} \
 && while read -r -a wheel; do [ -z "${wheel[*]}" ] || get_wheel /out/wheels "${wheel[@]}"; done <<< "${WHEELS}"

FROM scratch
COPY --from=work /out /
