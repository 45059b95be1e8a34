# Downloads what a toolchain installs, for a machine that reaches no mirror; nothing is installed but pip, where a wheel is required.
#   BASE          the toolchain's base image, whose own lists of sources are asked
#   PACKAGES      apt packages
#   WHEEL         NAME==VERSION of a wheel of the Python package index; empty for none
#   WHEEL_SHA256  of the wheel's file
#   PIP_OPTIONS   for which Python it is required
#   RUN_ID        another one each time: mirrors move on
# Secrets: network, ca (see inputs.sh)
ARG BASE
FROM ${BASE} AS work
ARG APT_SNAPSHOT=""
ARG PACKAGES
ARG WHEEL=""
ARG WHEEL_SHA256=""
ARG PIP_OPTIONS=""
ARG RUN_ID
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
COPY inputs.sh packages.sh /factory/
# Packages and options are one per word: they are split on purpose.
# hadolint ignore=SC2086
RUN --mount=type=secret,id=network --mount=type=secret,id=ca --mount=type=tmpfs,target=/run/inputs \
    echo "run ${RUN_ID}" \
 && source /factory/inputs.sh \
 && source /factory/packages.sh \
 && download_packages /out/packages ${PACKAGES} \
 && if [ -n "${WHEEL}" ]; then download_wheel /out/wheels "${WHEEL}" "${WHEEL_SHA256}" ${PIP_OPTIONS}; fi

FROM scratch
COPY --from=work /out /
