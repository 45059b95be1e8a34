# Works on Bazel's caches in the engine. The name of the folder marks what it leaves in BuildKit's own cache, so that it can go.
#   BASE    an image with GNU find, tar and awk
#   RUN_ID  another one each time: the step must run again
#   WORK    the words for cache.sh
ARG BASE
FROM scratch AS parcel

FROM ${BASE} AS work
ARG RUN_ID
ARG WORK
# WORK is split into words on purpose.
# hadolint ignore=SC2086
RUN --mount=type=bind,target=/serving-factory-cache \
    --mount=type=bind,from=parcel,target=/parcel \
    --mount=type=cache,id=serving-factory-bazel-repository,target=/cache/repository \
    --mount=type=cache,id=serving-factory-bazel-disk,target=/cache/disk \
    mkdir /out && bash /serving-factory-cache/cache.sh ${WORK}

FROM scratch
COPY --from=work /out /serving-factory-cache
