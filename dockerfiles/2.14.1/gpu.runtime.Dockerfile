# TensorFlow Serving 2.14.1, gpu: the slim image that serves.
# Made by `./factory generate` from dockerfiles/templates; do not edit.
#
# Build it, in the root of the repository:
#   docker buildx build --file dockerfiles/2.14.1/gpu.runtime.Dockerfile --build-context artifact=build/by-hand/2.14.1-gpu --build-context launcher=build/by-hand/2.14.1-gpu/launcher --tag serving-factory/tensorflow-serving:2.14.1-gpu --load dockerfiles/context
#
# Named contexts (--build-context NAME=...):
#   artifact  what the devel Dockerfile exports: tensorflow_model_server, and rootfs/ with each library, licence and
#             certificate at its own path, and usr/bin/tf_serving_init
#   launcher  what starts the server: its target `launcher`, or the folder launcher/ of what it exports
#   facts     image.env and image.json, which say what the image is; without them the launcher does not check the CPU

# WORKDIR: BuildKit's cache cannot distinguish a COPY from nothing from one of a context that was given before.
FROM scratch AS artifact
WORKDIR /.none
FROM scratch AS launcher
WORKDIR /.none
FROM scratch AS facts
WORKDIR /.none

FROM ubuntu:20.04

# From what changes rarely to what changes often. Not --link: where the base's /lib is a symbolic link and a library came
# from a real /lib, --link would put a folder in the place of the link.
COPY --from=artifact rootfs/ /
# --link: where the builder can keep layers apart from the base (it needs the containerd image store, or a builder in a
# container), these stay the same on another base and are not pushed again. Elsewhere it does nothing.
COPY --link --chmod=0755 tf_serving_entrypoint.sh /usr/bin/
# The launcher lies where upstream's image has the server, so that whatever starts that starts it.
COPY --link --from=launcher usr/bin/ /usr/bin/
COPY --link --chmod=0755 --from=artifact tensorflow_model_server /usr/lib/serving-factory/
COPY --link --chmod=0644 --from=facts image.* /usr/share/serving-factory/

# WORKDIR makes the folder, without a shell. Models are mounted into it or copied there by an image built on this one.
WORKDIR /models
WORKDIR /

ENV MODEL_NAME=model \
    MODEL_BASE_PATH=/models

# What NVIDIA's container runtime hands to the container: every card, unless `docker run --gpus` says otherwise, and of the driver
# the parts to compute and to ask with; and on which drivers it starts the container at all (a space is an `or`; catalogue: cuda.yaml).
# CUDA 11.8's own libraries came with rootfs/, in the versions of the devel image.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    NVIDIA_REQUIRE_CUDA="cuda>=11.8 driver>=450.80.02"
# Where Google Kubernetes Engine and others mount the driver. The loader looks there by this variable alone: a file in /etc/ld.so.conf.d
# counts once ldconfig has read it, and nothing runs here, or there.
ENV PATH=/usr/local/nvidia/bin:/usr/local/cuda/bin:${PATH} \
    LD_LIBRARY_PATH=/usr/local/nvidia/lib:/usr/local/nvidia/lib64

# 8500 gRPC, 8501 REST
EXPOSE 8500 8501

# A number, so that Kubernetes sees that it is not root (runAsNonRoot). Any other user will do as well.
USER 65532:65532

# A big model takes minutes to load. Until the start period is over only success counts.
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=3 \
    CMD ["/usr/bin/tf_serving_health"]

STOPSIGNAL SIGTERM
# The init comes first, so that a script that takes the entrypoint's place needs no `exec` to stop in time.
ENTRYPOINT ["/usr/bin/tf_serving_init", "/usr/bin/tf_serving_entrypoint.sh"]
